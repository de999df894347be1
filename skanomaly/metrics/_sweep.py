"""Sweep of a threshold over all scores, from which every metric is computed.

Between two scores of defect pixels, lowering the threshold adds only false positives, so recall is
constant there. All corners of a curve lie at the distinct scores of defect pixels, which are few.
Of the scores of good pixels only the ranks of these are needed: how many are lower, and how many
are the same.
"""

from typing import NamedTuple

import numpy as np

from skanomaly.metrics._ranks import ranks, sorted_scores, sorting_order
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
    with single_threaded_pool(len(good)) as pool:
        found = pool.map(lambda gather: _ranks_among(gather(), thresholds), good)
        pieces = [one for one in found if one is not None]
    highest = max(one.highest for one in pieces)
    # Of pieces that have no score above a threshold, the highest one of all is what they have.
    above = [np.where(one.n_up_to < one.n, one.above, highest) for one in pieces]
    return Sweep(
        thresholds,
        gains,
        sum(one.n_below for one in pieces),
        sum(one.n_up_to for one in pieces),
        np.minimum.reduce(above),
        sum(one.n for one in pieces),
        min(one.lowest for one in pieces),
    )


def _ranks_among(scores, thresholds):
    """Ranks of the thresholds among some of the good scores; None if there are none."""
    return ranks(scores, thresholds) if scores.size else None


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
