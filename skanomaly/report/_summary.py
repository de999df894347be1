"""The counts and the histogram at the top of a report."""

from dataclasses import dataclass

import numpy as np

N_BARS = 40
# The left end is at least this many times as far from the threshold as the right end.
_REACH = 4


@dataclass
class Summary:
    """Counts of verdicts and, for labeled images, of correct and wrong ones."""

    n: int
    n_good: int
    n_defect: int
    n_labeled_defect: int
    n_found: int  # of these
    n_labeled_good: int
    n_false_alarms: int  # of these
    bars: list
    low: float  # scores at the histogram's ends; its first bar has lower ones as well
    high: float
    is_cut: bool  # whether there are lower ones
    threshold_at: float  # percent of the histogram's width
    has_labels: bool


@dataclass
class Bar:
    """One bar of the histogram; positions and heights in percent of its width and height."""

    left: float
    width: float
    low: float  # scores at its sides
    high: float
    good: float  # heights of its two parts, the lower one first
    defective: float
    text: str


def summarize(records):
    """Summary of images with decisions, some or all of them with labels."""
    decisions = np.array([record.decision for record in records], dtype=np.float64)
    labels = np.array([record.label or 0 for record in records])
    flagged = decisions < 0
    bars, low, high, zero = _histogram(decisions, labels)
    return Summary(
        n=len(records),
        n_good=int((~flagged).sum()),
        n_defect=int(flagged.sum()),
        n_labeled_defect=int((labels == -1).sum()),
        n_found=int(flagged[labels == -1].sum()),
        n_labeled_good=int((labels == 1).sum()),
        n_false_alarms=int(flagged[labels == 1].sum()),
        bars=bars,
        low=low,
        high=high,
        is_cut=bool((decisions < low).any()),
        threshold_at=zero,
        has_labels=bool(labels.any()),
    )


def _histogram(decisions, labels):
    """Bars, scores at both ends, and the threshold's position between them in percent."""
    if len(decisions) == 0:
        return [], 0.0, 0.0, 0.0
    edges = _edges(decisions)
    # Colored by the label; without one, by the verdict.
    is_defective = np.where(labels == 0, decisions < 0, labels == -1)
    shown = np.maximum(decisions, edges[0])  # lower scores are counted in the first bar
    parts = is_defective, ~is_defective
    defective, good = (np.histogram(shown[part], edges)[0] for part in parts)
    highest, start, span = (defective + good).max(), edges[0], edges[-1] - edges[0]
    bars = []
    for i in np.flatnonzero(defective + good):
        low = min(edges[0], decisions.min()) if i == 0 else edges[i]
        n, high = int(defective[i] + good[i]), edges[i + 1]
        bars.append(
            Bar(
                left=100 * (edges[i] - start) / span,
                width=100 * (high - edges[i]) / span,
                low=low,
                high=high,
                good=100 * good[i] / highest,
                defective=100 * defective[i] / highest,
                text=f"{n} image{'s' if n > 1 else ''} from {low:.3g} to {high:.3g}",
            )
        )
    return bars, float(edges[0]), float(edges[-1]), float(-100 * start / span)


def _edges(decisions):
    """Edges of bars of one width, with an edge at the threshold 0."""
    low, high = min(decisions.min(), 0.0), max(decisions.max(), 0.0)
    if low < 0 < high:
        # A few very low scores would leave all others in the bars next to the threshold. The axis
        # is cut so that at least half of the defects have bars of their own.
        low = max(low, min(-_REACH * high, 2 * np.median(decisions[decisions < 0])))
    width = (high - low) / N_BARS if high > low else 1.0
    first, last = np.floor(low / width), np.floor(high / width) + 1
    edges = width * np.arange(first, last + 1)
    edges[-1] = max(edges[-1], high)  # rounding
    return edges
