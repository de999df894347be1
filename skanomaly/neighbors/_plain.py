"""Exact search by one matrix product over all columns; it needs little preparation.

``|q - c|^2 = |q|^2 + |c|^2 - 2 q.c`` is cheap but suffers from rounding. So it only tells which
rows may be among the nearest; their distances are then computed directly.
"""

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.neighbors._distance_kernels import (
    BASE,
    BLOCK,
    N_LIMITS,
    ORDERED,
    minima_of_floats,
    nearest_in_blocks,
    values_by,
)

# Products of this many queries and rows are computed at a time, 8 MB: they stay in the cache.
_TILE_QUERIES = 512
_TILE_ROWS = 64 * BLOCK
_BEYOND = np.float32(np.finfo(np.float32).max / 4)
_UNIT = np.finfo(np.float32).eps / 2


class PlainSearch:
    """Rows relative to their mean, padded with rows that are never near.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32
    """

    name = "plain"

    def __init__(self, rows):
        n_rows, n_features = rows.shape
        n_padded = -(-n_rows // BLOCK) * BLOCK
        self.rows = rows
        # Squared norms, and with them the rounding errors, are smallest about the mean.
        self.mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.centered = np.zeros((n_padded, n_features), dtype=np.float32)
        np.subtract(rows, self.mean, out=self.centered[:n_rows])
        norms = np.einsum("ij,ij->i", self.centered, self.centered, dtype=np.float64)
        self.longest = np.sqrt(norms.max())
        self.half_norms = np.full(n_padded, _BEYOND, dtype=np.float32)
        self.half_norms[:n_rows] = norms[:n_rows] / 2
        self.ids = np.arange(n_rows)  # the rows are in their own order
        self.no_shorts = np.empty((max(_TILE_QUERIES, _TILE_ROWS), 0), dtype=np.float32)

    def search(self, queries, nearest, ids, n_bytes):
        """Fill the lists (n, k) of squared distances and of indices of rows.

        At most about ``n_bytes`` of products are held at a time.
        """
        centered = queries - self.mean
        limits = self._limits(centered)
        n_columns = min(_TILE_ROWS, len(self.centered))
        n_tile = int(np.clip(n_bytes // (4 * n_columns), 1, _TILE_QUERIES))
        # Allocated once: new memory for each table would cost a tenth of the product itself.
        table = np.empty(n_tile * n_columns, dtype=np.float32)
        for tile in gen_batches(len(queries), n_tile):
            for part in gen_batches(len(self.centered), n_columns):
                bank = self.centered[part]
                shape = len(centered[tile]), len(bank)
                products = table[: shape[0] * shape[1]].reshape(shape)
                np.matmul(centered[tile], bank.T, out=products)  # (queries, rows)
                minima = np.empty((shape[0], shape[1] // BLOCK), dtype=np.float32)
                minima_of_floats(self.half_norms[part], products, minima)
                n_blocks = minima.shape[1]
                nearest_in_blocks(
                    minima, products.reshape(-1, n_blocks, BLOCK), np.arange(n_blocks),
                    self.half_norms[part].reshape(n_blocks, BLOCK), _BEYOND, self.ids[part],
                    self.no_shorts, self.no_shorts, queries[tile], self.rows,
                    limits[tile], 1.0, nearest[tile], ids[tile], False,
                )  # fmt: skip

    def _limits(self, centered):
        """Limits of the kernels: no margins, the norm, and twice the error of a value."""
        norms = np.einsum("ij,ij->i", centered, centered).astype(np.float64)
        error = rounding(centered.shape[1]) * (np.sqrt(norms) + self.longest) ** 2
        limits = np.zeros((len(centered), N_LIMITS))
        limits[:, BASE] = norms - 2 * error
        limits[:, ORDERED] = 2 * error
        return limits


@values_by(np.int64)
def _values_in_table(code, block, half_norms, values):
    """Of the block of that number; the code holds the products with all blocks."""
    for column in range(BLOCK):
        values[column] = half_norms[column] - code[block, column]


def search_some(search, some, queries, nearest, ids, n_bytes):
    """Search for the queries selected by a mask; the lists of the others stay as they are."""
    if some.all():
        search.search(queries, nearest, ids, n_bytes)
        return
    some_nearest, some_ids = nearest[some], ids[some]
    search.search(queries[some], some_nearest, some_ids, n_bytes)
    nearest[some], ids[some] = some_nearest, some_ids


def rounding(n_features):
    """Relative error to allow for in a float32 sum of products.

    The error is at most proportional to the number of terms. Rounding errors have random signs,
    though, so that it stays far below eight times the square root of that number.
    """
    return _UNIT * (2 + min(n_features, 8 * n_features**0.5))
