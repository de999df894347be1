"""The threshold for a rate of false alarms from held-out scores, and what is known of its rate."""

import warnings

import numpy as np
from scipy.stats import beta, betabinom

TAIL_SHARE = 0.3  # of the scores, the lowest: to these a tail is fitted
TAIL_SCORES = 5  # at least so many
FAR_OUT = 3.0  # interquartile ranges below the lower quartile: Tukey's "far out"


def threshold_of(scores, target_fpr):
    """The threshold below which a share of new good images' scores is expected.

    Of n exchangeable scores the k-th smallest has the share k / (n + 1) of the distribution below
    it, in the mean over all samples: the threshold has rank target_fpr (n + 1), between two scores
    as a rule. Below the smallest score no such rank exists, and a tail takes over: exponential,
    with the mean of the lowest scores' distances from the score above them. It follows from many
    scores, not from a single one.
    """
    scores = np.sort(scores)
    n = len(scores)
    rank = _rank(n, target_fpr)
    if rank >= 1:
        return float(np.interp(rank, np.arange(1, n + 1), scores))
    n_tail = min(max(TAIL_SCORES, round(TAIL_SHARE * n)), n - 1)
    if n_tail < 1:
        return float(scores[0])
    bound = scores[n_tail]
    scale = np.mean(bound - scores[:n_tail])
    return float(bound - scale * np.log(n_tail / n / target_fpr))


def share_below(scores, threshold):
    """The share of new good images' scores expected below a threshold: inverse of threshold_of.

    Below the smallest score it is less than the 1 / (n + 1) that is returned, and above the largest
    one more than n / (n + 1).
    """
    scores = np.sort(scores)
    n = len(scores)
    return float(np.interp(threshold, scores, np.arange(1, n + 1))) / (n + 1)


def warn_of_few(n, target_fpr, stacklevel=5):  # past fit and the wrappers around it
    """A warning where a rate cannot be promised with so many images."""
    if _rank(n, target_fpr) < 1:
        warnings.warn(
            f"target_fpr={target_fpr:g} takes {int(np.ceil(1 / target_fpr - 1e-9)) - 1} held-out "
            f"good images at least, got {n}: the smallest rate that can be promised is "
            f"{1 / (n + 1):.2g}; the threshold continues the tail of their scores. Add good images "
            "or raise target_fpr",
            UserWarning,
            stacklevel=stacklevel,
        )


def rate_interval(n, target_fpr, confidence):
    """Central interval of the distribution's share below the threshold of n scores."""
    tail = (1 - confidence) / 2
    low, high = beta.ppf([tail, 1 - tail], *_beta_of(n, target_fpr))
    return float(low), float(high)


def count_interval(n, target_fpr, confidence, n_new):
    """Central interval of how many of n_new further scores lie below the threshold of n scores."""
    low, high = betabinom(n_new, *_beta_of(n, target_fpr)).interval(confidence)
    return int(low), int(high)


def far_out(scores):
    """Places of scores that lie far below the others, the lowest first."""
    low, high = np.percentile(scores, [25, 75])
    order = np.argsort(scores, kind="stable")
    return order[scores[order] < low - FAR_OUT * (high - low)]


def _rank(n, target_fpr):
    # Rounding must not cost an image: 0.29 * 100 is a little less than 29.
    rank = target_fpr * (n + 1)
    return round(rank) if abs(rank - round(rank)) < 1e-9 else rank


def _beta_of(n, target_fpr):
    """Parameters of the distribution of the rate; of less than one score nothing is known."""
    rank = max(_rank(n, target_fpr), 1)
    return rank, n + 1 - rank
