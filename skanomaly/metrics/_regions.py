"""Every defect region counts alike, large or small: the PRO curve and the area under it.

A region is a set of defect pixels of one image that touch by a side or a corner. The per-region
overlap (PRO) at a threshold is the share of a region's pixels that the threshold admits, averaged
over all regions of all images: a defect pixel simply weighs 1 / size of its region.
"""

from numbers import Real

import numpy as np
from scipy import ndimage

from skanomaly.metrics._inputs import check_pairs, split_pixels
from skanomaly.metrics._sweep import sweep

_TOUCH = np.ones((3, 3), dtype=bool)  # 8 neighbours


def pro_curve(masks, maps, *, max_fpr=1.0):
    """Per-region overlap against the share of false alarms, exact.

    Parameters
    ----------
    masks, maps
        As in `pixel_roc_auc_score`.
    max_fpr : float in (0, 1], default=1.0
        Where the curve ends. A curve cut within a segment gets a last point there by linear
        interpolation; it carries the threshold of the point before it.

    Returns
    -------
    fpr : array of shape (n_points,), float64
        Share of the good pixels of all images with a score >= threshold; ascending from 0.
    pro : array of shape (n_points,), float64
        Mean over all regions of the share of the region's pixels with a score >= threshold;
        ascending from 0.
    thresholds : array of shape (n_points,), dtype of the maps
        Descending from infinity. Of a level stretch of the curve only the two ends are kept; the
        curve stays the same.

    Raises
    ------
    ValueError
        As `pixel_roc_auc_score`; or if `max_fpr` is out of range.

    Notes
    -----
    Regions are 8-connected. A threshold admits all pixels of equal score at once. Good pixels of
    defective images count as good.

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
    pairs = check_pairs(masks, maps)
    good, defect = split_pixels(pairs)
    weights = np.concatenate([pixel_weights(mask) for mask, _ in pairs if mask is not None])
    return _cut(*_corners(sweep(good, defect, weights)), max_fpr)


def aupro_score(masks, maps, *, max_fpr=0.3):
    """Area under the PRO curve up to a share of false alarms, divided by that share.

    Exact: every score is a threshold. 1.0 for a perfect map; max_fpr / 2 for one that says
    nothing.

    Parameters
    ----------
    masks, maps
        As in `pixel_roc_auc_score`.
    max_fpr : float in (0, 1], default=0.3
        The share of false alarms up to which the curve counts; 0.3 is the custom, 0.05 is closer
        to what a production line can bear.

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
    pro_curve : The curve itself, its conventions and the paper.
    StreamingPixelMetrics : The same for sets larger than memory, with an error bound.

    Examples
    --------
    >>> from skanomaly.metrics import aupro_score
    >>> mask = [[1, 0, 0], [0, 0, 0], [0, 1, 1]]  # two regions: one pixel, two pixels
    >>> scores = [[9, 1, 1], [1, 5, 1], [1, 9, 3]]  # overlap 3/4 up to fpr 1/6, then 1
    >>> round(aupro_score([mask], [scores], max_fpr=1.0), 6)  # 1 - 1/4 * 1/6
    0.958333
    """
    fpr, pro, _ = pro_curve(masks, maps, max_fpr=max_fpr)
    area = np.sum(np.diff(fpr) * (pro[1:] + pro[:-1])) / 2
    return min(float(area / max_fpr), 1.0)  # rounding may pass 1 by the last bit


def check_max_fpr(max_fpr):
    """The limit of the false alarms, if it lies in (0, 1]."""
    if not isinstance(max_fpr, Real) or not 0 < max_fpr <= 1:
        raise ValueError(
            f"max_fpr is {max_fpr!r}; expected a share of the good pixels, above 0 and up to 1, "
            "such as 0.3."
        )
    return float(max_fpr)


def pixel_weights(mask):
    """1 / size of its region for every defect pixel, in the order of ``map[mask]``."""
    box = _bounding_box(mask)
    labels, _ = ndimage.label(box, structure=_TOUCH)
    regions = labels[box]  # (n_defect_pixels,) 1, 2, ...
    return 1.0 / np.bincount(regions)[regions]


def _bounding_box(mask):
    """The smallest rectangle of the mask that holds all its True pixels: quick to label."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _corners(s):
    """Corners (fpr, pro, thresholds) of the whole curve."""
    n_good, overlap = s.n_good, np.cumsum(s.gains)
    # At each score of the defect the curve rises from a corner "before" to a corner "after". The
    # threshold before is the lowest good score above.
    fp = _between(0, n_good - s.n_up_to, n_good - s.n_below, n_good)
    pro = _between(0.0, np.append(0.0, overlap[:-1]), overlap, overlap[-1]) / overlap[-1]
    thresholds = _between(np.inf, s.above, s.thresholds, s.lowest)
    # Where no good score lies in between, a corner repeats the last one, threshold aside.
    new = np.append(True, (np.diff(fp) > 0) | (np.diff(pro) > 0))
    return fp[new] / n_good, pro[new], thresholds[new].astype(s.above.dtype)


def _between(start, before, after, end):
    """start, before[0], after[0], before[1], after[1], ..., end in one array."""
    return np.concatenate([[start], np.column_stack([before, after]).ravel(), [end]])


def _cut(fpr, pro, thresholds, max_fpr):
    """The curve up to `max_fpr`, closed there by linear interpolation."""
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
