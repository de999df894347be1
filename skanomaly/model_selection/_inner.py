"""The detector inside a Pipeline, a search, a HeldOutThreshold or a frozen estimator."""

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from skanomaly.base import score_map


def innermost(estimator, X):
    """The detector within, and X as the steps before it make it: features are made once."""
    if isinstance(estimator, Pipeline):
        X = estimator[:-1].transform(X) if len(estimator) > 1 else X
        return innermost(estimator[-1], X)
    if hasattr(estimator, "best_estimator_"):  # a fitted search
        return innermost(estimator.best_estimator_, X)
    if hasattr(estimator, "estimator_"):  # a fitted HeldOutThreshold
        return innermost(estimator.estimator_, X)
    if isinstance(estimator, FrozenEstimator):
        return innermost(estimator.estimator, X)
    return estimator, X


def scores_and_maps(estimator, X):
    """score_samples and score_map of whatever detector is within, features made once."""
    detector, features = innermost(estimator, X)
    if hasattr(detector, "score_samples_and_map"):
        return detector.score_samples_and_map(features)
    return detector.score_samples(features), score_map(detector, features)
