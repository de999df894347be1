"""BaseDetector: the contract of a detector, written once."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skanomaly.base._parts import PartsMixin
from skanomaly.base._threshold_mixin import ThresholdMixin
from skanomaly.base._transient import TransientStateMixin
from skanomaly.base._updates import UpdatesMixin
from skanomaly.caching import code_identity, is_repeatable, recall_batches, training_key
from skanomaly.exceptions import MemoryLimitError
from skanomaly.feature_maps import FeatureMaps, masks_of
from skanomaly.utils.memory_budget import check_memory
from skanomaly.utils.state import reading, snapshot
from skanomaly.utils.targets import good_images
from skanomaly.utils.threads import (
    count_processors,
    count_threads,
    limit_blas_threads,
    single_threaded_pool,
)
from skanomaly.utils.validation import (
    Interval,
    StrOptions,
    check_array_input,
    check_layers,
    fitting,
)


class BaseDetector(TransientStateMixin, UpdatesMixin, PartsMixin, ThresholdMixin, BaseEstimator):
    """Base class of detectors on features.

    A child writes ``__init__``, which only assigns, and two hooks:

    - ``_fit(X)`` learns from FeatureMaps of good images, batch by batch in
      ``for batch in X.batches()`` or at once from ``X.arrays()``. Learned state ends in ``_``.
    - ``_score_maps(X)`` gets stored FeatureMaps of a few images and returns scores of their
      patches, (b, h, w), high for a defect, on a grid over the network's input.

    Patches outside a region of interest, ``X.inside(grid)``, are taken out of the scores by this
    class; a child's ``_fit``, ``_learn_part`` and ``_partial_fit`` do not learn them.

    Optional hooks:

    - ``_score_images(X, score_maps)`` returns the scores (b,) of the images by the method's paper,
      high for a defect; by default the maximum of each score map.
    - ``_training_scores(X)`` returns the scores (n,) of the training images from which the
      threshold is taken, low for a defect; by default those of ``score_samples``.
    - ``_partial_fit(X)`` learns from further images; with it there is a ``partial_fit``.
    - ``_forget(images, places, X)`` forgets some; with it there is ``forget``.
    - ``_leave_one_out(X, groups)`` yields, for the features that it was fitted on, a few images at
      a time: stored FeatureMaps and a dict of their ``score_maps`` and, where ``image_score`` is
      "paper", ``image_scores``, each image judged by what was learned from images of other
      groups; NotImplementedError if it cannot. With it there is ``leave_one_out``.
    - ``_forecast(layer_shapes, n_images)`` returns the bytes that a fit will hold beside the
      features, as a dict by what they are for.
    - ``_plan_parts(X, n_images)``, ``_learn_part(X, first)``, ``_join_parts(states)`` and
      ``_fit_from(state)``: a fit of parts of the images, in other processes.

    Parameters
    ----------
    image_score : {"paper", "map_max"}
        Score of an image: the paper's, or the maximum of its smoothed score map. A constructor may
        leave out any of these parameters; "map_max", 4.0, 0.01 and 0 then hold.
    sigma : float
        Standard deviation of the Gaussian that smooths the score map, in pixels of the network's
        input.
    contamination : float in (0, 0.5], or None
        Share of the training images that fall below the threshold. None: no threshold is set.
    verbose : int
        1 shows progress bars.

    Attributes
    ----------
    offset_ : float
        Threshold on ``score_samples``; not there with ``contamination=None``.
    learned_from_ : ndarray of shape (n,), bool
        False for the images of ``fit`` that y marks as defects, and for forgotten ones; images of
        ``partial_fit`` follow.
    layer_shapes_ : dict of str to tuple (h, w, C)
    image_fit_ : ImageFit
        How the images of fit were brought to the network's input.
    n_features_in_ : int
        Channels of all layers.
    fit_digest_ : str or None
        Digest of all that the fit depended on, under which scores are cached; None where the
        features came without a cache, or ``random_state`` is not an int.
    """

    # Of a child whose constructor has no such parameter.
    image_score, sigma, verbose = "map_max", 4.0, 0
    _default_contamination = 0.01  # under another name: scikit-learn sets an attribute of its own

    # Parameters that the hooks do not look at: scores cached under one value serve the others.
    # A parameter that is not named here is part of every key of the cache; so are all of a child
    # that does not declare its own.
    _unused_by_hooks: tuple[str, ...] = ()
    # False: the paper's scores of images do not depend on the score maps, which are then not made.
    _image_scores_need_maps = True
    # What the user may change where a fit would not fit into memory_limit.
    _memory_advice = "fewer images; an extractor with memory_limit, which streams its features"

    _parameter_constraints = {
        "image_score": [StrOptions({"paper", "map_max"})],
        "sigma": [Interval(Real, 0, None, closed="left")],
        "contamination": [Interval(Real, 0, 0.5, closed="right"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        # scikit-learn's checks pass class numbers as y. With this tag they begin at 1 and are
        # ignored; a fit refuses 0/1.
        tags.target_tags.positive_only = True
        return tags

    @fitting()
    def fit(self, X, y=None):
        """Learn from good images.

        Parameters
        ----------
        X : FeatureMaps of shape (n, D), or array of shape (n, h, w, d) or (n, d)
            Features of good images. A row of a 2-D array is an image of one patch.
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out, so
            that a search may refit on all it was given.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            X is empty, holds NaN, or is images instead of features; y is coded otherwise, as
            0/1, marks every image as a defect, or has another length than X.
        MemoryLimitError
            The fit would not fit into ``memory_limit``. It is a MemoryError and a ValueError.
        """
        maps = self._training_maps(X, y)
        self._check_memory(maps)
        self._fit(self._to_learn_from(maps))
        self.fit_digest_ = training_key(maps, self._fit_settings())
        self._set_offset(maps)
        return self

    def set_threshold(self, X, y=None, *, contamination=None):
        """Set the threshold ``offset_`` from the scores of good images.

        Parameters
        ----------
        X, y : as in ``fit``
            Preferably images that were not fitted on.
        contamination : float in (0, 0.5], or None, default=None
            Share of these images that fall below the threshold; None: the parameter of that name.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            No contamination is given, here or as parameter; or as in ``fit``.
        """
        check_is_fitted(self)
        same = snapshot(self)  # a threshold stays with the state whose scores it is taken from
        share = same._share_below() if contamination is None else contamination
        if not isinstance(share, Real) or not 0 < share <= 0.5:
            raise ValueError(
                f"expected contamination in (0, 0.5], the share of good images below the "
                f"threshold, got {share!r}; pass set_threshold(X, contamination=0.01)"
            )
        maps = same._check_X(X, reset=False)
        scores = same._scores(maps[good_images(y, len(maps))])
        same.offset_ = np.percentile(scores, 100 * share)
        return self

    @available_if(lambda self: self._can_leave_one_out())
    @reading
    def leave_one_out(self, X, groups=None):
        """Scores of the images of ``fit``, each as if it were new.

        Each image is judged by what was learned from all others, without a fit for each of them.
        The features stay those of ``X``.

        Parameters
        ----------
        X : FeatureMaps, array of shape (n, h, w, d) or (n, d), or images
            What ``fit`` was called with.
        groups : array of shape (n,), default=None
            Images of one group, such as several images of one piece, are left out together. None:
            each image is a group.

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
            With its present parameters, or with these groups, the detector cannot do it; the
            message says why.
        """
        check_is_fitted(self)
        maps = self._check_X(X, reset=False)
        groups = np.arange(len(maps)) if groups is None else np.asarray(groups)
        if not len(maps) == len(groups) == len(self.learned_from_):
            raise ValueError(
                f"expected the {len(self.learned_from_)} images of fit and a group for each, got "
                f"{len(maps)} images and {len(groups)} groups"
            )
        maps, groups = maps[self.learned_from_], groups[self.learned_from_]
        if len(np.unique(groups)) < 2:
            raise ValueError(
                "expected at least two images, or groups of images, of which one is left out, got "
                f"one group of n_samples={len(maps)}"
            )
        scores, maxima = [], []
        for some, score_maps in self._left_out(maps, groups):
            scores.append(some)
            maxima += [one.max() for one in score_maps]
        return np.concatenate(scores), np.array(maxima, dtype=np.float64)

    @reading
    def score_samples_and_map(self, X):
        """Scores and anomaly maps in one pass over the images.

        Parameters
        ----------
        X : FeatureMaps, array of shape (n, h, w, d) or (n, d), or images
            What ``fit`` takes.

        Returns
        -------
        scores : ndarray of shape (n,), float64
            As from ``score_samples``: the lower, the more abnormal.
        maps : ndarray of shape (n, H, W), float32, or list of n arrays (H, W)
            As from ``score_map``: the higher, the more abnormal.
        """
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        scores, maps, stack = [], [], None
        for frames, raw in self._raw_scores(X):
            scores.append(self._final_scores(X, **raw))
            first, end = len(maps), len(maps) + len(frames)
            alike = (frames == frames[0]).all() and (
                stack is None or stack.shape[1:] == tuple(frames[0])
            )
            if first == 0 and alike:  # as many as there are, if all are of the first one's size
                stack = np.empty((len(X), *frames[0]), dtype=np.float32)
            elif stack is not None and not alike:
                maps, stack = [one.copy() for one in maps], None
            out = None if stack is None else stack[first:end]
            maps += self._in_frames(X.image_fit, frames, **raw, out=out)
        return np.concatenate(scores), maps if stack is None else stack

    @reading
    def score_samples(self, X):
        """Score of each image: the lower, the more abnormal.

        Parameters
        ----------
        X : FeatureMaps, array of shape (n, h, w, d) or (n, d), or images
            What ``fit`` takes.

        Returns
        -------
        ndarray of shape (n,), float64
        """
        check_is_fitted(self)
        return self._scores(self._check_X(X, reset=False))

    # --- hooks with a default -----------------------------------------------------------------

    def _score_images(self, X, score_maps):
        """(b,) scores of stored FeatureMaps of a few images, high for a defect."""
        return score_maps.max(axis=(1, 2))

    def _training_scores(self, X):
        """(n,) scores of the training images, low for a defect: the threshold's quantile is theirs.

        In-sample scores, as scikit-learn's detectors have it. A memory bank knows its own images
        too well: for a promise on unseen parts take the threshold from held-out images.
        """
        return self._scores(X)

    def _forecast(self, layer_shapes, n_images):
        """Bytes that a fit holds at its widest beside the features, by what they are for."""
        raise NotImplementedError(f"{type(self).__name__} has no forecast of its memory")

    # --- from the hooks to the public methods -------------------------------------------------

    def _scores(self, X):
        """(n,) float64, low for a defect."""
        needs_maps = self.image_score == "map_max" or self._image_scores_need_maps
        raw = (one for _, one in self._raw_scores(X, with_maps=needs_maps))
        return np.concatenate([self._final_scores(X, **one) for one in raw])

    def _can_leave_one_out(self):
        return hasattr(self, "_leave_one_out")

    def _left_out(self, X, groups):
        """Yield scores (b,) and score maps of a few images of fit, each as if it were new."""
        for batch, raw in self._leave_one_out(X, groups):
            raw["score_maps"] = batch.scored_inside(raw["score_maps"])
            maps = self._in_frames(batch.image_fit, batch.frames, **raw, roi=batch.roi_bits)
            yield self._final_scores(batch, **raw), maps

    def _in_frames(self, image_fit, frames, score_maps, image_scores=None, roi=None, out=None):
        """Smoothed score maps of a few images, each (H, W) in its frame, 0 outside of its roi.

        ``out``, (b, H, W) float32: where they are written, if given.
        """

        def in_frame(one):
            score_map, frame, inside, place = one
            return image_fit.to_frame(score_map, frame, self.sigma, inside, place)

        places = [None] * len(frames) if out is None else out
        some = zip(score_maps, frames, masks_of(roi, frames), places, strict=True)
        n_threads = count_threads(getattr(self, "n_jobs", None), count_processors())
        with single_threaded_pool(n_threads) as pool:
            return list(pool.map(in_frame, some))

    def _raw_scores(self, X, with_maps=True):
        """Frames (b, 2) and the hooks' scores of a few images at a time, from X's cache if any.

        Yields dicts of ``score_maps`` (b, h, w), -inf outside the regions of interest, for the
        paper's ``image_scores`` (b,), and ``roi``, these regions as bits, where there are such.
        """

        def compute(batch):
            with limit_blas_threads():
                return self._hook_scores(batch, with_maps)

        settings = None
        if self.fit_digest_ is not None:
            kinds = with_maps, self.image_score == "paper"
            settings = "scores", kinds, self.fit_digest_, self._settings()
        return recall_batches(X, settings, compute)

    def _hook_scores(self, batch, with_maps):
        """The hooks' scores of a few images, as in ``_raw_scores``."""
        raw = {}
        if with_maps:
            raw["score_maps"] = batch.scored_inside(self._score_maps(batch))
        if self.image_score == "paper":
            raw["image_scores"] = self._score_images(batch, raw.get("score_maps"))
        return raw

    def _final_scores(self, X, score_maps=None, image_scores=None, roi=None):
        """(b,) float64, low for a defect: the one place where the sign turns."""
        if self.image_score == "map_max":
            with limit_blas_threads():
                image_scores = X.image_fit.smooth(score_maps, self.sigma).max(axis=(1, 2))
        return -image_scores.astype(np.float64)

    def _set_offset(self, X):
        share = self._share_below()
        if share is not None:
            with limit_blas_threads():
                scores = self._training_scores(X)
            self.offset_ = np.percentile(scores, 100 * share)

    def _share_below(self):
        """The parameter contamination, or the usual one of a child that has none."""
        return getattr(self, "contamination", self._default_contamination)

    def _settings(self):
        """The parameters that scores may depend on."""
        # A declaration is about the hooks of its own class: a child's may read more.
        unused = vars(type(self)).get("_unused_by_hooks", ())
        parameters = self.get_params(deep=False)
        return {k: v for k, v in sorted(parameters.items()) if k not in unused}

    def _fit_settings(self, without=()):
        """What a fit depends on beside the images; None where it does not repeat itself."""
        if not is_repeatable(self):
            return None
        settings = {k: v for k, v in self._settings().items() if k not in without}
        return code_identity(type(self)), settings

    def _check_memory(self, X):
        """Refuse a fit that memory_limit does not allow, before anything is computed."""
        has_forecast = type(self)._forecast is not BaseDetector._forecast
        if has_forecast and "memory_limit" in self.get_params(deep=False):
            needs = {"features": X.nbytes, **self._forecast(X.layer_shapes, len(X))}
            check_memory(needs, self.memory_limit, self._memory_advice)

    def _fits_memory(self, X, **changed):
        """Whether memory_limit allows a fit with this changed in its forecast."""
        needs = {"features": X.nbytes, **self._forecast(X.layer_shapes, len(X), **changed)}
        try:
            check_memory(needs, self.memory_limit, self._memory_advice)
        except MemoryLimitError:
            return False
        return True

    def _to_learn_from(self, X):
        """What ``_fit`` gets of the FeatureMaps of good images."""
        return X

    def _count_inputs(self, X, n_images):
        """How many inputs ``_fit`` gets of so many images like X."""
        return n_images

    def _training_maps(self, X, y):
        """FeatureMaps of the good images of X; sets learned_from_."""
        maps = self._check_X(X, reset=True)
        self.learned_from_ = good_images(y, len(maps))
        return maps[self.learned_from_]

    def _check_X(self, X, *, reset):
        """X as FeatureMaps; its kind must be that of fit."""
        if not isinstance(X, FeatureMaps):
            X = FeatureMaps({"features": check_array_input(self, X, reset=reset)})
        elif len(X) == 0:
            raise ValueError("expected the features of at least one image, got none")
        if reset:
            self.layer_shapes_, self.image_fit_ = dict(X.layer_shapes), X.image_fit
            self.n_features_in_ = sum(shape[2] for shape in X.layer_shapes.values())
        else:
            check_layers(self.layer_shapes_, X.layer_shapes)
        return X
