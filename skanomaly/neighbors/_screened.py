"""What the two screens share: rows in an order that keeps neighbours together, and short vectors.

A row is screened by its coordinates along the first principal axes and the length of the rest
(see :mod:`skanomaly._distances`): the distance of two such short vectors is a lower bound.
"""

import numpy as np
from sklearn.utils import gen_batches

from skanomaly._distances import principal_axes, short_vectors

# Axes along which the rows are put in order.
_ORDER_AXES = 16
# Relative rounding of a short vector's coordinates and, before its root, of the rest's square.
_ROUNDING = 2e-6
# Two tiles of a chunk that are not worth screening are enough: the chunk is likely all like that.
_HARD_TILES = 2


class ScreenedSearch:
    """Rows in blocks of neighbours, their short vectors, and the loop over tiles of queries.

    Subclasses set ``n_axes``, ``block`` and ``tile_queries`` and give ``_prepare(shorts)``, what
    the screen needs of a chunk of queries, and ``_search_tile``.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32
    """

    def __init__(self, rows):
        self.rows = rows
        self.mean, self.axes = principal_axes(rows, min(self.n_axes, rows.shape[1]))
        shorts = short_vectors(rows, self.mean, self.axes)
        self.order = _order_of_neighbours(shorts[:, :_ORDER_AXES], self.block)
        self.shorts = shorts[self.order]
        self.longest = np.sqrt(np.einsum("ij,ij->i", shorts, shorts).max())
        self.largest_error = _error_of_rest(shorts).max()

    def search(self, queries, nearest, ids, n_bytes):
        """Fill the lists (n, k) of squared distances and rows; which queries were answered.

        ``n_bytes`` bounds the table of a tile. Queries for which the screen is not worth it are
        left to the caller, their lists as they were.
        """
        shorts = short_vectors(queries, self.mean, self.axes)
        prepared = self._prepare(shorts, self._margins(shorts))
        answered = np.zeros(len(queries), dtype=bool)
        hard_tiles = 0
        n_tile = int(np.clip(n_bytes // self.bytes_per_query, 1, self.tile_queries))
        table = np.empty(n_tile * self.bytes_per_query // 4, dtype=np.float32)
        for tile in gen_batches(len(queries), n_tile):
            parts = [array[tile] for array in prepared]
            found, found_ids = nearest[tile].copy(), ids[tile].copy()
            answered[tile] = self._search_tile(table, queries[tile], *parts, found, found_ids)
            if answered[tile.start]:
                nearest[tile], ids[tile] = found, found_ids
                continue
            hard_tiles += 1
            if hard_tiles == _HARD_TILES:
                break
        return answered

    def _margins(self, shorts):
        """How far a distance of short vectors may exceed the distance of the rows, by query."""
        lengths = np.sqrt(np.einsum("ij,ij->i", shorts, shorts))
        return (
            _ROUNDING * (lengths + self.longest) + _error_of_rest(shorts) + self.largest_error
        ).astype(np.float64)


def _error_of_rest(shorts):
    """Largest error of the last coordinate, a root of a difference: it may be mere rounding."""
    error = _ROUNDING * np.einsum("ij,ij->i", shorts, shorts)  # of the square
    return error / np.maximum(np.maximum(shorts[:, -1], np.sqrt(error)), np.finfo(np.float32).tiny)


def _order_of_neighbours(points, block):
    """Order in which each block of rows lies together: halved again and again at the median."""
    done = []
    waiting = [np.arange(len(points))]
    while waiting:
        group = waiting.pop()
        if len(group) <= block:
            done.append(group)
            continue
        axis = np.argmax(points[group].var(axis=0))
        # Whole blocks to the left, so that only the very last block is not full.
        half = -(-(len(group) // 2) // block) * block
        split = np.argpartition(points[group, axis], half - 1)
        waiting += [group[split[half:]], group[split[:half]]]
    return np.concatenate(done)
