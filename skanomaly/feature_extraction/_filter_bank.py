"""FilterBank: features learned from the good images in a second, with no weights and no network.

Two stages of filters, each the leading principal components of small patches, measure how much
structure of each kind there is at a place (its energy), at several scales:

    g  = mean of the image's channels,  g_l = g averaged over 2^l x 2^l pixels     (levels l)
    r  = W_l * g_l                      first order: 5 x 5 filters
    m  = sqrt(mean over filters of r^2) the contrast at the place
    sqrt(|r| / (m + eps)), sqrt(m)      contrast-free energies, and the contrast itself
    e  = sqrt(|U_l * g_l|)              second order: 7 x 7 filters, their energies filtered again
    sqrt(|V_l * e|)                     by 5 x 5 filters over all first filters: texture of texture
    the image's channels                color

Everything is averaged down to stride 8, standardized per channel on the good images and clipped.
"""

from functools import partial
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_random_state

from skanomaly.base import BaseExtractor
from skanomaly.caching import recall_learned
from skanomaly.feature_extraction._filters import average, convolve, learn_filters
from skanomaly.images import (
    cells_inside,
    channels_of,
    load_batch,
    pack_mask,
    warn_of_unused_bits,
)
from skanomaly.io import digest, open_cache
from skanomaly.utils.threads import count_threads, single_threaded_pool
from skanomaly.utils.validation import IMAGE_SIZE, Interval

STRIDE = 8
FIRST_LEVELS = (0, 1, 2, 3)  # first-order filters at 1, 1/2, 1/4, 1/8 of the input's size
SECOND_LEVELS = (0, 1)
FIRST_SIZE, PRIMARY_SIZE, SECONDARY_SIZE = 5, 7, 5  # sides of W, U, V in pixels
DEFAULT_SIZE = 224  # pixels
N_LEARNING_IMAGES = 40
LEARNING_PIXELS = 16 * 512 * 512  # of tiles; larger ones are fewer, but not less than this:
FEWEST_TILES = 4
CONTRAST_FLOOR = 0.3  # eps: below this contrast a pattern counts as noise
CLIP = 4.0  # standard deviations
LEARNED = {  # attributes that hold an array per level
    "first_filters_": len(FIRST_LEVELS),
    "primary_filters_": len(SECOND_LEVELS),
    "primary_scale_": len(SECOND_LEVELS),
    "secondary_filters_": len(SECOND_LEVELS),
}


