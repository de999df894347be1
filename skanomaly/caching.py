"""The one place where features, and what detectors compute from them, meet the cache.

Extractors with a parameter ``cache`` return CachedFeatureMaps, and the base class of detectors
computes scores through :func:`recall_batches`. A detector itself need not know of any cache.
"""

from numbers import Integral

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.feature_maps import BATCH_SIZE, FeatureMaps
from skanomaly.images import image_content, name_in
from skanomaly.io import digest

__all__ = [
    "CachedFeatureMaps",
    "image_keys",
    "recall_batches",
    "recall_images",
    "recall_longest",
    "training_key",
]

_LAYER = "layer "  # prefix of layers' names among a record's arrays


class CachedFeatureMaps(FeatureMaps):
    """Features read from a cache, into which each image's are put when they are first asked for.

    Attributes
    ----------
    keys : ndarray of shape (n,), str
        Digests of all that each image's features depend on.
    cache : Cache
    """

    @classmethod
    def of(cls, maps, keys, cache):
        """FeatureMaps, streamed or stored, whose images have these keys in a cache."""
        cached = cls.__new__(cls)
        n_held = len(maps._frames if maps.is_stored else maps._images)
        keys = np.asarray(keys)
        all_keys = np.empty(n_held, dtype=keys.dtype)  # maps may be some of those held
        all_keys[maps._rows] = keys
        cached.__dict__.update(maps.__dict__, _keys=all_keys, cache=cache)
        return cached

    @property
    def keys(self):
        return self._keys[self._rows]

    def __getstate__(self):
        return {**super().__getstate__(), "_keys": self.keys}

    def batches(self, batch_size=BATCH_SIZE):
        """Stored CachedFeatureMaps of batch_size consecutive images each, the last one shorter."""
        if self.is_stored:
            yield from super().batches(batch_size)
            return
        keys = self.keys.tolist()
        self._fill(keys, batch_size)
        for part in gen_batches(len(self), batch_size) if keys else ():
            records = [self.cache.load(key) for key in keys[part]]
            layers = {
                name: np.stack([record[_LAYER + name] for record in records])
                for name in self.layer_shapes
            }
            frames = np.stack([record["frame"] for record in records])
            piece = FeatureMaps(layers, frames, self.image_fit)
            yield CachedFeatureMaps.of(piece, keys[part], self.cache)

    def _fill(self, keys, batch_size):
        """Compute and keep the features of the images that the cache lacks."""
        missing = [i for i, key in enumerate(keys) if key not in self.cache]
        if not missing:
            return
        images, done = self._chosen_images(), 0
        for piece in self._extract(images, batch_size, missing):
            for j, i in enumerate(missing[done : done + len(piece)]):
                arrays = {_LAYER + name: maps[j] for name, maps in piece.arrays().items()}
                self.cache.save(keys[i], {"frame": piece.frames[j], **arrays})
            done += len(piece)


def image_keys(images, indices=None):
    """Digests of the images' contents; of all, or those named."""
    indices = range(len(images)) if indices is None else indices
    return [digest(image_content(images[i], name_in(images, i))) for i in indices]


def is_repeatable(estimator):
    """Whether a fit would come out the same again: every random_state in it is an int."""
    return all(
        isinstance(value, Integral)
        for name, value in estimator.get_params(deep=True).items()
        if name == "random_state" or name.endswith("__random_state")
    )


def code_identity(kind):
    """What tells a class from others: its name and, outside of skanomaly, the code of its methods.

    The classes of skanomaly are told apart by its version, which is part of every digest.
    """
    code = []
    for one in kind.__mro__:
        if one.__module__.split(".")[0] in ("skanomaly", "sklearn", "builtins"):
            continue
        for name, method in sorted(vars(one).items()):
            if hasattr(method, "__code__"):
                code.append((name, _constants(method.__code__)))
    return kind.__module__, kind.__qualname__, code


def _constants(code):
    """A function's instructions, names and constants, those of functions within it included."""
    inner = [_constants(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, inner


def training_key(X, settings):
    """Digest of settings and of all images of X; None without a cache, or without settings."""
    if settings is None or not isinstance(X, CachedFeatureMaps):
        return None
    return digest(settings, X.keys)


def recall_longest(X, settings, name, n_rows, n_ahead, compute):
    """A greedy choice of rows from all images of X; a longer one in the cache serves as well.

    Parameters
    ----------
    X : FeatureMaps
    settings : callable
        Returns all that the choice depends on beside the images' features and its length; or
        None: it does not repeat itself, so that nothing is kept.
    name : str
        Of the array that holds the rows.
    n_rows : int
        At least so many are returned.
    n_ahead : callable
        Returns how many are computed where there is a cache, for those who ask for more later.
    compute : callable
        ``compute(n)`` returns a dict of str to ndarray, of which the one called `name` has n rows.

    Returns
    -------
    found : dict of str to ndarray
    key : str or None
        Digest of all that a row depends on beside its place; None without a cache.
    """
    if not isinstance(X, CachedFeatureMaps) or (found := settings()) is None:
        return compute(n_rows), None
    key = training_key(X, (name, found))
    found = X.cache.load(key) if key in X.cache else {name: ()}
    if len(found[name]) < n_rows:
        found = compute(max(n_rows, n_ahead()))
        X.cache.save(key, found)
    return found, key


def recall_images(X, settings, compute):
    """The arrays of :func:`recall_batches` for all images of X."""
    parts = [arrays for _, arrays in recall_batches(X, settings, compute)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def recall_batches(X, settings, compute):
    """Arrays with one entry per image, each image's computed once where X comes from a cache.

    Parameters
    ----------
    X : FeatureMaps of shape (n,)
    settings : object or None
        All that the arrays depend on beside the image's features; None: unknown, so that nothing
        is kept.
    compute : callable
        Stored FeatureMaps of b images in, dict of str to ndarray of shape (b, ...) out.

    Yields
    ------
    frames : ndarray of shape (b, 2), int
    arrays : dict of str to ndarray of shape (b, ...)
        Of a few consecutive images.
    """
    if settings is None or not isinstance(X, CachedFeatureMaps):
        for batch in X.batches():
            yield batch.frames, compute(batch)
        return
    identity = digest(settings)
    keys = [digest(identity, key) for key in X.keys.tolist()]
    missing = np.array([i for i, key in enumerate(keys) if key not in X.cache], dtype=int)
    done = 0
    for batch in X[missing].batches():
        arrays = {"frame": batch.frames, **compute(batch)}
        for j, i in enumerate(missing[done : done + len(batch)]):
            X.cache.save(keys[i], {name: values[j] for name, values in arrays.items()})
        done += len(batch)
    for part in gen_batches(len(X), BATCH_SIZE):
        records = [X.cache.load(key) for key in keys[part]]
        arrays = {name: np.stack([r[name] for r in records]) for name in records[0]}
        yield arrays.pop("frame"), arrays
