"""Exact search screened in float32, by bounds of increasing length.

The first bound uses 17 numbers of each row; only the minimum of each leaf of 32 rows is kept.
Rows of leaves that may hold a neighbor get a bound of 33 numbers, those that still may be a
neighbor one of 129 numbers, and the rows that remain are measured.
"""

import numpy as np

from skanomaly.neighbors._distance_kernels import (
    BASE,
    LANES,
    N_LIMITS,
    ORDERED,
    ROUNDING,
    nearest_in_blocks,
    values_by,
)
from skanomaly.neighbors._plain import rounding
from skanomaly.neighbors._screened import Screen
from skanomaly.utils.compiling import compiled

_LEAF = 32
# Leaves side by side, one per lane, so that their minima need no step across lanes. The 35 kB of
# such a group stay in the first-level cache for all queries of a tile.
_GROUP = _LEAF * LANES
_COARSE = 17
_FINE = 33
_BEYOND = np.float32(np.finfo(np.float32).max / 4)


class Float32Screen(Screen):
    """Rows as short vectors of three lengths, or two if lean, laid out for the loops."""

    name = "float32"
    n_axes = 128
    block = _LEAF
    tile_queries = 64

    def _pack(self, order, shorts):
        return _Part(order, shorts, self.kept(shorts))

    def _prepare(self, shorts, margins):
        """Short vectors of three lengths and the limits of the kernels."""
        norms = np.einsum("ij,ij->i", shorts, shorts).astype(np.float64)
        limits = np.zeros((len(shorts), N_LIMITS))
        limits[:, ROUNDING] = margins
        # Rounding error of half a squared norm minus a product.
        error = rounding(_FINE) * (np.sqrt(norms) + self.longest) ** 2
        limits[:, BASE] = norms - 2 * error
        limits[:, ORDERED] = np.inf
        return _shortened(shorts, _COARSE), _shortened(shorts, _FINE), self.kept(shorts), limits

    def _search_tile(self, part, rows, table, queries, coarse, fine, shorts, limits, nearest, ids):
        """Merge a part into the lists of a tile; False if that is not worthwhile."""
        minima = table[: len(queries)]
        _minima_of_leaves(coarse, part.coarse, part.coarse_norms, minima)
        return nearest_in_blocks(
            minima, fine, part.fine, part.fine_norms, _BEYOND, part.order, shorts, part.shorts,
            queries, rows, limits, 1.0, nearest, ids, True,
        )  # fmt: skip


class _Part:
    """Rows in groups of leaves, padded with rows that are farther than all others."""

    def __init__(self, order, shorts, kept_shorts):
        n_groups = -(-len(shorts) // _GROUP)
        n_leaves = n_groups * LANES
        self.order, self.shorts = order, kept_shorts
        self.table_width = n_leaves
        coarse, coarse_norms = _padded(_shortened(shorts, _COARSE), n_groups * _GROUP)
        fine, fine_norms = _padded(_shortened(shorts, _FINE), n_groups * _GROUP)
        # (groups, lanes, rows of a leaf, width) -> (groups, width, rows of a leaf x lanes)
        coarse = coarse.reshape(n_groups, LANES, _LEAF, _COARSE).transpose(0, 3, 2, 1)
        self.coarse = coarse.reshape(n_groups, _COARSE, _GROUP)
        coarse_norms = coarse_norms.reshape(n_groups, LANES, _LEAF).transpose(0, 2, 1)
        self.coarse_norms = coarse_norms.reshape(n_groups, _GROUP)
        # (leaves, rows of a leaf, width) -> (leaves, width, rows of a leaf)
        fine = fine.reshape(n_leaves, _LEAF, _FINE).transpose(0, 2, 1)
        self.fine = np.ascontiguousarray(fine)
        self.fine_norms = fine_norms.reshape(n_leaves, _LEAF)


def _shortened(shorts, width):
    """Short vectors with fewer axes, (n, width): the others are added to the length of the rest."""
    cut = shorts[:, width - 1 :]  # the other axes and the length of the rest
    shorter = np.zeros((len(shorts), width), dtype=np.float32)
    shorter[:, : min(width, shorts.shape[1]) - 1] = shorts[:, :-1][:, : width - 1]
    shorter[:, -1] = np.sqrt(np.einsum("ij,ij->i", cut, cut)) if cut.size else shorts[:, -1]
    return shorter


def _padded(shorts, n_padded):
    """Rows padded with rows that are farther than all others, and half of the squared norms."""
    padded = np.zeros((n_padded, shorts.shape[1]), dtype=np.float32)
    padded[: len(shorts)] = shorts
    half_norms = np.full(n_padded, _BEYOND, dtype=np.float32)
    half_norms[: len(shorts)] = np.einsum("ij,ij->i", shorts, shorts) / 2
    return padded, half_norms


@compiled(fastmath=True, nogil=True)
def _minima_of_leaves(queries, groups, half_norms, minima):
    """Smallest value, half norm minus product, of each leaf for all queries of a tile.

    ``queries`` is (q, _COARSE), ``groups`` (groups, _COARSE, _GROUP), ``minima`` (q, leaves).
    """
    values = np.empty(_GROUP, dtype=np.float32)
    for group in range(groups.shape[0]):
        columns, norms = groups[group], half_norms[group]  # (_COARSE, _GROUP), (_GROUP,)
        for i in range(queries.shape[0]):
            query = queries[i]
            for j in range(_GROUP):
                value = norms[j]
                for axis in range(_COARSE):
                    value -= query[axis] * columns[axis, j]
                values[j] = value
            # Column row * LANES + lane is that row of the leaf in that lane.
            for lane in range(LANES):
                lowest = values[lane]
                for row in range(1, _LEAF):
                    value = values[row * LANES + lane]
                    lowest = value if value < lowest else lowest
                minima[i, group * LANES + lane] = lowest


@values_by(np.float32)
def _values_of_leaf(code, block, half_norms, values):
    """Value, half norm minus product, of each row of one leaf, by the longer bound."""
    for j in range(_LEAF):
        value = half_norms[j]
        for axis in range(_FINE):
            value -= code[axis] * block[axis, j]
        values[j] = value
