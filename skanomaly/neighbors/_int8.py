"""Exact search screened by products of 8-bit integers, for processors that have them.

Short vectors are rotated randomly, which spreads their length evenly over the coordinates, and
rounded to 8 bits. The distance of two rounded vectors differs from the distance of the short
vectors by at most the lengths of the two rounding errors, which are known.
"""

import functools
import time

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.neighbors._distance_kernels import BLOCK, minima_of_integers, nearest_in_products
from skanomaly.neighbors._screened import Screen
from skanomaly.utils.distances import short_vectors

# Rows whose products are held at a time for a tile of queries, 8 MB: they stay in the cache.
_PIECE_ROWS = 256 * BLOCK
_BEYOND = np.int32(2**30)
_LARGEST = 127
# The screen in 8 bits is faster than the one in float32 if its products are this much faster.
_WORTHWHILE_SPEED = 2.5


class Int8Screen(Screen):
    """Rows in 8 bits, multiplied in pieces whose products fit the cache."""

    name = "int8"
    n_axes = 95  # with the length of the rest 96 numbers, a multiple of the width of registers
    block = BLOCK
    tile_queries = 128

    def _learn(self, sample):
        if not is_exact():
            raise RuntimeError(
                'engine="int8" needs exact products of 8-bit integers, which torch does not offer '
                'on this machine; use engine="auto" or "float32".'
            )
        self.rotation = _random_rotation(self.axes.shape[1] + 1)
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
        limits = np.full((len(shorts), 4), np.inf)
        limits[:, 0] = margins + errors + self.largest_code_error
        limits[:, 1] = _squared_norms(codes) - 2  # half norms are rounded down
        limits[:, 2] = limits[:, 0] if self.is_lean else margins
        return shorts[:, :0] if self.is_lean else shorts, codes, limits

    def _encode(self, shorts):
        """Codes (n, width) int8 and the lengths (n,) of their rounding errors."""
        codes = np.clip(np.rint(shorts / self.unit), -_LARGEST, _LARGEST)
        errors = shorts - codes * self.unit
        return codes.astype(np.int8), np.sqrt(np.einsum("ij,ij->i", errors, errors))

    def _search_tile(self, part, rows, table, queries, shorts, codes, limits, nearest, ids):
        """Merge a part into the lists of a tile; False if that is not worthwhile."""
        import torch

        codes, table = torch.from_numpy(codes), torch.from_numpy(table).view(torch.int32)
        for piece, piece_codes in zip(part.pieces, part.codes, strict=True):
            n_products = len(codes) * piece_codes.shape[1]
            products = table.view(-1)[:n_products].view(len(codes), -1)
            torch._int_mm(codes, piece_codes, out=products)  # (queries, rows)
            products = products.numpy()
            minima = np.empty((len(queries), products.shape[1] // BLOCK), dtype=np.int32)
            half_norms = part.half_norms[piece]
            minima_of_integers(half_norms, products, minima)
            worthwhile = nearest_in_products(
                minima, half_norms, products, _BEYOND, part.order[piece], shorts,
                part.shorts[piece], queries, rows,
                limits, 1 / self.unit**2, nearest, ids, True,
            )  # fmt: skip
            if not worthwhile:
                return False
        return True


class _Part:
    """Rows in 8 bits, padded to whole blocks with rows that are farther than all others."""

    def __init__(self, order, shorts, codes):
        import torch

        n_rows, width = codes.shape
        n_padded = -(-n_rows // BLOCK) * BLOCK
        padded = np.zeros((n_padded, width), dtype=np.int8)
        padded[:n_rows] = codes
        self.order, self.shorts = order, shorts
        self.half_norms = np.full(n_padded, _BEYOND, dtype=np.int32)
        self.half_norms[:n_rows] = _squared_norms(codes) // 2
        self.table_width = min(n_padded, _PIECE_ROWS)
        self.pieces = list(gen_batches(n_padded, _PIECE_ROWS))
        # (width, rows of the piece) each
        self.codes = [torch.from_numpy(padded[piece]).t().contiguous() for piece in self.pieces]


@functools.cache
def is_exact():
    """Whether torch multiplies 8-bit integers on this machine without saturation."""
    import torch

    if not hasattr(torch, "_int_mm"):
        return False
    # The largest codes: instructions that add pairs of products in 16 bits saturate.
    left = torch.full((17, 96), _LARGEST, dtype=torch.int8)
    right = torch.full((96, BLOCK), _LARGEST, dtype=torch.int8)
    right[:, ::2] = -_LARGEST
    exact = left.numpy().astype(np.int32) @ right.numpy().astype(np.int32)
    return np.array_equal(torch._int_mm(left, right).numpy(), exact)


@functools.cache
def is_fast():
    """Whether products of 8-bit integers are much faster on this machine than float32 ones."""
    import torch

    generator = np.random.default_rng(0)
    left = generator.integers(-_LARGEST, _LARGEST, (128, 96), dtype=np.int8)
    right = generator.integers(-_LARGEST, _LARGEST, (96, 64 * BLOCK), dtype=np.int8)
    wide = left.astype(np.float32), right.astype(np.float32)
    narrow = torch.from_numpy(left), torch.from_numpy(right)
    return _WORTHWHILE_SPEED * _seconds(torch._int_mm, narrow) < _seconds(np.matmul, wide)


def _seconds(multiply, factors):
    """Shortest time of a few runs."""
    runs = []
    for _ in range(7):
        start = time.perf_counter()
        multiply(*factors)
        runs.append(time.perf_counter() - start)
    return min(runs)


def _random_rotation(width):
    """An orthogonal matrix, always the same one; results do not depend on it."""
    normal = np.random.default_rng(0).standard_normal((width, width))
    return np.linalg.qr(normal)[0].astype(np.float32)


def _squared_norms(codes):
    """Squared lengths of rows of codes, (n,) int32."""
    wide = codes.astype(np.float32)  # exact: the sums are below 2^24
    return np.einsum("ij,ij->i", wide, wide).astype(np.int32)
