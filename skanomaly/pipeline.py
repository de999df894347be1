"""From a Pipeline, a search or a wrapper to the score maps of the detector within."""

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline as _SklearnPipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

__all__ = ["Pipeline", "score_map", "scores_and_maps"]


def _final_has_score_map(pipeline):
    return hasattr(pipeline.steps[-1][1], "score_map")


class Pipeline(_SklearnPipeline):
    """scikit-learn's Pipeline with the method ``score_map``.

    Anything that holds for :class:`sklearn.pipeline.Pipeline` holds here.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> pipe = Pipeline([("features", FilterBank(image_size=64)), ("detector", PatchCore())])
    >>> pipe.fit(good).score_map(good[:2]).shape
    (2, 64, 64)
    """

    @available_if(_final_has_score_map)
    def score_map(self, X):
        """Heat maps of the last step, on X as the steps before transform it.

        Parameters
        ----------
        X : images, as the first step takes them

        Returns
        -------
        ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            The higher, the more abnormal.
        """
        return score_map(self, X)


def score_map(estimator, X):
    """Heat maps of a detector, or of the one inside a Pipeline, a search or a frozen estimator.

    Parameters
    ----------
    estimator : fitted estimator
        A detector; a scikit-learn Pipeline that ends in one; a fitted search (its best estimator
        is used); or any of these in a FrozenEstimator.
    X : what the estimator's ``predict`` takes

    Returns
    -------
    ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
        The higher, the more abnormal; in the images' own pixels; a list where sizes differ.

    Raises
    ------
    TypeError
        There is no detector with score maps in the estimator.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skanomaly import FilterBank, PatchCore, score_map
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(6, size=(64, 64), random_state=0)
    >>> pipe = make_pipeline(FilterBank(image_size=64), PatchCore()).fit(good)
    >>> score_map(pipe, good[:2]).shape
    (2, 64, 64)
    """
    detector, X = _innermost(estimator, X)
    return detector.score_map(X)


def scores_and_maps(estimator, X):
    """``score_samples`` and ``score_map`` of the detector within, its features made once."""
    detector, X = _innermost(estimator, X)
    if hasattr(detector, "score_samples_and_map"):
        return detector.score_samples_and_map(X)
    return detector.score_samples(X), detector.score_map(X)


def _innermost(estimator, X):
    """The detector within, and X as the steps before it make it."""
    if isinstance(estimator, _SklearnPipeline):
        check_is_fitted(estimator)
        X = estimator[:-1].transform(X) if len(estimator) > 1 else X
        return _innermost(estimator[-1], X)
    if isinstance(estimator, FrozenEstimator):
        return _innermost(estimator.estimator, X)
    for inner in ("estimator_", "best_estimator_"):  # a fitted HeldOutThreshold; a fitted search
        if hasattr(estimator, inner):
            return _innermost(getattr(estimator, inner), X)
    if not hasattr(estimator, "score_map"):
        raise TypeError(
            f"expected a fitted detector with score maps, or a Pipeline or search around one, "
            f"got {type(estimator).__name__}; an unfitted search must be fitted first"
        )
    return estimator, X
