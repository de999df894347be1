"""What the two screens share: short vectors, and an order of rows that keeps neighbors together.

A row is screened by its coordinates along the first principal axes and the length of the rest (see
:mod:`skanomaly.utils.distances`): the distance of two such short vectors is a lower bound of the
distance of the rows.
"""

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.utils.distances import principal_axes, short_vectors

# Axes along which the rows are sorted into blocks.
_ORDER_AXES = 16
# Relative rounding error of the coordinates of a short vector, and of the squared length of the
# rest.
_ROUNDING = 2e-6
# After this many tiles that were not worth screening, the rest of the chunk is not screened.
_MAX_USELESS_TILES = 2


class Screen:
    """Base class of screens: short vectors of queries and of rows, which may come in several parts.

    Subclasses set ``name``, ``n_axes``, ``block`` (rows per block) and ``tile_queries``, and
    implement ``_pack(order, shorts)``, which returns what is kept of a part of the rows,
    ``_prepare(shorts, margins)``, which returns arrays for a chunk of queries, and
    ``_search_tile``, which compares a tile of queries with a part.

    Parameters
    ----------
    sample : ndarray of shape (m, d), float32
        Rows from which the axes are learned. Other axes would give looser bounds, but the same
        result.
    is_lean : bool, default=False
        Whether to keep only what the first comparison needs, without the short vectors themselves:
        less than half the memory, and a few more rows to be measured.
    """

    def __init__(self, sample, is_lean=False):
        self.is_lean = is_lean
        self.mean, self.axes = principal_axes(sample, min(self.n_axes, sample.shape[1]))
        self._learn(sample)
        self.longest = self.largest_error = np.float32(0)

    def _learn(self, sample):
        """Learn from the sample whatever else a subclass needs."""

    def kept(self, shorts):
        """Short vectors (n, width) as they are kept: all of them, or of width 0 if lean."""
        return np.empty((len(shorts), 0), dtype=np.float32) if self.is_lean else shorts

    def add(self, rows):
        """What is kept of a part of the rows (m, d); all parts are added before any query comes."""
        shorts = short_vectors(rows, self.mean, self.axes)
        order = _order_of_neighbors(shorts[:, :_ORDER_AXES], self.block)
        lengths = np.sqrt(np.einsum("ij,ij->i", shorts, shorts))
        self.longest = max(self.longest, lengths.max())
        self.largest_error = max(self.largest_error, _error_of_rest(shorts).max())
        return self._pack(order, shorts[order])

    def prepare(self, queries):
        """Arrays with an entry per query, which the search of every part uses."""
        shorts = short_vectors(queries, self.mean, self.axes)
        lengths = np.sqrt(np.einsum("ij,ij->i", shorts, shorts))
        # By how much rounding may raise the distance of short vectors above that of the rows.
        margins = _ROUNDING * (lengths + self.longest) + _error_of_rest(shorts) + self.largest_error
        return self._prepare(shorts, margins.astype(np.float64))

    def table(self, part, n_bytes):
        """Memory for the values of a tile of queries: at most ``n_bytes``, but at least one query.

        Allocated once for many searches: new memory would cost a tenth of the products themselves.
        """
        n_tile = int(np.clip(n_bytes // (4 * part.table_width), 1, self.tile_queries))
        return np.empty((n_tile, part.table_width), dtype=np.float32)

    def search(self, part, rows, queries, prepared, nearest, ids, table):
        """Merge a part into the lists (n, k) of squared distances and of indices of rows.

        ``rows`` are those that the part was made from. Returns a mask (n,) of the queries that
        are done; the others were not worth screening, and their lists are as before.
        """
        is_done = np.zeros(len(queries), dtype=bool)
        n_useless = 0
        for tile in gen_batches(len(queries), len(table)):
            arrays = [array[tile] for array in prepared]
            found, found_ids = nearest[tile].copy(), ids[tile].copy()
            is_done[tile] = self._search_tile(
                part, rows, table, queries[tile], *arrays, found, found_ids
            )
            if is_done[tile.start]:
                nearest[tile], ids[tile] = found, found_ids
                continue
            n_useless += 1
            if n_useless == _MAX_USELESS_TILES:
                break
        return is_done


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
        """Fill the lists (n, k) of squared distances and of indices; which queries are done."""
        return self.screen.search(
            self.part, self.rows, queries, self.screen.prepare(queries), nearest, ids,
            self.screen.table(self.part, n_bytes),
        )  # fmt: skip


def _error_of_rest(shorts):
    """Largest error of the last coordinate, which is the square root of a difference.

    With an error e of its square s, the root is wrong by at most e / max(sqrt(s), sqrt(e)).
    """
    error = _ROUNDING * np.einsum("ij,ij->i", shorts, shorts)  # e
    return error / np.maximum(np.maximum(shorts[:, -1], np.sqrt(error)), np.finfo(np.float32).tiny)


def _order_of_neighbors(points, block):
    """Order of the rows in which each block holds near rows: halves at the median, recursively."""
    done = []
    waiting = [np.arange(len(points))]
    while waiting:
        group = waiting.pop()
        if len(group) <= block:
            done.append(group)
            continue
        axis = np.argmax(points[group].var(axis=0))
        # Whole blocks on the left, so that only the last block of all may not be full.
        half = -(-(len(group) // 2) // block) * block
        split = np.argpartition(points[group, axis], half - 1)
        waiting += [group[split[half:]], group[split[:half]]]
    return np.concatenate(done)
