"""Choose a detector, its parameters and its threshold without fooling oneself."""

from skanomaly.model_selection._detection_rates import SIZES, detection_rates
from skanomaly.model_selection._monitor import ScoreMonitor
from skanomaly.model_selection._scorers import PIXEL_METRICS, scorers
from skanomaly.model_selection._search import DetectorSearchCV
from skanomaly.model_selection._split import GoodOnlyKFold, GoodOnlyShuffleSplit
from skanomaly.model_selection._threshold import HeldOutThreshold

__all__ = [
    "DetectorSearchCV",
    "GoodOnlyKFold",
    "GoodOnlyShuffleSplit",
    "HeldOutThreshold",
    "ScoreMonitor",
    "detection_rates",
    "scorers",
]
