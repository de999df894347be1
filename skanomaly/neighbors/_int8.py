"""Exact search screened by products of 8-bit integers, for processors that have them.

Short vectors are rotated randomly, which spreads their length evenly over the coordinates. Those of
rows are rounded to 8 bits within a cube that holds all of them; each part of the bank has a cube of
its own. A query is moved to the nearest point of the cube and rounded there. As the cube is convex,
the squared distance of query and row is at least the sum of two: from the query to the cube, and
from there to the row. The distance of two rounded vectors differs from that of the vectors by at
most the lengths of the two rounding errors, which are known.
"""

import numpy as np

from skanomaly.neighbors._byte_products import (
    RAISED,
    WIDTH,
    lowest_values,
    pack,
    register_bits,
    values_of_block,
)
from skanomaly.neighbors._distance_kernels import (
    APART,
    BASE,
    BLOCK,
    MARGIN,
    N_LIMITS,
    ORDERED,
    ROUNDING,
    SHORT_APART,
    SHORT_MARGIN,
    nearest_in_blocks,
    values_by,
)
from skanomaly.neighbors._screened import Screen
from skanomaly.utils.compiling import compiled

_BEYOND = np.int32(2**30)
_LARGEST = 127
_PADDING = -128  # in the codes of rows that are none: packed, their products are 0
_SHRUNK = 1 - 1e-5  # more than rounding may raise a squared distance from the cube


class Int8Screen(Screen):
    """Rows in 8 bits; only the smallest value of each block of rows is kept of their products."""

    name = "int8"
    n_axes = WIDTH - 1  # and the length of the rest
    block = BLOCK
    tile_queries = 120

    def _learn(self, sample):
        if register_bits() == 0:
            raise RuntimeError(
                'engine="int8" needs a processor with dot products of bytes, AVX-512 VNNI or '
                'AVX-VNNI, which this one lacks; use engine="auto" or "float32".'
            )
        self.rotation = _random_rotation(WIDTH)[: self.axes.shape[1] + 1]

    def _pack(self, order, shorts):
        shorts = shorts @ self.rotation
        return _Part(order, shorts, self.kept(shorts))

    def _prepare(self, shorts, margins):
        """Rotated short vectors, and margins."""
        return shorts @ self.rotation, margins

    def _search_tile(self, part, rows, table, queries, shorts, margins, nearest, ids):
        """Merge a part into the lists of a tile; False if that is not worthwhile."""
        codes = np.empty((len(queries), WIDTH), dtype=np.int8)
        limits = np.zeros((len(queries), N_LIMITS))
        _encode(shorts, part.center, part.unit, codes, limits)
        limits[:, ROUNDING] = margins
        limits[:, MARGIN] += part.largest_code_error
        limits[:, ORDERED] = np.inf
        if self.is_lean:  # bounds are those of the values
            limits[:, [SHORT_APART, SHORT_MARGIN]] = limits[:, [APART, MARGIN]]
        minima = table[: len(queries)].view(np.int32)
        lowest_values(codes, part.packed, part.half_norms, minima)
        return nearest_in_blocks(
            minima, codes, part.packed, part.half_norms, _BEYOND, part.order, self.kept(shorts),
            part.shorts, queries, rows, limits, 1 / part.unit**2, nearest, ids, True,
        )  # fmt: skip


class _Part:
    """Rows in 8 bits, padded to whole blocks with rows that are farther than all others.

    Parameters
    ----------
    order : ndarray of shape (m,), int
    shorts : ndarray of shape (m, WIDTH), float32
        Rotated short vectors of the rows in that order.
    kept_shorts : ndarray of shape (m, WIDTH) or (m, 0), float32
        Those that are kept.

    Attributes
    ----------
    center : ndarray of shape (WIDTH,), float32
        Of the cube.
    unit : float
        Length of one step of a code: the cube's sides are twice 127 of them.
    largest_code_error : float
        Length of the largest rounding error of a row.
    """

    def __init__(self, order, shorts, kept_shorts):
        low, high = (end.astype(np.float64) for end in (shorts.min(axis=0), shorts.max(axis=0)))
        self.center = ((low + high) / 2).astype(np.float32)
        reach = max((high - self.center).max(), (self.center - low).max())
        self.unit = float(reach) / _LARGEST or 1.0
        n_blocks = -(-len(shorts) // BLOCK)
        padded = np.full((n_blocks * BLOCK, WIDTH), _PADDING, dtype=np.int8)
        codes, errors = padded[: len(shorts)], np.zeros((len(shorts), N_LIMITS))
        _encode(shorts, self.center, self.unit, codes, errors)
        self.largest_code_error = errors[:, MARGIN].max()
        half_norms = np.full(n_blocks * BLOCK, _BEYOND, dtype=np.int32)
        wide = codes.astype(np.float32)  # exact: the sums are below 2^24
        half_norms[: len(shorts)] = np.einsum("ij,ij->i", wide, wide).astype(np.int32) // 2
        self.packed, self.half_norms = pack(padded), half_norms.reshape(n_blocks, BLOCK)
        self.order, self.shorts = order, kept_shorts
        self.table_width = n_blocks


@compiled(nogil=True)
def _encode(shorts, center, unit, codes, limits):
    """Fill in codes (n, WIDTH), and of the limits MARGIN, BASE and APART, for one cube.

    The margin is the length of the rounding error within the cube.
    """
    for i in range(shorts.shape[0]):
        error = apart = np.float64(0)
        norm = total = 0
        for j in range(shorts.shape[1]):
            place = (np.float64(shorts[i, j]) - center[j]) / unit
            inside = min(max(place, -_LARGEST), _LARGEST)
            code = np.int32(np.rint(inside))
            codes[i, j] = code
            error += (inside - code) ** 2
            apart += (place - inside) ** 2
            norm += code * code
            total += code
        limits[i, MARGIN] = np.sqrt(error) * unit
        limits[i, APART] = apart * unit * unit * _SHRUNK
        # Products are raised; 2 is room for rounding.
        limits[i, BASE] = norm + 2 * RAISED * total - 2


@values_by(np.uint8)
def _values_in_bytes(code, block, half_norms, values):
    values_of_block(code, block, half_norms, values)


def _random_rotation(width):
    """An orthogonal matrix, always the same one; results do not depend on it."""
    normal = np.random.default_rng(0).standard_normal((width, width))
    return np.linalg.qr(normal)[0].astype(np.float32)
