"""Fits and inspection on a cluster of Dask; what is fitted there is an ordinary estimator."""

from skanomaly.distributed._clusters import connect
from skanomaly.distributed._distributed import Distributed
from skanomaly.distributed._score_files import score_files

__all__ = ["Distributed", "connect", "score_files"]
