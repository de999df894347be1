"""Detectors: features or images in; verdicts, scores and anomaly maps out."""

from skanomaly.detectors._padim import PaDiM
from skanomaly.detectors._patchcore import PatchCore
from skanomaly.detectors._spade import SPADE

__all__ = ["SPADE", "PaDiM", "PatchCore", "GlobalLocal", "RegAD", "RegistrationNetwork"]

# Loaded on first use: they need torch, the others do not.
_TRAINED = {
    "GlobalLocal": "skanomaly.detectors.global_local",
    "RegAD": "skanomaly.detectors.regad",
    "RegistrationNetwork": "skanomaly.detectors.regad",
}


def __getattr__(name):
    if name in _TRAINED:
        import importlib

        return getattr(importlib.import_module(_TRAINED[name]), name)
    raise AttributeError(f"module 'skanomaly.detectors' has no attribute {name!r}")
