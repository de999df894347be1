"""BaseDetector: the public contract of a detector, written once; score_map behind a Pipeline."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.pipeline import Pipeline as _SklearnPipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skanomaly._validation import (
    Interval,
    StrOptions,
    _fit_context,
    check_array_input,
    check_layers,
    good_rows,
)
from skanomaly.feature_maps import FeatureMaps

__all__ = ["BaseDetector", "Pipeline", "score_map"]


class BaseDetector(OutlierMixin, BaseEstimator):
    """Template of a detector: a child learns in ``_fit`` and scores in ``_score_batch``.

    ``_fit(X)`` gets FeatureMaps of good images. ``_score_batch(X)`` gets stored FeatureMaps of a
    few images and answers patch scores (b, h, w) and the paper's image scores (b,), both high
    for a defect. Everything a user sees follows from these two.
    """

    _parameter_constraints = {
        "image_score": [StrOptions({"paper", "map_max"})],
        "sigma": [Interval(Real, 0, None, closed="left")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Learn from good images.

        Parameters
        ----------
        X : FeatureMaps of shape (n,), or array of shape (n, h, w, d) or (n, d)
            Features of good images. A row of a 2-D array is an image of one patch.
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out, so
            that a search may refit on all it was given. Anything else is ignored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            X is empty, holds NaN, or is images instead of features; y marks every image as a
            defect, or marks fewer or more images than X has.
        """
        maps = self._check_X(X, reset=True)
        maps = maps[good_rows(y, len(maps))]
        self._fit(maps)
        self._set_offset(maps)
        return self

    def score_map(self, X):
        """Heat maps in the images' own pixels.

        Parameters
        ----------
        X : as in fit

        Returns
        -------
        ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            The higher, the more abnormal; a list where the images' sizes differ.
        """
        return self.score_samples_and_map(X)[1]

    def score_samples_and_map(self, X):
        """Scores and heat maps in one pass over the images.

        Parameters
        ----------
        X : as in fit

        Returns
        -------
        scores : ndarray of shape (n,), float64
            As from ``score_samples``: the lower, the more abnormal.
        maps : ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            As from ``score_map``: the higher, the more abnormal.
        """
        check_is_fitted(self)
        scores, maps = [], []
        for piece in self._check_X(X, reset=False).batches():
            patch_scores, image_scores = self._score_batch(piece)
            scores.append(self._final_image_scores(piece, patch_scores, image_scores))
            maps += [
                piece.image_fit.to_frame(one, frame, self.sigma)
                for one, frame in zip(patch_scores, piece.frames, strict=True)
            ]
        alike = len({one.shape for one in maps}) == 1
        return np.concatenate(scores), np.stack(maps) if alike else maps

    def score_samples(self, X):
        """Score of each image: the lower, the more abnormal.

        Parameters
        ----------
        X : as in fit

        Returns
        -------
        ndarray of shape (n,), float64
        """
        check_is_fitted(self)
        return self._image_scores(self._check_X(X, reset=False))

    def decision_function(self, X):
        """Score of each image less the threshold ``offset_``: negative for a defect.

        Parameters
        ----------
        X : as in fit

        Returns
        -------
        ndarray of shape (n,), float64
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """Verdict on each image: +1 good, -1 defect.

        Parameters
        ----------
        X : as in fit

        Returns
        -------
        ndarray of shape (n,), int
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _memory_needs(self, layer_shapes, n_images):
        """Bytes that a fit holds at its widest beside the features, by what they are for."""
        raise NotImplementedError(f"{type(self).__name__} has no forecast of its memory")

    def _set_offset(self, maps):
        """The threshold, from the images learned from."""
        # In-sample scores, as scikit-learn's detectors have it. A memory bank knows its own
        # images too well: for a promise on unseen parts take the threshold from held-out images.
        self.offset_ = np.percentile(self._image_scores(maps), 100 * self.contamination)

    def _image_scores(self, maps):
        """(n,) float64, low for a defect."""
        return np.concatenate(
            [self._final_image_scores(piece, *self._score_batch(piece)) for piece in maps.batches()]
        )

    def _final_image_scores(self, piece, patch_scores, image_scores):
        """(b,) float64, low for a defect: the one place where the sign turns."""
        if self.image_score == "map_max":
            image_scores = piece.image_fit.smooth(patch_scores, self.sigma).max(axis=(1, 2))
        return -image_scores.astype(np.float64)

    def _check_X(self, X, *, reset):
        """X as FeatureMaps; its kind must be that of fit."""
        if not isinstance(X, FeatureMaps):
            X = FeatureMaps({"features": check_array_input(self, X, reset=reset)})
        elif len(X) == 0:
            raise ValueError("expected the features of at least one image, got none")
        if reset:
            self.layer_shapes_ = dict(X.layer_shapes)
            self.n_features_in_ = sum(shape[2] for shape in X.layer_shapes.values())
        else:
            check_layers(self.layer_shapes_, X.layer_shapes)
        return X


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
    if isinstance(estimator, _SklearnPipeline):
        check_is_fitted(estimator)
        X = estimator[:-1].transform(X) if len(estimator) > 1 else X
        return score_map(estimator[-1], X)
    for inner in ("best_estimator_", "estimator"):  # a fitted search; a FrozenEstimator
        if not hasattr(estimator, "score_map") and hasattr(estimator, inner):
            return score_map(getattr(estimator, inner), X)
    if not hasattr(estimator, "score_map"):
        raise TypeError(
            f"expected a fitted detector with score maps, or a Pipeline or search around one, "
            f"got {type(estimator).__name__}; an unfitted search must be fitted first"
        )
    return estimator.score_map(X)
