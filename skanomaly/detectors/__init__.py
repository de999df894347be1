"""Detectors: features in, verdicts, scores and heat maps out."""

from skanomaly.detectors._padim import PaDiM
from skanomaly.detectors._patchcore import PatchCore
from skanomaly.detectors._spade import SPADE

__all__ = ["SPADE", "PaDiM", "PatchCore"]
