"""Image anomaly detection as scikit-learn estimators.

Good pictures in, verdicts and heat maps out. Public names are loaded on first use, so that
``import skanomaly`` loads neither torch, numba nor matplotlib.
"""

import importlib

__version__ = "0.1.0"

# public name -> module that defines it
_PUBLIC = {
    "FeatureExtractor": "skanomaly.feature_extraction",
    "FilterBank": "skanomaly.feature_extraction",
    "FeatureMaps": "skanomaly.feature_maps",
    "GlobalLocal": "skanomaly.detectors",
    "PaDiM": "skanomaly.detectors",
    "PatchCore": "skanomaly.detectors",
    "Pipeline": "skanomaly.pipeline",
    "RegAD": "skanomaly.detectors",
    "RegistrationNetwork": "skanomaly.detectors",
    "SPADE": "skanomaly.detectors",
    "estimate_memory": "skanomaly.memory",
    "score_map": "skanomaly.pipeline",
    "load_folder": "skanomaly.datasets",
    "map_regions": "skanomaly.regions",
    "nearest_good": "skanomaly.pipeline",
    "score_regions": "skanomaly.pipeline",
}
_SUBMODULES = (
    "coreset",
    "datasets",
    "density",
    "detectors",
    "display",
    "feature_extraction",
    "feature_maps",
    "metrics",
    "neighbors",
    "report",
)

__all__ = [*_PUBLIC, *_SUBMODULES]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"skanomaly.{name}")
    raise AttributeError(f"module 'skanomaly' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
