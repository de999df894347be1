"""The rounds of a greedy selection.

Rows keep stale distances to the picks, which are upper bounds of the true ones. A round works only
on the rows whose stale distance is largest: they are brought up to date, then picks are made among
them for as long as the best of them is farther than any row outside can be.
"""

import numpy as np
from sklearn.utils import gen_even_slices

from skanomaly._distances import principal_axes, short_vectors
from skanomaly.coreset import _kernels

_ROUND_ROWS = 8_000  # rows brought up to date per round; 4,000 to 16,000 are equally fast
_ROUND_PICKS = 1_000  # at most, so that a round stays short whatever the data
_ROUNDING = 4e-6  # float32 rounding of a bound, as a part of the squared lengths it is made of


class Selection:
    """Picks so far, and what is known of every row's distance to them."""

    def __init__(self, rows, n_samples, start):
        n_tiles = -(-n_samples // _kernels.BLOCK) * _kernels.TILES
        tiles = _aligned((n_tiles, _kernels.N_SHORT + 1, _kernels.LANES))
        tiles[:, _kernels.N_SHORT] = _kernels.EMPTY
        self.picks = np.empty(n_samples, dtype=np.int64)
        self.rows, self.short = rows, _bound_vectors(rows)
        self.picked = _aligned((n_samples, rows.shape[1])), tiles
        self.d = np.empty(len(rows), dtype=np.float32)
        self.seen = np.ones(len(rows), dtype=np.int64)
        self.n_picks = 1
        _kernels.start_distances(rows, start, self.d)
        _kernels.append_pick(start, 0, rows, self.short, self.picks, *self.picked)

    def candidates(self, floor):
        """Rows that may be picked next, in ascending order, and a bound for all others."""
        d, threshold = self.d, floor
        if len(d) > _ROUND_ROWS:
            threshold = max(floor, np.partition(d, -_ROUND_ROWS)[-_ROUND_ROWS])
        members = np.flatnonzero(d > threshold)
        if len(members) == 0 and threshold > floor:  # all of them tie: the first ones lead
            members = np.flatnonzero(d == threshold)[:_ROUND_ROWS]
            threshold = np.nextafter(threshold, np.float32(-np.inf))
        return members, threshold

    def catch_up(self, members, threshold, pool, n_tasks):
        """Bring members up to date, as far as they stay above the threshold."""
        tasks = [
            pool.submit(
                _kernels.catch_up,
                members[part],
                self.d,
                self.seen,
                threshold,
                self.n_picks,
                self.rows,
                self.short,
                *self.picked,
            )
            for part in gen_even_slices(len(members), min(len(members), n_tasks))
        ]
        for task in tasks:
            task.result()

    def pick_among(self, members, threshold):
        """Pick while a member lies above the threshold, which is where all others end."""
        self.n_picks = _kernels.pick_among(
            members,
            self.d,
            self.seen,
            threshold,
            self.n_picks,
            min(self.n_picks + _ROUND_PICKS, len(self.picks)),
            self.rows,
            self.short,
            self.picks,
            *self.picked,
        )


def _bound_vectors(rows):
    """Short vectors of rows, each followed by its squared length, (n, N_SHORT + 1)."""
    n_short = _kernels.N_SHORT
    mean, axes = principal_axes(rows, min(n_short - 1, rows.shape[1]))
    vectors = np.zeros((len(rows), n_short + 1), dtype=np.float32)
    vectors[:, : axes.shape[1] + 1] = short_vectors(rows, mean, axes)
    # Lengths a little short keep a bound below the distance whatever its rounding.
    vectors[:, n_short] = np.einsum("ij,ij->i", vectors, vectors) * np.float32(1 - _ROUNDING)
    return vectors


def _aligned(shape):
    """Zeros that start at a cache line, so that no vector register is loaded from two lines."""
    size = int(np.prod(shape))
    memory = np.zeros(size + 16, dtype=np.float32)
    first = -memory.ctypes.data % 64 // 4
    return memory[first : first + size].reshape(shape)
