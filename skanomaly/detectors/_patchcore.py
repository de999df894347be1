"""PatchCore (Roth et al., CVPR 2022): distance to the nearest of many good patches.

patches     D numbers per position: each layer averaged over 3 x 3 cells, layers joined
M           memory bank (m, D): a greedy coreset of the good images' patches
m*          nearest patch of the bank
s*          max over the image's patches of |patch - m*|                          (eq. 6)
s           (1 - softmax of |patch* - m*| among m*'s b neighbours in M) * s*       (eq. 7)
"""

from numbers import Integral, Real

import numpy as np
from scipy.special import logsumexp
from sklearn.utils import check_random_state

from skanomaly._cache import digest
from skanomaly._memory import MemoryLimitError, check_memory
from skanomaly._threads import lone_products
from skanomaly._validation import Interval, StrOptions
from skanomaly.base import BaseDetector
from skanomaly.coreset import RandomProjection, greedy_order
from skanomaly.detectors._bank import ORIGIN_BYTES, first_rows, gather
from skanomaly.detectors._nearest_good import NearestGood
from skanomaly.feature_maps import BATCH_SIZE, check_odd, finest_grid, join, local_mean
from skanomaly.neighbors import PatchIndex

CORESET_ROW_BYTES = 220  # estimate: what the greedy search holds beside each projected row
CACHED_NEIGHBORS = 9  # scores with so many neighbours or fewer, likewise
CACHED_RATIO = 0.1  # coresets up to this ratio are computed at once where there is a cache
WAYS_OUT = (
    "a smaller coreset_ratio or n_projections; an extractor with memory_limit, which streams its "
    "features, with a smaller image_size, or with fewer layers; fewer images"
)


