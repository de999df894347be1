"""Metrics of test sets larger than memory, from histograms, with bounds on the error.

A histogram determines the order of two pixels in different bins, but not of two pixels in the same
bin. Each metric is computed twice, for the best and for the worst order within the bins: the exact
value lies between the two.
"""

from numbers import Integral
from typing import NamedTuple

import numpy as np

from skanomaly.metrics._inputs import check_both_classes, check_pairs
from skanomaly.metrics._pro import pixel_weights
from skanomaly.utils.validation import check_max_fpr


class Bounded(NamedTuple):
    """A value with a bound on its error.

    Attributes
    ----------
    value : float
        Center of the interval that contains the exact value.
    error : float
        Half the width of the interval: ``value - error <= exact <= value + error``.
    """

    value: float
    error: float


class StreamingPixelMetrics:
    """Pixel AUROC, average precision and AUPRO of images that are seen once, in batches.

    The memory does not depend on the number of images: 24 bytes per bin, 1.5 MB by default.

    Parameters
    ----------
    low, high : float
        The range that is divided into bins of equal width. A score outside it is counted in the
        first or the last bin: the bounds stay valid, but the error becomes larger.
    n_bins : int, default=65536
        More bins give a smaller error: with ten times as many it is about a tenth, if the scores
        are spread over the range.

    Raises
    ------
    ValueError
        If `low` is not below `high`, one of them is not finite, or `n_bins` is not a positive
        integer.

    Notes
    -----
    The error bound is rigorous for any scores: it is half the difference of the values for the
    best and the worst order of the pixels within the bins, plus a bound on the rounding error.

    Examples
    --------
    >>> from skanomaly.metrics import StreamingPixelMetrics
    >>> metrics = StreamingPixelMetrics(low=0.0, high=1.0, n_bins=10)
    >>> _ = metrics.update([[[0, 0], [1, 1]]], [[[0.15, 0.45], [0.35, 0.85]]])
    >>> _ = metrics.update([None], [[[0.25, 0.05], [0.05, 0.15]]])
    >>> auroc = metrics.roc_auc()
    >>> round(auroc.value, 4), auroc.error < 1e-9  # no bin holds both good and defect pixels
    (0.9167, True)
    """

    def __init__(self, low, high, *, n_bins=65_536):
        if not (np.isfinite([low, high, high - low]).all() and low < high):
            raise ValueError(
                f"low is {low!r} and high is {high!r}; expected finite numbers, low below high: "
                "about the lowest and the highest score, such as those of the first images."
            )
        if not isinstance(n_bins, Integral) or n_bins < 1:
            raise ValueError(f"n_bins is {n_bins!r}; expected a positive integer, such as 65536.")
        self.low, self.high, self.n_bins = float(low), float(high), int(n_bins)
        self._good = np.zeros(self.n_bins, dtype=np.int64)
        self._defect = np.zeros(self.n_bins, dtype=np.int64)
        self._regions = np.zeros(self.n_bins)  # weights of defect pixels: 1 / size of the region

    def update(self, masks, maps, *, roi=None):
        """Count the pixels of further images.

        Parameters
        ----------
        masks, maps, roi
            As in `pixel_roc_auc_score`, but only good or only defect pixels are allowed. An image
            is passed as a whole, in one call.

        Returns
        -------
        self : StreamingPixelMetrics

        Raises
        ------
        ValueError
            If the numbers or shapes of masks, maps and regions differ, a map is not finite or a
            region is empty. Nothing is counted then.
        """
        for one in check_pairs(masks, maps, roi):
            bins, good = self._bins(one.scores), one.good()  # (H, W)
            self._good += self._count(bins.ravel() if good is None else bins[good])
            if one.mask is not None:
                self._defect += self._count(bins[one.mask])
                self._regions += self._count(bins[one.mask], pixel_weights(one.mask))
        return self

    def roc_auc(self):
        """Pixel AUROC, as `pixel_roc_auc_score`.

        Returns
        -------
        Bounded
            The value and its error.

        Raises
        ------
        ValueError
            If there were only good or only defect pixels so far.
        """
        return self._area(self._defect, 1.0)

    def average_precision(self):
        """Pixel average precision, as `pixel_average_precision_score`.

        Returns
        -------
        Bounded
            The value and its error.

        Raises
        ------
        ValueError
            If there were only good or only defect pixels so far.
        """
        self._check_both_classes()
        good, defect = self._good[::-1].astype(float), self._defect[::-1].astype(float)
        fp, tp = np.cumsum(good), np.cumsum(defect)
        # Best: all defect pixels of a bin tie, above all good pixels of the bin.
        best = np.sum(defect * tp / np.maximum(tp + fp - good, 1.0))
        # Worst: the d defect pixels of a bin come one by one below its good pixels. With a defect
        # pixels above the bin and fp good pixels down to its end,
        #   sum_{j=1..d} (a + j) / (a + j + fp) = d - fp sum_{j=1..d} 1 / (a + fp + j),
        # and as 1 / x is convex, the last sum is at most log((a + fp + d + 1/2) / (a + fp + 1/2)).
        worst = np.sum(defect - fp * np.log1p(defect / (tp - defect + fp + 0.5)))
        return self._bounded(worst / tp[-1], best / tp[-1])

    def aupro(self, *, max_fpr=0.3):
        """Area under the PRO curve, as `aupro_score`.

        Parameters
        ----------
        max_fpr : float in (0, 1], default=0.3
            The false positive rate up to which the area is computed.

        Returns
        -------
        Bounded
            The value and its error.

        Raises
        ------
        ValueError
            If there were only good or only defect pixels, or `max_fpr` is out of range.
        """
        return self._area(self._regions, check_max_fpr(max_fpr))

    def _bins(self, scores):
        """Bin of each score, monotonic in the score: the bounds need nothing else."""
        share = (np.clip(scores.astype(float), self.low, self.high) - self.low) / (
            self.high - self.low
        )
        return np.minimum((share * self.n_bins).astype(np.intp), self.n_bins - 1)

    def _count(self, bins, weights=None):
        """Number or total weight of the pixels in each bin."""
        return np.bincount(bins, weights, minlength=self.n_bins)

    def _area(self, gains, max_fpr):
        """Area under the weighted recall as a function of fpr up to `max_fpr`, over `max_fpr`."""
        self._check_both_classes()
        good, gains = self._good[::-1], gains[::-1]
        limit = max_fpr * good.sum()  # in false positives
        # (n_bins,) how many of the good pixels of each bin lie below the limit
        width = np.clip(limit - (np.cumsum(good) - good), 0.0, good)
        # Within a bin the recall is between its values before and after the bin.
        after = np.cumsum(gains) / np.sum(gains)
        before = np.append(0.0, after[:-1])
        return self._bounded(np.sum(width * before) / limit, np.sum(width * after) / limit)

    def _bounded(self, worst, best):
        """Center of the interval between two bounds, and its error, rounding included."""
        # The relative rounding error of a sum of k terms is at most k times machine epsilon.
        rounding = np.finfo(float).eps * (self.n_bins + self._defect.sum())
        return Bounded(float((best + worst) / 2), float((best - worst) / 2 + rounding))

    def _check_both_classes(self):
        """Raise ValueError unless pixels of both classes were counted."""
        check_both_classes(self._good.sum(), self._defect.sum())
