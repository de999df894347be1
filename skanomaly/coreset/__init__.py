"""Greedy k-center coresets: each row is the one farthest from all rows selected before it."""

from skanomaly.coreset._greedy import greedy_coreset, greedy_order, greedy_order_and_radii
from skanomaly.coreset._merging import merge_coresets, part_size, union_size
from skanomaly.coreset._projection import RandomProjection
from skanomaly.coreset._sharded_rows import Shard, members_of_each, order_of_shards

# Public names; Shard and what belongs to it are for skanomaly.distributed.
__all__ = [
    "greedy_coreset",
    "greedy_order",
    "greedy_order_and_radii",
    "merge_coresets",
    "part_size",
    "union_size",
    "RandomProjection",
]