class PatchCore(NearestGood, BaseDetector):
    """Memory bank of good patches; an image is as abnormal as its most unfamiliar patch.

    Parameters
    ----------
    coreset_ratio : float in (0, 1], default=0.1
        Share of the good patches the memory bank keeps.
    n_neighbors : int, default=1
        A patch's score is its mean distance to so many patches of the bank.
    n_reweight : int, default=9
        Neighbours b in the re-weighting of the image's score, or as many as the bank has; 0
        leaves it out, as the authors' own code does. Used where ``image_score="paper"``.
    n_projections : int or None, default=128
        Dimensions of the random projection in which the coreset is chosen; None: all.
    neighbors : {"exact", "pynndescent"}, default="exact"
        How the bank is searched. "pynndescent" is approximate.
    patch_size : int, default=3
        Side, in cells, of the neighbourhood over which each layer is averaged; odd, 1: none.
    image_score : {"paper", "map_max"}, default="paper"
        Score of an image: the paper's, or the maximum of its smoothed score map.
    sigma : float, default=4.0
        Smoothing of the score map, in pixels of the extractor's input.
    contamination : float in (0, 0.5], default=0.01
        Share of the training images that fall below the threshold.
    memory_limit : int, str such as "2GB", or None, default=None
        Budget of a fit and of the search, stored features included; None: what the machine has.
        A fit that cannot keep to it is refused before it starts. The answer does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the projection and the first patch.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    memory_bank_ : ndarray of shape (m, D), float32
        In greedy order: its first rows are the bank of every smaller ratio.
    memory_origin_ : ndarray of shape (m, 2), int32
        Where each row comes from: the image's place in the X of fit, images left out as defects
        counted, and the cell, ``row * w + column`` of the finest grid.
    memory_frames_ : ndarray of shape (n, 2), int32
        Height and width of each image of fit; (0, 0) of those left out.
    offset_ : float
        Threshold on ``score_samples``.
    layer_shapes_ : dict of str to tuple (h, w, C)
    n_features_in_ : int
        D, numbers per patch.

    Notes
    -----
    Distances are Euclidean, as in the paper; the authors' code has squared ones. Layers keep all
    their channels; the authors' code averages neighbouring channels down to 1,024.

    References
    ----------
    Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.

    Examples
    --------
    >>> from skanomaly import FilterBank, PatchCore, Pipeline
    >>> from skanomaly.datasets import make_defects, make_textures
    >>> good = make_textures(20, size=(64, 64), random_state=0)
    >>> bad, masks, kinds = make_defects(good[:5], kinds=["blur"], size=2, random_state=0)
    >>> features = FilterBank(image_size=64, random_state=0)
    >>> pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
    >>> pipe.fit(good).predict(bad)
    array([-1, -1, -1, -1, -1])
    """

    _AFTER_FIT = (*BaseDetector._AFTER_FIT, "n_neighbors", "n_reweight", "neighbors")

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "coreset_ratio": [Interval(Real, 0, 1, closed="right")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "n_reweight": [Interval(Integral, 0, None, closed="left")],
        "n_projections": [None, Interval(Integral, 1, None, closed="left")],
        "neighbors": [StrOptions({"exact", "pynndescent"})],
        "patch_size": [Interval(Integral, 1, None, closed="left")],
        "memory_limit": [None, str, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        coreset_ratio=0.1,
        n_neighbors=1,
        n_reweight=9,
        n_projections=128,
        neighbors="exact",
        patch_size=3,
        image_score="paper",
        sigma=4.0,
        contamination=0.01,
        memory_limit=None,
        random_state=None,
        verbose=0,
    ):
        self.coreset_ratio = coreset_ratio
        self.n_neighbors = n_neighbors
        self.n_reweight = n_reweight
        self.n_projections = n_projections
        self.neighbors = neighbors
        self.patch_size = patch_size
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.memory_limit = memory_limit
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, X):
        check_odd(self.patch_size)
        self._check_memory(X)
        rng = check_random_state(self.random_state)
        self._seed, self._index = rng.randint(2**31), None
        height, width = finest_grid(X.layer_shapes)
        n_patches = len(X) * height * width
        n_kept = n_chosen = max(1, int(self.coreset_ratio * n_patches))
        key = None
        if X.cache is not None and isinstance(self.random_state, Integral):
            settings = (self.n_projections, self.patch_size, int(self.random_state))
            key = digest("greedy order and origins", settings, X.keys.tolist())
            kept = X.cache.load(key) if key in X.cache else {"bank": ()}
            if len(kept["bank"]) >= n_kept:
                self._keep(n_kept, **kept)
                return
            if self._fits(X, CACHED_RATIO):  # the ratios that a search is likely to ask for next
                n_chosen = max(n_kept, int(CACHED_RATIO * n_patches))
        projected = self._project(X, RandomProjection(self.n_projections, rng))
        order = greedy_order(projected, n_chosen, random_state=rng, verbose=self.verbose)
        del projected
        kept = gather(X, order, self._patches, self.n_features_in_)
        if key is not None:
            X.cache.save(key, kept)
        self._keep(n_kept, **kept)

    def _keep(self, n_rows, bank, origin, frames):
        self.memory_bank_ = first_rows(bank, n_rows)
        self.memory_origin_, self.memory_frames_ = first_rows(origin, n_rows), frames

    def _number_images(self, maps, rows, n_images):
        super()._number_images(maps, rows, n_images)
        self.memory_origin_[:, 0] = rows[self.memory_origin_[:, 0]]

    def _check_memory(self, X, ratio=None):
        """Refuse a fit that does not fit, before anything is computed."""
        needs = self._memory_needs(X.layer_shapes, len(X), ratio)
        held = {"features": X.nbytes, **needs}
        check_memory(held, self.memory_limit, WAYS_OUT)

    def _fits(self, X, ratio):
        """Whether a coreset of this ratio could be made."""
        try:
            self._check_memory(X, ratio)
        except MemoryLimitError:
            return False
        return True

    def _memory_needs(self, layer_shapes, n_images, ratio=None):
        """Bytes a fit holds at its widest, by what they are for; features not counted."""
        height, width = finest_grid(layer_shapes)
        n_features = sum(shape[2] for shape in layer_shapes.values())
        n_patches = n_images * height * width
        n_kept = max(1, int((ratio or self.coreset_ratio) * n_patches))
        n_dims = min(self.n_projections or n_features, n_features)
        return {
            "projected patches": 4 * n_dims * (n_patches + n_kept),
            "the coreset's search": CORESET_ROW_BYTES * n_patches,
            "memory bank and its index": (4 * 2 * n_features + ORIGIN_BYTES) * n_kept,
            "a batch": 4 * 4 * n_features * min(n_images, BATCH_SIZE) * height * width,
        }

    def _project(self, X, projection):
        """All patches, projected batch by batch: (n * h * w, n_projections)."""
        projection.fit(self.n_features_in_, origin=self._patches(X[0])[0])
        projected, done = None, 0
        for piece in X.batches():
            rows = projection.transform(self._patches(piece))
            if projected is None:
                n_patches = len(X) * len(rows) // len(piece)
                projected = np.empty((n_patches, rows.shape[1]), dtype=np.float32)
            projected[done : done + len(rows)] = rows
            done += len(rows)
        return projected

    def _patches(self, X):
        """Locally aware patches of a few images, (b * h * w, D)."""
        joined = join({name: local_mean(m, self.patch_size) for name, m in X.arrays().items()})
        return joined.reshape(-1, joined.shape[3])

    def _score_batch(self, X):
        ((patch_scores, image_scores),) = self._score_by_count(X, [self.n_neighbors])
        return patch_scores, image_scores

    def _score_by_count(self, X, counts):
        """Patch scores (b, h, w) and image scores (b,) for each number of neighbours."""
        patches = self._patches(X)
        distances, indices = self._bank_index().kneighbors(patches, max(counts))
        grid = finest_grid(self.layer_shapes_)
        for n_neighbors in counts:
            patch_scores = distances[:, :n_neighbors].mean(axis=1).reshape(len(X), *grid)
            image_scores = patch_scores.max(axis=(1, 2))
            if self.n_reweight > 0 and self.image_score == "paper":
                worst = patch_scores.reshape(len(X), -1).argmax(axis=1)
                worst += np.arange(len(X)) * grid[0] * grid[1]
                image_scores = image_scores * self._weights(patches[worst], indices[worst, 0])
            yield patch_scores, image_scores

    def _scored(self, X):
        n_cached = min(CACHED_NEIGHBORS, len(self.memory_bank_))
        if self._score_identity() is None or self.n_neighbors > n_cached:
            yield from super()._scored(X)
            return

        def score(piece):
            with lone_products():
                by_count = list(self._score_by_count(piece, range(1, n_cached + 1)))
            patch_scores, image_scores = zip(*by_count, strict=True)
            return {
                "patch_scores": np.stack(patch_scores, 1),
                "image_scores": np.stack(image_scores, 1),
            }

        place = self.n_neighbors - 1
        for frames, answers in X.answers(score, self._score_identity(n_neighbors="all")):
            yield frames, answers["patch_scores"][:, place], answers["image_scores"][:, place]

    def _weights(self, patches, nearest):
        """Eq. 7: near 1 where m* is a rare patch of the bank, 1 - 1/b where it is a common one."""
        n_around = min(self.n_reweight, len(self.memory_bank_))
        _, around = self._bank_index().kneighbors(self.memory_bank_[nearest], n_around)
        gaps = patches[:, None, :] - self.memory_bank_[around]  # (b, n_around, D)
        distances = np.linalg.norm(gaps, axis=2)
        own = np.linalg.norm(patches - self.memory_bank_[nearest], axis=1)
        return 1 - np.exp(own - logsumexp(distances, axis=1))

    def _patch_grid(self):
        return finest_grid(self.layer_shapes_)

    def _nearest_patches(self, X, images, cells):
        height, width = self._patch_grid()
        numbers = (images * height + cells[:, 0]) * width + cells[:, 1]
        distances, indices = self._bank_index().kneighbors(self._patches(X)[numbers])
        places, cells = self.memory_origin_[indices[:, 0]].T
        return distances[:, 0], places, np.column_stack(np.divmod(cells, width))

    def _bank_index(self):
        """The search structure over the bank, built on first use."""
        if getattr(self, "_index", None) is None:
            self._index = PatchIndex(
                self.neighbors, memory_limit=self.memory_limit, random_state=self._seed
            ).fit(self.memory_bank_)
        return self._index

    def __getstate__(self):
        return {**super().__getstate__(), "_index": None}
