"""SPADE (Cohen and Hoshen, 2020): good images like this one, and then patches like this one.

f           an image's pooled features: the mean of one layer over its positions, (C,)
K           the good images nearest to f
s           mean distance of f to those of the K images: score of the image            (eq. 2)
G           gallery: the patches of the K images, at all positions, layer by layer
d           mean distance of a patch to its kappa nearest of G: score of a position    (eq. 4)
"""

from numbers import Integral

import numpy as np
from sklearn.utils import gen_batches
from tqdm.auto import tqdm

from skanomaly.base import BaseDetector
from skanomaly.detectors._hot_spots import HotSpotsMixin, finest_layer, nearest_in_images
from skanomaly.detectors._memory_bank import scales_of
from skanomaly.embedding import check_odd, embed, local_mean
from skanomaly.feature_maps import FeatureMaps, usual_batch
from skanomaly.neighbors import GalleryIndex, PatchIndex
from skanomaly.utils.validation import Interval, StrOptions, choose_layers

SCREEN_ROW_BYTES = 400  # estimate: what both screens of the search keep beside each patch


class SPADE(HotSpotsMixin, BaseDetector):
    """Nearest good images, and in them the nearest patches.

    Nothing is learned: the good images' features are the model. It suits parts in few poses,
    where a similar good image can be found.

    Parameters
    ----------
    n_neighbors : int, default=50
        Good images K that a new one is compared with.
    n_gallery_neighbors : int, default=1
        Patches kappa of the K images over which a position's score is averaged.
    layers : list of str, str or None, default=None
        Layers of the pyramid whose maps are averaged; None: all.
    image_layer : str or None, default=None
        Layer whose mean describes an image; None: the last one.
    patch_size : int, default=1
        Side, in cells, of the neighborhood over which each layer is averaged; odd, 1: none, as
        in the paper. 3 suits features of small receptive field, such as FilterBank's.
    balance_layers : bool, default=True
        Scale the layers' distances to one mean variance of the channels over good patches, so that
        none outweighs the others by its units; False: as in the paper.
    memory_dtype : {"float32", "float16"}, default="float32"
        How the good images' features are kept; "float16" rounds them, in half the memory.
    image_score : {"paper", "map_max"}, default="paper"
        Score of an image: the paper's, or the maximum of its smoothed score map.
    <sigma>
    <contamination>
    n_jobs : int or None, default=None
        Threads of the search; -1 for all processors, None for as many as numba is set to.
    <bank_memory_limit>
    <verbose>

    Attributes
    ----------
    memory_ : dict of str to ndarray of shape (n, h * w, C)
        The good images' patches by layer.
    pooled_ : ndarray of shape (n, C), float64
        The good images' pooled features.
    layer_scales_ : dict of str to float
        What the layers' distances are multiplied by; the first layer keeps its scale.
    memory_frames_ : ndarray of shape (n_fit, 2), int32
        Height and width of each image; (0, 0) of those left out as defects or forgotten.
    memory_inside_ : ndarray of shape (n, h, w), bool
        Which patches of the finest grid lie in the regions of interest; all of them, where there
        are none. The memory has copies of these in the places of the others.
    offset_ : float
        Threshold on ``score_samples``.
    layer_shapes_ : dict of str to tuple (h, w, C)
    n_features_in_ : int
        Channels of all layers.

    See Also
    --------
    PatchCore : One bank of patches for all images, cut down to a coreset.

    Notes
    -----
    Distances are Euclidean; the paper's are squared. Each layer has its own gallery and map, and
    the maps are averaged at the finest grid, as in the published results; coarser maps are
    enlarged bilinearly. All patches of a gallery are compared.

    The paper pools a network's last layer and compares patches of three earlier ones:
    ``layers=["layer1", "layer2", "layer3"], image_layer="layer4"`` of a ResNet.

    ``nearest_good`` compares patches of the layer with the finest grid, the first of several.

    ``partial_fit`` and ``forget`` give what a fit on all images, or on the others, would, threshold
    included; but for ``layer_scales_``, which stay those of the first fit.

    An image of the memory finds itself. With ``image_score="map_max"`` the threshold is
    therefore set leaving each image out of its own gallery.

    References
    ----------
    Cohen and Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences",
    arXiv 2005.02357, 2020.

    Examples
    --------
    >>> from skanomaly import SPADE, FilterBank, Pipeline
    >>> from skanomaly.datasets import make_defects, make_textures
    >>> good = make_textures(20, size=(64, 64), random_state=0)
    >>> bad, masks, kinds = make_defects(good[:5], kinds=["blur"], size=2, random_state=0)
    >>> features = FilterBank(image_size=64, random_state=0)
    >>> detector = SPADE(n_neighbors=5, image_score="map_max")
    >>> Pipeline([("features", features), ("detector", detector)]).fit(good).predict(bad)
    array([-1, -1, -1, -1, -1])
    """

    _unused_by_hooks = (
        "contamination", "image_score", "memory_limit", "n_jobs", "sigma", "verbose",
    )  # fmt: skip
    n_jobs = None  # of a model that was stored before there was this parameter
    _image_scores_need_maps = False
    _transient = ("_search",)
    _replaced_by_updates = (
        "memory_", "pooled_", "memory_frames_", "memory_inside_", "learned_from_",
    )  # fmt: skip
    _why_not_in_parts = (
        "it keeps the patches of every training image: for thousands of images, not millions; use "
        "PatchCore or PaDiM"
    )
    _memory_advice = (
        "memory_dtype='float16'; fewer layers; an extractor with memory_limit, which streams its "
        "features, or with a smaller image_size; fewer images"
    )

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "n_gallery_neighbors": [Interval(Integral, 1, None, closed="left")],
        "layers": [None, str, "array-like"],
        "image_layer": [None, str],
        "patch_size": [Interval(Integral, 1, None, closed="left")],
        "balance_layers": ["boolean"],
        "memory_dtype": [StrOptions({"float32", "float16"})],
        "memory_limit": [None, str, Interval(Integral, 1, None, closed="left")],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        *,
        n_neighbors=50,
        n_gallery_neighbors=1,
        layers=None,
        image_layer=None,
        patch_size=1,
        balance_layers=True,
        memory_dtype="float32",
        image_score="paper",
        sigma=4.0,
        contamination=0.01,
        n_jobs=None,
        memory_limit=None,
        verbose=0,
    ):
        self.n_neighbors = n_neighbors
        self.n_gallery_neighbors = n_gallery_neighbors
        self.layers = layers
        self.image_layer = image_layer
        self.patch_size = patch_size
        self.balance_layers = balance_layers
        self.memory_dtype = memory_dtype
        self.image_score = image_score
        self.sigma = sigma
        self.contamination = contamination
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.verbose = verbose

    def _fit(self, X):
        self._check_parameters(len(X))
        self.layer_scales_ = (
            scales_of(X, self._pyramid(X.layer_shapes)) if self.balance_layers else {}
        )
        self.memory_ = {
            name: np.empty((0, h * w, c), dtype=self.memory_dtype)
            for name, (h, w, c) in self._pyramid(X.layer_shapes).items()
        }
        self.pooled_ = np.empty((0, X.layer_shapes[self._pooled_layer()][2]))
        self.memory_frames_ = np.zeros((0, 2), dtype=np.int32)
        self.memory_inside_ = np.zeros((0, *self._patch_grid()), dtype=bool)
        self._take_in(X)

    def _partial_fit(self, X):
        self._take_in(X)

    def _take_in(self, X):
        """Add images to the memory, in arrays of its own."""
        n_before, n_known = len(self.pooled_), len(self.memory_frames_)
        places = n_known + np.flatnonzero(self.learned_from_[n_known:])
        self.memory_ = {
            name: _extended(one, n_before + len(X)) for name, one in self.memory_.items()
        }
        self.pooled_ = _extended(self.pooled_, n_before + len(X))
        self.memory_frames_ = _extended(self.memory_frames_, len(self.learned_from_))
        self.memory_inside_ = _extended(self._counting(), n_before + len(X))
        n_batches = -(-len(X) // usual_batch(X.layer_shapes))
        done = 0
        for piece in tqdm(X.batches(), "SPADE", n_batches, unit="batch", disable=not self.verbose):
            rows = slice(n_before + done, n_before + done + len(piece))
            self.pooled_[rows] = self._pooled(piece)
            self.memory_frames_[places[done : done + len(piece)]] = piece.frames
            inside = piece.inside(self._patch_grid())
            self.memory_inside_[rows] = True if inside is None else inside
            for name, patches in self._patches(piece).items():
                inside = piece.inside(self.layer_shapes_[name][:2])
                self.memory_[name][rows] = _only_inside(patches, inside)
            done += len(piece)
        self._search = None

    def _forget(self, images, places, X):
        self._check_parameters(len(self.pooled_) - len(images))
        self.memory_ = {name: np.delete(one, places, axis=0) for name, one in self.memory_.items()}
        self.pooled_ = np.delete(self.pooled_, places, axis=0)
        self.memory_frames_ = self.memory_frames_.copy()
        self.memory_frames_[images] = 0
        self.memory_inside_ = np.delete(self._counting(), places, axis=0)
        self._search = None

    def _update_offset(self, X):
        self._set_offset(X)  # the memory tells the scores of all images

    def _counting(self):
        """Which patches of the memory count, (n, h, w); all of a model that was stored of old."""
        known = getattr(self, "memory_inside_", None)
        shape = len(self.pooled_), *self._patch_grid()
        return np.ones(shape, dtype=bool) if known is None else known

    def _check_parameters(self, n_images):
        check_odd(self.patch_size)
        if self.n_neighbors > n_images:
            raise ValueError(
                f"expected at least n_neighbors={self.n_neighbors} good images to choose from, got "
                f"n_samples={n_images}; ask for fewer neighbors or fit more images"
            )
        choose_layers([self._pooled_layer()], self.layer_shapes_)
        n_fewest = min(h * w for h, w, _ in self._pyramid(self.layer_shapes_).values())
        # The threshold on maps leaves an image out of its own gallery.
        leaves_out = self.image_score == "map_max" and self.n_neighbors == n_images > 1
        n_rows = (self.n_neighbors - leaves_out) * n_fewest
        if self.n_gallery_neighbors > n_rows:
            raise ValueError(
                f"n_gallery_neighbors must be at most {n_rows}, the positions of the coarsest "
                f"layer, {n_fewest}, in all images of a gallery; got {self.n_gallery_neighbors}"
            )

    def _forecast(self, layer_shapes, n_images):
        shapes = self._pyramid(layer_shapes).values()
        n_rows = sum(h * w for h, w, _ in shapes)
        n_numbers = sum(h * w * c for h, w, c in shapes)
        return {
            "memory": np.dtype(self.memory_dtype).itemsize * n_numbers * n_images,
            "its index": SCREEN_ROW_BYTES * n_rows * n_images,
            "a batch": 2 * 4 * n_numbers * min(n_images, usual_batch(layer_shapes)),
        }

    def _forecast_update(self, layer_shapes, n_before, n_new):
        held = sum(one.nbytes for one in self.memory_.values())
        return {"memory so far": held, **self._forecast(layer_shapes, n_before + n_new)}

    def _pyramid(self, layer_shapes):
        """{layer: (h, w, C)} of the layers whose maps count."""
        layers = [self.layers] if isinstance(self.layers, str) else self.layers
        return choose_layers(layer_shapes if layers is None else layers, layer_shapes)

    def _pooled_layer(self):
        return self.image_layer or list(self.layer_shapes_)[-1]

    def _pooled(self, X):
        """One vector per image, the mean of its patches that count: (b, C)."""
        maps = X.arrays()[self._pooled_layer()]
        inside = X.inside(maps.shape[1:3])
        if inside is None:
            return maps.mean(axis=(1, 2), dtype=np.float64)
        return np.stack(
            [one[own].mean(axis=0, dtype=np.float64) for one, own in zip(maps, inside, strict=True)]
        )

    def _patches(self, X):
        """{layer: (b, h * w, C)} of a few images."""
        arrays = X.arrays()
        return {
            name: local_mean(arrays[name], self.patch_size).reshape(len(X), h * w, c)
            for name, (h, w, c) in self._pyramid(self.layer_shapes_).items()
        }

    def _score_maps(self, X):
        _, images = self._indexes()[0].kneighbors(self._pooled(X), self.n_neighbors)
        return self._patch_scores(self._patches(X), images)

    def _score_images(self, X, score_maps):
        distances, _ = self._indexes()[0].kneighbors(self._pooled(X), self.n_neighbors)
        return distances.mean(axis=1)

    def _patch_scores(self, patches, images):
        """Scores (b, h, w) at the finest grid, each image by the good images (b, K) named."""
        galleries = self._indexes()[1]
        maps = {}
        for name, rows in patches.items():
            found = galleries[name].distances(rows, images, self.n_gallery_neighbors)
            height, width, _ = self.layer_shapes_[name]
            found = np.float32(self.layer_scales_.get(name, 1.0)) * found
            maps[name] = found.mean(axis=2).reshape(len(rows), height, width, 1)
        return embed(maps).mean(axis=3)

    def _training_scores(self, X):
        # By the memory, not by X: after partial_fit the images before are not there.
        if self.image_score == "paper":
            distances, _ = self._indexes()[0].kneighbors(self.pooled_, self.n_neighbors)
            return self._final_scores(None, image_scores=distances.mean(axis=1))
        n_images, scores = len(self.pooled_), []
        for part in gen_batches(n_images, usual_batch(self.layer_shapes_)):
            own, images = np.arange(n_images)[part], np.zeros((1, 1), dtype=int)
            if n_images > 1:
                _, images = self._other_images(own, np.arange(n_images))
            rows = {name: one[part].astype(np.float32) for name, one in self.memory_.items()}
            found = np.where(self._counting()[part], self._patch_scores(rows, images), -np.inf)
            maps = FeatureMaps({"score": found[..., None]}, None, self.image_fit_)
            scores.append(self._final_scores(maps, score_maps=found))
        return np.concatenate(scores)

    def _leave_one_out(self, X, groups):
        first = 0
        for batch in X.batches():
            distances, images = self._other_images(np.arange(first, first + len(batch)), groups)
            raw = {"score_maps": self._patch_scores(self._patches(batch), images)}
            if self.image_score == "paper":
                raw["image_scores"] = distances.mean(axis=1)
            yield batch, raw
            first += len(batch)

    def _other_images(self, own, groups):
        """The nearest images of other groups: distances (b, K) and places."""
        is_other = groups[own][:, None] != groups  # (b, n)
        n_asked = min(self.n_neighbors, is_other.sum(axis=1).min())
        n_nearest = min(n_asked + (~is_other).sum(axis=1).max(), len(groups))
        distances, images = self._indexes()[0].kneighbors(self.pooled_[own], n_nearest)
        # A stable sort by whether they are of another group leaves these in their order.
        order = np.argsort(groups[images] == groups[own][:, None], axis=1, kind="stable")
        order = order[:, :n_asked]
        return np.take_along_axis(distances, order, 1), np.take_along_axis(images, order, 1)

    def _finest(self):
        return finest_layer(self._pyramid(self.layer_shapes_))

    def _patch_grid(self):
        return self.layer_shapes_[self._finest()][:2]

    def _nearest_patches(self, X, images, cells):
        name, (_, width) = self._finest(), self._patch_grid()
        _, galleries = self._indexes()[0].kneighbors(self._pooled(X), self.n_neighbors)
        patches = self._patches(X)[name][images, cells[:, 0] * width + cells[:, 1]]
        found = nearest_in_images(self.memory_[name], galleries[images], patches)
        places = np.flatnonzero(self.memory_frames_[:, 0])[found[1]]
        cells = _sources(self._counting()[found[1]])[np.arange(len(images)), found[2]]
        return found[0], places, np.column_stack(np.divmod(cells, width))

    def _indexes(self):
        """The search structures over images and, by layer, galleries, built on first use."""
        return self._rebuilt("_search", self._build_indexes)

    def _build_indexes(self):
        options = {"memory_limit": self.memory_limit, "n_jobs": self.n_jobs}
        galleries = {n: GalleryIndex(**options).fit(m) for n, m in self.memory_.items()}
        return PatchIndex(**options).fit(self.pooled_), galleries


def _extended(array, n_rows):
    """A new array that begins with these rows, and has zeros behind them."""
    longer = np.zeros((n_rows, *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


def _only_inside(rows, inside):
    """Patches (b, h * w, C) with the nearest before, or the first, that counts for each other.

    Galleries have as many patches of each image; one that is there twice changes no distance to
    the nearest.
    """
    if inside is None:
        return rows
    return np.take_along_axis(rows, _sources(inside)[:, :, None], axis=1)


def _sources(inside):
    """For each patch of (b, h, w) the number of the one that stands for it, (b, h * w)."""
    inside = inside.reshape(len(inside), -1)
    source = np.maximum.accumulate(np.where(inside, np.arange(inside.shape[1]), -1), axis=1)
    return np.where(source < 0, inside.argmax(axis=1)[:, None], source)
