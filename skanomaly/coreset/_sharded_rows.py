"""Greedy selection among rows that lie in several places: the same picks as in one.

Each place, a shard, keeps upper bounds of its rows' distances to all rows selected (see
:mod:`skanomaly.coreset._bounds`). A round asks every shard for its farthest rows, up to date, and
for the bound of all its others; then it selects among the rows of all shards for as long as the
farthest is farther than the largest of the bounds, and tells the shards which these were. So a few
rows travel, in few rounds, and the order is that of all rows in one place.
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from skanomaly.coreset import _greedy_kernels as _kernels
from skanomaly.coreset._bounds import BoundedSelection, bound_axes, bound_vectors
from skanomaly.coreset._greedy import check_range
from skanomaly.utils.threads import count_threads, single_threaded_pool

ROUND_ROWS = 32_000  # that all shards send in a round: few rounds, of which each costs a round trip
LEAST_ROWS = 64  # that one shard looks at


def members_of_each(n_shards: int) -> int:
    """How many of its rows each of so many shards looks at in a round."""
    return max(ROUND_ROWS // n_shards, LEAST_ROWS)


class Farthest(NamedTuple):
    """What a shard sends in a round: its farthest rows.

    Parameters
    ----------
    numbers : ndarray of shape (m,), int64
        Their numbers among all rows, ascending.
    distances : ndarray of shape (m,), float32
        Squared distances to the nearest row selected.
    rows : ndarray of shape (u, d), float32
        Those of them that were not sent before.
    is_new : ndarray of shape (m,), bool
        Which these are.
    threshold : float32
        No other row of the shard is farther, unless ``is_cut``.
    is_cut : bool
        Whether other rows, with higher numbers, may be as far as the next float32 above the
        threshold: more rows tie than the shard looks at.
    """

    numbers: np.ndarray
    distances: np.ndarray
    rows: np.ndarray
    is_new: np.ndarray
    threshold: np.float32
    is_cut: bool


class Shard:
    """Some of the rows to select from, and what is known of their distances.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
    offset : int
        Number of the first of them among the rows of all shards.
    n_samples : int
        How many rows are selected at most, of all shards.
    first : ndarray of shape (d,), float32
        The row selected first, of whichever shard.

    Raises
    ------
    ValueError
        Squared distances of the rows overflow float32.
    """

    def __init__(self, rows, offset, n_samples, first):
        check_range(rows, least=0)
        self.offset, self.sent = offset, np.zeros(len(rows), dtype=bool)
        self.selection = BoundedSelection(rows, n_samples, first)

    def advance(self, numbers, rows, n_members, n_jobs=None):
        """Learn which rows of all shards were selected since, and find the farthest of its own.

        The shard stays as it is: what is done again, from the same one, gives the same.

        Parameters
        ----------
        numbers : ndarray of shape (m,), int64
        rows : ndarray of shape (m, d), float32
            Those selected in the last round. The first one of all needs its number alone.
        n_members : int
            How many of its rows it looks at.
        n_jobs : int or None, default=None
            Threads.

        Returns
        -------
        shard : Shard
        farthest : Farthest
        """
        after = self._copy()
        selection = after.selection
        if len(rows) > 0:
            selection.append(rows)
        own = numbers - after.offset
        selection.leave_out(own[(own >= 0) & (own < len(selection.d))])
        members, threshold = selection.candidates(np.float32(0), n_members)
        is_cut = bool(np.count_nonzero(selection.d > threshold) > len(members))
        if len(members) > 0:
            n_threads = count_threads(n_jobs, 1)
            with single_threaded_pool(n_threads) as pool:
                selection.update(members, threshold, pool.map, n_threads)
        members = members[selection.d[members] > threshold]
        is_new = ~after.sent[members]
        after.sent[members] = True
        distances, new = selection.d[members], selection.rows[members[is_new]]
        return after, Farthest(members + after.offset, distances, new, is_new, threshold, is_cut)

    def __sizeof__(self):
        """Bytes, by which Dask decides where it goes."""
        selection = self.selection
        arrays = selection.rows, selection.short, selection.d, selection.seen, *selection.picked
        return object.__sizeof__(self) + sum(array.nbytes for array in arrays)

    def _copy(self):
        """The same, so that changes of its bounds change nothing here; rows are shared."""
        other = copy.copy(self)
        other.sent = self.sent.copy()
        other.selection = self.selection.copy()
        return other


def order_of_shards(
    ask: Callable[[np.ndarray, np.ndarray], Sequence[Farthest]],
    n_samples: int,
    start: int,
    first: np.ndarray,
    n_rows: int,
) -> tuple[np.ndarray, float]:
    """Select rows of several shards in greedy k-center order, as of all rows in one place.

    Parameters
    ----------
    ask : callable
        ``ask(numbers, rows)`` advances all shards, which follow one another, by the rows selected,
        and returns the Farthest of each.
    n_samples : int
        Number of rows to select.
    start : int
        Number of the row selected first.
    first : ndarray of shape (d,), float32
        That row.
    n_rows : int
        Rows of all shards.

    Returns
    -------
    order : ndarray of shape (n_samples,), int64
        Distinct numbers of rows.
    radius : float
        Every row lies within this distance of one of them.
    """
    order, known = [start], _KnownRows(len(first))
    numbers, rows = np.array([start]), np.empty((0, len(first)), dtype=np.float32)
    while True:
        replies = ask(numbers, rows)
        for one in replies:
            known.add(one.numbers[one.is_new], one.rows)
        threshold, some = _comparable(replies)
        found = np.concatenate([one.numbers for one in some])
        distances = np.concatenate([one.distances for one in some])
        if len(order) == n_samples or (len(found) == 0 and threshold == 0):
            # All are selected: the farthest row that is up to date tells the radius.
            farthest = distances.max(initial=np.float32(0))
            if farthest > threshold or threshold == 0:
                break
            numbers, rows = numbers[:0], rows[:0]
            continue
        rows_found = known[found]
        chosen = _select(rows_found, distances, threshold, n_samples - len(order))
        numbers, rows = found[chosen], rows_found[chosen]
        order.extend(numbers.tolist())
    if len(order) < n_samples:  # the others are duplicates; they follow by number
        rest = np.setdiff1d(np.arange(min(n_rows, n_samples + len(order))), order)
        order.extend(rest[: n_samples - len(order)].tolist())
    return np.array(order), float(np.sqrt(farthest))


class _KnownRows:
    """Rows that shards have sent, by number."""

    def __init__(self, n_columns):
        self.places, self.rows = {}, np.empty((0, n_columns), dtype=np.float32)

    def add(self, numbers, rows):
        n = len(self.places)
        if n + len(rows) > len(self.rows):
            larger = np.empty((2 * n + len(rows), self.rows.shape[1]), dtype=np.float32)
            larger[:n] = self.rows[:n]
            self.rows = larger
        self.rows[n : n + len(rows)] = rows
        self.places.update(zip(numbers.tolist(), range(n, n + len(rows)), strict=True))

    def __getitem__(self, numbers):
        return self.rows[[self.places[number] for number in numbers.tolist()]]


def _comparable(replies):
    """Those shards among whose rows the farthest of all is, and the bound above which it is so."""
    threshold = max(one.threshold for one in replies)
    for i, one in enumerate(replies):
        if one.is_cut and one.threshold == threshold:
            # Rows that this shard has not sent are as far as this, and come before later shards'.
            tie = np.nextafter(threshold, np.float32(np.inf))
            if any((other.distances > tie).any() for other in replies):
                return tie, replies
            return threshold, replies[: i + 1]
    return threshold, replies


def _select(rows, distances, threshold, n_most):
    """Places (m,) among rows (n, d) selected in greedy order while one exceeds the threshold."""
    n_most = min(n_most, len(rows))
    if n_most == 0:
        return np.empty(0, dtype=np.int64)
    picks, reached = np.empty(n_most, np.int64), np.empty(n_most + 1, np.float32)
    n_tiles = -(-n_most // _kernels.BLOCK) * _kernels.TILES
    tiles = np.empty((n_tiles, _kernels.N_SHORT + 1, _kernels.LANES), np.float32)
    n_picks = _kernels.select_among(
        np.arange(len(rows)), distances.copy(), np.zeros(len(rows), np.int64), threshold, 0, n_most,
        rows, bound_vectors(rows, *bound_axes(rows)), picks, reached, np.empty_like(rows[:n_most]),
        tiles,
    )  # fmt: skip
    return picks[:n_picks]
