"""BaseImageDetector: a detector of images rather than features."""

from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.base import clone
from tqdm.auto import tqdm

from skanomaly.base._detector import BaseDetector
from skanomaly.base._image_reader import (
    ImageReader,
    RegionOfInterestMixin,
    check_roi,
    learn_roi,
    present_roi,
)
from skanomaly.base._tiled_images import PIXELS, count_tiles, draw_tiles, each_tile
from skanomaly.feature_maps import BATCH_SIZE, FeatureMaps
from skanomaly.images import (
    RESIZE_MODES,
    ImageFit,
    ImageSubset,
    Tiling,
    channels_of,
    check_images,
    name_in,
    read_image,
    tile_sides,
)
from skanomaly.utils.memory_budget import available_memory
from skanomaly.utils.targets import good_images
from skanomaly.utils.threads import N_READERS, count_threads
from skanomaly.utils.validation import IMAGE_SIZE, Interval, StrOptions


class BaseImageDetector(RegionOfInterestMixin, BaseDetector):
    """Base class of detectors on images.

    The hooks are those of BaseDetector. ``_fit(X)`` gets FeatureMaps with one layer, "pixels": the
    good images at the input's size, (n, H, W, C) float32 in [0, 1]. They are read once and held,
    unless they would take more than half of the memory that is left: then ``X.batches()`` reads
    each of them once per pass. ``_score_maps(X)`` gets a few images as ``X.arrays()["pixels"]``.

    With ``tile_size`` the hooks get tiles instead of whole images, for them images of the size
    ``tile_fit``: ``_fit`` about 1,000, drawn from all, and ``_score_maps`` all of an image, whose
    maps are joined to one. ``_score_images`` gets the image and its joined map, or, in a class
    with ``_image_scores_need_maps = False``, the tiles, whose largest score is the image's.

    With ``roi`` pixels outside have the mean color inside, and ``X.inside((h, w))`` tells, as to
    every detector, which patches need not be learned.

    Parameters
    ----------
    image_size : int, (int, int) or None
        Height and width in pixels that images are brought to; None: ``_default_size``, or with
        tiles the size of the first image.
    resize : {"stretch", "pad", "crop"}
        How: changing the aspect ratio, padding the shorter side, or cropping the longer one.
        Score maps undo it.
    tile_size : int, (int, int) or None
        Images are seen as tiles of so many pixels; None: as a whole.
    tile_overlap : int
        Pixels that neighboring tiles share, at least.
    roi : mask, list of masks, callable or None
        Where pixels count; None: everywhere.
    device : str
        "cpu", "cuda", ...; "auto" takes a GPU where there is one.
    n_jobs : int or None
        Threads that read images; -1 for all processors, None for two.
    image_score, sigma, contamination, verbose :
        As in BaseDetector.

    Attributes
    ----------
    image_fit_ : ImageFit
        How images are brought to the input's size, as a whole.
    tiling_ : Tiling or None
        How they are divided into tiles.
    tiles_ : ndarray of shape (m, 2), int
        With tiles: those learned from, by image, counted among those learned from, and number.
    roi_ : ndarray of shape (H, W), bool
        The region of interest, where it is one for all images.
    n_channels_in_ : int
        Channels of the images; gray images count as RGB.
    offset_, learned_from_, layer_shapes_, n_features_in_, fit_digest_ :
        As in BaseDetector; the layer is "pixels".
    """

    # Of a child whose constructor has no such parameter.
    image_size, resize, device, n_jobs = None, "stretch", "auto", None
    tile_size, tile_overlap, roi = None, 32, None
    _default_size = 224
    _why_not_in_parts = (
        "it learns from images in one process, as networks are trained; use PatchCore or PaDiM"
    )

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "image_size": [None, *IMAGE_SIZE],
        "resize": [StrOptions(set(RESIZE_MODES))],
        "tile_size": [None, Interval(Integral, 8, None, closed="left"), "array-like"],
        "tile_overlap": [Interval(Integral, 0, None, closed="left")],
        "roi": [None, str, Path, "array-like", callable],
        "device": [str],
        "n_jobs": [None, Integral],
    }

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, X, y=None):
        """Learn from good images.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            uint8, uint16, or floats in [0, 1]; sizes may differ.
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An image cannot be used; the message names it. X is features instead of images; y is
            coded otherwise, as 0/1, marks every image as a defect, or has another length than X.
        """
        return super().fit(X, y)

    @property
    def image_fit(self):
        """How images are brought to the input's size, an ImageFit; once fitted as in fit."""
        fitted = vars(self).get("image_fit_")
        return self._size_from(self.image_size) if fitted is None else fitted

    @property
    def tile_fit(self):
        """What the hooks get, an ImageFit: a tile, or where there are none the whole image."""
        tiling = self._tiling()
        return ImageFit(tiling.tile_height, tiling.tile_width) if tiling else self.image_fit

    def _input_fit(self):
        """What the hooks are to get, from the parameters: an ImageFit of a tile, or of images."""
        if self.tile_size is None:
            return self._size_from(self.image_size)
        return ImageFit(*tile_sides(self.tile_size))

    def _input_channels(self):
        """Channels that images are to have, or None: as many as the first one that is read."""
        return None

    def _input_shapes(self, X):
        """{layer: (h, w, C)} of what a fit on these images would learn from; changes nothing."""
        other = clone(self)  # the hooks may keep what they find
        size, n_channels = other._input_fit(), other._input_channels()
        n_channels = n_channels or channels_of(self._check_images(X))
        return {PIXELS: (size.height, size.width, n_channels)}

    def _count_inputs(self, X, n_images):
        if self.tile_size is None:
            return n_images
        size = self._whole_fit(self._check_images(X), None)
        tiling = Tiling.of(size, self.tile_size, self.tile_overlap)
        return n_images * count_tiles(tiling, n_images)

    def _size_from(self, image_size):
        size = self._default_size if image_size is None else image_size
        return ImageFit.from_size(size, self.resize)

    def _whole_fit(self, images, input_fit):
        """How whole images are brought to the size in which tiles are cut from them, if any."""
        if self.tile_size is None:
            return input_fit
        if self.image_size is not None:
            return self._size_from(self.image_size)
        return ImageFit(*read_image(images[0], name_in(images, 0)).shape[:2], self.resize)

    def _tiling(self):
        """How images are divided into tiles; None: they are not, or the fit is of old."""
        return getattr(self, "tiling_", None)

    def _training_maps(self, X, y):
        images = self._check_images(X)
        self.learned_from_ = good_images(y, len(images))
        input_fit, n_channels = self._input_fit(), self._input_channels()
        self.image_fit_, self.tiling_ = self._whole_fit(images, input_fit), None
        if self.tile_size is not None:
            self.tiling_ = Tiling.of(self.image_fit_, self.tile_size, self.tile_overlap)
        learn_roi(self, images)
        images = ImageSubset(images, np.flatnonzero(self.learned_from_))
        is_held = self._is_held(n_channels or 3, len(images))
        if n_channels is None and not (is_held and self.roi is None):
            n_channels = channels_of(images)  # else they are seen where the first one is read
        read = self._reader(n_channels, is_shown=True)
        if is_held:
            maps = _hold(read(images, BATCH_SIZE), len(images))
            self.n_channels_in_ = maps.layer_shapes[PIXELS][2]
        else:
            self.n_channels_in_ = n_channels
            maps = FeatureMaps.streamed(images, read, self._pixel_shape(), self.image_fit_)
        self.layer_shapes_, self.n_features_in_ = self._pixel_shape(), self.n_channels_in_
        return maps

    def _is_held(self, n_channels, n_images):
        """Whether whole images are held in memory in ``fit``."""
        budget, size = available_memory(), self.image_fit_
        n_bytes = 4 * size.height * size.width * n_channels * n_images
        return self.tiling_ is None and (budget is None or n_bytes <= budget / 2)

    def _to_learn_from(self, X):
        if self._tiling() is None:
            return X
        tiles, self.tiles_ = draw_tiles(self.tiling_, X, getattr(self, "random_state", 0))
        return tiles

    def _hook_scores(self, batch, with_maps):
        if self._tiling() is None:
            return super()._hook_scores(batch, with_maps)
        found = [self._scores_by_tiles(image, with_maps) for image in batch]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def _scores_by_tiles(self, image, with_maps):
        """The same of one image, from the hooks' scores of its tiles."""
        joined, scores, raw = None, [], {}
        is_by_tile = self.image_score == "paper" and not self._image_scores_need_maps
        for numbers, tiles, meets in each_tile(self.tiling_, image, BATCH_SIZE):
            maps = self._score_maps(tiles) if with_maps else None
            if with_maps and joined is None:
                joined = np.zeros((*self.tiling_.grid(maps.shape[1:]), 1), dtype=np.float32)
            for number, one in zip(numbers, maps, strict=True) if with_maps else ():
                self.tiling_.add(joined, number, one[:, :, None])
            if is_by_tile:
                scores.append(self._score_images(tiles, maps)[meets])
        if with_maps:
            raw["score_maps"] = image.scored_inside(joined[None, :, :, 0])
        if is_by_tile:
            raw["image_scores"] = np.concatenate(scores).max(keepdims=True)
        elif self.image_score == "paper":
            raw["image_scores"] = self._score_images(image, raw["score_maps"])
        return raw

    def _check_X(self, X, *, reset):
        """Images as FeatureMaps of their pixels, read when asked for."""
        images = self._check_images(X)
        check_roi(self.roi, images)
        read = self._reader(self.n_channels_in_)
        return FeatureMaps.streamed(images, read, self._pixel_shape(), self.image_fit_)

    def _check_images(self, X):
        name = type(self).__name__
        is_features = isinstance(X, FeatureMaps) or (
            isinstance(X, np.ndarray) and X.dtype.kind == "f" and X.ndim == 2
        )
        if is_features:
            raise ValueError(
                f"{name} expects images, got features; leave the extractor out of the pipeline: "
                f"{name}().fit(images)"
            )
        return check_images(X)

    def _reader(self, n_channels, is_shown=False):
        reader = ImageReader(self.image_fit_, n_channels, present_roi(self), is_blank_outside=True)
        n_threads = count_threads(self.n_jobs, N_READERS)
        return partial(read_pixels, reader, n_threads, self.verbose and is_shown)

    def _pixel_shape(self):
        return {PIXELS: (self.image_fit_.height, self.image_fit_.width, self.n_channels_in_)}


def _hold(batches, n_images):
    """Stored FeatureMaps of all batches, never in memory twice."""
    pixels, frames, bits, done = None, [], [], 0
    for batch in batches:
        some = batch.arrays()[PIXELS]  # (b, H, W, C)
        if pixels is None:
            pixels = np.empty((n_images, *some.shape[1:]), dtype=np.float32)
        pixels[done : done + len(some)] = some
        frames.append(batch.frames)
        bits.append(batch.roi_bits)
        done += len(some)
    rois = None if bits[0] is None else np.concatenate(bits)
    return FeatureMaps({PIXELS: pixels}, np.concatenate(frames), batch.image_fit, rois)


def read_pixels(reader, n_threads, verbose, images, batch_size):
    """Stored FeatureMaps of the pixels of consecutive batches of images."""
    with tqdm(total=len(images), desc="images", disable=not verbose) as bar:
        for pixels, frames, masks in reader.batches(images, batch_size, n_threads):
            yield FeatureMaps({PIXELS: pixels}, frames, reader.image_fit, masks)
            bar.update(len(pixels))
