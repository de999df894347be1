"""BaseExtractor: images in, FeatureMaps out."""

import warnings
from itertools import islice
from numbers import Integral
from pathlib import Path

import joblib
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skanomaly.base._image_reader import (
    ImageReader,
    RegionOfInterestMixin,
    check_roi,
    learn_roi,
    present_roi,
)
from skanomaly.base._transient import TransientStateMixin
from skanomaly.caching import CachedFeatureMaps, code_identity, function_identity, image_keys
from skanomaly.feature_maps import FeatureMaps, concatenate, usual_batch
from skanomaly.images import (
    RESIZE_MODES,
    ImageFit,
    ImageSubset,
    Tiling,
    channels_of,
    check_images,
    is_one_mask,
    name_in,
    read_image,
)
from skanomaly.io import digest, open_cache
from skanomaly.utils.dask_worker import current_worker
from skanomaly.utils.memory_budget import parse_memory
from skanomaly.utils.state import reading
from skanomaly.utils.targets import good_images
from skanomaly.utils.threads import N_READERS, count_threads
from skanomaly.utils.validation import IMAGE_SIZE, Interval, StrOptions, fitting


class BaseExtractor(
    RegionOfInterestMixin,
    TransientStateMixin,
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,
):
    """Base class of extractors: images in, FeatureMaps out, stored, streamed or cached.

    A child writes ``__init__``, which only assigns, and one hook:

    - ``_features(batch)`` gets images (b, H, W, C) float32 in [0, 1] at the input's size and
      returns their maps, a dict of str to ndarray of shape (b, h, w, C) float32. An image's maps
      must not depend on the other images of the batch.

    Optional hooks:

    - ``_fit(images)`` learns from good images, a collection with ``len`` and integer indices;
      :func:`skanomaly.images.load_batches` reads it. It may set ``n_channels_in_``, the channels
      that images must have, and ``layer_shapes_``, {layer: (h, w, C)}; what it leaves out is found
      from the first image and from a blank one.
    - ``_identity()`` returns a digest of all that an image's features depend on beside the image,
      under which they are cached; by default of the parameters and the learned arrays.

    Parameters
    ----------
    image_size : int or (int, int)
        Height and width in pixels that images are brought to.
    resize : {"stretch", "pad", "crop"}
        How: changing the aspect ratio, padding the shorter side, or cropping the longer one.
    tile_size : int, (int, int) or None
        Features are computed of tiles of so many pixels and joined; None: of the image at once.
    tile_overlap : int
        Pixels that neighboring tiles share, at least.
    roi : mask, list of masks, callable or None
        Where patches count; None: everywhere.
    memory_limit : int, str such as "2GB", or None
        Features that would take more than a quarter of it are streamed instead of stored.
    cache : str, Path, joblib.Memory or None
        Folder in which each image's features are kept.
    verbose : int
        1 shows a progress bar.

    Attributes
    ----------
    n_channels_in_ : int
        Channels of the images; gray images count as RGB.
    layer_shapes_ : dict of str to tuple (h, w, C)
    image_fit_ : ImageFit
        How images are brought to the input's size.
    tiling_ : Tiling or None
        How they are divided into tiles.
    roi_ : ndarray of shape (H, W), bool
        The region of interest, where it is one for all images.
    """

    # Of a child whose constructor has no such parameter.
    image_size, resize, memory_limit, cache = 224, "stretch", None, None
    tile_size, tile_overlap, roi = None, 64, None
    batch_size, n_jobs, verbose = 16, None, 0

    # Parameters that change no feature; any other one is part of the cache's keys.
    _unused_by_features: tuple[str, ...] = (
        "batch_size", "cache", "memory_limit", "n_jobs", "verbose",
    )  # fmt: skip
    _needs_images = True  # False: a fit may do without images
    # A fit looks at so many images at most, evenly spread over all; None: at all of them.
    _n_learning_images: int | None = None

    _parameter_constraints = {
        "image_size": IMAGE_SIZE,
        "resize": [StrOptions(set(RESIZE_MODES))],
        "tile_size": [None, Interval(Integral, 8, None, closed="left"), "array-like"],
        "tile_overlap": [Interval(Integral, 0, None, closed="left")],
        "roi": [None, str, Path, "array-like", callable],
        "memory_limit": [None, str, Interval(Integral, 1, None, closed="left")],
        "cache": [None, str, Path, joblib.Memory],
        "n_jobs": [None, Integral],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    @property
    def image_fit(self):
        """How images are brought to the input's size, an ImageFit; once fitted as in fit."""
        fitted = vars(self).get("image_fit_")
        if fitted is not None:
            return fitted
        return ImageFit.from_size(self._input_size(), self.resize)

    def _input_size(self):
        """Height and width that images are brought to, or the side of a square."""
        return self.image_size

    @property
    def tile_fit(self):
        """What ``_features`` gets, an ImageFit: a tile, or where there are none the whole image."""
        tiling = self._tiling()
        return ImageFit(tiling.tile_height, tiling.tile_width) if tiling else self.image_fit

    def _fit_of(self, images):
        """How images are brought to the input's size; with tiles to that of the first image."""
        if self.tile_size is None or self.image_size is not None:
            return self.image_fit
        if images is None:
            raise ValueError(
                "expected images in fit, or image_size, with tile_size: without either the size "
                "of the images is not known"
            )
        return ImageFit(*read_image(images[0], name_in(images, 0)).shape[:2], self.resize)

    @fitting()
    def fit(self, X, y=None):
        """Learn from good images.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
        y : array of shape (n,), masks, or None, default=None
            Labels, +1 good and -1 defect, or masks: images marked as defects are left out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An image cannot be read, the message names it; y is coded otherwise, as 0/1, marks
            every image as a defect, or has another length than X.
        """
        images = None if X is None and not self._needs_images else check_images(X)
        self.image_fit_ = self._fit_of(images)
        self.tiling_ = None
        if self.tile_size is not None:
            self.tiling_ = Tiling.of(self.image_fit_, self.tile_size, self.tile_overlap)
        learn_roi(self, images)
        parse_memory(self.memory_limit)  # refused here if it is no size
        self._open_cache(create=True)
        if images is not None:
            is_good = good_images(y, len(images))
            if not is_good.all():
                images = ImageSubset(images, np.flatnonzero(is_good))
        self._fit(images)
        if not hasattr(self, "n_channels_in_"):
            self.n_channels_in_ = channels_of(images)
        if not hasattr(self, "layer_shapes_"):
            self.layer_shapes_ = self._find_shapes()
        return self

    def fit_transform(self, X, y=None, **fit_params):
        """Learn from good images, and return the features of all images.

        Parameters
        ----------
        X, y : as in ``fit``
        **fit_params : dict
            Passed to ``fit``.

        Returns
        -------
        FeatureMaps of shape (n, D)
            As from ``transform``, of images marked as defects as well.
        """
        return super().fit_transform(X, y, **fit_params)

    @reading
    def transform(self, X):
        """Features of images.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            uint8, uint16, or floats in [0, 1]; sizes may differ.

        Returns
        -------
        FeatureMaps of shape (n, D)
            Held in memory, unless they would take more than a quarter of ``memory_limit``: then
            computed whenever they are asked for. With a ``cache``: computed once, when first
            asked for, and then read from it. The values are the same.

        Raises
        ------
        ValueError
            An image cannot be read, holds NaN, or has another number of channels than in fit.
            The message names it.
        """
        check_is_fitted(self)
        images = check_images(X)
        shapes, fit = self.layer_shapes_, self.image_fit
        check_roi(self.roi, images)
        cache, roi = self._open_cache(), self._roi_identity()
        if cache is not None and roi is not None:
            identity = digest(code_identity(type(self)), self._identity(), *roi)
            keys = [digest(identity, key) for key in image_keys(images)]
            maps = FeatureMaps.streamed(images, self.snapshot()._stream, shapes, fit)
            return CachedFeatureMaps.of(maps, keys, cache, identity)
        if self.would_stream(shapes, len(images)):
            return FeatureMaps.streamed(images, self.snapshot()._stream, shapes, fit)
        layers = {
            name: np.empty((len(images), *shape), dtype=np.float32)
            for name, shape in shapes.items()
        }
        frames, bits, done = [], [], 0
        for piece in self._stream(images, self._batch_size()):
            for name, maps in piece.arrays().items():
                layers[name][done : done + len(piece)] = maps
            frames.append(piece.frames)
            bits.append(piece.roi_bits)
            done += len(piece)
        rois = None if bits[0] is None else np.concatenate(bits)
        return FeatureMaps(layers, np.concatenate(frames), fit, rois)

    def snapshot(self):
        """The extractor as it is now, whatever it is fitted on or set to later.

        Returns
        -------
        extractor of the same class
            It shares the learned arrays, which no fit changes in place.
        """
        same = object.__new__(type(self))
        same.__dict__.update(self.__dict__)
        return same

    def would_stream(self, layer_shapes, n_images):
        """Whether so many images' features are too much for ``memory_limit`` to be held.

        Parameters
        ----------
        layer_shapes : dict of str to tuple (h, w, C)
        n_images : int

        Returns
        -------
        bool
        """
        n_bytes = 4 * n_images * sum(h * w * c for h, w, c in layer_shapes.values())
        limit = parse_memory(self.memory_limit)
        # A quarter of the budget for features leaves the rest to the detector that learns them.
        return limit is not None and n_bytes > limit / 4

    # --- hooks with a default -----------------------------------------------------------------

    def _fit(self, images):
        """Learn from good images: nothing."""

    def _identity(self):
        """Digest of all that an image's features depend on beside the image."""
        # A declaration is about the hooks of its own class: a child's may read more.
        own = vars(type(self)).get("_unused_by_features", ())
        unused = {*BaseExtractor._unused_by_features, *own}
        parameters = self.get_params(deep=False)
        used = {k: v for k, v in sorted(parameters.items()) if k not in unused}
        learned = {k: v for k, v in sorted(vars(self).items()) if k.endswith("_")}
        return digest(used, learned)

    def _batch_size(self):
        """Images, or tiles, read at a time."""
        return self.batch_size

    # --- tiles and regions of interest --------------------------------------------------------

    def _tiling(self):
        """How images are divided into tiles; None: they are not, or the fit is of old."""
        return getattr(self, "tiling_", None)

    def _roi_identity(self):
        """What the regions of interest depend on beside the image, a tuple; None: not known."""
        roi = present_roi(self)
        if roi is None or is_one_mask(roi):
            return () if roi is None else (roi,)
        return function_identity(roi) if callable(roi) else None  # masks go by an image's place

    def _reader(self):
        return ImageReader(self.image_fit, self.n_channels_in_, present_roi(self))

    def _joined_shapes(self, layer_shapes):
        """{layer: (h, w, C)} of whole images, from the shapes of what ``_features`` returns."""
        tiling = self._tiling()
        if tiling is None:
            return layer_shapes
        return {name: (*tiling.grid((h, w)), c) for name, (h, w, c) in layer_shapes.items()}

    # --- from the hooks to the public methods -------------------------------------------------

    def _open_cache(self, create=False):
        """The Cache, or None; on a worker a relative folder is said, as it may be another one."""
        location = getattr(self.cache, "location", self.cache)  # of a joblib.Memory
        if current_worker() is not None and location is not None:
            if not Path(location).expanduser().is_absolute():
                warnings.warn(
                    f"cache {location}: a relative folder, which each worker of a cluster looks up "
                    "in its own working directory; pass an absolute path that all workers see",
                    stacklevel=3,
                )
        return open_cache(self.cache, create=create)

    def _find_shapes(self):
        """{layer: (h, w, C)}, seen on a blank image."""
        size = self.tile_fit
        blank = np.zeros((1, size.height, size.width, self.n_channels_in_), dtype=np.float32)
        shapes = {name: tuple(maps.shape[1:]) for name, maps in self._features(blank).items()}
        return self._joined_shapes(shapes)

    def _stream(self, images, batch_size):
        """Stored FeatureMaps of consecutive batches of images."""
        if self._tiling() is None:
            pieces = self._pieces(images, batch_size)
        else:
            pieces = self._tiled_pieces(images, min(batch_size, usual_batch(self.layer_shapes_)))
        if not self.verbose:
            yield from pieces
            return
        with tqdm(total=len(images), desc="features") as bar:
            for piece in pieces:
                yield piece
                bar.update(len(piece))

    def _pieces(self, images, batch_size):
        n_threads = count_threads(self.n_jobs, N_READERS)
        for batch, frames, masks in self._reader().batches(images, batch_size, n_threads):
            yield FeatureMaps(self._features(batch), frames, self.image_fit, masks)

    def _tiled_pieces(self, images, batch_size):
        """The same of images that are read one by one, and computed a few tiles at a time."""
        reader = self._reader()
        for part in gen_batches(len(images), batch_size):
            pieces = [self._tiled(reader, images, i) for i in range(len(images))[part]]
            yield pieces[0] if len(pieces) == 1 else concatenate(pieces)

    def _tiled(self, reader, images, index):
        """Stored FeatureMaps of one image, joined from those of its tiles."""
        image, mask = reader.whole(images, index)
        layers = {
            name: np.zeros((1, *shape), dtype=np.float32)
            for name, shape in self.layer_shapes_.items()
        }
        tiles, n_tiles = self.tiling_.cut(image, self.image_fit), len(self.tiling_.boxes)
        for part in gen_batches(n_tiles, self._batch_size()):
            batch = [
                reader.with_channels(one, images, index)
                for one in islice(tiles, part.stop - part.start)
            ]
            for name, maps in self._features(np.stack(batch)).items():
                for number, one in enumerate(maps, part.start):
                    self.tiling_.add(layers[name][0], number, one)
        rois = None if mask is None else [mask]
        return FeatureMaps(layers, [image.shape[:2]], self.image_fit, rois)
