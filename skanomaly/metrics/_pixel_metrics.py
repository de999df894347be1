"""Metrics over the pixels of all images: AUROC, average precision and maximal F1."""

from typing import Any

from skanomaly.metrics._inputs import check_pairs, count_pixels, defect_pixels, good_pixels
from skanomaly.metrics._sweep import average_precision, f1_max, roc_auc, sweep


def pixel_roc_auc_score(masks: Any, maps: Any, *, roi: Any = None) -> float:
    """Area under the ROC curve over the pixels of all images.

    The probability that a randomly drawn defect pixel has a higher score than a randomly drawn good
    pixel of any image; a tie counts one half. The value is exact: `sklearn.metrics.roc_auc_score`
    on the raveled pixels returns the same, but takes many times as long.

    Parameters
    ----------
    masks : array of shape (n, H, W), or list of n arrays (H, W)
        The truth: bool, 0/1 or 0/255, nonzero on the defect. In a list, sizes may differ, and
        None stands for a good image.
    maps : array of shape (n, H, W), or list of n arrays (H, W)
        Finite scores, high = defect, each map of the size of its mask. Float32 maps are compared as
        float32, all others as float64.
    roi : None, array of shape (H, W), or list of n arrays (H, W), default=None
        Region of interest: pixels outside do not count, neither as good nor as defect. Nonzero
        inside, each of the size of its mask; one for all images, or a list in which None stands
        for the whole of an image. None: all pixels count.

    Returns
    -------
    float
        In [0, 1]; 0.5 for an uninformative map, 1.0 for a perfect one.

    Raises
    ------
    ValueError
        If the numbers or shapes of masks, maps and regions differ, a map is not finite, a region is
        empty, or there are only good or only defect pixels.

    Warnings
    --------
    A region leaves out what is hard, or easy, to tell: values over different regions cannot be
    compared. Score maps of a detector with ``roi`` are 0 outside, whatever ``roi`` is here.

    See Also
    --------
    aupro_score : Gives the same weight to every defect region, large or small.
    image_roc_auc_score : The same over images.

    Examples
    --------
    >>> from skanomaly.metrics import pixel_roc_auc_score
    >>> mask = [[0, 0], [1, 1]]
    >>> scores = [[0.1, 0.4], [0.3, 0.8]]  # three of four pairs are in order; 0.3 < 0.4
    >>> pixel_roc_auc_score([mask], [scores])
    0.75
    >>> pixel_roc_auc_score([mask], [scores], roi=[[1, 0], [1, 1]])  # without the 0.4
    1.0
    """
    return roc_auc(_sweep_pixels(masks, maps, roi))


def pixel_average_precision_score(masks: Any, maps: Any, *, roi: Any = None) -> float:
    """Average precision, the area under the precision-recall curve, over the pixels of all images.

    The sum over thresholds of the increase in recall times the precision, without interpolation, as
    `sklearn.metrics.average_precision_score` computes it on the raveled pixels. As defects are a
    small fraction of all pixels, it is more sensitive to false positives than the AUROC.

    Parameters
    ----------
    masks, maps, roi
        As in `pixel_roc_auc_score`.

    Returns
    -------
    float
        In (0, 1]; the fraction of defect pixels for an uninformative map, 1.0 for a perfect one.

    Raises
    ------
    ValueError
        As `pixel_roc_auc_score`.

    Examples
    --------
    >>> from skanomaly.metrics import pixel_average_precision_score
    >>> mask = [[0, 0], [1, 1]]
    >>> scores = [[0.1, 0.4], [0.3, 0.8]]  # precision 1/1 at 0.8 and 2/3 at 0.3
    >>> round(pixel_average_precision_score([mask], [scores]), 4)
    0.8333
    """
    return average_precision(_sweep_pixels(masks, maps, roi))


def f1_max_score(
    masks: Any, maps: Any, *, return_threshold: bool = False, roi: Any = None
) -> float | tuple[float, float]:
    """Maximal F1 over the pixels of all images: the highest F1 that a single threshold reaches.

    F1 is the harmonic mean of precision and recall. The threshold is chosen with the masks on which
    it is evaluated, so the value is optimistically biased. It compares detectors; it must not be
    used to choose the threshold of a detector.

    Parameters
    ----------
    masks, maps, roi
        As in `pixel_roc_auc_score`.
    return_threshold : bool, default=False
        Whether to return the threshold as well.

    Returns
    -------
    f1 : float
        In (0, 1].
    threshold : float
        Only if `return_threshold`: the highest score for which ``map >= threshold`` reaches this
        F1.

    Raises
    ------
    ValueError
        As `pixel_roc_auc_score`.

    Examples
    --------
    >>> from skanomaly.metrics import f1_max_score
    >>> mask = [[0, 0], [1, 1]]
    >>> scores = [[0.1, 0.4], [0.3, 0.8]]
    >>> f1_max_score([mask], [scores], return_threshold=True)
    (0.8, 0.3)
    """
    f1, threshold = f1_max(_sweep_pixels(masks, maps, roi))
    return (f1, threshold) if return_threshold else f1


def _sweep_pixels(masks, maps, roi):
    """The sweep in which every defect pixel has weight 1."""
    pairs = check_pairs(masks, maps, roi)
    count_pixels(pairs)  # raises unless there are good and defect pixels
    return sweep(good_pixels(pairs), defect_pixels(pairs))
