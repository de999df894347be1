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


class Screen:
    """One way to shorten vectors, for any number of parts of rows and for the queries.

    Subclasses set ``name``, ``n_axes``, ``block`` and ``tile_queries`` and give
    ``_pack(order, shorts)``, what is kept of some rows, ``_prepare(shorts, margins)``, what is
    needed of a chunk of queries, and ``_search_tile``.

    Parameters
    ----------
    sample : ndarray of shape (m, d), float32
        Rows from which the axes are learned; they only sharpen the bounds.
    is_lean : bool, default=False
        Whether to keep no short vectors beside what the first comparison needs: less than half
        the memory, and a few more rows to be measured.
    """

    def __init__(self, sample, is_lean=False):
        self.is_lean = is_lean
        self.mean, self.axes = principal_axes(sample, min(self.n_axes, sample.shape[1]))
        self._learn(sample)
        self.longest = self.largest_error = np.float32(0)

    def _learn(self, sample):
        """Whatever else a screen needs to know of the rows."""

    def add(self, rows):
        """What the screen keeps of some rows (m, d); all are added before queries are prepared."""
        shorts = short_vectors(rows, self.mean, self.axes)
        order = _order_of_neighbours(shorts[:, :_ORDER_AXES], self.block)
        lengths = np.sqrt(np.einsum("ij,ij->i", shorts, shorts))
        self.longest = max(self.longest, lengths.max())
        self.largest_error = max(self.largest_error, _error_of_rest(shorts).max())
        return self._pack(order, shorts[order])

    def prepare(self, queries):
        """Arrays with an entry per query, as the search of every part needs them."""
        shorts = short_vectors(queries, self.mean, self.axes)
        lengths = np.sqrt(np.einsum("ij,ij->i", shorts, shorts))
        # How far a distance of short vectors may exceed the distance of the rows.
        margins = _ROUNDING * (lengths + self.longest) + _error_of_rest(shorts) + self.largest_error
        return self._prepare(shorts, margins.astype(np.float64))

    def table(self, part, n_bytes):
        """Room for the values of a tile of queries, in at most so many bytes if at all possible.

        Made once for many searches: fresh memory would cost a tenth of the products themselves.
        """
        n_tile = int(np.clip(n_bytes // (4 * part.table_width), 1, self.tile_queries))
        return np.empty((n_tile, part.table_width), dtype=np.float32)

    def search(self, part, rows, queries, prepared, nearest, ids, table):
        """Merge a part into the lists (n, k) of squared distances and rows; which were answered.

        ``rows`` are those the part was made from. Queries for which the screen is not worth it
        are left to the caller, their lists as they were.
        """
        answered = np.zeros(len(queries), dtype=bool)
        hard_tiles = 0
        for tile in gen_batches(len(queries), len(table)):
            arrays = [array[tile] for array in prepared]
            found, found_ids = nearest[tile].copy(), ids[tile].copy()
            answered[tile] = self._search_tile(
                part, rows, table, queries[tile], *arrays, found, found_ids
            )
            if answered[tile.start]:
                nearest[tile], ids[tile] = found, found_ids
                continue
            hard_tiles += 1
            if hard_tiles == _HARD_TILES:
                break
        return answered


class ScreenedSearch:
    """A screen over one bank of rows.

    Parameters
    ----------
    screen_type : type of Screen
    rows : ndarray of shape (m, d), float32
    """

    def __init__(self, screen_type, rows):
        self.rows = rows
        self.screen = screen_type(rows)
        self.part = self.screen.add(rows)
        self.name = self.screen.name

    def search(self, queries, nearest, ids, n_bytes):
        """Fill the lists (n, k) of squared distances and rows; which queries were answered."""
        return self.screen.search(
            self.part, self.rows, queries, self.screen.prepare(queries), nearest, ids,
            self.screen.table(self.part, n_bytes),
        )  # fmt: skip


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
