"""Detectors: features in, verdicts, scores and heat maps out."""

from skanomaly.detectors._padim import PaDiM
from skanomaly.detectors._patchcore import PatchCore
from skanomaly.detectors._spade import SPADE

__all__ = [
    "SPADE",
    "PaDiM",
    "PatchCore",
    "GlobalLocal",
    "RegAD",
    "RegistrationNetwork",
    "TrainingError",
]

# Loaded on first use: they need torch, the others do not.
_TRAINED = {
    "GlobalLocal": "skanomaly.detectors._global_local",
    "RegAD": "skanomaly.detectors._regad",
    "RegistrationNetwork": "skanomaly.detectors._registration",
    "TrainingError": "skanomaly.detectors._networks",
}


def __getattr__(name):
    if name in _TRAINED:
        import importlib

        return getattr(importlib.import_module(_TRAINED[name]), name)
    raise AttributeError(f"module 'skanomaly.detectors' has no attribute {name!r}")
