"""The per-region overlap (PRO) curve and the area under it: regions of any size weigh the same.

A region is a connected component of the defect pixels of one image. The per-region overlap at a
threshold is the fraction of the pixels of a region with a score >= threshold, averaged over all
regions of all images. So it is a recall in which a defect pixel has weight 1 / size of its region.
"""

from typing import Any

import numpy as np
from scipy import ndimage

from skanomaly.metrics._inputs import check_pairs, count_pixels, defect_pixels, good_pixels
from skanomaly.metrics._sweep import sweep
from skanomaly.utils.threads import count_processors, single_threaded_pool
from skanomaly.utils.validation import check_max_fpr

_SAMPLE = 100_000  # good pixels, about, that say which scores are too low to count
_MARGIN = 1.1  # times as many as needed are gathered
_TOUCH = np.ones((3, 3), dtype=bool)  # 8 neighbors


def pro_curve(
    masks: Any, maps: Any, *, max_fpr: float = 1.0, roi: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per-region overlap against the false positive rate.

    Parameters
    ----------
    masks, maps, roi
        As in `pixel_roc_auc_score`. Regions are those of the masks inside of ``roi``.
    max_fpr : float in (0, 1], default=1.0
        Where the curve ends. If that is within a segment, the last point is interpolated linearly
        and has the threshold of the point before it.

    Returns
    -------
    fpr : array of shape (n_points,), float64
        Fraction of the good pixels of all images with a score >= threshold; ascending from 0.
    pro : array of shape (n_points,), float64
        Mean over all regions of the fraction of their pixels with a score >= threshold; ascending
        from 0.
    thresholds : array of shape (n_points,), dtype of the maps
        Descending from infinity. Where the curve is horizontal, only the two end points are
        returned.

    Raises
    ------
    ValueError
        As `pixel_roc_auc_score`; or if `max_fpr` is out of range.

    Notes
    -----
    The curve is exact: every score is a threshold. Regions are 8-connected. The good pixels of
    defective images count as good pixels.

    References
    ----------
    Bergmann et al., "Uninformed Students: Student-Teacher Anomaly Detection with Discriminative
    Latent Embeddings", CVPR 2020.

    Examples
    --------
    >>> from skanomaly.metrics import pro_curve
    >>> mask = [[1, 0, 0], [0, 0, 0], [0, 1, 1]]  # two regions: one pixel, two pixels
    >>> scores = [[9, 1, 1], [1, 5, 1], [1, 9, 3]]
    >>> fpr, pro, thresholds = pro_curve([mask], [scores])
    >>> fpr.round(3).tolist()
    [0.0, 0.0, 0.167, 0.167, 1.0]
    >>> pro.tolist()
    [0.0, 0.75, 0.75, 1.0, 1.0]
    >>> thresholds.tolist()
    [inf, 9.0, 5.0, 3.0, 1.0]
    """
    max_fpr = check_max_fpr(max_fpr)
    swept, n_good = _sweep_regions(masks, maps, max_fpr, roi)
    fpr, pro, thresholds = _corners(swept, n_good)
    return _cut(fpr, pro, thresholds, max_fpr)


def aupro_score(masks: Any, maps: Any, *, max_fpr: float = 0.3, roi: Any = None) -> float:
    """Area under the PRO curve up to a false positive rate, divided by that rate.

    The value is exact: every score is a threshold. It is 1.0 for a perfect map and max_fpr / 2 for
    an uninformative one.

    Parameters
    ----------
    masks, maps, roi
        As in `pixel_roc_auc_score`. Regions are those of the masks inside of ``roi``.
    max_fpr : float in (0, 1], default=0.3
        The false positive rate up to which the area is computed. 0.3 is usual in the literature;
        0.05 is closer to what is acceptable in production.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        As `pixel_roc_auc_score`; or if `max_fpr` is out of range.

    See Also
    --------
    pro_curve : The curve, its conventions and the reference.
    StreamingPixelMetrics : The same for data larger than memory, with an error bound.

    Examples
    --------
    >>> from skanomaly.metrics import aupro_score
    >>> mask = [[1, 0, 0], [0, 0, 0], [0, 1, 1]]  # two regions: one pixel, two pixels
    >>> scores = [[9, 1, 1], [1, 5, 1], [1, 9, 3]]  # overlap 3/4 up to fpr 1/6, then 1
    >>> round(aupro_score([mask], [scores], max_fpr=1.0), 6)  # 1 - 1/4 * 1/6
    0.958333
    """
    max_fpr = check_max_fpr(max_fpr)
    swept, n_good = _sweep_regions(masks, maps, max_fpr, roi)
    limit = max_fpr * n_good  # in false positives
    # At each score of defect pixels the curve rises from one number of false positives to another,
    # in a line. The area misses the gain to the left of the rise, and half of it along the rise.
    left, right = swept.n_good - swept.n_up_to, swept.n_good - swept.n_below
    missed = (left + right) / (2 * limit)
    is_cut = (left < limit) & (limit < right)
    missed[is_cut] = 1 - (limit - left[is_cut]) ** 2 / (2 * limit * (right - left)[is_cut])
    missed[left >= limit] = 1
    return max(1 - float(np.sum(swept.gains * missed) / np.sum(swept.gains)), 0.0)


def pixel_weights(mask):
    """1 / size of the region of every defect pixel, in the order of ``map[mask]``."""
    box = _bounding_box(mask)
    labels, _ = ndimage.label(box, structure=_TOUCH)
    regions = labels[box]  # (n_defect_pixels,) 1, 2, ...
    return 1.0 / np.bincount(regions)[regions]


def _bounding_box(mask):
    """The smallest rectangle of the mask with all its True pixels, which is faster to label."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _sweep_regions(masks, maps, max_fpr, roi):
    """The sweep in which all regions weigh the same, and the number of good pixels.

    It has the scores of good pixels on which the curve up to `max_fpr` depends. Most of the others
    need not be gathered and sorted: a sample says which are likely too low.
    """
    pairs = check_pairs(masks, maps, roi)
    n_good, _ = count_pixels(pairs)
    with single_threaded_pool(count_processors()) as pool:
        with_defects = [one.mask for one in pairs if one.mask is not None]
        weights = np.concatenate(list(pool.map(pixel_weights, with_defects)))
    n = min(int(max_fpr * n_good) + 2, n_good)  # two more: max_fpr may be rounded
    for lowest in (_likely_reached(pairs, n_good, n), -np.inf):
        swept = sweep(good_pixels(pairs, lowest), defect_pixels(pairs), weights)
        if swept.n_good >= n:  # else the sample was not like all of them
            break
    return swept, n_good


def _likely_reached(pairs, n_good, n):
    """A score that the n highest of the good pixels most likely reach; -inf if there is none."""
    step = max(n_good // _SAMPLE, 1)
    sample = []
    for one in pairs:
        scores, counted = one.scores.ravel()[::step], one.good()
        sample.append(scores if counted is None else scores[counted.ravel()[::step]])
    sample = np.concatenate(sample)
    place = int(len(sample) * (1 - _MARGIN * n / n_good))
    return np.partition(sample, place)[place] if 0 < place < len(sample) else -np.inf


def _corners(s, n_good):
    """Corners (fpr, pro, thresholds) of the curve, complete where the sweep has all good scores.

    Beyond the scores that it has, the curve only rises.
    """
    overlap = np.cumsum(s.gains)
    # At each score of a defect pixel the curve rises from a corner "before" to a corner "after".
    # The threshold of the corner before is the lowest good score above.
    fp = _between(0, s.n_good - s.n_up_to, s.n_good - s.n_below, n_good)
    pro = _between(0.0, np.append(0.0, overlap[:-1]), overlap, overlap[-1]) / overlap[-1]
    thresholds = _between(np.inf, s.above, s.thresholds, s.lowest)
    # If there is no good score in between, a corner repeats the last one, except its threshold.
    new = np.append(True, (np.diff(fp) > 0) | (np.diff(pro) > 0))
    return fp[new] / n_good, pro[new], thresholds[new].astype(s.above.dtype)


def _between(start, before, after, end):
    """start, before[0], after[0], before[1], after[1], ..., end in one array."""
    return np.concatenate([[start], np.column_stack([before, after]).ravel(), [end]])


def _cut(fpr, pro, thresholds, max_fpr):
    """The curve up to `max_fpr`, where it ends in a linearly interpolated point."""
    n = np.searchsorted(fpr, max_fpr, side="right")  # fpr[n - 1] <= max_fpr < fpr[n], if any
    if fpr[n - 1] == max_fpr:
        return fpr[:n], pro[:n], thresholds[:n]
    share = (max_fpr - fpr[n - 1]) / (fpr[n] - fpr[n - 1])
    close = pro[n - 1] + share * (pro[n] - pro[n - 1])
    return (
        np.append(fpr[:n], max_fpr),
        np.append(pro[:n], close),
        np.append(thresholds[:n], thresholds[n - 1]),
    )
