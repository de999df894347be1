"""Base classes: what every detector and every extractor shares, written once.

A detector writes two hooks, ``_fit(X)`` and ``_score_maps(X)``; fit, scores, score maps, verdicts,
thresholds, labels, streaming, caching and pickling follow from these. See docs/extending.md.
"""

from skanomaly.base._detector import BaseDetector
from skanomaly.base._extractor import BaseExtractor
from skanomaly.base._image_detector import BaseImageDetector, read_pixels
from skanomaly.base._image_reader import (
    ImageReader,
    RegionOfInterestMixin,
    check_roi,
    learn_roi,
    present_roi,
    region_of,
)
from skanomaly.base._threshold_mixin import ThresholdMixin
from skanomaly.base._tiled_images import PIXELS

# Public names; the others are shared with the other sub-packages.
__all__ = ["BaseDetector", "BaseExtractor", "BaseImageDetector", "ThresholdMixin"]
