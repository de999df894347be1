"""A HeldOutThreshold that learns on: from false alarms, and from further good images."""

import warnings

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skanomaly.model_selection._conformal import share_below
from skanomaly.model_selection._split import good_and_defects, take_rows
from skanomaly.utils.state import exchanged, snapshot
from skanomaly.utils.unwrapping import scores_and_maps, transformed


class LearningOnMixin:
    """Mixin of HeldOutThreshold: ``update`` and ``forget``."""

    def update(self, X, y=None, *, representative=False):
        """Learn from further good images, such as parts that were flagged by mistake.

        Parameters
        ----------
        X : what ``fit`` takes
            Their places are counted on after those of the images before.
        y : array of shape (n,), or masks, default=None
            As in ``fit``: images marked as defects are left out.
        representative : bool, default=False
            Whether the images are a fair sample of good ones, as those of ``fit`` were. Images
            that were picked because they were flagged are none.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As in ``fit``. All is then as it was.
        NotImplementedError
            The detector cannot learn on, or is frozen.

        Warns
        -----
        UserWarning
            Some of the images are flagged still, or too few are known for `target_fpr`.

        Notes
        -----
        The thresholds stay where ``representative=False``. More rows in a bank make no patch more
        abnormal: with PatchCore (``image_score="map_max"``) the rate of false alarms can only
        fall, and what is promised of it holds on. False alarms must not count
        among the held-out scores, as they were chosen by their scores.

        A fair sample counts: the images' scores by the model before, to which they were new,
        join ``oof_scores_``, and thresholds and intervals are set anew; a threshold that was
        set by ``set_offset`` stays. The older scores are those of a model that has seen less,
        which is on the cautious side.
        """
        check_is_fitted(self)
        with exchanged(self) as fresh:
            fresh._learn_on(X, y, representative)
        return self

    def forget(self, images, X=None):
        """Forget images of ``fit`` or ``update``, such as a defect that was taken for good.

        Parameters
        ----------
        images : array-like of shape (k,), int
            Their places, see ``good_images_``. No other image is numbered anew.
        X : the same k images, as ``fit`` takes them, default=None
            For a detector that keeps no images, PaDiM.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As the detector's ``forget``. All is then as it was.
        NotImplementedError
            The detector cannot forget, or is frozen.

        Notes
        -----
        Their held-out scores are dropped, and thresholds and intervals set anew from the others;
        a threshold that was set by ``set_offset`` stays. Each image counts as one independent one
        less.
        """
        check_is_fitted(self)
        with exchanged(self) as fresh:
            fresh._unlearn(np.asarray(images), X)
        return self

    def _learn_on(self, X, y, representative):
        good, defects = good_and_defects(X, y)
        if len(good) == 0:
            raise ValueError("expected good images to learn from, got y with defects only")
        images = take_rows(X, good) if len(defects) else X
        model = snapshot(self.estimator_)  # its last step gets a state of its own
        detector = _last_step(model, "partial_fit")
        features = transformed(model, images)
        scores, maps = scores_and_maps(detector, features) if representative else (None, None)
        detector.partial_fit(features)
        places, held_out = self._n_images() + good, self._held_out_places()
        self.estimator_ = model
        self.n_images_ = self._n_images() + len(good) + len(defects)
        self.good_images_ = np.concatenate([self.good_images_, places])
        if representative:
            self._reset_held_out(
                np.concatenate([self.oof_scores_, scores]),
                np.concatenate([self.oof_map_maxima_, [one.max() for one in maps]]),
                np.concatenate([held_out, places]),
                self._n_independent() + len(good),
            )
        still = np.flatnonzero(detector.score_samples(features) < self.offset_)
        if len(still):
            warnings.warn(
                f"{len(still)} of these {len(good)} images are flagged still, those at places "
                f"{good[still[:10]].tolist()}: they lie below a strict "
                "threshold by what is learned of them, too; see set_target",
                stacklevel=3,
            )

    def _unlearn(self, images, X):
        unknown = np.setdiff1d(images, self.good_images_)
        if len(unknown):
            raise ValueError(
                f"expected places of images that were learned from, got {unknown[:10].tolist()}; "
                "good_images_ holds them"
            )
        model, held_out = snapshot(self.estimator_), self._held_out_places()
        detector = _last_step(model, "forget")
        inner = np.searchsorted(self.good_images_, images)
        detector.forget(inner, None if X is None else transformed(model, X))
        self.estimator_ = model
        is_left = ~np.isin(held_out, images)
        if not is_left.any():
            raise ValueError(
                "expected an image to be left of those that the threshold is taken from"
            )
        self._reset_held_out(
            self.oof_scores_[is_left],
            self.oof_map_maxima_[is_left],
            held_out[is_left],
            max(1, self._n_independent() - int((~is_left).sum())),
        )

    def _reset_held_out(self, scores, map_maxima, places, n_independent):
        """Other held-out scores; a threshold that was set by hand stays."""
        expected = getattr(self, "expected_fpr_", self.target_fpr)  # none in an old model
        is_by_hand, offset = expected != self.target_fpr, self.offset_
        self._set_held_out(scores, map_maxima, places, n_independent)
        if is_by_hand:
            self.offset_ = offset
            self._set_rate(share_below(scores, offset))

    def _n_images(self):
        # A model that was stored before there was the attribute: defects at the end do not count.
        return getattr(self, "n_images_", int(self.good_images_[-1]) + 1)

    def _n_independent(self):
        return getattr(self, "n_independent_", len(self.oof_scores_))

    def _held_out_places(self):
        if hasattr(self, "held_out_images_"):
            return self.held_out_images_
        if len(self.oof_scores_) != len(self.good_images_):
            raise ValueError(
                "expected a model that knows which images its threshold is taken from, got one "
                "that was stored by an earlier version; fit it again"
            )
        return self.good_images_


def _last_step(model, method):
    """The detector of a Pipeline, or the model itself, if it has the method."""
    detector = model[-1] if isinstance(model, Pipeline) else model
    name = type(detector).__name__
    if isinstance(detector, FrozenEstimator):
        raise NotImplementedError(f"a {name} is not fitted again: put the detector there itself")
    if not hasattr(detector, method):
        raise NotImplementedError(
            f"{name} has no {method}: it learns from all images at once; fit it again, or use "
            "PatchCore, SPADE or PaDiM"
        )
    return detector
