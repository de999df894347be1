"""The one reading of y: labels +1 (good) and -1 (defect), or masks."""

from numbers import Real

import numpy as np

__all__ = ["check_length", "check_mask", "good_images", "holds_masks", "is_defect", "read_labels"]


def is_defect(y, n_images=None):
    """Which images are defective.

    Parameters
    ----------
    y : array-like of shape (n,), or masks
        Labels, +1 good and -1 defect; or masks, an array (n, H, W) or a list of (H, W) arrays,
        nonzero on the defect, with None for a good image.
    n_images : int or None, default=None
        How many images y must describe; None: any number.

    Returns
    -------
    ndarray of shape (n,), bool

    Raises
    ------
    ValueError
        y is coded otherwise, for example as 0/1, or has another length.

    Examples
    --------
    >>> from skanomaly.utils.targets import is_defect
    >>> is_defect([1, -1, 1])
    array([False,  True, False])
    """
    y = _as_sequence(y)
    if n_images is not None:
        check_length(y, n_images)
    if holds_masks(y):
        masks = (None if mask is None else check_mask(i, mask) for i, mask in enumerate(y))
        return np.array([mask is not None and bool(mask.any()) for mask in masks])
    labels = _as_numbers(y)
    if labels.dtype.kind not in "iuf" or not np.isin(labels, (-1, 1)).all():
        found = list(dict.fromkeys(labels.ravel().tolist()))[:5]
        raise ValueError(
            f"y holds {found}; expected the labels +1 (good) and -1 (defect), or masks. If 1 marks "
            "a defect in y, pass np.where(y == 1, -1, 1); if 1 marks a good image, pass "
            "np.where(y == 1, 1, -1)"
        )
    return labels == -1


def good_images(y, n_images):
    """Which images a fit may learn from: those that y does not mark as defects.

    Parameters
    ----------
    y : array-like of shape (n,), masks, or None
        As in :func:`is_defect`; None: all images are good. Numbers that are all positive and not
        all 1 cannot mark defects; they are ignored, as scikit-learn's outlier detectors ignore y.
    n_images : int

    Returns
    -------
    ndarray of shape (n_images,), bool

    Raises
    ------
    ValueError
        y is coded otherwise, for example as 0/1, has another length, or marks every image as a
        defect.
    """
    if y is None or _is_foreign(y):
        return np.ones(n_images, dtype=bool)
    is_good = ~is_defect(y, n_images)
    if not is_good.any():
        raise ValueError("y marks every image as a defect; a detector learns from good images")
    return is_good


def read_labels(y, n_images):
    """Labels (n,) int, +1 good and -1 defect, from labels or masks; None where y is None."""
    return None if y is None else np.where(is_defect(y, n_images), -1, 1)


def holds_masks(y):
    """Whether y is masks rather than labels."""
    return any(entry is None or np.ndim(entry) > 0 for entry in y)


def check_length(y, n_images):
    """Raise ValueError unless y has one entry per image."""
    if len(y) != n_images:
        raise ValueError(
            f"expected one entry of y per image, got {len(y)} for {n_images} images; pass labels "
            "or masks of the same images, in the same order"
        )


def check_mask(i, mask):
    """The mask numbered i as (H, W) bool, True where nonzero; ValueError for anything else."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(
            f"masks[{i}] has shape {mask.shape}; expected (H, W) with at least one pixel. Pass one "
            "image as x[None], and drop a channel axis with x[..., 0]."
        )
    if mask.dtype.kind not in "biuf":
        raise ValueError(
            f"masks[{i}] has dtype {mask.dtype}; expected bool, 0/1 or 0/255, nonzero on the "
            "defect, or None for a good image."
        )
    if mask.dtype.kind == "f" and not (mask == np.floor(mask)).all():
        raise ValueError(
            f"masks[{i}] holds fractions or NaN; expected bool, 0/1 or 0/255. Truth comes first, "
            "then scores: metric(masks, maps). Threshold a resized mask first: pass mask > 0.5."
        )
    return mask.astype(bool, copy=False)


def _as_sequence(y):
    """y as something with a length whose entries are labels or masks."""
    if hasattr(y, "__array__") and (hasattr(y, "iloc") or not hasattr(y, "__iter__")):
        y = np.asarray(y)  # iterating over a data frame would give its columns' names
    if y is None or np.isscalar(y) or getattr(y, "ndim", 1) == 0:
        raise ValueError(
            f"expected y to hold one entry per image, got {y!r}; pass labels or masks as an array "
            "with the images along the first axis, or as a list"
        )
    y = y if hasattr(y, "__len__") else list(y)
    is_column = isinstance(y, np.ndarray) and y.ndim == 2 and y.shape[1] == 1
    return y[:, 0] if is_column else y


def _is_foreign(y):
    """Whether y is positive numbers with which nobody marks defects, such as ranks or prices."""
    y = _as_sequence(y)
    if len(y) == 0 or holds_masks(y):
        return False
    y = _as_numbers(y)
    return y.ndim == 1 and y.dtype.kind in "iuf" and bool((y > 0).all()) and not (y == 1).all()


def _as_numbers(y):
    """y as an array, of numbers where its objects are numbers."""
    y = np.asarray(y)
    is_objects = y.dtype.kind == "O" and all(isinstance(one, Real) for one in y.ravel())
    return y.astype(np.float64) if is_objects and not _holds_bool(y) else y


def _holds_bool(y):
    return any(isinstance(one, (bool, np.bool_)) for one in y.ravel())
