"""Sweep of a threshold over all scores, from which every metric is computed.

Between two scores of defect pixels, lowering the threshold adds only false positives, so recall is
constant there. All corners of a curve lie at the distinct scores of defect pixels, which are few.
The scores of good pixels are only sorted, which is many times faster than an argsort of all scores.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from skanomaly.utils.threads import count_processors, single_threaded_pool

# The good scores are sorted in pieces by threads: one piece per this many, up to a maximum.
_PIECE_SIZE = 1_000_000
_MAX_PIECES = 4


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
    """Sweep over two non-empty arrays of scores; `good` is reordered in place.

    ``weights`` has an entry per defect score; None: 1 each.
    """
    if weights is None:
        thresholds, gains = np.unique(defect, return_counts=True)
    else:
        thresholds, which = np.unique(defect, return_inverse=True)
        gains = np.bincount(which, weights)
    thresholds, gains = thresholds[::-1], gains[::-1]
    # Each piece is sorted separately, as counts are summed over the pieces.
    n_pieces = min(_MAX_PIECES, count_processors(), -(-good.size // _PIECE_SIZE))
    with single_threaded_pool(n_pieces) as pool:
        counts = list(
            pool.map(partial(_count, thresholds=thresholds), np.array_split(good, n_pieces))
        )
    n_below, n_up_to, above, lowest, highest = zip(*counts, strict=True)
    above = [np.where(is_there, found, max(highest)) for found, is_there in above]
    return Sweep(
        thresholds, gains, sum(n_below), sum(n_up_to), np.minimum.reduce(above), good.size,
        min(lowest),
    )  # fmt: skip


def _count(piece, thresholds):
    """Sort a piece of the good scores in place; fields of the sweep for this piece."""
    piece.sort()
    n_below = np.searchsorted(piece, thresholds, side="left")
    n_up_to = n_below.copy()
    ties = piece[np.minimum(n_below, piece.size - 1)] == thresholds
    n_up_to[ties] = np.searchsorted(piece, thresholds[ties], side="right")
    above = piece[np.minimum(n_up_to, piece.size - 1)], n_up_to < piece.size
    return n_below, n_up_to, above, piece[0], piece[-1]


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
