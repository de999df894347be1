"""Greedy selection in rounds that look at few of the rows.

Every row has the squared distance to the nearest of the rows selected when it was last looked at.
Rows selected since can only lower it, so it is an upper bound of the current distance. A round
takes the rows with the largest bounds, the members, and updates them; then it selects among them
for as long as the farthest member is farther than the bound of any other row.
"""

import copy

import numpy as np
from sklearn.utils import gen_batches, gen_even_slices

from skanomaly.coreset import _greedy_kernels as _kernels
from skanomaly.utils.distances import principal_axes, short_vectors

_ROUND_ROWS = 8_000  # members of a round; 4,000 to 16,000 are equally fast
_ROUND_PICKS = 1_000  # at most, so that a round stays short whatever the data
_BATCH_ROWS = 8_192  # whose short vectors a thread computes at a time
_ROUNDING = 4e-6  # float32 rounding error of a bound, relative to the squared lengths in it


class BoundedSelection:
    """The rows selected so far, and bounds on the distance of every row to them.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
    n_samples : int
        How many rows are selected at most.
    first : ndarray of shape (d,), float32
        The row selected first, which need not be one of ``rows``.
    run : callable, default=map
        map, or that of a pool of threads, which share the work.

    Attributes
    ----------
    picks : ndarray of shape (n_samples,), int64
        Indices of the rows that ``select`` selected, of which the first ``n_picks`` are set.
    reached : ndarray of shape (n_samples + 1,), float32
        Squared distance of each to the nearest of those before, infinite for the first: when it was
        selected no row was farther. ``cover`` sets the one after the last.
    """

    def __init__(self, rows, n_samples, first, run=map):
        tiles = _empty_tiles(-(-n_samples // _kernels.BLOCK) * _kernels.TILES)
        self.picks = np.empty(n_samples, dtype=np.int64)
        self.reached = np.full(n_samples + 1, np.inf, dtype=np.float32)
        self.axes = bound_axes(rows)
        self.rows, self.short = rows, bound_vectors(rows, *self.axes, run)
        # The rows selected once more: contiguous, and as the columns of tiles.
        self.picked = _aligned((n_samples, rows.shape[1])), tiles
        self.d = np.empty(len(rows), dtype=np.float32)  # (n,) squared distances, upper bounds
        self.seen = np.ones(len(rows), dtype=np.int64)  # (n,) how many picks d takes into account
        self.n_picks = 0
        _kernels.start_distances(rows, first, self.d)
        self.append(first[None])

    def copy(self):
        """The same selection, which goes on alone; the rows are shared."""
        other = copy.copy(self)
        for name in ("d", "seen", "picks", "reached"):
            setattr(other, name, getattr(self, name).copy())
        rows, tiles = self.picked
        n_tiles = -(-self.n_picks // _kernels.LANES)
        other.picked = _aligned(rows.shape), _empty_tiles(len(tiles))
        other.picked[0][: self.n_picks] = rows[: self.n_picks]
        other.picked[1][:n_tiles] = tiles[:n_tiles]
        return other

    def append(self, rows):
        """Add rows (m, d) to those selected; of those among its own, see ``leave_out``."""
        short = bound_vectors(rows, *self.axes)
        for i in range(len(rows)):
            _kernels.append_pick(i, self.n_picks, rows, short, self.picks, *self.picked)
            self.n_picks += 1

    def leave_out(self, indices):
        """Its own rows that have been selected: never the farthest again."""
        self.d[indices] = _kernels.PICKED

    def candidates(self, floor, n_rows=None):
        """Members of the next round, ascending, and the threshold that bounds all other rows.

        Of more than n_rows rows that tie as the farthest, the first ones are members, and only they
        exceed the threshold.
        """
        n_rows = _ROUND_ROWS if n_rows is None else n_rows
        d, threshold = self.d, floor
        if len(d) > n_rows:
            threshold = max(floor, np.partition(d, -n_rows)[-n_rows])
        members = np.flatnonzero(d > threshold)
        if len(members) == 0 and threshold > floor:
            # All of them tie. The lowest indices win, so the first ones are enough for a round.
            members = np.flatnonzero(d == threshold)[:n_rows]
            threshold = np.nextafter(threshold, np.float32(-np.inf))
        return members, threshold

    def update(self, members, threshold, run, n_tasks):
        """Compare members with the picks they have not seen, while they exceed the threshold."""

        def update_part(part):
            _kernels.update_distances(
                members[part], self.d, self.seen, threshold, self.n_picks, self.rows, self.short,
                *self.picked,
            )  # fmt: skip

        list(run(update_part, gen_even_slices(len(members), min(len(members), n_tasks))))

    def select(self, members, threshold):
        """Select among updated members while one exceeds the threshold."""
        self.n_picks = _kernels.select_among(
            members,
            self.d,
            self.seen,
            threshold,
            self.n_picks,
            min(self.n_picks + _ROUND_PICKS, len(self.picks)),
            self.rows,
            self.short,
            self.picks,
            self.reached,
            *self.picked,
        )

    def cover(self, run, n_tasks):
        """Find the squared distance of the row that is farthest from all rows selected."""
        farthest, threshold = np.float32(0), np.float32(0)
        while farthest <= threshold:  # it may not be up to date, or that of another row be larger
            members, threshold = self.candidates(np.float32(0))
            if len(members) == 0:
                farthest = np.float32(0)
                break
            self.update(members, threshold, run, n_tasks)
            farthest = self.d[members].max()
        self.reached[self.n_picks] = farthest


def bound_axes(rows):
    """Mean and axes of the short vectors of rows."""
    return principal_axes(rows, min(_kernels.N_SHORT - 1, rows.shape[1]))


def bound_vectors(rows, mean, axes, run=map):
    """Short vectors of rows, each followed by its squared length: (n, N_SHORT + 1)."""
    n_short = _kernels.N_SHORT
    vectors = np.zeros((len(rows), n_short + 1), dtype=np.float32)

    def fill(part):
        some = vectors[part]
        some[:, : axes.shape[1] + 1] = short_vectors(rows[part], mean, axes)
        # Squared lengths made a little smaller keep the bound below the distance despite rounding.
        some[:, n_short] = np.einsum("ij,ij->i", some, some) * np.float32(1 - _ROUNDING)

    list(run(fill, gen_batches(len(rows), _BATCH_ROWS)))
    return vectors


def _empty_tiles(n_tiles):
    """Tiles of no rows; the system gives them memory when they are written to."""
    tiles = _aligned((n_tiles, _kernels.N_SHORT + 1, _kernels.LANES))
    tiles[:, _kernels.N_SHORT] = _kernels.EMPTY
    return tiles


def _aligned(shape):
    """Zeros that start at a cache line: a vector register is then loaded from one line."""
    size = int(np.prod(shape))
    memory = np.zeros(size + 16, dtype=np.float32)
    first = -memory.ctypes.data % 64 // 4
    return memory[first : first + size].reshape(shape)
