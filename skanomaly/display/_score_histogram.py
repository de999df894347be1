"""ScoreHistogramDisplay: decision scores of good and defective images, and the threshold."""

from typing import Any, Self

import numpy as np
from scipy.stats import binomtest

from skanomaly.display._common import (
    DEFECT_COLOR,
    GOOD_COLOR,
    axes_and_figure,
    load_pyplot,
)
from skanomaly.utils.targets import read_labels
from skanomaly.utils.validation import check_decisions


class ScoreHistogramDisplay:
    """Histogram of decision scores of good and of defective images, with the threshold.

    Use `from_estimator` or `from_predictions`. Negative scores mean defect. The legend counts
    false alarms and states the rate to expect on new good images (95 % Clopper-Pearson confidence
    interval). The interval is valid only for images used neither for training nor for the
    threshold.

    Parameters
    ----------
    decisions : ndarray of shape (n,)
        Decision scores, low for a defect.
    labels : ndarray of shape (n,) or None, default=None
        Ground truth, +1 good and -1 defect.
    threshold : float, default=0.0
        Scores below it mean defect.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
        The threshold.
    bars_ : list of matplotlib BarContainer
        Bars of the good images and of the defective ones; of all images if there are no labels.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from skanomaly.display import ScoreHistogramDisplay
    >>> display = ScoreHistogramDisplay.from_predictions(
    ...     [1, 1, 1, 1, -1, -1], [0.5, 0.8, -0.1, 0.4, -0.7, -0.3]
    ... )
    >>> print(display.bars_[0].get_label())
    good: 1 of 4 false alarms = 25.0 %
    (expect 0.6 to 80.6 % on new good images)
    >>> plt.close(display.figure_)
    """

    def __init__(self, decisions, labels=None, *, threshold=0.0):
        self.decisions = decisions
        self.labels = labels
        self.threshold = threshold

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        ax: Any = None,
        bins: int = 30,
        bar_kw: dict | None = None,
    ) -> Self:
        """Score images and draw their histogram.

        Parameters
        ----------
        estimator : fitted detector, or a Pipeline or search around one
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W), or None
            Ground truth: labels, +1 good and -1 defect; or masks, True on the defect.
        ax : matplotlib Axes or None, default=None
            None makes a new figure.
        bins : int, default=30
            Approximate number of bars; one of their edges is at the threshold.
        bar_kw : dict or None, default=None
            Keyword arguments of `bar`.

        Returns
        -------
        display : ScoreHistogramDisplay

        Raises
        ------
        ValueError
            y is neither labels of +1 and -1 nor masks, or has another length than X.
        ImportError
            matplotlib is not installed.
        """
        load_pyplot(f"{cls.__name__}.from_estimator")
        decisions = estimator.decision_function(X)
        return cls.from_predictions(y, decisions, ax=ax, bins=bins, bar_kw=bar_kw)

    @classmethod
    def from_predictions(
        cls,
        y: Any,
        decisions: Any,
        *,
        threshold: float = 0.0,
        ax: Any = None,
        bins: int = 30,
        bar_kw: dict | None = None,
    ) -> Self:
        """Draw the histogram of given scores.

        Parameters
        ----------
        y : array of shape (n,), masks of shape (n, H, W) or a list of (H, W), or None
            Ground truth: labels, +1 good and -1 defect; or masks, True on the defect.
        decisions : array of shape (n,)
            From `decision_function`: negative for a defect.
        threshold : float, default=0.0
            Scores below it mean defect. For scores from `score_samples` pass `offset_`.
        ax, bins, bar_kw
            As in `from_estimator`.

        Returns
        -------
        display : ScoreHistogramDisplay

        Raises
        ------
        ValueError, ImportError
            As in `from_estimator`.
        """
        load_pyplot(f"{cls.__name__}.from_predictions")
        decisions = check_decisions(decisions, None)
        display = cls(decisions, read_labels(y, len(decisions)), threshold=threshold)
        return display.plot(ax=ax, bins=bins, bar_kw=bar_kw)

    def plot(self, ax: Any = None, *, bins: int = 30, bar_kw: dict | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax, bins, bar_kw
            As in `from_estimator`.

        Returns
        -------
        self : ScoreHistogramDisplay
        """
        self.ax_, self.figure_ = axes_and_figure(f"{type(self).__name__}.plot", ax)
        edges = _edges(self.decisions, self.threshold, bins)
        self.bars_ = []
        for scores, label, color in self._groups():
            counts, _ = np.histogram(scores, edges)
            style = {"color": color, "alpha": 0.65, "label": label, **(bar_kw or {})}
            self.bars_.append(
                self.ax_.bar(edges[:-1], counts, np.diff(edges), align="edge", **style)
            )
        self.line_ = self.ax_.axvline(
            self.threshold, color="black", linestyle="--", label="threshold; below it: defect"
        )
        self.ax_.set(xlabel="decision score (negative = defect)", ylabel="number of images")
        self.ax_.yaxis.get_major_locator().set_params(integer=True)
        self.ax_.legend(
            handles=[*self.bars_, self.line_],
            loc="lower left",
            bbox_to_anchor=(0, 1),
            frameon=False,
        )
        return self

    def _groups(self):
        """(scores, legend, color) of each set of bars."""
        flagged = self.decisions < self.threshold
        if self.labels is None:
            text = f"images: {flagged.sum()} of {len(flagged)} predicted as defects"
            return [(self.decisions, text, "gray")]
        groups = []
        good, defective = self.labels == 1, self.labels == -1
        if good.any():
            groups.append((self.decisions[good], _good_text(flagged[good]), GOOD_COLOR))
        if defective.any():
            n_found, n = int(flagged[defective].sum()), int(defective.sum())
            text = f"defective: {n_found} of {n} found = {100 * n_found / n:.1f} %"
            groups.append((self.decisions[defective], text, DEFECT_COLOR))
        return groups


def _good_text(flagged):
    """Count and rate of false alarms, and the interval of the rate to expect."""
    n_alarms, n = int(flagged.sum()), len(flagged)
    low, high = binomtest(n_alarms, n).proportion_ci()
    return (
        f"good: {n_alarms} of {n} false alarms = {100 * n_alarms / n:.1f} %\n"
        f"(expect {100 * low:.1f} to {100 * high:.1f} % on new good images)"
    )


def _edges(scores, threshold, bins):
    """Edges of about this many bars of one width, with an edge at the threshold."""
    low, high = min(scores.min(), threshold), max(scores.max(), threshold)
    width = (high - low) / bins if high > low else 1.0
    # The last edge lies above the highest score: a score at an edge belongs to the bar on its
    # right, as a score at the threshold is predicted as good.
    first, last = np.floor((low - threshold) / width), np.floor((high - threshold) / width) + 1
    edges = threshold + width * np.arange(first, last + 1)
    edges[0] = min(edges[0], low)  # rounding
    return edges
