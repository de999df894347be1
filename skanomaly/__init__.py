"""Image anomaly detection as scikit-learn estimators.

Good images in; verdicts, scores and anomaly maps out. Public names are loaded on first use, so that
``import skanomaly`` loads neither torch, numba nor matplotlib.
"""

import importlib
import os
from typing import Any

from skanomaly.registry import DETECTORS, EXTRACTORS

__version__ = "0.1.0"

# Before torch is loaded: threads of GNU's OpenMP, which torch has on Linux, spin for microseconds
# while they wait for each other, and then sleep. By default they spin for milliseconds after each
# layer of a network, which beside a single busy process makes it tens of times slower.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# public name -> module that defines it
_PUBLIC = {entry.name: entry.package for entry in (*DETECTORS, *EXTRACTORS)} | {
    "EnsembleDetector": "skanomaly.ensemble",
    "FeatureMaps": "skanomaly.feature_maps",
    "Pipeline": "skanomaly.pipeline",
    "dump": "skanomaly.persistence",
    "load": "skanomaly.persistence",
    "export_onnx": "skanomaly.export",
    "estimate_memory": "skanomaly.forecast",
    "score_map": "skanomaly.pipeline",
    "load_folder": "skanomaly.datasets",
    "map_regions": "skanomaly.regions",
    "nearest_good": "skanomaly.pipeline",
    "score_regions": "skanomaly.pipeline",
}
_SUBMODULES = (
    "base",
    "coreset",
    "datasets",
    "density",
    "detectors",
    "display",
    "distributed",
    "embedding",
    "ensemble",
    "estimator_checks",
    "exceptions",
    "export",
    "feature_extraction",
    "feature_maps",
    "forecast",
    "images",
    "io",
    "metrics",
    "model_selection",
    "neighbors",
    "persistence",
    "pipeline",
    "regions",
    "report",
    "service",
    "training",
)

__all__ = [*_PUBLIC, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"skanomaly.{name}")
    raise AttributeError(f"module 'skanomaly' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
