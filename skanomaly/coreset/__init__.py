"""Greedy k-centre coreset: the order in which rows are farthest from those already taken."""

from skanomaly.coreset._greedy import greedy_coreset, greedy_order
from skanomaly.coreset._projection import RandomProjection

__all__ = ["greedy_coreset", "greedy_order", "RandomProjection"]
