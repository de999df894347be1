"""BaseImageDetector: a detector of images rather than features."""

from functools import partial
from numbers import Integral

import numpy as np
from sklearn.base import clone
from tqdm.auto import tqdm

from skanomaly.base._detector import BaseDetector
from skanomaly.feature_maps import BATCH_SIZE, FeatureMaps
from skanomaly.images import (
    RESIZE_MODES,
    ImageFit,
    ImageSubset,
    channels_of,
    check_images,
    load_batches,
)
from skanomaly.utils.memory_budget import available_memory
from skanomaly.utils.targets import good_images
from skanomaly.utils.threads import N_READERS, count_threads
from skanomaly.utils.validation import IMAGE_SIZE, StrOptions

PIXELS = "pixels"  # the layer that the images themselves are


class BaseImageDetector(BaseDetector):
    """Base class of detectors on images.

    The hooks are those of BaseDetector. ``_fit(X)`` gets FeatureMaps with one layer, "pixels": the
    good images at the input's size, (n, H, W, C) float32 in [0, 1]. They are read once and held,
    unless they would take more than half of the memory that is left: then ``X.batches()`` reads
    each of them once per pass. ``_score_maps(X)`` gets a few images as ``X.arrays()["pixels"]``.

    Parameters
    ----------
    image_size : int or (int, int)
        Height and width in pixels that images are brought to.
    resize : {"stretch", "pad", "crop"}
        How: changing the aspect ratio, padding the shorter side, or cropping the longer one.
        Score maps undo it.
    device : str
        "cpu", "cuda", ...; "auto" takes a GPU where there is one.
    n_jobs : int or None
        Threads that read images; -1 for all processors, None for two.
    image_score, sigma, contamination, verbose :
        As in BaseDetector.

    Attributes
    ----------
    image_fit_ : ImageFit
        How images are brought to the input's size.
    n_channels_in_ : int
        Channels of the images; gray images count as RGB.
    offset_, learned_from_, layer_shapes_, n_features_in_, fit_digest_ :
        As in BaseDetector; the layer is "pixels".
    """

    # Of a child whose constructor has no such parameter.
    image_size, resize, device, n_jobs = 224, "stretch", "auto", None
    _why_not_in_parts = (
        "it learns from images in one process, as networks are trained; use PatchCore or PaDiM"
    )

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "image_size": IMAGE_SIZE,
        "resize": [StrOptions(set(RESIZE_MODES))],
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

    def _input_fit(self):
        """How images are to be brought to the input's size, from the parameters."""
        return ImageFit.from_size(self.image_size, self.resize)

    def _input_channels(self):
        """Channels that images are to have, or None: as many as the first one that is read."""
        return None

    def _input_shapes(self, X):
        """{layer: (h, w, C)} of what a fit on these images would learn from; changes nothing."""
        other = clone(self)  # the hooks may keep what they find
        size, n_channels = other._input_fit(), other._input_channels()
        n_channels = n_channels or channels_of(self._check_images(X))
        return {PIXELS: (size.height, size.width, n_channels)}

    def _training_maps(self, X, y):
        images = self._check_images(X)
        self.learned_from_ = good_images(y, len(images))
        images = ImageSubset(images, np.flatnonzero(self.learned_from_))
        self.image_fit_, n_channels = self._input_fit(), self._input_channels()
        size = self.image_fit_
        n_bytes = 4 * size.height * size.width * (n_channels or 3) * len(images)
        budget = available_memory()
        if budget is None or n_bytes <= budget / 2:
            maps = _hold(self._reader(n_channels, is_shown=True)(images, BATCH_SIZE), len(images))
            self.n_channels_in_ = maps.layer_shapes[PIXELS][2]
        else:
            self.n_channels_in_ = n_channels or channels_of(images)
            read = self._reader(self.n_channels_in_, is_shown=True)
            maps = FeatureMaps.streamed(images, read, self._pixel_shape(), size)
        self.layer_shapes_, self.n_features_in_ = self._pixel_shape(), self.n_channels_in_
        return maps

    def _check_X(self, X, *, reset):
        """Images as FeatureMaps of their pixels, read when asked for."""
        images = self._check_images(X)
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
        n_threads = count_threads(self.n_jobs, N_READERS)
        verbose = self.verbose and is_shown
        return partial(_read_pixels, self.image_fit_, n_channels, n_threads, verbose)

    def _pixel_shape(self):
        return {PIXELS: (self.image_fit_.height, self.image_fit_.width, self.n_channels_in_)}


def _hold(batches, n_images):
    """Stored FeatureMaps of all batches, never in memory twice."""
    pixels, frames, done = None, [], 0
    for batch in batches:
        some = batch.arrays()[PIXELS]  # (b, H, W, C)
        if pixels is None:
            pixels = np.empty((n_images, *some.shape[1:]), dtype=np.float32)
        pixels[done : done + len(some)] = some
        frames.append(batch.frames)
        done += len(some)
    return FeatureMaps({PIXELS: pixels}, np.concatenate(frames), batch.image_fit)


def _read_pixels(image_fit, n_channels, n_threads, verbose, images, batch_size):
    """Stored FeatureMaps of the pixels of consecutive batches of images."""
    batches = load_batches(images, image_fit, n_channels, batch_size, n_threads=n_threads)
    with tqdm(total=len(images), desc="images", disable=not verbose) as bar:
        for pixels, frames in batches:
            yield FeatureMaps({PIXELS: pixels}, frames, image_fit)
            bar.update(len(pixels))
