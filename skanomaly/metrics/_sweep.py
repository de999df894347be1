"""Sweep of a threshold over all scores, from which every metric is computed.

Between two scores of defect pixels, lowering the threshold adds only false positives, so recall is
constant there. All corners of a curve lie at the distinct scores of defect pixels, which are few.
The scores of good pixels are only sorted, which is many times faster than an argsort of all scores.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from skanomaly.metrics._sorting import sorted_scores, sorting_order
from skanomaly.utils.compiling import compiled
from skanomaly.utils.threads import single_threaded_pool


class Sweep(NamedTuple):
    """The sweep over the t distinct scores of defect pixels (or images), from the highest down."""

    thresholds: np.ndarray  # (t,) the distinct scores; scores >= threshold are positive
    gains: np.ndarray  # (t,) total weight of the defect pixels with exactly this score
    n_below: np.ndarray  # (t,) number of good pixels with a lower score
    n_up_to: np.ndarray  # (t,) number of good pixels with a lower or the same score
    above: np.ndarray  # (t,) lowest good score above this one; the highest of all if there is none
    n_good: int
    lowest: float  # lowest good score


def sweep(good, defect, weights=None):
    """Sweep over the scores of good and of defect pixels (or images); there are both.

    Parameters
    ----------
    good : list of functions
        Each returns some of the scores of good pixels, which are overwritten. They are called in as
        many threads.
    defect : ndarray of shape (n,)
        Scores of defect pixels, which are overwritten.
    weights : ndarray of shape (n,), or None, default=None
        Of defect pixels; None: 1 each.

    Returns
    -------
    Sweep
    """
    if weights is None:
        defect = sorted_scores(defect)
    else:
        order = sorting_order(defect)
        defect, weights = defect[order], weights[order]
    first = np.flatnonzero(np.append(True, defect[1:] != defect[:-1]))  # of each distinct score
    n_each = np.diff(np.append(first, defect.size))
    gains = n_each if weights is None else np.add.reduceat(weights, first)
    thresholds, gains = defect[first][::-1], gains[::-1]
    # Each piece is sorted separately, as counts are summed over the pieces.
    with single_threaded_pool(len(good)) as pool:
        counts = [one for one in pool.map(partial(_count, thresholds), good) if one is not None]
    n_good, n_below, n_up_to, above, lowest, highest = zip(*counts, strict=True)
    above = [np.where(is_there, found, max(highest)) for found, is_there in above]
    return Sweep(
        thresholds, gains, sum(n_below), sum(n_up_to), np.minimum.reduce(above), sum(n_good),
        min(lowest),
    )  # fmt: skip


def _count(thresholds, gather):
    """Sort a piece of the good scores; fields of the sweep for this piece, None if it is empty."""
    piece = sorted_scores(gather())
    if piece.size == 0:
        return None
    n_below = np.empty(thresholds.size, dtype=np.int64)
    n_up_to = np.empty(thresholds.size, dtype=np.int64)
    _find_ranks(piece, thresholds, n_below, n_up_to)
    above = piece[np.minimum(n_up_to, piece.size - 1)], n_up_to < piece.size
    return piece.size, n_below, n_up_to, above, piece[0], piece[-1]


@compiled(nogil=True)
def _find_ranks(ascending, thresholds, n_below, n_up_to):
    """Fill in how many of ascending scores are below each of descending thresholds, or equal it."""
    n = 0
    for t in range(thresholds.shape[0] - 1, -1, -1):
        while n < ascending.shape[0] and ascending[n] < thresholds[t]:
            n += 1
        n_below[t] = n
        while n < ascending.shape[0] and ascending[n] == thresholds[t]:
            n += 1
        n_up_to[t] = n


def roc_auc(s):
    """Probability that a defect pixel scores higher than a good one; a tie counts one half."""
    wins = (s.n_below + s.n_up_to) / (2 * s.n_good)  # (t,)
    return _fraction(np.sum(s.gains * wins) / np.sum(s.gains))


def average_precision(s):
    """Mean precision at the scores of the defect pixels."""
    recalled = np.cumsum(s.gains)
    precision = recalled / (recalled + s.n_good - s.n_below)  # (t,)
    return _fraction(np.sum(s.gains * precision) / recalled[-1])


def f1_max(s):
    """Maximal F1 over all thresholds, and the highest threshold that reaches it."""
    # Between two scores of defect pixels only false positives are added, so the maximum is at one
    # of these scores.
    recalled = np.cumsum(s.gains)
    f1 = 2 * recalled / (recalled + s.n_good - s.n_below + recalled[-1])  # (t,)
    best = np.argmax(f1)
    return float(f1[best]), float(s.thresholds[best])


def _fraction(value):
    """The value as a float, at most 1, which rounding may exceed in the last bit."""
    return min(float(value), 1.0)
