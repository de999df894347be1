"""Every pixel of every image counts alike: AUROC, average precision and F1-max over pixels."""

from skanomaly.metrics._inputs import check_pairs, split_pixels
from skanomaly.metrics._sweep import average_precision, f1_max, roc_auc, sweep


def pixel_roc_auc_score(masks, maps):
    """Area under the ROC curve over the pixels of all images.

    The chance that a defect pixel, drawn at random, scores higher than a good pixel drawn from
    all images; a tie counts one half. Exact: `sklearn.metrics.roc_auc_score` on the raveled pixels
    answers the same, but takes many times as long.

    Parameters
    ----------
    masks : array of shape (n, H, W), or list of n arrays (H, W)
        The truth: bool, 0/1 or 0/255, nonzero on the defect. In a list, sizes may differ, and
        None stands for a good image.
    maps : array of shape (n, H, W), or list of n arrays (H, W)
        Finite scores, high = defect, each in the size of its mask. Float32 maps are compared as
        float32, all others as float64.

    Returns
    -------
    float
        In [0, 1]; 0.5 for a map that says nothing, 1.0 for a perfect one.

    Raises
    ------
    ValueError
        If the numbers or shapes of masks and maps differ, a map is not finite, or the pixels are
        all good or all defect. The message names the index.

    See Also
    --------
    aupro_score : Counts every defect region alike, large or small.
    image_roc_auc_score : The same for verdicts over whole images.

    Examples
    --------
    >>> from skanomaly.metrics import pixel_roc_auc_score
    >>> mask = [[0, 0], [1, 1]]
    >>> scores = [[0.1, 0.4], [0.3, 0.8]]  # 0.3 loses against 0.4, the other three pairs win
    >>> pixel_roc_auc_score([mask], [scores])
    0.75
    """
    return roc_auc(_sweep_pixels(masks, maps))


def pixel_average_precision_score(masks, maps):
    """Average precision, the area under the precision-recall curve, over the pixels of all images.

    The sum over thresholds of the recall gained times the precision there, without interpolation:
    what `sklearn.metrics.average_precision_score` answers on the raveled pixels. Defects are a
    small share of all pixels, and this number sees false alarms that AUROC forgives.

    Parameters
    ----------
    masks, maps
        As in `pixel_roc_auc_score`.

    Returns
    -------
    float
        In (0, 1]; the share of defect pixels for a map that says nothing, 1.0 for a perfect one.

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
    return average_precision(_sweep_pixels(masks, maps))


def f1_max_score(masks, maps, *, return_threshold=False):
    """Highest F1 that any one threshold reaches over the pixels of all images.

    F1 is the harmonic mean of precision and recall. The threshold is chosen on the truth it is
    judged by, so the number is an upper limit: it compares detectors, and it is not the way to
    set a threshold for use.

    Parameters
    ----------
    masks, maps
        As in `pixel_roc_auc_score`.
    return_threshold : bool, default=False
        Whether to return the threshold too.

    Returns
    -------
    f1 : float
        In (0, 1].
    threshold : float
        Only if `return_threshold`: ``map >= threshold`` reaches the F1; the highest such score.

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
    f1, threshold = f1_max(_sweep_pixels(masks, maps))
    return (f1, threshold) if return_threshold else f1


def _sweep_pixels(masks, maps):
    """The sweep in which every defect pixel weighs 1."""
    return sweep(*split_pixels(check_pairs(masks, maps)))
