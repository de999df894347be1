"""BaseDetector: the public contract of a detector, written once; score_map behind a Pipeline."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, clone
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

__all__ = ["BaseDetector", "Pipeline", "estimate_memory", "score_map"]


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
            X is empty, holds NaN, or is images instead of features.
        """
        maps = self._check_X(X, reset=True)
        maps = maps[good_rows(y, len(maps))]
        self._fit(maps)
        # In-sample scores, as scikit-learn's detectors have it. A memory bank knows its own
        # images too well: for a promise on unseen parts take the threshold from held-out images.
        self.offset_ = np.percentile(self._image_scores(maps), 100 * self.contamination)
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
        check_is_fitted(self)
        maps = []
        for piece in self._check_X(X, reset=False).batches():
            patch_scores, _ = self._score_batch(piece)
            maps += [
                piece.image_fit.to_frame(scores, frame, self.sigma)
                for scores, frame in zip(patch_scores, piece.frames, strict=True)
            ]
        return np.stack(maps) if len({m.shape for m in maps}) == 1 else maps

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

    def _image_scores(self, maps):
        """(n,) float64, low for a defect: the one place where the sign turns."""
        scores = np.concatenate([self._batch_image_scores(piece) for piece in maps.batches()])
        return -scores.astype(np.float64)

    def _batch_image_scores(self, piece):
        patch_scores, image_scores = self._score_batch(piece)
        if self.image_score == "map_max":
            return piece.image_fit.smooth(patch_scores, self.sigma).max(axis=(1, 2))
        return image_scores

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


def estimate_memory(pipeline, X, *, n_images=None):
    """Forecast what a fit would hold in memory, before it starts.

    Parameters
    ----------
    pipeline : Pipeline
        Extractor and detector, fitted or not; it is left as it is.
    X : images, as the pipeline's ``fit`` takes them
        The first two are looked at.
    n_images : int, default=None
        Forecast for so many images like these; None: as many as X has.

    Returns
    -------
    dict of str to int
        Bytes by what they are for, all held at the same time at the widest point, and their
        ``"total"``. The interpreter and its libraries come on top.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline, estimate_memory
    >>> from skanomaly.datasets import make_textures
    >>> pipe = Pipeline([("features", FilterBank()), ("detector", PatchCore())])
    >>> needs = estimate_memory(pipe, make_textures(2, size=64), n_images=1000)
    >>> f"{needs['features'] / 1e6:.0f} MB"
    '423 MB'
    """
    if not isinstance(pipeline, _SklearnPipeline) or len(pipeline) < 2:
        raise TypeError(
            f"expected a Pipeline of extractor and detector, got {type(pipeline).__name__}"
        )
    sample = X[:2]
    maps = clone(pipeline[:-1]).fit(sample).transform(sample)
    n_images = len(X) if n_images is None else n_images
    n_values = sum(h * w * c for h, w, c in maps.layer_shapes.values())
    would_stream = pipeline[-2]._streams(maps.layer_shapes, n_images)
    needs = {"features": 0 if would_stream else 4 * n_values * n_images}
    needs |= pipeline[-1]._memory_needs(maps.layer_shapes, n_images)
    return {**needs, "total": sum(needs.values())}
