"""EnsembleDetector: the score maps of several detectors as one."""

import numpy as np
from sklearn.utils import gen_batches
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skanomaly.base import BaseDetector
from skanomaly.ensemble._members import (
    can_leave_one_out,
    check_member,
    fit_held_out,
    left_out_maps,
)
from skanomaly.feature_maps import BATCH_SIZE, FeatureMaps
from skanomaly.images import ImageSubset, check_images
from skanomaly.utils.state import exchanged, reading
from skanomaly.utils.unwrapping import scores_and_maps
from skanomaly.utils.validation import NamedEstimators, StrOptions

DROP = "drop"


class EnsembleDetector(NamedEstimators, BaseDetector):
    """Several detectors as one, by the mean or the maximum of their score maps.

    Each member's score map is divided by the height that those of good images reach, which is
    measured on images that the member has not seen. The maps are then of one scale: where one is 1,
    an image is as unusual as the most unusual place of a good image is on average. The score of an
    image is the maximum of the combined map.

    Parameters
    ----------
    estimators : list of (str, estimator)
        The members by name: Pipelines of an extractor and a detector, or detectors of images. They
        are cloned. "drop" in place of a member leaves it out; a member is set as
        ``set_params(name=...)``, a parameter of it as ``set_params(name__detector__sigma=8)``.
    combination : {"mean", "max"}, default="mean"
        Of the members' maps, pixel by pixel. "mean" evens out what is noise to a single member;
        with "max" what one member sees counts in full, its noise as well.
    weights : array-like of shape (n_estimators,), default=None
        Factors on the members' maps, not negative, dropped members included. "mean" divides them
        by their sum, "max" by the largest; a member of weight 0 is not asked. None: all are equal.
    cv : int or splitter, default=5
        The folds that hold out images, for members that cannot leave out single images of one fit
        (all but PatchCore, SPADE, PaDiM, and RegAD on few images, or Pipelines that end in one of
        these). Each image must
        be held out once.
    <contamination>

    Attributes
    ----------
    named_estimators_ : dict of str to estimator
        The fitted members by name, without those dropped.
    estimators_ : list of estimator
        The same in their order.
    scales_ : ndarray of shape (n_members,), float64
        Mean over the good images of the maximum of each member's score map, each image scored as
        if it were new.
    weights_ : ndarray of shape (n_members,), float64
        As given, without those of dropped members; their sum is 1.
    held_out_scores_ : ndarray of shape (n_learned,), float64
        Scores of the good images, each as if it were new: the lower, the more abnormal. `offset_`
        is a quantile of these.
    held_out_by_ : {"mean", "max"}
        The combination by which these were made.
    offset_ : float
        Threshold on ``score_samples``; not there with ``contamination=None``.
    learned_from_ : ndarray of shape (n,), bool
        False for the images of ``fit`` that y marks as defects.

    See Also
    --------
    skanomaly.model_selection.HeldOutThreshold : A threshold for a wanted rate of false alarms.

    Notes
    -----
    That maps are combined rather than scores of images, that the scale is the mean of the maxima,
    and that the default is the mean were chosen by the mean AUROC over five real sets, defects
    included, see the guide. Score maps must be of a ratio scale, positive with 0 where nothing is
    unusual, as distances are. A member's own ``image_score`` and threshold have no part in the
    result.

    The members are fitted one after another, each on the good images alone. Where y marks defects,
    image i of a member is image ``np.flatnonzero(ensemble.learned_from_)[i]`` of X: this is what
    ``good_image`` counts in ``nearest_good(ensemble.named_estimators_["a"], X)``.

    In a Pipeline behind an extractor the members are detectors of features, which are then computed
    once for all.

    Examples
    --------
    >>> from skanomaly import EnsembleDetector, FilterBank, PaDiM, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_inspection
    >>> data = make_inspection(20, 3, 3, kind="brushed", size=64, random_state=0)
    >>> fine = FilterBank(image_size=64, random_state=0)
    >>> coarse = FilterBank(n_filters=4, image_size=64, random_state=1)
    >>> model = EnsembleDetector([
    ...     ("fine", Pipeline([("features", fine), ("detector", PatchCore(random_state=0))])),
    ...     ("coarse", Pipeline([("features", coarse), ("detector", PaDiM(random_state=0))])),
    ... ])
    >>> model.fit(data.train.images).predict(data.test.images)
    array([ 1,  1,  1, -1, -1, -1])
    >>> model.score_map(data.test.images).shape
    (6, 64, 64)
    """

    image_score = "paper"  # the score of an image comes with its map, nothing is smoothed again

    _parameter_constraints = {
        "estimators": [list],
        "combination": [StrOptions({"mean", "max"})],
        "weights": ["array-like", None],
        "cv": ["cv_object"],
        "contamination": BaseDetector._parameter_constraints["contamination"],
    }

    def __init__(self, estimators, *, combination="mean", weights=None, cv=5, contamination=0.01):
        self.estimators = estimators
        self.combination = combination
        self.weights = weights
        self.cv = cv
        self.contamination = contamination

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags

    def get_params(self, deep=True):
        """Parameters of the ensemble, its members by their names, and their parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether members and their parameters are among them.

        Returns
        -------
        dict of str to object
        """
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params):
        """Set parameters, members or parameters of members.

        Parameters
        ----------
        **params : dict
            By name: ``combination="max"``, ``a="drop"``, ``a__detector__sigma=8``.

        Returns
        -------
        self : object
        """
        with exchanged(self) as fresh:
            fresh._set_params("estimators", **params)
        return self

    @property
    def estimators_(self):
        """The fitted members in their order."""
        check_is_fitted(self)
        return list(self.named_estimators_.values())

    def fit(self, X, y=None):
        """Fit all members on good images, and measure how high their score maps reach.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, array of shape (n, H, W[, C]), or FeatureMaps
            What the members' ``fit`` takes; two good images at least.
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            There is no member, or names or weights cannot be used; a member's score maps are not
            positive, or not in the images' own pixels; or as the members' ``fit``.
        TypeError
            A member is no detector with score maps.
        """
        return super().fit(X, y)

    @available_if(lambda self: self._can_leave_one_out())
    @reading
    def leave_one_out(self, X, groups=None):
        """Scores of the images of ``fit``, each as if it were new.

        It is there where all members can leave out images of one fit.

        Parameters
        ----------
        X : images, or FeatureMaps
            What ``fit`` was called with.
        groups : array of shape (n,), default=None
            Images of one group are left out together. None: each image is a group; ``fit`` has
            kept these scores, and nothing is computed.

        Returns
        -------
        scores : ndarray of shape (n_learned,), float64
            Of the images learned from, as from ``score_samples``: the lower, the more abnormal.
        map_maxima : ndarray of shape (n_learned,), float64
            Largest value of each one's score map.

        Raises
        ------
        ValueError
            X has another number of images than in fit; or there is one group only.
        NotImplementedError
            A member cannot leave out these groups.
        """
        check_is_fitted(self)
        is_kept = self.held_out_by_ == self.combination
        if groups is None and is_kept and len(X) == len(self.learned_from_):
            return self.held_out_scores_.copy(), -self.held_out_scores_
        return super().leave_one_out(X, groups)

    @reading
    def score_samples_and_map(self, X):
        """Scores and anomaly maps in one pass over the images.

        Parameters
        ----------
        X : what ``fit`` takes

        Returns
        -------
        scores : ndarray of shape (n,), float64
            As from ``score_samples``: the lower, the more abnormal.
        maps : ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            As from ``score_map``: the higher, the more abnormal. 1 is as high as those of good
            images reach on average.
        """
        check_is_fitted(self)
        maps = list(self._maps(self._check_X(X, reset=False)))
        alike = len({one.shape for one in maps}) == 1
        return self._scores_of(maps), np.stack(maps) if alike else maps

    # --- what the base class calls --------------------------------------------------------------

    def _fit(self, X):
        members, weights = self._members()
        if len(X) < 2:
            raise ValueError(
                "expected at least two good images, of which one is held out to measure the "
                f"members' scales, got n_samples={len(X)}"
            )
        self.named_estimators_, held_out = {}, []
        for name, member in members.items():
            self.named_estimators_[name], maps = fit_held_out(member, X, self.cv)
            held_out.append(maps)
        scales = [np.mean([one().max() for one in maps], dtype=np.float64) for maps in held_out]
        for name, scale in zip(members, scales, strict=True):
            if not 0 < scale < np.inf:
                raise ValueError(
                    "expected score maps of good images with a positive maximum, by which they are "
                    f"brought to one scale, got a mean of {scale:g} from {name!r}; leave this "
                    "member out, or let its maps be distances"
                )
        self.scales_, self.weights_ = np.array(scales), weights / weights.sum()
        self.held_out_scores_ = self._scores_of(self._combined(held_out))
        self.held_out_by_ = self.combination  # the parameter may be set to another one later

    def _training_scores(self, X):
        return self.held_out_scores_

    def _scores(self, X):
        return self._scores_of(self._maps(X))

    def _can_leave_one_out(self):
        members = getattr(self, "named_estimators_", None)
        members = dict(self._named()) if members is None else members
        return all(can_leave_one_out(one) for one in members.values())

    def _left_out(self, X, groups):
        held_out = [left_out_maps(one, X, groups) for one in self.estimators_]
        for score_map in self._combined(held_out):
            yield self._scores_of([score_map]), [score_map]

    def _fit_settings(self, without=()):
        return None  # members keep what they compute themselves

    def _check_X(self, X, *, reset):
        """Images, or features, that take arrays as index."""
        if not isinstance(X, FeatureMaps):
            X = check_images(X)
            return ImageSubset(X, np.arange(len(X)))
        if len(X) == 0:
            raise ValueError("expected the features of at least one image, got none")
        return X

    # --- members and their maps -----------------------------------------------------------------

    def _named(self):
        """The members that are not dropped, as given."""
        return [(name, one) for name, one in self.estimators if not is_dropped(one)]

    def _members(self):
        """{name: member} and weights (n_members,) of those that are not dropped, validated."""
        for item in self.estimators:
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise ValueError(
                    f"expected estimators to be a list of (name, estimator), got {item!r} in it"
                )
        self._validate_names([name for name, _ in self.estimators])
        members = dict(self._named())
        if not members:
            raise ValueError(
                f"expected at least one member that is not dropped, got {self.estimators!r}"
            )
        for name, member in members.items():
            check_member(name, member)
        is_kept = [not is_dropped(one) for _, one in self.estimators]
        weights = check_weights(self.weights, len(is_kept))[is_kept]
        if not weights.any():
            raise ValueError(
                f"expected a member with a weight above 0, got weights={self.weights!r} for "
                f"{list(members)}"
            )
        return members, weights

    def _maps(self, X):
        """Yield the combined score map (H, W) of each image."""
        is_asked = self.weights_ > 0
        for part in gen_batches(len(X), BATCH_SIZE):
            some = X[np.arange(part.start, part.stop)]
            each = [
                scores_and_maps(member, some)[1] if is_one else [None] * len(some)
                for member, is_one in zip(self.estimators_, is_asked, strict=True)
            ]
            for maps in zip(*each, strict=True):
                yield self._combine(maps)

    def _combined(self, held_out):
        """Yield the combined map of each image, from lists of callables that return maps."""
        for each in zip(*held_out, strict=True):
            yield self._combine([one() for one in each])

    def _combine(self, maps):
        """One map (H, W) float32 of the members' maps of an image; weight 0: not looked at."""
        is_mean, total, first = self.combination == "mean", None, None
        weights = self.weights_ / (1 if is_mean else self.weights_.max())
        for name, one, weight in zip(
            self.named_estimators_, maps, weights / self.scales_, strict=True
        ):
            if weight == 0:
                continue
            scaled = np.asarray(one, dtype=np.float32) * np.float32(weight)
            if total is None:
                total, first = scaled, name
            elif total.shape != scaled.shape:
                raise ValueError(
                    "expected score maps of all members in the images' own pixels, got maps of "
                    f"shape {total.shape} from {first!r} and {scaled.shape} from {name!r}; let "
                    "each member begin with an extractor, which knows the images' sizes"
                )
            else:
                total = np.add(total, scaled) if is_mean else np.maximum(total, scaled)
        return total

    def _scores_of(self, maps):
        maxima = np.array([one.max() for one in maps])
        return self._final_scores(None, image_scores=maxima)


def is_dropped(member):
    """Whether a member is "drop"."""
    return isinstance(member, str) and member == DROP


def check_weights(weights, n_estimators):
    """Weights (n_estimators,) float64, not negative; ones for None."""
    if weights is None:
        return np.ones(n_estimators)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n_estimators,):
        raise ValueError(
            f"expected one weight for each of the {n_estimators} estimators, dropped ones "
            f"included, got weights of shape {weights.shape}"
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"expected finite weights that are not negative, got {weights.tolist()}")
    return weights
