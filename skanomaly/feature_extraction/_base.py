"""What both extractors share: images in, FeatureMaps out, stored or streamed."""

from functools import partial
from numbers import Integral
from pathlib import Path

import joblib
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skanomaly._cache import digest, open_cache
from skanomaly._image_fit import RESIZE_MODES, ImageFit
from skanomaly._images import check_images, image_content, image_name, load_batches
from skanomaly._memory import parse_memory
from skanomaly._validation import Interval, StrOptions
from skanomaly.feature_maps import FeatureMaps


class BaseExtractor(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Template of an extractor.

    A child learns in ``fit`` and sets ``n_channels_in_`` and ``layer_shapes_``; its hook
    ``_features`` turns a batch of fitted images into maps, and ``_identity`` is a digest of all
    that these depend on.
    """

    _parameter_constraints = {
        "image_size": [Interval(Integral, 8, None, closed="left"), "array-like"],
        "resize": [StrOptions(set(RESIZE_MODES))],
        "memory_limit": [None, str, Interval(Integral, 1, None, closed="left")],
        "cache": [None, str, Path, joblib.Memory],
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
        """How images are brought to the input's size, an ImageFit."""
        return ImageFit.from_size(self.image_size, self.resize)

    def transform(self, X):
        """Features of images.

        Parameters
        ----------
        X : list of paths, arrays or PIL images, or array of shape (n, H, W[, C])
            uint8, uint16, or floats in [0, 1]; sizes may differ.

        Returns
        -------
        FeatureMaps of shape (n,)
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
        cache = open_cache(self.cache)
        if cache is not None:
            return self._cached(images, cache)
        if self._streams(self.layer_shapes_, len(images)):
            return FeatureMaps.streamed(images, self._extract, self.layer_shapes_, self.image_fit)
        layers = {
            name: np.empty((len(images), *shape), dtype=np.float32)
            for name, shape in self.layer_shapes_.items()
        }
        frames, done = [], 0
        for piece in self._extract(images, self._batch_size()):
            for name, maps in piece.arrays().items():
                layers[name][done : done + len(piece)] = maps
            frames.append(piece.frames)
            done += len(piece)
        return FeatureMaps(layers, np.concatenate(frames), self.image_fit)

    def _cached(self, images, cache):
        """FeatureMaps that are read from the cache, into which they come when asked for."""
        identity = digest(type(self).__name__, self._identity())
        keys = [digest(identity, key) for key in image_keys(images)]
        extract = partial(self._extract_cached, images, keys, cache)
        numbers = range(len(images))
        maps = FeatureMaps.streamed(numbers, extract, self.layer_shapes_, self.image_fit)
        return maps.remember(keys, cache)

    def _extract_cached(self, images, keys, cache, numbers, batch_size):
        """Stored FeatureMaps of the images numbered, batch by batch; new ones are kept first."""
        missing = [i for i in numbers if keys[i] not in cache]
        done = 0
        for piece in self._extract(images, batch_size, missing):
            for j, i in enumerate(missing[done : done + len(piece)]):
                arrays = {f"layer {name}": maps[j] for name, maps in piece.arrays().items()}
                cache.save(keys[i], {"frame": piece.frames[j], **arrays})
            done += len(piece)
        for part in gen_batches(len(numbers), batch_size):
            chosen = [keys[i] for i in numbers[part]]
            records = [cache.load(key) for key in chosen]
            layers = {
                name: np.stack([record[f"layer {name}"] for record in records])
                for name in self.layer_shapes_
            }
            frames = np.stack([record["frame"] for record in records])
            yield FeatureMaps(layers, frames, self.image_fit).remember(chosen, cache)

    def _streams(self, layer_shapes, n_images):
        """Whether so many images' features are too much to hold."""
        n_bytes = 4 * n_images * sum(h * w * c for h, w, c in layer_shapes.values())
        limit = parse_memory(self.memory_limit)
        # A quarter of the budget for features leaves the rest to the detector that learns them.
        return limit is not None and n_bytes > limit / 4

    def _extract(self, images, batch_size, indices=None):
        """Stored FeatureMaps of consecutive batches of images; of all, or those named."""
        n_images = len(images) if indices is None else len(indices)
        batches = load_batches(images, self.image_fit, self.n_channels_in_, batch_size, indices)
        with tqdm(total=n_images, desc="features", disable=not self.verbose) as bar:
            for batch, frames in batches:
                yield FeatureMaps(self._features(batch), frames, self.image_fit)
                bar.update(len(batch))

    def _batch_size(self):
        return 16


def image_keys(images, indices=None):
    """Digests of the images' contents; of all, or those named."""
    indices = range(len(images)) if indices is None else indices
    return [digest(image_content(images[i], image_name(images[i], i))) for i in indices]
