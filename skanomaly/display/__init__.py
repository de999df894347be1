"""Plots of results: heat maps over images, hot spots beside good patches, histograms, curves.

The Display classes follow scikit-learn's: ``from_estimator`` or ``from_predictions`` draws, the
object keeps the arrays, ``plot`` draws again. They need matplotlib: ``pip install
skanomaly[plot]``. `save_score_map` writes image files without it.
"""

from skanomaly.display._curves import PrecisionRecallDisplay, RocCurveDisplay
from skanomaly.display._nearest_good_display import NearestGoodDisplay
from skanomaly.display._pro_curve import ProCurveDisplay
from skanomaly.display._score_histogram import ScoreHistogramDisplay
from skanomaly.display._score_maps import ScoreMapDisplay
from skanomaly.images import save_score_map

__all__ = [
    "ScoreMapDisplay",
    "NearestGoodDisplay",
    "ProCurveDisplay",
    "ScoreHistogramDisplay",
    "RocCurveDisplay",
    "PrecisionRecallDisplay",
    "save_score_map",
]
