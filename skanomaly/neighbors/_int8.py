"""Exact search screened by products of 8-bit integers, for processors that have them.

Short vectors are rotated randomly, which spreads their length evenly over the coordinates, and
rounded to 8 bits. The distance of two rounded vectors differs from the distance of the short
vectors by at most the lengths of the two rounding errors, which are known.
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
from skanomaly.neighbors._distance_kernels import BLOCK, nearest_in_blocks, values_by
from skanomaly.neighbors._screened import Screen
from skanomaly.utils.distances import short_vectors

_BEYOND = np.int32(2**30)
_LARGEST = 127
_PADDING = -128  # in the codes of rows that are none: packed, their products are 0


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
        shorts = short_vectors(sample, self.mean, self.axes) @ self.rotation
        # The length of one step of a code, chosen so that no coordinate of the sample is clipped.
        self.unit = (float(np.abs(shorts).max()) or 1.0) / _LARGEST
        self.largest_code_error = 0.0

    def _pack(self, order, shorts):
        shorts = shorts @ self.rotation
        codes, errors = self._encode(shorts)
        self.largest_code_error = max(self.largest_code_error, errors.max())
        return _Part(order, shorts[:, :0] if self.is_lean else shorts, codes)

    def _prepare(self, shorts, margins):
        """Rotated short vectors, their codes, and the limits of the kernels."""
        shorts = shorts @ self.rotation
        codes, errors = self._encode(shorts)
        # The base is in squared units of codes; margins are lengths of short vectors.
        limits = np.empty((len(shorts), 3))
        limits[:, 0] = margins + errors + self.largest_code_error
        # Half norms are rounded down, and products raised.
        limits[:, 1] = _squared_norms(codes) - 2 + 2 * RAISED * codes.sum(axis=1, dtype=np.int32)
        limits[:, 2] = limits[:, 0] if self.is_lean else margins
        return shorts[:, :0] if self.is_lean else shorts, codes, limits

    def _encode(self, shorts):
        """Codes (n, WIDTH) int8 and the lengths (n,) of their rounding errors."""
        codes = np.clip(np.rint(shorts / self.unit), -_LARGEST, _LARGEST)
        errors = shorts - codes * self.unit
        return codes.astype(np.int8), np.sqrt(np.einsum("ij,ij->i", errors, errors))

    def _search_tile(self, part, rows, table, queries, shorts, codes, limits, nearest, ids):
        """Merge a part into the lists of a tile; False if that is not worthwhile."""
        minima = table[: len(queries)].view(np.int32)
        lowest_values(codes, part.packed, part.half_norms, minima)
        return nearest_in_blocks(
            minima, codes, part.packed, part.half_norms, _BEYOND, part.order, shorts, part.shorts,
            queries, rows, limits, 1 / self.unit**2, nearest, ids,
        )  # fmt: skip


class _Part:
    """Rows in 8 bits, padded to whole blocks with rows that are farther than all others."""

    def __init__(self, order, shorts, codes):
        n_blocks = -(-len(codes) // BLOCK)
        padded = np.full((n_blocks * BLOCK, WIDTH), _PADDING, dtype=np.int8)
        padded[: len(codes)] = codes
        half_norms = np.full(n_blocks * BLOCK, _BEYOND, dtype=np.int32)
        half_norms[: len(codes)] = _squared_norms(codes) // 2
        self.order, self.shorts = order, shorts
        self.packed, self.half_norms = pack(padded), half_norms.reshape(n_blocks, BLOCK)
        self.table_width = n_blocks


@values_by(np.uint8)
def _values_in_bytes(code, block, half_norms, values):
    values_of_block(code, block, half_norms, values)


def _random_rotation(width):
    """An orthogonal matrix, always the same one; results do not depend on it."""
    normal = np.random.default_rng(0).standard_normal((width, width))
    return np.linalg.qr(normal)[0].astype(np.float32)


def _squared_norms(codes):
    """Squared lengths of rows of codes, (n,) int32."""
    wide = codes.astype(np.float32)  # exact: the sums are below 2^24
    return np.einsum("ij,ij->i", wide, wide).astype(np.int32)
