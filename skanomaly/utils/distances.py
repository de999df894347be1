"""The exact distance of two rows, and a cheap lower bound of it.

The short vector of a row x consists of its coordinates along the first principal axes V and the
length of the rest: ``[V'(x - mean), |x - mean - VV'(x - mean)|]``. By the triangle inequality for
the rests, the distance of two short vectors never exceeds the distance of the rows. So the neighbor
search and the coreset exclude most candidates with a few numbers each, and still return exact
results.
"""

import numpy as np
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.extmath import randomized_svd

from skanomaly.utils.compiling import compiled

# Rows from which the axes are learned: with more of them the bound is hardly tighter.
_SAMPLE_ROWS = 20_000
_BATCH_ROWS = 16_384
# With this many times as many columns as axes, approximate principal axes are faster to compute.
_WIDE = 12


@compiled(fastmath=True)
def squared_distance(a, b):
    """Sum of squared differences of two float32 vectors of the same length, (d,) each."""
    total = np.float32(0)
    for i in range(a.shape[0]):
        difference = a[i] - b[i]
        total += difference * difference
    return total


def principal_axes(
    rows: np.ndarray, n_axes: int, random_state: int | np.random.RandomState | None = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and first principal axes of rows, or of a sample of them.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
    n_axes : int
        Number of axes, at most d.
    random_state : int, RandomState or None, default=0
        Draws the rows that are used if there are more than 20,000.

    Returns
    -------
    mean : ndarray of shape (d,), float32
    axes : ndarray of shape (d, n_axes), float32
        Orthonormal columns, largest variance first. If d is much larger than ``n_axes`` they are
        approximations of the principal axes.
    """
    sample = rows
    if len(rows) > _SAMPLE_ROWS:
        chosen = check_random_state(random_state).choice(len(rows), _SAMPLE_ROWS, replace=False)
        sample = rows[np.sort(chosen)]
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = sample - mean
    if n_axes * _WIDE <= rows.shape[1]:
        _, _, axes = randomized_svd(centered, n_axes, n_iter=1, flip_sign=False, random_state=0)
        # Orthonormal to the precision of float64: otherwise the distances would be no bounds.
        axes, _ = np.linalg.qr(axes.T.astype(np.float64))
    else:
        axes = np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :n_axes]
    return mean, np.ascontiguousarray(axes, dtype=np.float32)


def short_vectors(rows: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Short vectors of rows: coordinates along the axes and the length of the rest.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
    mean : ndarray of shape (d,), float32
    axes : ndarray of shape (d, n_axes), float32
        Both as returned by :func:`principal_axes`.

    Returns
    -------
    ndarray of shape (n, n_axes + 1), float32
        Their distances are lower bounds of the distances of the rows, up to rounding.
    """
    n_axes = axes.shape[1]
    short = np.empty((len(rows), n_axes + 1), dtype=np.float32)
    for part in gen_batches(len(rows), _BATCH_ROWS):
        centered = rows[part] - mean
        short[part, :n_axes] = centered @ axes
        # Squared length of the rest, by Pythagoras; rounding may make it negative.
        along = np.einsum("ij,ij->i", short[part, :n_axes], short[part, :n_axes])
        total = np.einsum("ij,ij->i", centered, centered)
        short[part, n_axes] = np.sqrt(np.maximum(total - along, 0))
    return short