class FilterBank(BaseExtractor):
    """Features from two stages of filters learned from the good images.

    Parameters
    ----------
    n_filters : int, default=16
        First-order filters per level, at most 24. The second order uses half as many primary
        and twice as many secondary filters.
    image_size : int, (int, int) or None, default=None
        Height and width in pixels that images are brought to; multiples of 8, at least 64, where
        there are no tiles. None: 224, or with ``tile_size`` the size of the first image of fit.
    <resize>
    <tile_size>
    <tile_overlap>
    <roi>
    n_jobs : int or None, default=None
        Images read, and images computed, at a time, as in scikit-learn: -1 for all processors.
        None: two are read, and as many computed as torch has threads. A single image is shared
        among the threads. Features do not depend on it.
    <extractor_memory_limit>
    cache : str, Path, joblib.Memory or None, default=None
        Folder in which filters and each image's features are kept, under digests of the images
        and of all else that they depend on, and with them what detectors learn and predict:
        a search over many settings, or another run, computes each of them once. It needs an int
        as ``random_state``, without which the filters differ each time. Nothing is ever deleted.
    random_state : int, RandomState instance or None, default=None
        Draws the patches the filters are learned from.
    <verbose>

    Attributes
    ----------
    first_filters_ : list of ndarray of shape (n_filters, 1, 5, 5)
    primary_filters_ : list of ndarray of shape (n_filters // 2, 1, 7, 7)
    primary_scale_ : list of ndarray of shape (n_filters // 2,)
    secondary_filters_ : list of ndarray of shape (2 * n_filters, n_filters // 2, 5, 5)
    mean_, scale_ : ndarray of shape (n_channels,)
        Of the features over the good images.
    n_channels_in_ : int
        Channels of the images; gray images count as RGB.
    layer_shapes_ : dict of str to tuple (h, w, C)
        One layer, "energies", at stride 8.

    See Also
    --------
    FeatureExtractor : Features of a pretrained network.

    Examples
    --------
    >>> from skanomaly import FilterBank
    >>> from skanomaly.datasets import make_textures
    >>> good = make_textures(4, size=(64, 64), random_state=0)
    >>> FilterBank(image_size=64, random_state=0).fit_transform(good)
    FeatureMaps(4 images, stored: energies (8, 8, 135))
    """

    smallest_side = 64  # pixels of the input
    _transient = ("_filters",)
    _n_learning_images = N_LEARNING_IMAGES

    _parameter_constraints = {
        **BaseExtractor._parameter_constraints,
        "image_size": [None, *IMAGE_SIZE],
        "n_filters": [Interval(Integral, 2, FIRST_SIZE**2 - 1, closed="both")],
    }

    def __init__(
        self,
        *,
        n_filters=16,
        image_size=None,
        resize="stretch",
        tile_size=None,
        tile_overlap=64,
        roi=None,
        n_jobs=None,
        memory_limit=None,
        cache=None,
        random_state=None,
        verbose=0,
    ):
        self.n_filters = n_filters
        self.image_size = image_size
        self.resize = resize
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap
        self.roi = roi
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.cache = cache
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, images):
        size = self.tile_fit
        if (
            size.height % STRIDE
            or size.width % STRIDE
            or min(size.height, size.width) < self.smallest_side
        ):
            name = "image_size" if self._tiling() is None else "tile_size"
            raise ValueError(
                f"{name} must be multiples of {STRIDE}, at least {self.smallest_side}, "
                f"got {size.height} x {size.width}"
            )
        n_used = min(N_LEARNING_IMAGES, len(images))
        chosen = np.linspace(0, len(images) - 1, n_used).astype(int)
        cache = open_cache(self.cache)
        is_known = self._roi_identity() is not None
        if cache is None or not is_known or not isinstance(self.random_state, Integral):
            self._learn(images, chosen)
        else:  # with a seed the same images give the same filters
            settings = "filters", self.n_filters, self._seen(), int(self.random_state)
            self._set_state(recall_learned(cache, images, chosen, settings, self._learn_state))
        grid = (size.height // STRIDE, size.width // STRIDE)
        self.layer_shapes_ = self._joined_shapes({"energies": (*grid, len(self.mean_))})
        warn_of_unused_bits(images)

    def _learn(self, images, chosen):
        """Set all filters and scales from the images at the chosen places."""
        rng = check_random_state(self.random_state)
        if self.tiling_ is None and self.roi is None:
            batch, inside = load_batch(images, chosen, self.image_fit, None)[0], None
        else:
            batch, inside = self._learning_samples(images, chosen, rng)
        self.n_channels_in_ = batch.shape[3]  # (n, H, W, C)
        batch = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
        # An image per thread: torch's own threads wait for each other after every small product,
        # which takes long where another process runs.
        with torch.inference_mode(), single_threaded_pool(self._n_threads()) as pool:
            run = partial(_mapped_without_gradients, pool.map)
            self._learn_filters(batch.mean(1, keepdim=True), rng, inside, run)
            self._standardize(batch, inside, run)
        return self

    def _learning_samples(self, images, chosen, rng):
        """Images, or tiles of them, (n, H, W, C), and which of their cells are inside, or None."""
        self.n_channels_in_ = channels_of(images)
        reader = self._reader()
        if self.tiling_ is None:
            batch, frames, masks = reader.batch(images, chosen)
            grid = self.image_fit.height // STRIDE, self.image_fit.width // STRIDE
            cells = [
                cells_inside(pack_mask(mask), frame, self.image_fit, grid)
                for mask, frame in zip(masks, frames.tolist(), strict=True)
            ]
            return batch, np.stack(cells)
        size = self.tile_fit
        n_tiles = LEARNING_PIXELS // (size.height * size.width)
        n_tiles = min(N_LEARNING_IMAGES, max(FEWEST_TILES, n_tiles))
        chosen = chosen[:: -(-len(chosen) // n_tiles)]
        n_each = -(-n_tiles // len(chosen))
        tiles = []
        for image in chosen:
            tiles += reader.sample_tiles(self.tiling_, images, image, n_each, STRIDE, rng)
        batch = np.stack([tile for tile, _ in tiles])
        return batch, None if reader.roi is None else np.stack([cells for _, cells in tiles])

    def _learn_state(self, images):
        """Learn from all of these images; returns the state."""
        return self._learn(images, range(len(images)))._state()

    def _state(self):
        """Everything learned, as arrays by name."""
        state = {"mean_": self.mean_, "scale_": self.scale_, "n_channels_in_": self.n_channels_in_}
        for name, n_levels in LEARNED.items():
            state |= {f"{name} {level}": getattr(self, name)[level] for level in range(n_levels)}
        return state

    def _set_state(self, state):
        self.mean_, self.scale_ = state["mean_"], state["scale_"]
        self.n_channels_in_ = int(state["n_channels_in_"])
        for name, n_levels in LEARNED.items():
            setattr(self, name, [state[f"{name} {level}"] for level in range(n_levels)])

    def _identity(self):
        return digest(self._seen()[:2], self._state())

    def _seen(self):
        """What of an image is seen: how it is resized, its tiles, and its region of interest."""
        return self.image_fit, self._tiling(), self._roi_identity()

    def _input_size(self):
        return DEFAULT_SIZE if self.image_size is None else self.image_size

    def _learn_filters(self, gray, rng, inside, run):
        """Set all filters from gray images (n, 1, H, W), where they are inside, (n, h, w)."""
        self.first_filters_ = [
            learn_filters(average(gray, 2**level), FIRST_SIZE, self.n_filters, rng, inside)
            for level in FIRST_LEVELS
        ]
        self.primary_filters_, self.primary_scale_, self.secondary_filters_ = [], [], []
        for level in SECOND_LEVELS:
            smaller = average(gray, 2**level)
            primary = learn_filters(smaller, PRIMARY_SIZE, max(1, self.n_filters // 2), rng, inside)
            of_image = partial(_primary_energies, level=level, filters=torch.from_numpy(primary))
            energies = torch.cat(list(run(of_image, smaller[:, None])))
            scale = _deviations(energies, inside) + np.float32(1e-6)
            energies /= torch.from_numpy(scale)[:, None, None]
            self.primary_filters_.append(primary)
            self.primary_scale_.append(scale)
            self.secondary_filters_.append(
                learn_filters(energies, SECONDARY_SIZE, 2 * self.n_filters, rng, inside)
            )

    def _standardize(self, batch, inside, run):
        """Set mean_ and scale_ from images (n, C, H, W), where they are inside, (n, h, w)."""
        self._tensors()
        rows = [maps[0].flatten(1).T.numpy() for maps in run(self._raw, batch[:, None])]
        raw = np.concatenate(rows)  # (positions of all images, channels)
        raw = raw if inside is None else raw[inside.ravel()]
        self.mean_ = raw.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.scale_ = np.maximum(raw.std(axis=0, dtype=np.float64), 1e-6).astype(np.float32)

    def _raw(self, image, run=map):
        """(1, C, H, W) in [0, 1] -> (1, channels, H / 8, W / 8), not yet standardized.

        ``run`` is map, or that of an executor.
        """
        first, second = self._tensors()
        gray = image.mean(1, keepdim=True)
        smaller = {level: average(gray, 2**level) for level in FIRST_LEVELS}
        tasks = [
            *(partial(_first_maps, smaller[i], i, one) for i, one in enumerate(first)),
            lambda: [average(image, STRIDE)],
            *(partial(_second_maps, smaller[i], i, *some) for i, some in enumerate(second)),
        ]
        # The last ones take longest, and begin first.
        found = list(run(_result_of, reversed(tasks)))
        return torch.cat([one for maps in reversed(found) for one in maps], 1)

    def _features(self, batch):
        """(b, height, width, C) float32 in [0, 1] -> {"energies": (b, h, w, D) float32}."""
        b, height, width, _ = batch.shape
        grid = height // STRIDE, width // STRIDE
        maps = np.empty((b, *grid, len(self.mean_)), dtype=np.float32)
        self._tensors()
        n_threads = self._n_threads()
        if b == 1 and n_threads > 1:
            with single_threaded_pool(n_threads) as pool:
                # The mode is one of each thread.
                run = partial(_mapped_without_gradients, pool.map)
                self._write_features(batch[0], maps[0], run)
            return {"energies": maps}
        # An image per thread: its maps stay in the processor's cache, and they depend neither on
        # the other images of the batch nor on the number of threads.
        with single_threaded_pool(min(n_threads, len(batch))) as pool:
            list(pool.map(self._write_features, batch, maps))
        return {"energies": maps}

    @torch.inference_mode()
    def _write_features(self, image, out, run=map):
        """One image (height, width, C) -> its standardized features into out (h, w, D)."""
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        raw = self._raw(tensor[None], run)[0].permute(1, 2, 0).numpy()  # (h, w, D)
        np.subtract(raw, self.mean_, out=out)
        out /= self.scale_
        np.clip(out, -CLIP, CLIP, out=out)

    def _n_threads(self):
        return count_threads(self.n_jobs, torch.get_num_threads())

    def _tensors(self):
        """The filters as tensors, made once."""

        def build():
            second = zip(
                self.primary_filters_, self.primary_scale_, self.secondary_filters_, strict=True
            )
            first = [_as_tensor(filters) for filters in self.first_filters_]
            return first, [tuple(map(_as_tensor, parts)) for parts in second]

        return self._rebuilt("_filters", build)


def _result_of(task):
    return task()


def _mapped_without_gradients(run, function, tasks):
    def call(task):
        with torch.inference_mode():
            return function(task)

    return run(call, tasks)


def _first_maps(gray, level, filters):
    """Maps of the filters of one level, and their contrast, of (1, 1, h, w)."""
    stride = 2 if level == 0 else 1
    response = convolve(gray, filters, stride)
    contrast = response.square().mean(1, keepdim=True).sqrt_()
    response /= contrast + CONTRAST_FLOOR
    pooling = STRIDE // (stride * 2**level)
    return [average(response.abs_().sqrt_(), pooling), average(contrast.sqrt_(), pooling)]


def _second_maps(gray, level, primary, scale, secondary):
    """Maps of the filters of filtered energies, of (1, 1, h, w)."""
    energies = _primary_energies(gray, level, primary, scale)
    return [average(convolve(energies, secondary).abs_().sqrt_(), 2)]


def _deviations(energies, inside):
    """Standard deviation of each channel of (n, f, h, w), where cells (n, h', w') are inside."""
    if inside is None:
        return energies.double().std((0, 2, 3)).float().numpy()
    factor = energies.shape[2] // inside.shape[1]
    cells = inside.repeat(factor, axis=1).repeat(factor, axis=2)
    return energies.permute(0, 2, 3, 1)[torch.from_numpy(cells)].double().std(0).float().numpy()


def _as_tensor(array):
    """A tensor that shares the array's memory, or a copy where that may not be written to."""
    return torch.from_numpy(np.require(array, requirements="W"))


def _primary_energies(gray, level, filters, scale=None):
    """Energies of the primary filters at a quarter of the input's size: (1, n, H / 4, W / 4)."""
    energies = average(convolve(gray, filters, 2 if level == 0 else 1).abs_().sqrt_(), 2)
    return energies if scale is None else energies / scale[:, None, None]
