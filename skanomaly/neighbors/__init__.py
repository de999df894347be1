"""Nearest neighbors among rows: of one bank, exact or approximate, or of chosen images."""

from skanomaly.neighbors._gallery import GalleryIndex
from skanomaly.neighbors._index import PatchIndex
from skanomaly.neighbors._shards import merge_neighbors

__all__ = ["GalleryIndex", "PatchIndex", "merge_neighbors"]
