"""Nearest neighbors among rows: of one bank, exact or approximate, or of chosen images."""

from skanomaly.neighbors._gallery import GalleryIndex
from skanomaly.neighbors._index import PatchIndex

__all__ = ["GalleryIndex", "PatchIndex"]
