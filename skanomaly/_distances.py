"""What the neighbour search and the coreset share: the exact distance, and a cheap bound below it.

A row x is split into its coordinates along the first principal axes and the length of what is
left: ``[V'(x - mean), |x - mean - VV'(x - mean)|]``. By the triangle inequality in the space left
over, the distance of two such short vectors never exceeds the distance of the rows themselves.
So most candidates can be ruled out with a few numbers each and no answer changes.
"""

import numba
import numpy as np
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.extmath import randomized_svd

# Rows from which the axes are learned: more would only sharpen a bound, never change an answer.
_SAMPLE_ROWS = 20_000
_BATCH_ROWS = 16_384
# So many times as many columns as axes: then axes that are nearly the principal ones cost less.
_WIDE = 6


@numba.njit(fastmath=True, cache=True)
def squared_distance(a, b):
    """Sum of squared differences of two float32 vectors of one length."""
    total = np.float32(0)
    for i in range(a.shape[0]):
        difference = a[i] - b[i]
        total += difference * difference
    return total


def principal_axes(rows, n_axes, random_state=0):
    """Mean and leading principal axes of rows.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
    n_axes : int
        At most d.
    random_state : int, RandomState or None
        Draws the rows used where there are more than 20,000.

    Returns
    -------
    mean : ndarray of shape (d,), float32
    axes : ndarray of shape (d, n_axes), float32
        Orthonormal columns, largest variance first; of many columns nearly so.
    """
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    sample = rows
    if len(rows) > _SAMPLE_ROWS:
        chosen = check_random_state(random_state).choice(len(rows), _SAMPLE_ROWS, replace=False)
        sample = rows[np.sort(chosen)]
    centred = sample - mean
    if n_axes * _WIDE <= rows.shape[1]:
        _, _, axes = randomized_svd(centred, n_axes, n_iter=1, flip_sign=False, random_state=0)
        axes, _ = np.linalg.qr(axes.T.astype(np.float64))  # orthonormal beyond float32
    else:
        axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :n_axes]
    return mean, np.ascontiguousarray(axes, dtype=np.float32)


def short_vectors(rows, mean, axes):
    """Coordinates along the axes and the length of the rest.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
    mean, axes : as from :func:`principal_axes`

    Returns
    -------
    ndarray of shape (n, n_axes + 1), float32
        Distances between these are lower bounds of the distances between rows (up to rounding).
    """
    n_axes = axes.shape[1]
    short = np.empty((len(rows), n_axes + 1), dtype=np.float32)
    for part in gen_batches(len(rows), _BATCH_ROWS):
        centred = rows[part] - mean
        short[part, :n_axes] = centred @ axes
        kept = np.einsum("ij,ij->i", short[part, :n_axes], short[part, :n_axes])
        whole = np.einsum("ij,ij->i", centred, centred)
        short[part, n_axes] = np.sqrt(np.maximum(whole - kept, 0))
    return short
