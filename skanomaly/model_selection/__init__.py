"""Choose a detector, its parameters and its threshold without fooling oneself."""

from skanomaly.model_selection._scorers import PIXEL_METRICS, scorers
from skanomaly.model_selection._split import GoodOnlyKFold, GoodOnlyShuffleSplit
from skanomaly.model_selection._threshold import HeldOutThreshold

__all__ = ["GoodOnlyKFold", "GoodOnlyShuffleSplit", "HeldOutThreshold", "scorers"]
