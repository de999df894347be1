"""A test set from good images alone: each as it is, and once more with a defect painted in."""

import numpy as np

from skanomaly.datasets import make_defects
from skanomaly.feature_maps import FeatureMaps
from skanomaly.model_selection._split import good_and_defects, take_rows


def with_synthetic_defects(X, y, *, kinds, random_state):
    """The good images followed by their defective copies, and a mask or None for each."""
    if isinstance(X, FeatureMaps):
        raise ValueError(
            "synthetic defects are painted into images, got features; search over a Pipeline that "
            'begins with the extractor, Pipeline([("features", FilterBank()), ("detector", '
            "PatchCore())]), and pass it images"
        )
    good, _ = good_and_defects(X, y)
    images = take_rows(X, good)
    defective, masks, _ = make_defects(images, kinds=kinds, random_state=random_state)
    if isinstance(defective, np.ndarray):
        images = np.concatenate([images, defective])
    else:
        images = [*images, *defective]
    return images, [None] * len(good) + list(masks)
