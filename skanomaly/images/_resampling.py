"""The weights with which Pillow resizes, for programs that resize without Pillow."""

import numpy as np

PRECISION_BITS = 22  # of Pillow's weights for images of 8 bits


def resampling_weights(n_from: int, n_to: int, start: float, end: float) -> np.ndarray:
    """Matrix by which Pillow's antialiased bilinear filter resizes along one axis.

    Parameters
    ----------
    n_from, n_to : int
        Number of pixels before and after.
    start, end : float
        The part of the axis that is used, in pixels from its beginning.

    Returns
    -------
    ndarray of shape (n_to, n_from), float64
        Each row sums to 1. The identity if nothing is to be resized.

    Notes
    -----
    Of images of 8 bits Pillow rounds the weights to multiples of ``2**-22``, and the pixels to
    whole numbers after the columns and again after the rows, halves upward.
    """
    start, end = float(np.float32(start)), float(np.float32(end))  # as Pillow has them
    step = float(np.float32(end - start)) / n_to
    reach = max(step, 1.0)
    centers = start + (np.arange(n_to) + 0.5) * step  # (n_to,)
    first = np.maximum((centers - reach + 0.5).astype(int), 0)  # cut off, as in C
    last = np.minimum((centers + reach + 0.5).astype(int), n_from)
    places = np.arange(n_from)
    weights = 1 - np.abs((places + 0.5 - centers[:, None]) / reach)  # (n_to, n_from)
    weights[(places < first[:, None]) | (places >= last[:, None]) | (weights < 0)] = 0
    return weights / weights.sum(axis=1, keepdims=True)
