"""HeldOutThreshold: a threshold for a wanted rate of false alarms on unseen good images."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import gen_batches, get_tags, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skanomaly.base import ThresholdMixin
from skanomaly.feature_maps import BATCH_SIZE
from skanomaly.model_selection._conformal import (
    count_interval,
    far_out,
    rate_interval,
    share_below,
    threshold_of,
    warn_of_few,
)
from skanomaly.model_selection._learning_on import LearningOnMixin
from skanomaly.model_selection._split import GoodOnlyKFold, good_and_defects, take_rows
from skanomaly.utils.state import exchanged
from skanomaly.utils.unwrapping import fit_once, scores_and_maps, without_threshold
from skanomaly.utils.validation import Interval, StrOptions, fitting

N_NEW = 1000  # images, for which false alarms are predicted


class HeldOutThreshold(LearningOnMixin, ThresholdMixin, MetaEstimatorMixin, BaseEstimator):
    """Detector with a threshold for a wanted rate of false alarms, taken from held-out images.

    Each good image is scored as if it were new, and the thresholds on the image's score and on the
    score map are quantiles of these scores; the model in use is fitted on all good images. A
    detector's own ``contamination`` counts on the images that it was fitted on instead, and flags
    many times the promised share of new ones.

    Parameters
    ----------
    estimator : estimator
        A detector with score maps, or a Pipeline that ends in one. It is cloned.
    target_fpr : float in (0, 0.5], default=0.06
        Wanted share of unseen good images that are flagged as defects. It takes
        ``1 / target_fpr - 1`` good images at least: 19 for 5 %, 99 for 1 %. The default was set by
        trying the commands on five real sets, defects included.
    method : {"auto", "leave_one_out", "folds"}, default="auto"
        How an image is scored as if it were new. "leave_one_out": by the one model in use, without
        what it has learned from this image (``leave_one_out`` of PatchCore, SPADE and PaDiM, and
        of RegAD on a few images). "folds": by models fitted on the other folds. "auto": the first
        where the detector can.
    cv : int or splitter, default=5
        The folds. An int is the number of shuffled folds of :class:`GoodOnlyKFold`; a splitter, as
        ``LeaveOneOut()``, may hold out each image at most once. More folds take more time and are
        less cautious (see Notes).
    confidence : float in (0, 1), default=0.95
        Probability of the intervals.
    n_jobs : int or None, default=None
        Folds computed at a time, as in scikit-learn.
    random_state : int, RandomState instance or None, default=None
        Draws the folds; used only if `cv` is an int.
    verbose : int, default=0
        1 shows a progress bar over the folds.

    Attributes
    ----------
    estimator_ : estimator
        Fitted on all good images.
    offset_ : float
        Threshold on ``score_samples``: an image below it is a defect.
    map_offset_ : float
        Threshold on ``score_map``: where ``score_map(X) > map_offset_``, a pixel is a defect. The
        share `target_fpr` of unseen good images is expected to have any such pixel.
    expected_fpr_ : float
        Expected rate of false alarms of ``offset_``: `target_fpr`, unless set by ``set_offset``.
    method_ : {"leave_one_out", "folds"}
        How the images were scored.
    fpr_interval_ : tuple (low, high)
        Where the true rate of false alarms of ``predict`` lies with probability `confidence`.
    map_fpr_interval_ : tuple (low, high)
        The same, with equal numbers, for good images with a pixel above ``map_offset_``.
    false_alarms_per_1000_ : tuple (low, high) of int
        So many of 1,000 new good images are flagged with probability `confidence`; see
        ``false_alarm_interval`` for other numbers of images.
    good_images_ : ndarray of shape (n_good,), int
        Places in X of the good images; those of ``update`` are counted on.
    n_images_ : int
        Images given to ``fit`` and ``update``, defects counted.
    held_out_images_ : ndarray of shape (n_held_out,), int
        Places of the images that the threshold is taken from.
    suspicious_images_ : ndarray of shape (k,), int
        Places in X of good images unlike all others, the strangest first: their scores lie more
        than three interquartile ranges below the lower quartile. They may be mislabeled or
        damaged. They are learned all the same: look at them, and fit without those that are bad.
    oof_scores_ : ndarray of shape (n_held_out,), float64
        Scores of the good images as if each were new (out of fold), in the order of the images.
    oof_map_maxima_ : ndarray of shape (n_held_out,), float64
        Largest value of each one's score map, in the same order.

    See Also
    --------
    GoodOnlyKFold : Folds that keep several images of a piece together, given their groups.

    Notes
    -----
    Among n held-out scores and the score of one new good image, all of one distribution, each
    rank is equally likely for the new one: it falls below the k-th smallest of the n with
    probability k / (n + 1), split conformal prediction [1]_. ``offset_`` has the rank
    `target_fpr` (n + 1), between two scores if that is no integer. If it is below 1, no score
    is low enough: a warning says so, and an exponential tail through the lowest third of the scores
    takes over.

    That is the mean over all sets of n images one might have had. The rate for the n images at
    hand is the share of the distribution below its k-th order statistic, which follows
    Beta(k, n + 1 - k) whatever the distribution [2]_ [3]_; `fpr_interval_` holds its central
    part. The number of false alarms among m new images varies even at a known rate: it follows
    the beta-binomial distribution with the same parameters. Where groups are given, n is their
    number.

    Left-out images are scored by practically the final model. A model of a fold has seen fewer
    images and scores every image as a little more abnormal: with "folds" the true rate tends to
    be lower, often by half with 5 folds, and may lie below the interval; 20 folds come closer.
    Features are those of the final model in both cases where they are computed before, and only
    the detector is fitted anew; features in a Pipeline are learned anew in each fold, but not for
    each image that is left out.

    All this holds for new images like those given. Several images of one piece are not
    independent images (pass `groups`), and images of one day, however many, do not predict another
    lighting. An estimator in a FrozenEstimator is not fitted again: then give it images that it has
    not seen.

    References
    ----------
    .. [1] Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", Springer 2005.
    .. [2] Vovk, "Conditional validity of inductive conformal predictors", ACML 2012.
    .. [3] Wilks, "Determination of sample sizes for setting tolerance limits", Annals of
       Mathematical Statistics 12 (1941).

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_inspection
    >>> from skanomaly.model_selection import HeldOutThreshold
    >>> data = make_inspection(39, 10, 4, kind="brushed", size=64, random_state=0)
    >>> features = FilterBank(image_size=64, random_state=0)
    >>> detector = PatchCore(image_score="map_max", random_state=0)
    >>> pipe = Pipeline([("features", features), ("detector", detector)])
    >>> model = HeldOutThreshold(pipe, target_fpr=0.05)
    >>> model.fit(data.train.images).predict(data.test.images)
    array([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1, -1, -1, -1, -1])
    >>> low, high = model.fpr_interval_  # Beta(2, 38)
    >>> print(f"{low:.3f} {high:.3f}")
    0.006 0.135
    >>> model.false_alarm_interval(100)
    (0, 15)
    """

    _parameter_constraints = {
        "estimator": "no_validation",
        "target_fpr": [Interval(Real, 0, 0.5, closed="right")],
        "method": [StrOptions({"auto", "leave_one_out", "folds"})],
        "cv": ["cv_object"],
        "confidence": [Interval(Real, 0, 1, closed="neither")],
        "n_jobs": [None, Integral],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    # Routed metadata that is asked for: the groups of whatever it is searched or validated with.
    __metadata_request__fit = {"groups": True}

    def __init__(
        self,
        estimator,
        *,
        target_fpr=0.06,
        method="auto",
        cv=5,
        confidence=0.95,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.target_fpr = target_fpr
        self.method = method
        self.cv = cv
        self.confidence = confidence
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags, tags.target_tags = inner.input_tags, inner.target_tags
        return tags

    @property
    def n_features_in_(self):
        """As the fitted estimator has it."""
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self):
        """As the fitted estimator has them."""
        return self.estimator_.feature_names_in_

    @fitting(nested=True)
    def fit(self, X, y=None, groups=None):
        """Learn from the good images and set the thresholds.

        Parameters
        ----------
        X : what the estimator's ``fit`` takes
            Images, or features, of n images.
        y : array of shape (n,), or masks, default=None
            Labels +1 (good) and -1 (defect), or masks, (n, H, W) or a list of (H, W) with None
            for a good image. Images marked as defects are left out: neither the model nor the
            threshold knows of them. None: all are good.
        groups : array of shape (n,), default=None
            Images of one group, such as several images of one piece, are held out together.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If y is coded otherwise, as 0/1, or of another length than X; if there are fewer good
            images than folds; or if `cv` holds out an image twice.

        Warns
        -----
        UserWarning
            There are too few good images for `target_fpr`.
        """
        X, groups = indexable(X, groups)
        good, defects = good_and_defects(X, y)
        if len(good) == 0 and len(defects) > 0:
            raise ValueError("expected good images to learn from, got y with defects only")
        images = take_rows(X, good) if len(defects) else X
        self.good_images_, self.n_images_ = good, len(good) + len(defects)
        groups = None if groups is None else np.asarray(groups)[good]
        held_out = np.arange(len(good))  # a splitter may hold out some of them only
        # The model in use first: errors then name images by their places among all of them.
        found = None if self.method == "folds" else self._leave_one_out(images, groups)
        self.method_ = "leave_one_out" if found is not None else "folds"
        if found is None:
            if not hasattr(self, "estimator_"):
                self.estimator_ = clone(self.estimator).fit(images, None)
            splits = self._splits(images, groups)
            held_out = np.sort(np.concatenate([test for _, test in splits]))
            found = self._held_out(images, splits)
        n_groups = None if groups is None else len(np.unique(groups[held_out]))
        return self._set_held_out(*found, good[held_out], n_groups)

    def set_target(self, target_fpr):
        """Set the thresholds for another rate of false alarms; nothing is fitted again.

        They come from the scores that `fit` has kept, ``oof_scores_`` and ``oof_map_maxima_``, and
        are those of a fit with this `target_fpr`.

        Parameters
        ----------
        target_fpr : float in (0, 0.5]
            Wanted share of unseen good images that are flagged as defects.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            The rate is out of its range; all stays as it was.
        NotFittedError
            There are no scores yet.

        Warns
        -----
        UserWarning
            There are too few good images for `target_fpr`.
        """
        check_is_fitted(self)
        with exchanged(self) as fresh:
            fresh.set_params(target_fpr=target_fpr)._validate_params()
            fresh._set_target()
        warn_of_few(len(self.oof_scores_), target_fpr, stacklevel=3)
        return self

    def set_offset(self, offset):
        """Set the threshold on scores by hand, and the intervals of its rate of false alarms.

        The threshold on score maps stays as it is.

        Parameters
        ----------
        offset : float
            Threshold on ``score_samples``, the new ``offset_``. One that is to flag images with a
            ``decision_function`` below d is ``offset_ + d``.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            The threshold is no finite number.
        NotFittedError
            There are no scores yet.
        """
        check_is_fitted(self)
        if not isinstance(offset, Real) or not np.isfinite(offset):
            raise ValueError(f"offset must be a finite number, got {offset!r}")
        with exchanged(self) as fresh:
            fresh.offset_ = float(offset)
            fresh._set_rate(share_below(fresh.oof_scores_, offset))
        return self

    def _set_held_out(self, scores, map_maxima, places, n_groups=None):
        """Everything that follows from the scores of held-out images, at their places in X."""
        self.oof_scores_, self.oof_map_maxima_ = scores, map_maxima
        self.n_independent_ = len(scores) if n_groups is None else n_groups
        self.held_out_images_ = places
        self.suspicious_images_ = places[far_out(scores)]
        warn_of_few(len(scores), self.target_fpr, stacklevel=6)  # past fit and its wrappers
        return self._set_target()

    def _set_target(self):
        """Thresholds and intervals from the held-out scores."""
        self.offset_ = threshold_of(self.oof_scores_, self.target_fpr)
        self.map_offset_ = -threshold_of(-self.oof_map_maxima_, self.target_fpr)
        self._set_rate(self.target_fpr)
        self.map_fpr_interval_ = self.fpr_interval_
        return self

    def _set_rate(self, expected_fpr):
        """The expected rate of false alarms of ``offset_``, and its intervals."""
        self.expected_fpr_ = expected_fpr
        self.fpr_interval_ = rate_interval(self.n_independent_, expected_fpr, self.confidence)
        self.false_alarms_per_1000_ = self.false_alarm_interval(N_NEW)

    def false_alarm_interval(self, n_images):
        """How many of some new good images ``predict`` will flag.

        Parameters
        ----------
        n_images : int
            New good images like those of ``fit``.

        Returns
        -------
        low, high : int
            Between so many with probability `confidence`.
        """
        check_is_fitted(self)
        return count_interval(self.n_independent_, self.expected_fpr_, self.confidence, n_images)

    def _leave_one_out(self, images, groups):
        """Scores and maxima of the maps of all images, in one fit; None where that cannot be."""
        model = clone(self.estimator)
        detector = model[-1] if isinstance(model, Pipeline) else model
        reason = f"{type(detector).__name__} has no leave_one_out"
        # A frozen one is not fitted: the images given here are new to it.
        if not isinstance(detector, FrozenEstimator) and hasattr(detector, "leave_one_out"):
            features = fit_once(model, images)
            self.estimator_ = model
            try:
                return detector.leave_one_out(features, groups)
            except NotImplementedError as error:
                reason = str(error)
        if self.method == "leave_one_out":
            raise ValueError(f'method="leave_one_out": {reason}; pass method="folds"')
        return None

    def _splits(self, images, groups):
        """List of (train, test); no image is in two test parts."""
        cv = self.cv
        if isinstance(cv, Integral):
            cv = GoodOnlyKFold(cv, shuffle=True, random_state=self.random_state)
        splits = list(check_cv(cv).split(images, groups=groups))
        held_out = np.concatenate([test for _, test in splits])
        if len(np.unique(held_out)) < len(held_out):
            raise ValueError(
                f"expected a splitter that holds out each image at most once, got {cv!r}, which "
                "repeats images: their scores would count twice; pass a number of folds, "
                "KFold, or ShuffleSplit with n_splits=1"
            )
        return splits

    def _held_out(self, images, splits):
        """Scores and maxima of the maps of the held-out images, in the images' order."""
        jobs = (
            delayed(_score_held_out)(without_threshold(clone(self.estimator)), images, train, test)
            for train, test in splits
        )
        parts = Parallel(n_jobs=self.n_jobs, return_as="generator")(jobs)
        parts = list(tqdm(parts, "folds", len(splits), disable=not self.verbose))
        order = np.argsort(np.concatenate([test for _, test in splits]))
        return np.concatenate(parts, axis=1)[:, order]

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
        return self.estimator_.score_samples(X)

    def score_samples_and_map(self, X):
        """Scores and anomaly maps in one pass; see ``map_offset_`` for a threshold on the maps.

        Parameters
        ----------
        X : as in fit

        Returns
        -------
        scores : ndarray of shape (n,), float64
            The lower, the more abnormal.
        maps : ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            The higher, the more abnormal; a list where the images' sizes differ.
        """
        check_is_fitted(self)
        return scores_and_maps(self.estimator_, X)


def _score_held_out(estimator, images, train, test):
    """(2, n_test): scores and maxima of the maps; of a few images at a time, for memory's sake."""
    estimator.fit(take_rows(images, train), None)
    parts = []
    for part in gen_batches(len(test), BATCH_SIZE):
        scores, maps = scores_and_maps(estimator, take_rows(images, test[part]))
        parts.append([scores, [score_map.max() for score_map in maps]])
    return np.concatenate(parts, axis=1)
