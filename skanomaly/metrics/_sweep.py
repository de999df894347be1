"""One threshold lowered over all scores, and what every metric reads from it.

Between two scores of defect pixels a falling threshold admits good pixels only, so each curve runs
level there. All the corners of every curve lie at the distinct scores of the defect, and those are
few. The good pixels are sorted once, bare, which is many times faster than an argsort of them all.
"""

from typing import NamedTuple

import numpy as np


class Sweep(NamedTuple):
    """The sweep, from the highest distinct score of a defect to the lowest; t of them."""

    thresholds: np.ndarray  # (t,) the distinct scores; a threshold admits all scores >= it
    gains: np.ndarray  # (t,) weight of the defect that has exactly this score
    n_below: np.ndarray  # (t,) good pixels with a lower score
    n_up_to: np.ndarray  # (t,) good pixels with a lower score or exactly this one
    good: np.ndarray  # (n_good,) scores of the good pixels, ascending


def sweep(good, defect, weights=None):
    """Sweep over two non-empty arrays of scores; `good` is sorted in place."""
    good.sort()
    if weights is None:
        thresholds, gains = np.unique(defect, return_counts=True)
    else:
        thresholds, which = np.unique(defect, return_inverse=True)
        gains = np.bincount(which, weights)
    thresholds, gains = thresholds[::-1], gains[::-1]
    n_below = np.searchsorted(good, thresholds, side="left")
    n_up_to = np.searchsorted(good, thresholds, side="right")
    return Sweep(thresholds, gains, n_below, n_up_to, good)


def roc_auc(s):
    """Chance that a defect scores higher than a good pixel; a tie counts one half."""
    wins = (s.n_below + s.n_up_to) / (2 * s.good.size)  # (t,)
    return _fraction(np.sum(s.gains * wins) / np.sum(s.gains))


def average_precision(s):
    """Mean precision at the scores of the defect pixels."""
    caught = np.cumsum(s.gains)
    precision = caught / (caught + s.good.size - s.n_below)  # (t,)
    return _fraction(np.sum(s.gains * precision) / caught[-1])


def f1_max(s):
    """Highest F1 over all thresholds, and the highest threshold that reaches it."""
    # Between two scores of defects only false alarms are added: the maximum lies at one of them.
    caught = np.cumsum(s.gains)
    f1 = 2 * caught / (caught + s.good.size - s.n_below + caught[-1])  # (t,)
    best = np.argmax(f1)
    return float(f1[best]), float(s.thresholds[best])


def _fraction(value):
    """The value as a float without the last bit by which rounding may pass 1."""
    return min(float(value), 1.0)
