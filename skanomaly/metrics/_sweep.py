"""One threshold lowered over all scores, and what every metric reads from it.

Between two scores of defect pixels a falling threshold admits good pixels only, so each curve runs
level there. All the corners of every curve lie at the distinct scores of the defect, and those are
few. The good pixels are sorted bare, which is many times faster than an argsort of them all.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import joblib
import numpy as np

# A piece of the good pixels is sorted by a thread: of at least so many pixels, at most so many.
_PIECE_SIZE = 1_000_000
_MOST_PIECES = min(4, joblib.cpu_count())


class Sweep(NamedTuple):
    """The sweep, from the highest distinct score of a defect to the lowest; t of them."""

    thresholds: np.ndarray  # (t,) the distinct scores; a threshold admits all scores >= it
    gains: np.ndarray  # (t,) weight of the defect that has exactly this score
    n_below: np.ndarray  # (t,) good pixels with a lower score
    n_up_to: np.ndarray  # (t,) good pixels with a lower score or exactly this one
    above: np.ndarray  # (t,) lowest good score above this one; the highest of all if none is
    n_good: int
    lowest: float  # good score


def sweep(good, defect, weights=None):
    """Sweep over two non-empty arrays of scores; `good` is put into another order in place."""
    if weights is None:
        thresholds, gains = np.unique(defect, return_counts=True)
    else:
        thresholds, which = np.unique(defect, return_inverse=True)
        gains = np.bincount(which, weights)
    thresholds, gains = thresholds[::-1], gains[::-1]
    # Each piece is sorted by itself: counts add up over pieces.
    n_pieces = min(_MOST_PIECES, -(-good.size // _PIECE_SIZE))
    with ThreadPoolExecutor(n_pieces) as pool:
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
    """Sorts a piece of the good scores; how many lie below and up to, and what lies above."""
    piece.sort()
    n_below = np.searchsorted(piece, thresholds, side="left")
    n_up_to = n_below.copy()
    ties = piece[np.minimum(n_below, piece.size - 1)] == thresholds
    n_up_to[ties] = np.searchsorted(piece, thresholds[ties], side="right")
    above = piece[np.minimum(n_up_to, piece.size - 1)], n_up_to < piece.size
    return n_below, n_up_to, above, piece[0], piece[-1]


def roc_auc(s):
    """Chance that a defect scores higher than a good pixel; a tie counts one half."""
    wins = (s.n_below + s.n_up_to) / (2 * s.n_good)  # (t,)
    return _fraction(np.sum(s.gains * wins) / np.sum(s.gains))


def average_precision(s):
    """Mean precision at the scores of the defect pixels."""
    caught = np.cumsum(s.gains)
    precision = caught / (caught + s.n_good - s.n_below)  # (t,)
    return _fraction(np.sum(s.gains * precision) / caught[-1])


def f1_max(s):
    """Highest F1 over all thresholds, and the highest threshold that reaches it."""
    # Between two scores of defects only false alarms are added: the maximum lies at one of them.
    caught = np.cumsum(s.gains)
    f1 = 2 * caught / (caught + s.n_good - s.n_below + caught[-1])  # (t,)
    best = np.argmax(f1)
    return float(f1[best]), float(s.thresholds[best])


def _fraction(value):
    """The value as a float without the last bit by which rounding may pass 1."""
    return min(float(value), 1.0)
