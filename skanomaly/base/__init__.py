"""Base classes: what every detector and every extractor shares, written once.

A detector writes two hooks, ``_fit(X)`` and ``_score_maps(X)``; fit, scores, score maps, verdicts,
thresholds, labels, streaming, caching and pickling follow from these. See docs/extending.md.
"""

from skanomaly.base._detector import BaseDetector
from skanomaly.base._extractor import BaseExtractor
from skanomaly.base._image_detector import PIXELS, BaseImageDetector
from skanomaly.base._threshold_mixin import ThresholdMixin

__all__ = ["BaseDetector", "BaseExtractor", "BaseImageDetector", "ThresholdMixin"]
