"""Metrics over images: AUROC, average precision and maximal F1."""

from typing import Any

from numpy.typing import ArrayLike

from skanomaly.metrics._inputs import split_images
from skanomaly.metrics._sweep import average_precision, f1_max, roc_auc, sweep


def image_roc_auc_score(y: Any, scores: ArrayLike) -> float:
    """Area under the ROC curve over images.

    The probability that a randomly drawn defective image has a higher score than a randomly drawn
    good one; a tie counts one half.

    Parameters
    ----------
    y : array of shape (n,), or masks
        The truth: labels +1 (good) and -1 (defect), or masks, (n, H, W) or a list of (H, W) arrays
        with None for a good image. An image is defective if any pixel of its mask is nonzero.
        Labels coded 0/1 are rejected, because they do not say which of the two is the defect.
    scores : array of shape (n,)
        Finite, **high = defect**. The `decision_function` and `score_samples` of a detector are
        low for a defect: pass ``-detector.decision_function(X)``.

    Returns
    -------
    float
        In [0, 1]; 0.5 for uninformative scores.

    Raises
    ------
    ValueError
        If y is coded otherwise or holds only one class, the lengths of y and scores differ, or a
        score is not finite.

    Examples
    --------
    >>> from skanomaly.metrics import image_roc_auc_score
    >>> image_roc_auc_score([1, 1, -1, -1], [0.1, 0.4, 0.3, 0.8])
    0.75
    """
    return roc_auc(_sweep_images(y, scores))


def image_average_precision_score(y: Any, scores: ArrayLike) -> float:
    """Average precision over images, as `sklearn.metrics.average_precision_score` computes it.

    Parameters
    ----------
    y, scores
        As in `image_roc_auc_score`: +1 good and -1 defect, or masks; scores are high for a defect,
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
    return average_precision(_sweep_images(y, scores))


def image_f1_max_score(
    y: Any, scores: ArrayLike, *, return_threshold: bool = False
) -> float | tuple[float, float]:
    """Maximal F1 over images: the highest F1 that a single threshold reaches.

    Parameters
    ----------
    y, scores
        As in `image_roc_auc_score`: +1 good and -1 defect, or masks; scores are high for a defect,
        so pass ``-detector.decision_function(X)``.
    return_threshold : bool, default=False
        Whether to return the threshold as well.

    Returns
    -------
    f1 : float
        In (0, 1].
    threshold : float
        Only if `return_threshold`: the highest score for which ``scores >= threshold`` reaches
        this F1. It is chosen with the labels of the test set, so it must not be used as the
        threshold of a detector.

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
    f1, threshold = f1_max(_sweep_images(y, scores))
    return (f1, threshold) if return_threshold else f1


def _sweep_images(y, scores):
    good, defect = split_images(y, scores)
    return sweep([lambda: good], defect)
