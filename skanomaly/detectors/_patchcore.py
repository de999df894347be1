"""PatchCore (Roth et al., CVPR 2022): distance to the nearest of many good patches.

patches     D numbers per position: each layer averaged over 3 x 3 cells, layers joined
M           memory bank (m, D): a greedy coreset of the good images' patches
m*          nearest patch of the bank
s*          max over the image's patches of |patch - m*|                          (eq. 6)
s           (1 - softmax of |patch* - m*| among m*'s b neighbors in M) * s*       (eq. 7)
"""

from functools import partial
from numbers import Integral, Real

import numpy as np

from skanomaly.base import BaseDetector
from skanomaly.caching import recall_images
from skanomaly.detectors._bank_parts import BankPartsMixin
from skanomaly.detectors._bank_updates import BankUpdatesMixin
from skanomaly.detectors._hot_spots import HotSpotsMixin
from skanomaly.detectors._left_out import LeftOutMixin
from skanomaly.detectors._memory_bank import forecast_bank, rarity
from skanomaly.embedding import embed, finest_grid
from skanomaly.neighbors import PatchIndex
from skanomaly.utils.validation import Interval, StrOptions

AHEAD_NEIGHBORS = 9  # with a cache, distances to so many neighbors are measured at once


class PatchCore(BankPartsMixin, BankUpdatesMixin, LeftOutMixin, HotSpotsMixin, BaseDetector):
    """Memory bank of good patches; an image scores as its least familiar patch.

    Parameters
    ----------
    coreset_ratio : float in (0, 1] or "auto", default="auto"
        Share of the good patches the memory bank keeps. "auto": a tenth, as in the paper, but not
        more than 5,000 rows: a larger bank costs time for each image.
    bank_size : int or None, default=None
        Rows of the memory bank, or as many as there are patches; it takes the place of
        ``coreset_ratio``. The choice beyond a few hundred images, where a share of their patches
        grows without end: from 10,000 rows on accuracy hardly grows, while a row costs about
        1.3 us for each image.
    max_bank_size : int or None, default=None
        Rows up to which ``partial_fit`` lets the bank grow. None: twice as many as a fit on all
        images so far would keep.
    n_neighbors : int, default=1
        A patch's score is its mean distance to so many patches of the bank.
    n_reweight : int, default=9
        Neighbors b in the re-weighting of the image's score, or as many as the bank has; 0
        leaves it out, as the authors' own code does. Used where ``image_score="paper"``.
    n_projections : int or None, default=128
        Dimensions of the random projection in which the coreset is chosen; None: all.
    n_candidates : int or None, default=None
        Of all good patches so many are drawn at random, evenly over the images, and the bank is
        chosen from these: less memory and time where images are large or many. None: it is chosen
        from all. ``partial_fit`` looks at all patches.
    neighbors : {"exact", "pynndescent"}, default="exact"
        How the bank is searched. "pynndescent" is approximate.
    patch_size : int, default=3
        Side, in cells, of the neighborhood over which each layer is averaged; odd, 1: none.
    balance_layers : bool, default=True
        Scale the layers to one mean variance of their channels over good patches, so that none
        outweighs the others by its units. Without effect where there is one layer.
    memory_dtype : {"float32", "float16"}, default="float32"
        How the bank is stored: the second halves the file, and rounds its rows to about three
        decimal digits.
    image_score : {"paper", "map_max"}, default="map_max"
        Score of an image: the paper's, or the maximum of its smoothed score map.
    <sigma>
    <contamination>
    device : str, default="cpu"
        Where the coreset is chosen and the bank is searched: "cpu", "cuda", or "auto" for a GPU
        where there is one. On a GPU patches equally far up to rounding may be chosen in another
        order.
    n_jobs : int or None, default=None
        Threads of both; -1 for all processors, None for as many as numba is set to.
    <bank_memory_limit>
    random_state : int, RandomState instance or None, default=None
        Draws the projection and the first patch.
    <verbose>

    Attributes
    ----------
    memory_bank_ : ndarray of shape (m, D), of memory_dtype
        In greedy order: its first rows are the bank of every smaller ratio or size. Rows of
        ``partial_fit`` follow.
    covering_radius_ : float
        Every good patch that the bank was chosen from, inside the region of interest and among the
        ``n_candidates``, lies within this distance of a row of the bank, in the projection in which
        they are chosen; patches of ``partial_fit`` do in all dimensions. Of a bank that is put
        together from parts it is an upper bound. It grows where the bank is full, and ``forget``
        leaves it as it is.
    memory_origin_ : ndarray of shape (m, 2), int32
        Where each row comes from: the image's place in the X of fit, images left out as defects
        counted, and the cell, ``row * w + column`` of the finest grid. Images of ``partial_fit``
        are numbered on.
    memory_frames_ : ndarray of shape (n, 2), int32
        Height and width of each image; (0, 0) of those left out or forgotten.
    offset_ : float
        Threshold on ``score_samples``.
    layer_scales_ : dict of str to float
        What the layers are multiplied by; the first one keeps its scale.
    index_seed_ : int
        Seed of an approximate search of the bank.
    bank_digest_ : str or None
        Digest of all that the bank depends on, under which distances are cached.
    learned_from_, layer_shapes_, fit_digest_ :
        As in BaseDetector.
    n_features_in_ : int
        D, numbers per patch.

    Notes
    -----
    Distances are Euclidean, as in the paper; the authors' code has squared ones. Layers keep all
    their channels; the authors' code averages neighboring channels down to 1,024.

    ``PatchCore(coreset_ratio=0.1, image_score="paper", balance_layers=False)`` is the paper's. The
    defaults were chosen by their mean over five sets of real images: the maximum of the smoothed
    map tells defective images better than the paper's score on nearly all of them.

    ``partial_fit`` adds rows until every patch of its images lies within ``covering_radius_`` of
    one: a bank that covers all images as well as the first one did, though not the rows that a
    fit on all of them would choose. No distance grows by it, and ``offset_`` stays. A warning
    tells how many patches are left outside where the bank is full (``max_bank_size``). ``forget``
    removes the rows that come from some images.

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

    _unused_by_hooks = (
        "contamination", "image_score", "max_bank_size", "memory_limit", "n_jobs", "sigma",
        "verbose",
    )  # fmt: skip
    _transient = ("_index",)
    # Of a model that was stored before there were these parameters.
    bank_size = max_bank_size = n_candidates = None
    memory_dtype = "float32"
    _memory_advice = (
        "n_candidates; a smaller coreset_ratio, bank_size or n_projections; an extractor with "
        "memory_limit, which streams its features, with a smaller image_size, or with fewer "
        "layers; fewer images"
    )

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "coreset_ratio": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="right")],
        "bank_size": [None, Interval(Integral, 1, None, closed="left")],
        "max_bank_size": [None, Interval(Integral, 1, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "n_reweight": [Interval(Integral, 0, None, closed="left")],
        "n_candidates": [None, Interval(Integral, 1, None, closed="left")],
        "n_projections": [None, Interval(Integral, 1, None, closed="left")],
        "neighbors": [StrOptions({"exact", "pynndescent"})],
        "patch_size": [Interval(Integral, 1, None, closed="left")],
        "balance_layers": ["boolean"],
        "memory_dtype": [StrOptions({"float32", "float16"})],
        "device": [str],
        "n_jobs": [None, Integral],
        "memory_limit": [None, str, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        coreset_ratio="auto",
        bank_size=None,
        max_bank_size=None,
        n_neighbors=1,
        n_reweight=9,
        n_projections=128,
        n_candidates=None,
        neighbors="exact",
        patch_size=3,
        balance_layers=True,
        memory_dtype="float32",
        image_score="map_max",
        sigma=4.0,
        contamination=0.01,
        device="cpu",
        n_jobs=None,
        memory_limit=None,
        random_state=None,
        verbose=0,
    ):
        self.coreset_ratio = coreset_ratio
        self.bank_size = bank_size
        self.max_bank_size = max_bank_size
        self.n_neighbors = n_neighbors
        self.n_reweight = n_reweight
        self.n_projections = n_projections
        self.n_candidates = n_candidates
        self.neighbors = neighbors
        self.patch_size = patch_size
        self.balance_layers = balance_layers
        self.memory_dtype = memory_dtype
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.device = device
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.random_state = random_state
        self.verbose = verbose

    def _forecast(self, layer_shapes, n_images, ratio=None):
        size = (self.coreset_ratio, self.bank_size) if ratio is None else (ratio, None)
        size = *size, self.n_candidates
        return forecast_bank(layer_shapes, n_images, self.n_projections, *size)

    def _patches(self, X):
        """Locally aware patches of a few images, (b * h * w, D)."""
        vectors = embed(X.arrays(), patch_size=self.patch_size, scales=self.layer_scales_)
        return vectors.reshape(-1, vectors.shape[3])

    def _score_maps(self, X):
        settings, n_neighbors = None, self.n_neighbors
        if self.bank_digest_ is not None and X.cache is not None:
            # Kept for a search over n_neighbors: the distances of the fewer are among the more.
            n_neighbors = max(n_neighbors, min(AHEAD_NEIGHBORS, len(self.memory_bank_)))
            settings = "distances", n_neighbors, self.neighbors, self.patch_size, self.bank_digest_
        shape = *finest_grid(self.layer_shapes_), n_neighbors

        def measure(batch):
            patches = self._patches(batch)
            distances, nearest = self._bank_index().kneighbors(patches, n_neighbors)
            batch.scratch = patches, nearest[:, 0]  # for _score_images
            return {"distances": distances.reshape(len(batch), *shape)}

        found = measure(X) if settings is None else recall_images(X, settings, measure)
        return found["distances"][..., : self.n_neighbors].mean(axis=3)  # (b, h, w)

    def _score_images(self, X, score_maps):
        scores = score_maps.max(axis=(1, 2))  # s*
        if self.n_reweight == 0:
            return scores
        cells = score_maps.reshape(len(X), -1)
        worst = cells.argmax(axis=1) + cells.shape[1] * np.arange(len(X))
        patches, nearest = X.scratch or (self._patches(X), None)  # of _score_maps
        nearest = None if nearest is None else nearest[worst]
        bank = self._bank_index(), self.memory_bank_
        return scores * rarity(patches[worst], nearest, *bank, self.n_reweight)

    def _nearest_patches(self, X, images, cells):
        height, width = self._patch_grid()
        numbers = (images * height + cells[:, 0]) * width + cells[:, 1]
        distances, indices = self._bank_index().kneighbors(self._patches(X)[numbers])
        places, cells = self.memory_origin_[indices[:, 0]].T
        return distances[:, 0], places, np.column_stack(np.divmod(cells, width))

    def _bank_index(self):
        """The search structure over the bank, built on first use."""
        options = {"device": self.device, "memory_limit": self.memory_limit, "n_jobs": self.n_jobs}
        index = PatchIndex(self.neighbors, random_state=self.index_seed_, **options)
        build = partial(index.fit, self.memory_bank_)
        # The parameter may have been set since.
        return self._rebuilt("_index", build, lambda found: found.method == self.neighbors)
