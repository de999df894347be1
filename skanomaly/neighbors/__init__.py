"""Nearest rows of a bank: exact, or approximate by pynndescent."""

from skanomaly.neighbors._index import PatchIndex

__all__ = ["PatchIndex"]
