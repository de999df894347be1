"""One verdict per image: AUROC, average precision and F1-max over images."""

from skanomaly.metrics._inputs import split_images
from skanomaly.metrics._sweep import average_precision, f1_max, roc_auc, sweep


def image_roc_auc_score(y, scores):
    """Area under the ROC curve over images.

    The chance that a defective image, drawn at random, scores higher than a good one; a tie
    counts one half.

    Parameters
    ----------
    y : array of shape (n,), or masks
        The truth: labels +1 (good) and -1 (defect), or masks, (n, H, W) or a list of (H, W) with
        None for a good image; an image is a defect where any pixel of its mask is nonzero. Labels
        coded 0/1 are refused, because they do not say which of the two is the defect.
    scores : array of shape (n,)
        Finite, **high = defect**. A detector's `decision_function` and `score_samples` are low
        for a defect: pass ``-detector.decision_function(X)``.

    Returns
    -------
    float
        In [0, 1]; 0.5 for scores that say nothing.

    Raises
    ------
    ValueError
        If y is coded otherwise or holds one class only, the numbers differ, or a score is not
        finite.

    Examples
    --------
    >>> from skanomaly.metrics import image_roc_auc_score
    >>> image_roc_auc_score([1, 1, -1, -1], [0.1, 0.4, 0.3, 0.8])
    0.75
    """
    return roc_auc(sweep(*split_images(y, scores)))


def image_average_precision_score(y, scores):
    """Average precision over images, as `sklearn.metrics.average_precision_score`.

    Parameters
    ----------
    y, scores
        As in `image_roc_auc_score`: +1 good, -1 defect, or masks; scores are high for a defect,
        so pass ``-detector.decision_function(X)``.

    Returns
    -------
    float
        In (0, 1].

    Raises
    ------
    ValueError
        As `image_roc_auc_score`.

    Examples
    --------
    >>> from skanomaly.metrics import image_average_precision_score
    >>> round(image_average_precision_score([1, 1, -1, -1], [0.1, 0.4, 0.3, 0.8]), 4)
    0.8333
    """
    return average_precision(sweep(*split_images(y, scores)))


def image_f1_max_score(y, scores, *, return_threshold=False):
    """Highest F1 that any one threshold reaches over images.

    Parameters
    ----------
    y, scores
        As in `image_roc_auc_score`: +1 good, -1 defect, or masks; scores are high for a defect,
        so pass ``-detector.decision_function(X)``.
    return_threshold : bool, default=False
        Whether to return the threshold too.

    Returns
    -------
    f1 : float
        In (0, 1].
    threshold : float
        Only if `return_threshold`: ``scores >= threshold`` reaches the F1; the highest such
        score. It was chosen on the truth: no way to set a threshold for use.

    Raises
    ------
    ValueError
        As `image_roc_auc_score`.

    Examples
    --------
    >>> from skanomaly.metrics import image_f1_max_score
    >>> image_f1_max_score([1, 1, -1, -1], [0.1, 0.4, 0.3, 0.8], return_threshold=True)
    (0.8, 0.3)
    """
    f1, threshold = f1_max(sweep(*split_images(y, scores)))
    return (f1, threshold) if return_threshold else f1
