"""BaseDetector: the public contract of a detector, written once."""

import threading
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from skanomaly._cache import digest
from skanomaly._threads import lone_products
from skanomaly._validation import (
    Interval,
    StrOptions,
    check_array_input,
    check_layers,
    fitting,
    good_rows,
)
from skanomaly.feature_maps import FeatureMaps

_ONE_AT_A_TIME = threading.RLock()  # of the threads that ask for a threshold not yet computed


class BaseDetector(OutlierMixin, BaseEstimator):
    """Template of a detector: a child learns in ``_fit`` and scores in ``_score_batch``.

    ``_fit(X)`` gets FeatureMaps of good images. ``_score_batch(X)`` gets stored FeatureMaps of a
    few images and answers patch scores (b, h, w) and the paper's image scores (b,), both high
    for a defect. Everything a user sees follows from these two.
    """

    # Parameters that come into play after the hooks, or change no score at all.
    _AFTER_SCORES = ("sigma", "contamination", "memory_limit", "verbose")
    # Parameters that _fit does not look at.
    _AFTER_FIT = (*_AFTER_SCORES, "image_score")

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

    @fitting()
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
        rows, n_images = good_rows(y, len(maps)), len(maps)
        maps = maps[rows]
        self.__dict__.pop("_offset", None)
        self._waiting = None
        self._fit_identity = self._digest(maps) if maps.cache is not None else None
        self._fit(maps)
        self._number_images(maps, rows, n_images)
        if self._fit_identity is None:
            self._set_offset(maps)
        else:
            self._waiting = maps, self.get_params(deep=False)
        return self

    @property
    def offset_(self):
        """Threshold on ``score_samples``; with a feature cache computed when first asked for.

        A search asks for scores and maps of thousands of images but for no threshold.
        """
        with _ONE_AT_A_TIME:
            if getattr(self, "_waiting", None) is not None:
                maps, parameters = self._waiting
                as_fitted = object.__new__(type(self))  # whatever parameters were set since
                as_fitted.__dict__.update(self.__dict__, _waiting=None, **parameters)
                as_fitted._set_offset(maps)
                self.offset_ = as_fitted._offset
        try:
            return self._offset
        except AttributeError:
            raise AttributeError(f"{type(self).__name__} has no offset_ before fit") from None

    @offset_.setter
    def offset_(self, threshold):
        self._offset, self._waiting = threshold, None

    def __getstate__(self):
        if getattr(self, "_waiting", None) is not None:
            _ = self.offset_  # a pickle holds the threshold, not the images it comes from
        return super().__getstate__()

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
        X = self._check_X(X, reset=False)
        for frames, patch_scores, image_scores in self._scored(X):
            with lone_products():
                scores.append(self._final_image_scores(X, patch_scores, image_scores))
                maps += [
                    X.image_fit.to_frame(one, frame, self.sigma)
                    for one, frame in zip(patch_scores, frames, strict=True)
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

    def _number_images(self, maps, rows, n_images):
        """Told after ``_fit``: its images are these rows of the X that the user gave."""

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
            [self._final_image_scores(maps, *scores) for _, *scores in self._scored(maps)]
        )

    def _scored(self, X):
        """Frames, patch scores and image scores of a few images at a time, from X's cache if any.

        Frames are (b, 2), patch scores (b, h, w), image scores (b,), high for a defect.
        """

        def score(piece):
            names = "patch_scores", "image_scores"
            with lone_products():
                return dict(zip(names, self._score_batch(piece), strict=True))

        for frames, answers in X.answers(score, self._score_identity()):
            yield frames, answers["patch_scores"], answers["image_scores"]

    def _score_identity(self, **changed):
        """Digest of what the hooks' scores depend on beside the image; None where unknown."""
        identity = getattr(self, "_fit_identity", None)
        settings = {**self._settings(self._AFTER_SCORES), **changed}
        return None if identity is None else digest(identity, settings)

    def _digest(self, maps):
        """Digest of what a fit depends on; None where it would come out differently again."""
        random_state = getattr(self, "random_state", 0)
        if not isinstance(random_state, Integral):
            return None
        settings = self._settings(self._AFTER_FIT)
        return digest(type(self).__name__, settings, maps.keys.tolist())

    def _settings(self, without):
        """The other parameters."""
        parameters = self.get_params(deep=False)
        return {k: v for k, v in sorted(parameters.items()) if k not in without}

    def _final_image_scores(self, X, patch_scores, image_scores):
        """(b,) float64, low for a defect: the one place where the sign turns."""
        if self.image_score == "map_max":
            image_scores = X.image_fit.smooth(patch_scores, self.sigma).max(axis=(1, 2))
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
