"""Nearest rows: of one bank, exact or approximate by pynndescent; or of chosen images."""

from skanomaly.neighbors._gallery import GalleryIndex
from skanomaly.neighbors._index import PatchIndex

__all__ = ["GalleryIndex", "PatchIndex"]
