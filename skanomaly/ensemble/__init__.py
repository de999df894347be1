"""One detector of several."""

from skanomaly.ensemble._ensemble import EnsembleDetector

__all__ = ["EnsembleDetector"]
