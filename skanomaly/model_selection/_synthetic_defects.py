"""A test set from good images alone: each as it is, and once more with painted defects."""

import numpy as np

from skanomaly.datasets import make_defects
from skanomaly.feature_maps import FeatureMaps
from skanomaly.model_selection._split import good_and_defects, take_rows

# By these defects candidates come in an order that agrees best with that by real ones, in the mean
# over five sets of real images (benchmarks/selection.py); mixtures of sizes agree no better.
SIZES = (1.5,)


def with_synthetic_defects(X, y, *, kinds, sizes, random_state):
    """The good images followed by their defective copies, and a mask or None for each.

    All have a copy of each size.
    """
    if isinstance(X, FeatureMaps):
        raise ValueError(
            "synthetic defects are painted into images, got features; search over a Pipeline that "
            'begins with the extractor, Pipeline([("features", FilterBank()), ("detector", '
            "PatchCore())]), and pass it images"
        )
    good, _ = good_and_defects(X, y)
    images = take_rows(X, good)
    parts, truth = [images], [None] * len(good)
    for size in sizes:
        defective, masks, _ = make_defects(
            images, kinds=kinds, size=size, random_state=random_state
        )
        parts.append(defective)
        truth += list(masks)
    if isinstance(defective, np.ndarray):
        return np.concatenate(parts), truth
    return [image for part in parts for image in part], truth
