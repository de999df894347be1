"""HeldOutThreshold: a threshold for a wanted rate of false alarms on unseen good images."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.model_selection import check_cv
from sklearn.utils import gen_batches, get_tags, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skanomaly.base import ThresholdMixin
from skanomaly.feature_maps import BATCH_SIZE
from skanomaly.model_selection._conformal import rate_interval, threshold_rank
from skanomaly.model_selection._split import GoodOnlyKFold, good_and_defects, take_rows
from skanomaly.utils.unwrapping import scores_and_maps, without_threshold
from skanomaly.utils.validation import Interval, fitting


class HeldOutThreshold(ThresholdMixin, MetaEstimatorMixin, BaseEstimator):
    """Detector with a threshold for a wanted rate of false alarms, taken from held-out images.

    The good images are scored by models that have not seen them, fold by fold. The thresholds on
    the image's score and on the score map are order statistics of these scores; the model in use
    is fitted on all good images. A detector's own ``contamination`` counts on the images that it
    was fitted on instead, and flags many times the promised share of new ones.

    Parameters
    ----------
    estimator : estimator
        A detector with score maps, or a Pipeline that ends in one. It is cloned.
    target_fpr : float in (0, 0.5], default=0.01
        Wanted share of unseen good images that are flagged as defects. It takes
        ``1 / target_fpr - 1`` good images at least: 99 for 1 %.
    cv : int or splitter, default=5
        How good images are held out. An int is the number of shuffled folds of
        :class:`GoodOnlyKFold`; a splitter, as ``LeaveOneOut()``, may hold out each image at most
        once. More folds take more time and are less cautious (see Notes).
    confidence : float in (0, 1), default=0.95
        Probability of ``fpr_interval_``.
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
        Threshold on ``score_map``: where ``score_map(X) > map_offset_``, a pixel is a defect. At
        most the share `target_fpr` of unseen good images has any such pixel.
    fpr_interval_ : tuple (low, high)
        Where the true rate of false alarms of ``predict`` lies with probability `confidence`.
    map_fpr_interval_ : tuple (low, high)
        The same, with equal numbers, for good images with a pixel above ``map_offset_``.
    good_images_ : ndarray of shape (n_good,), int
        Places in X of the good images.
    oof_scores_ : ndarray of shape (n_held_out,), float64
        Scores of the held-out good images (out of fold), in the order of the images.
    oof_map_maxima_ : ndarray of shape (n_held_out,), float64
        Largest value of each held-out image's score map, in the same order.

    See Also
    --------
    GoodOnlyKFold : Folds that keep several images of a piece together, given their groups.

    Notes
    -----
    Among n held-out scores and the score of one new good image, all of one distribution, each
    rank is equally likely for the new one. With ``offset_`` at the k-th smallest of the n, it
    falls below with probability k / (n + 1), or less where there are ties; k is the largest
    number for which this is at most `target_fpr`: split conformal prediction [1]_. If not even
    k = 1 is, a warning says so and the smallest score is the threshold.

    That is the mean over all sets of n images one might have had. The rate for the n images at
    hand is the share of the distribution below its k-th order statistic, which follows
    Beta(k, n + 1 - k) whatever the distribution [2]_ [3]_; `fpr_interval_` holds its central
    part. Exact for one model and independent scores without ties. Here each held-out score comes
    from a model that has seen fewer images than ``estimator_`` and scores every image as a little
    more abnormal: the true rate tends to be lower, often by half with 5 folds, and may lie below
    the interval; 20 folds come closer. The upper end is what to rely on.

    All this holds for new images like those given. Several images of one piece are no
    independent images (pass `groups`), and no number of images from one day predicts another
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
    >>> data = make_inspection(29, 10, 4, kind="brushed", size=64, random_state=0)
    >>> features = FilterBank(image_size=64, random_state=0)
    >>> pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
    >>> model = HeldOutThreshold(pipe, target_fpr=0.1, cv=2, random_state=0)
    >>> model.fit(data.train.images).predict(data.test.images)
    array([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1, -1, -1, -1, -1])
    >>> low, high = model.fpr_interval_  # Beta(3, 27)
    >>> print(f"{low:.3f} {high:.3f}")
    0.022 0.228
    """

    _parameter_constraints = {
        "estimator": "no_validation",
        "target_fpr": [Interval(Real, 0, 0.5, closed="right")],
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
        target_fpr=0.01,
        cv=5,
        confidence=0.95,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.target_fpr = target_fpr
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
        self.good_images_ = good
        # The model in use first: errors then name images by their places among all of them.
        self.estimator_ = clone(self.estimator).fit(images, None)
        splits = self._splits(images, None if groups is None else np.asarray(groups)[good])
        self.oof_scores_, self.oof_map_maxima_ = self._held_out(images, splits)
        n = len(self.oof_scores_)
        k = threshold_rank(n, self.target_fpr)
        self.offset_ = float(np.sort(self.oof_scores_)[k - 1])
        self.map_offset_ = float(np.sort(self.oof_map_maxima_)[-k])
        self.fpr_interval_ = self.map_fpr_interval_ = rate_interval(k, n, self.confidence)
        return self

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
