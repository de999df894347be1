"""Regions of interest for detectors on images: which windows lie in them, and whether it is one."""

import numpy as np

from skanomaly.base import PIXELS


def inside_at(X, rows, columns):
    """Which places lie in the regions of interest.

    Parameters
    ----------
    X : FeatureMaps of n images
        Stored pixels.
    rows, columns : ndarray of int
        Pixels of the places.

    Returns
    -------
    ndarray of shape (n, rows, columns), bool, or None
        None: there are no regions. Of an image without a place inside all are True.
    """
    inside = X.inside(X.layer_shapes[PIXELS][:2])
    if inside is None:
        return None
    found = inside[:, rows][:, :, columns]
    found[~found.any(axis=(1, 2))] = True
    return found


def check_one_region(X):
    """Raise ValueError unless the regions of interest of stored images, if any, are the same."""
    bits = X.roi_bits
    if bits is not None and not all(np.array_equal(one, bits[0]) for one in bits):
        raise ValueError(
            "expected one region of interest for all images, as each position is learned from all, "
            "got some that differ; pass one mask as roi, or take another detector, as CutPaste"
        )
