"""PaDiM (Defard et al., ICPR workshops 2020): distance to the Gaussian of each position.

x           d numbers per position: a random choice of the channels of all layers, the coarser
            layers replicated to the finest grid, (b, h, w, d)
mu, Sigma   mean (h, w, d) and covariance (h, w, d, d) over the good images; Sigma + epsilon I
M           sqrt((x - mu)' Sigma^-1 (x - mu)): score of a position, (b, h, w)              (eq. 2)
"""

import copy
import logging
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state
from tqdm.auto import tqdm

from skanomaly.base import BaseDetector
from skanomaly.density import PositionwiseGaussian
from skanomaly.embedding import check_odd, embed, finest_grid
from skanomaly.feature_maps import usual_batch
from skanomaly.utils.threads import using_threads
from skanomaly.utils.validation import Interval, StrOptions

_logger = logging.getLogger("skanomaly")


class PaDiM(BaseDetector):
    """One Gaussian per position; a patch is as abnormal as its Mahalanobis distance.

    Images must be aligned: what a position may look like is learned for that position alone.

    Parameters
    ----------
    n_components : int or None, default=100
        Channels in use, drawn at random from all layers' channels; None, or more than there
        are: all. Memory grows with its square. The paper has 100 for ResNet-18 and 550 for
        Wide ResNet-50-2.
    epsilon : float, default=0.01
        Added to every variance. It carries the fit where there are fewer images than channels.
    shrinkage : {"ledoit_wolf"} or None, default=None
        None: the unbiased covariance, as in the paper. "ledoit_wolf": drawn towards a multiple
        of the identity, position by position.
    patch_size : int, default=1
        Side, in cells, of the neighborhood over which each layer is averaged; odd, 1: none, as
        in the paper. 3 suits features of small receptive field, such as FilterBank's.
    updatable : bool, default=True
        False leaves out what only ``partial_fit`` and ``forget`` need, up to two thirds of the
        memory.
    image_score : {"paper", "map_max"}, default="map_max"
        Score of an image: the maximum of M over its positions (the paper's), or of its smoothed
        score map, as the paper's published results have it.
    <sigma>
    <contamination>
    random_state : int, RandomState instance or None, default=None
        Draws the channels.
    n_jobs : int or None, default=None
        Threads of a fit's last step and of scores; -1 and None for all processors.
    <verbose>

    Attributes
    ----------
    channels_ : ndarray of shape (d,), int
        Channels in use, ascending, counted through the layers in their order.
    gaussian_ : PositionwiseGaussian
        Its ``mean_`` has shape (h, w, d).
    inside_ : ndarray of shape (h, w), bool
        Positions in the region of interest; all of them, where there is none.
    offset_ : float
        Threshold on ``score_samples``.
    layer_shapes_ : dict of str to tuple (h, w, C)
    n_features_in_ : int
        Channels of all layers.

    See Also
    --------
    PatchCore : For parts that move about; compares with patches from anywhere.

    Notes
    -----
    ``partial_fit`` gives what a fit on all images would, and ``forget(images, X)``, which needs the
    features of these images again, what a fit without them would; but for ``offset_``.

    Images are taken in batch by batch: memory does not grow with their number. With fewer images
    than half the channels the vectors themselves are kept, which is smaller, with the same
    distances. The score map is enlarged bilinearly.

    References
    ----------
    Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
    Localization", ICPR workshops 2020.

    Examples
    --------
    >>> from skanomaly import FilterBank, PaDiM, Pipeline
    >>> from skanomaly.datasets import make_defects, make_textures
    >>> good = make_textures(20, size=(64, 64), random_state=0)
    >>> bad, masks, kinds = make_defects(good[:5], random_state=0)
    >>> features = FilterBank(image_size=64, random_state=0)
    >>> pipe = Pipeline([("features", features), ("detector", PaDiM(random_state=0))])
    >>> pipe.fit(good).predict(bad)
    array([-1, -1, -1, -1, -1])
    """

    _unused_by_hooks = (
        "contamination", "image_score", "n_jobs", "sigma", "updatable", "verbose",
    )  # fmt: skip
    n_jobs = None  # of a model that was stored before there was this parameter

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "n_components": [None, Interval(Integral, 1, None, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="left")],
        "shrinkage": [None, StrOptions({"ledoit_wolf"})],
        "patch_size": [Interval(Integral, 1, None, closed="left")],
        "updatable": ["boolean"],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        *,
        n_components=100,
        epsilon=0.01,
        shrinkage=None,
        patch_size=1,
        updatable=True,
        image_score="map_max",
        sigma=4.0,
        contamination=0.01,
        random_state=None,
        n_jobs=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.epsilon = epsilon
        self.shrinkage = shrinkage
        self.patch_size = patch_size
        self.updatable = updatable
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _fit(self, X):
        self._fit_as_one_part(X)

    def _plan_parts(self, X, n_images):
        check_odd(self.patch_size)
        if n_images < 2:
            raise ValueError("expected at least 2 good images, for a covariance, got n_samples=1")
        self._begin_plan(X, n_images)
        self.channels_ = np.arange(self.n_features_in_)
        if self.n_components is not None and self.n_components < self.n_features_in_:
            rng = check_random_state(self.random_state)
            self.channels_ = np.sort(rng.permutation(self.n_features_in_)[: self.n_components])

    def _learn_part(self, X, first):
        gaussian = self._new_gaussian()
        inside = self._learn(X, gaussian, None)
        return {**gaussian.get_state(), "inside": inside}

    def _join_parts(self, states):
        joined, inside = self._new_gaussian(), None
        for state in states:
            inside = self._check_roi(state["inside"][None], inside)
            joined.merge(PositionwiseGaussian.from_state(state))
        return {**joined.get_state(), "inside": inside}

    def _fit_from(self, state):
        self.inside_ = state["inside"]
        self.gaussian_ = PositionwiseGaussian.from_state(state)
        if self.gaussian_.form_ == "low_rank":  # finish works in the memory of the vectors
            self.gaussian_ = copy.deepcopy(self.gaussian_)
        self._finish()

    def _partial_fit(self, X):
        known = getattr(self, "inside_", None)  # a model that was stored of old has none
        self.inside_ = self._learn(X, self.gaussian_, known)
        self._finish()

    def _forget(self, images, places, X):
        if X is None:
            raise ValueError(
                "expected the features of the images to forget, got none: PaDiM keeps sums, from "
                "which they are subtracted; pass forget(images, X) with the same images"
            )
        vectors = np.concatenate([self._vectors(batch) for batch in X.batches()])
        self.gaussian_.forget(vectors, places)
        self._finish()

    def _new_gaussian(self):
        return PositionwiseGaussian(
            epsilon=self.epsilon, shrinkage=self.shrinkage, updatable=self.updatable
        )

    def _learn(self, X, gaussian, inside):
        """Learn from X; returns the positions that count, which must be those known, if any are."""
        batches = tqdm(
            X.batches(),
            "PaDiM",
            -(-len(X) // usual_batch(X.layer_shapes)),
            unit="batch",
            disable=not self.verbose,
        )
        grid = finest_grid(X.layer_shapes)
        for piece in batches:
            inside = self._check_roi(_inside(piece, grid), inside)
            gaussian.partial_fit(self._vectors(piece))
        return inside

    def _finish(self):
        with using_threads(self.n_jobs):
            self.gaussian_.finish()
        n_seen, n_channels = self.gaussian_.n_samples_seen_, len(self.channels_)
        if n_seen <= n_channels:
            _logger.info(
                "PaDiM: %d images for %d channels; epsilon carries the fit. More images, fewer "
                "n_components or shrinkage='ledoit_wolf' may help.",
                n_seen,
                n_channels,
            )

    def _check_roi(self, inside, known):
        """The positions (h, w) that count; refuse patches (b, h, w) that do in some images only."""
        known = inside[0] if known is None else known
        if (inside != known).any():
            raise ValueError(
                "PaDiM learns each position from all images: expected one region of interest for "
                "all, got some that differ; pass one mask as roi, or take PatchCore"
            )
        return known

    def _vectors(self, X):
        """The chosen channels of a few images at the finest grid, (b, h, w, d)."""
        return embed(
            X.arrays(),
            patch_size=self.patch_size,
            channels=self.channels_,
            interpolation="nearest",
        )

    _kept_of_forecast = ("factors",)

    def _forecast(self, layer_shapes, n_images):
        height, width = finest_grid(layer_shapes)
        n_features = sum(shape[2] for shape in layer_shapes.values())
        d = min(self.n_components or n_features, n_features)
        n_positions = height * width
        return {
            "sums of products": 8 * n_positions * d * (d + 1) // 2,
            "factors": 4 * n_positions * d * d,
            "a batch": 4 * 4 * n_positions * d * min(n_images, usual_batch(layer_shapes)),
        }

    def _score_maps(self, X):
        with using_threads(self.n_jobs):
            return self.gaussian_.mahalanobis(self._vectors(X))

    def _leave_one_out(self, X, groups):
        if len(np.unique(groups)) < len(X):
            raise NotImplementedError("PaDiM leaves out single images of one fit, not groups")
        found = self.gaussian_.leave_one_out(map(self._vectors, X.batches()))
        for batch, score_maps in zip(X.batches(), found, strict=True):
            raw = {"score_maps": batch.scored_inside(score_maps)}
            if self.image_score == "paper":
                raw["image_scores"] = self._score_images(batch, **raw)
            yield batch, raw


def _inside(X, grid):
    """Which positions of a few images count, (b, h, w)."""
    inside = X.inside(grid)
    return np.ones((len(X), *grid), dtype=bool) if inside is None else inside
