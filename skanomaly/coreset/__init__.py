"""Greedy k-center coresets: each row is the one farthest from all rows selected before it."""

from skanomaly.coreset._greedy import greedy_coreset, greedy_order
from skanomaly.coreset._projection import RandomProjection

__all__ = ["greedy_coreset", "greedy_order", "RandomProjection"]
