"""How well scores find defects: by pixel, by region, by image, and for sets larger than memory.

Truth first, then scores. Here, and in every function of this package, 1 / True / high means
defect. All values are exact and lie in [0, 1]; only `StreamingPixelMetrics` approximates, and it
says by how much.
"""

from skanomaly.metrics._images import (
    image_average_precision_score,
    image_f1_max_score,
    image_roc_auc_score,
)
from skanomaly.metrics._pixels import (
    f1_max_score,
    pixel_average_precision_score,
    pixel_roc_auc_score,
)
from skanomaly.metrics._regions import aupro_score, pro_curve
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
