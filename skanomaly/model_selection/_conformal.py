"""Which order statistic of held-out scores is the threshold, and what is known of its rate."""

import warnings

import numpy as np
from scipy.stats import beta


def threshold_rank(n, target_fpr):
    """The largest k with k / (n + 1) <= target_fpr, or 1 and a warning where there is none."""
    # Rounding must not cost an image: 0.29 * 100 is a little less than 29.
    k = int(target_fpr * (n + 1) + 1e-9)
    if k == 0:
        warnings.warn(
            f"target_fpr={target_fpr:g} takes {int(np.ceil(1 / target_fpr - 1e-9)) - 1} held-out "
            f"good images at least, got {n}: the threshold is their lowest score, and "
            f"{1 / (n + 1):.2g} of unseen good images are expected to fall below; add good images "
            "or raise target_fpr",
            UserWarning,
            stacklevel=5,  # past fit and the wrappers around it
        )
    return max(k, 1)


def rate_interval(k, n, confidence):
    """Central interval of the distribution's share below its k-th of n, Beta(k, n + 1 - k)."""
    tail = (1 - confidence) / 2
    low, high = beta.ppf([tail, 1 - tail], k, n + 1 - k)
    return float(low), float(high)
