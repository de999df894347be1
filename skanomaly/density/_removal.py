"""Vectors that covariances have learned, taken out again."""

import numpy as np

from skanomaly.density._covariances import DenseCovariances, parts

_SUMS = ("sums", "cubes", "fourths")  # beside the products
SAME = 1e-3  # vectors that are stored rounded agree within this share of the largest number


def remove_rows(covariances, vectors, places):
    """Take vectors (b, cells, d) out of a low-rank form, stored at these places (b,).

    ValueError where others are stored there; nothing is then changed.
    """
    rows = np.concatenate(covariances.vectors(), axis=1)  # (cells, n, d)
    found = rows[:, places] + covariances.origin[:, None]
    largest = max(float(np.abs(found).max()), 1e-30)
    if not np.abs(found - vectors.swapaxes(0, 1)).max() <= SAME * largest:
        raise ValueError(
            "expected maps that were learned at these places, got other ones; pass each map's "
            "place in the order of learning"
        )
    covariances.blocks = [np.delete(rows, places, axis=1)]
    covariances.basis = covariances.mixing = None
    covariances.is_finished = False
    covariances.n -= len(places)


def subtract(covariances, vectors):
    """Take vectors (b, cells, d) out of the sums of a dense form."""
    covariances.is_finished = False
    for part in parts(*covariances.origin.shape):
        gone = DenseCovariances(covariances.origin[part])
        rows = (vectors[:, part] - gone.origin).swapaxes(0, 1)  # (p, b, d)
        gone.add_rows(rows, slice(None))
        pairs = [(getattr(covariances, one), getattr(gone, one)) for one in _SUMS]
        for sums, less in [*pairs, *zip(covariances.products, gone.products, strict=True)]:
            sums[part] -= less
    covariances.n -= len(vectors)
