"""What a fitted detector finds of painted defects, by their kind and size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skanomaly.datasets import make_defects
from skanomaly.images import check_images
from skanomaly.model_selection._split import take_rows

SIZES = (0.25, 0.5, 1.0, 2.0)
N_EACH = 4  # images of each kind and size, about
N_KINDS = 10  # that make_defects paints by turns


def detection_rates(
    estimator: Any,
    images: Any,
    *,
    sizes: Sequence[float] = SIZES,
    n_each: int = N_EACH,
    random_state: int | np.random.RandomState | None = None,
) -> list[dict[str, Any]]:
    """Share of painted defects that a fitted detector finds at its threshold.

    Defects of all kinds are painted into some of the images, in several sizes. This says which size
    is too small for the features and the image size in use. It does not say how well real defects
    are found, which may be of other kinds. Training images may be passed: only the painted part
    counts, which no image had before.

    Parameters
    ----------
    estimator : fitted estimator
        With ``predict``: a detector, a Pipeline, a HeldOutThreshold of images.
    images : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        Good images.
    sizes : sequence of float, default=(0.25, 0.5, 1.0, 2.0)
        Factors on the size of the defects, as of :func:`skanomaly.datasets.make_defects`.
    n_each : int, default=4
        Defects of each kind and size, about: a kind that is not visible on an image is replaced.
    random_state : int, RandomState instance or None, default=None
        Draws the defects.

    Returns
    -------
    list of dict
        One record for each size and kind, by size: ``size`` (float), ``kind`` (str), ``n`` (int,
        defects painted), ``found`` (int, of them), ``extent`` (float, the median of the square root
        of the defects' areas, in pixels of the images).

    Raises
    ------
    ValueError
        There are no images, or one cannot be read.
    NotFittedError
        The estimator is not fitted.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> from skanomaly.model_selection import HeldOutThreshold, detection_rates
    >>> good = make_textures(30, kind="brushed", size=64, random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64, random_state=0)),
    ...                  ("detector", PatchCore(random_state=0))])
    >>> rates = detection_rates(HeldOutThreshold(pipe).fit(good), good, random_state=0)
    >>> small, large = ([r for r in rates if r["size"] == size] for size in (0.25, 2.0))
    >>> sum(r["found"] for r in small) < sum(r["found"] for r in large)
    True
    """
    check_is_fitted(estimator)
    images = check_images(images)
    places = np.arange(n_each * N_KINDS) * len(images) // (n_each * N_KINDS)
    some = take_rows(images, places)
    records = []
    for size in sizes:
        painted, masks, kinds = make_defects(some, size=size, random_state=random_state)
        is_found = np.asarray(estimator.predict(painted)) == -1
        extents = np.sqrt([np.sum(mask) for mask in masks])
        for kind in dict.fromkeys(kinds):
            chosen = np.array(kinds) == kind
            records.append(
                {
                    "size": float(size),
                    "kind": kind,
                    "n": int(chosen.sum()),
                    "found": int(is_found[chosen].sum()),
                    "extent": float(np.median(extents[chosen])),
                }
            )
    return records
