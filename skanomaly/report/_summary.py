"""The numbers at the top of a report, and its histogram."""

from dataclasses import dataclass

import numpy as np

N_BARS = 40
_REACH = 4  # the left end's distance from the threshold, at least, in multiples of the right end's


@dataclass
class Summary:
    """Counts of verdicts, and of what they are worth where the truth is known."""

    n: int
    n_good: int
    n_defect: int
    n_bad: int  # pictures that are defective in truth
    n_found: int
    n_fine: int  # pictures that are good in truth
    n_alarms: int
    bars: list
    low: float  # scores at the histogram's ends; lower ones are in its first bar
    high: float
    is_cut: bool  # there are lower ones
    threshold_at: float  # percent of the histogram's width
    has_truth: bool


@dataclass
class Bar:
    """One bar of the histogram: places in percent of its width and height."""

    left: float
    width: float
    low: float  # scores at its sides
    high: float
    good: float  # heights of its two parts, the lower one first
    bad: float
    text: str


def summarise(pictures):
    """Summary of pictures with decisions and, some of them, labels."""
    decisions = np.array([picture.decision for picture in pictures], dtype=np.float64)
    labels = np.array([picture.label or 0 for picture in pictures])
    called = decisions < 0
    bars, low, high, zero = _histogram(decisions, labels)
    return Summary(
        n=len(pictures),
        n_good=int((~called).sum()),
        n_defect=int(called.sum()),
        n_bad=int((labels == -1).sum()),
        n_found=int(called[labels == -1].sum()),
        n_fine=int((labels == 1).sum()),
        n_alarms=int(called[labels == 1].sum()),
        bars=bars,
        low=low,
        high=high,
        is_cut=bool((decisions < low).any()),
        threshold_at=zero,
        has_truth=bool(labels.any()),
    )


def _histogram(decisions, labels):
    """Bars, scores at both ends, and where between them, in percent, the threshold lies."""
    if len(decisions) == 0:
        return [], 0.0, 0.0, 0.0
    edges = _edges(decisions)
    # Coloured by the truth; where it is unknown, by the verdict.
    is_bad = np.where(labels == 0, decisions < 0, labels == -1)
    shown = np.maximum(decisions, edges[0])  # the first bar holds what is lower, too
    bad, good = (np.histogram(shown[part], edges)[0] for part in (is_bad, ~is_bad))
    highest, start, span = (bad + good).max(), edges[0], edges[-1] - edges[0]
    bars = []
    for i in np.flatnonzero(bad + good):
        low = min(edges[0], decisions.min()) if i == 0 else edges[i]
        n, high = int(bad[i] + good[i]), edges[i + 1]
        bars.append(
            Bar(
                left=100 * (edges[i] - start) / span,
                width=100 * (high - edges[i]) / span,
                low=low,
                high=high,
                good=100 * good[i] / highest,
                bad=100 * bad[i] / highest,
                text=f"{n} picture{'s' if n > 1 else ''} from {low:.3g} to {high:.3g}",
            )
        )
    return bars, float(edges[0]), float(edges[-1]), float(-100 * start / span)


def _edges(decisions):
    """Edges of equal bars, one of them at the threshold 0."""
    low, high = min(decisions.min(), 0.0), max(decisions.max(), 0.0)
    if low < 0 < high:
        # A few glaring defects would press all others together at the threshold. At least half of
        # the defects are shown apart.
        low = max(low, min(-_REACH * high, 2 * np.median(decisions[decisions < 0])))
    width = (high - low) / N_BARS if high > low else 1.0
    first, last = np.floor(low / width), np.floor(high / width) + 1
    edges = width * np.arange(first, last + 1)
    edges[-1] = max(edges[-1], high)  # rounding
    return edges
