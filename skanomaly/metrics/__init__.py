"""Metrics of anomaly detection: over pixels, regions and images, also for data larger than memory.

The truth comes first, then the scores. Scores are high for a defect. Masks are nonzero on the
defect; labels are +1 (good) and -1 (defect). All values lie in [0, 1] and are exact, except those
of `StreamingPixelMetrics`, which returns an error bound with them.
"""

from skanomaly.metrics._image_metrics import (
    image_average_precision_score,
    image_f1_max_score,
    image_roc_auc_score,
)
from skanomaly.metrics._pixel_metrics import (
    f1_max_score,
    pixel_average_precision_score,
    pixel_roc_auc_score,
)
from skanomaly.metrics._pro import aupro_score, pro_curve
from skanomaly.metrics._streaming import Bounded, StreamingPixelMetrics

__all__ = [
    "pixel_roc_auc_score",
    "pixel_average_precision_score",
    "f1_max_score",
    "pro_curve",
    "aupro_score",
    "image_roc_auc_score",
    "image_average_precision_score",
    "image_f1_max_score",
    "StreamingPixelMetrics",
    "Bounded",
]
