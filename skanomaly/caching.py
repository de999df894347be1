"""The one place where features, and what detectors compute from them, meet the cache.

Extractors with a parameter ``cache`` return CachedFeatureMaps, and the base class of detectors
computes scores through :func:`recall_batches`. A detector itself need not know of any cache.
"""

from collections import deque
from functools import partial
from itertools import islice
from numbers import Integral

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.feature_maps import BATCH_SIZE, FeatureMaps, object_array, usual_batch
from skanomaly.images import ImageSubset, image_content, name_in
from skanomaly.io import digest

__all__ = [
    "CachedFeatureMaps",
    "image_keys",
    "recall_batches",
    "recall_images",
    "recall_learned",
    "recall_longest",
    "training_key",
]

_ROI = "roi"  # name of an image's region of interest, as bits
_N_ASKED = "n_asked"  # rows of a choice that were asked for; there may be fewer
_LAYER = "layer "  # prefix of layers' names among a record's arrays
_MAX_CLAIMS = 4 * BATCH_SIZE  # what two processes compute twice at the end at most


class CachedFeatureMaps(FeatureMaps):
    """Features read from a cache, into which each image's are put when they are first asked for.

    Attributes
    ----------
    keys : ndarray of shape (n,), str
        Digests of all that each image's features depend on. An image that was changed since, as a
        file that a camera writes anew, has another one once it is read.
    cache : Cache
    """

    @classmethod
    def of(cls, maps, keys, cache, identity=None):
        """FeatureMaps, streamed or stored, whose images have these keys in a cache.

        `identity` is the digest of the extractor, which makes a key of that of an image; without
        it keys stay as they are.
        """
        cached = cls.__new__(cls)
        n_held = len(maps._frames if maps.is_stored else maps._images)
        keys = np.asarray(keys)
        all_keys = np.empty(n_held, dtype=keys.dtype)  # maps may be some of those held
        all_keys[maps._rows] = keys
        cached.__dict__.update(maps.__dict__, _keys=all_keys, _identity=identity, cache=cache)
        return cached

    @property
    def keys(self):
        return self._keys[self._rows]

    def __getstate__(self):
        return {**super().__getstate__(), "_keys": self.keys}

    def batches(self, batch_size=None):
        """Stored CachedFeatureMaps of batch_size consecutive images each, the last one shorter."""
        batch_size = usual_batch(self.layer_shapes) if batch_size is None else batch_size
        if self.is_stored:
            yield from super().batches(batch_size)
            return
        compute = partial(self._compute, batch_size)
        records = _recall_each(self.cache, self.keys.tolist(), compute)
        for part in gen_batches(len(self), batch_size) if len(self) else ():
            some = list(islice(records, part.stop - part.start))
            layers = {
                name: np.stack([record[_LAYER + name] for record in some])
                for name in self.layer_shapes
            }
            frames = np.stack([record["frame"] for record in some])
            bits = _each(some, _ROI) if _ROI in some[0] else None
            piece = FeatureMaps(layers, frames, self.image_fit, bits)
            yield CachedFeatureMaps.of(piece, self.keys[part], self.cache)

    def _compute(self, batch_size, places):
        """Yield the records of some images, which are kept under keys of what was read."""
        rows = self._rows[places]
        images, done = _Contents(self._images, rows), 0
        for piece in self._extract(images, batch_size):
            layers = piece.arrays()
            for j in range(len(piece)):
                row = rows[done + j]
                if self._identity is not None:
                    self._keys[row] = digest(self._identity, images.digests[done + j])
                arrays = {_LAYER + name: maps[j] for name, maps in layers.items()}
                record = {"frame": piece.frames[j], **arrays}
                if piece.roi_bits is not None:
                    record[_ROI] = piece.roi_bits[j]
                self.cache.save(str(self._keys[row]), record)
                yield record
            done += len(piece)


class _Contents(ImageSubset):
    """Images as the contents that are read, and the digests of these.

    What a digest is of is what is decoded: a file may change at any time.
    """

    def __init__(self, images, rows):
        super().__init__(images, rows)
        self.digests = [None] * len(rows)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        content = image_content(self.images[self.rows[i]], name_in(self, i))
        self.digests[i] = digest(content)
        return content


def _recall_each(cache, keys, compute):
    """Yield the record of each key: from the cache, or computed where it is absent or damaged.

    ``compute(places)`` yields the records of the keys at some places, and keeps them.
    """
    share = _Share(cache, keys, compute)
    try:
        for i in range(len(keys)):
            yield share.record(i)
    finally:
        share.release()


class _Share:
    """The records that this process computes, where others may be filling the same cache.

    A few missing ones at a time are claimed and computed. Those that another process has claimed
    are left to it as long as there are others to compute. Then they are read, if they are there,
    or computed as well: nobody waits.
    """

    def __init__(self, cache, keys, compute):
        self._cache, self._keys, self._compute = cache, keys, compute
        missing = {key: i for i, key in reversed(list(enumerate(keys))) if key not in cache}
        self._missing = deque(sorted(missing.values()))  # places; of equal keys the first
        self._n_at_once = BATCH_SIZE
        self._begun, self._records = deque(), iter(())  # places, and what is computed of them

    def record(self, i):
        """The record at a place; they are asked for one after another."""
        while self._missing and self._missing[0] == i:
            if not self._begun:
                self._begin()
            if self._begun and self._begun[0] != i:  # another process has claimed this one
                while self._begun:  # kept, and read when it is their turn
                    self._next()
        if self._begun and self._begun[0] == i:
            return self._next()
        record = self._cache.load(self._keys[i])
        return next(self._compute([i])) if record is None else record

    def release(self):
        """Leave what is begun to others."""
        for place in self._begun:
            self._cache.release(self._keys[place])

    def _begin(self):
        """Begin to compute the next missing records that nobody has claimed, or else the first."""
        first, places, of_others = self._missing[0], [], []
        while self._missing and len(places) < self._n_at_once:
            place = self._missing.popleft()
            key = self._keys[place]
            if key in self._cache:
                continue
            if not self._cache.claim(key):
                of_others.append(place)
            elif key in self._cache:  # kept by another process just before
                self._cache.release(key)
            else:
                places.append(place)
        if not places and of_others[:1] == [first]:
            places = [of_others.pop(0)]
        self._missing.extendleft(reversed(of_others))
        # Alone, many at once: images are read ahead within them.
        self._n_at_once = BATCH_SIZE if of_others else min(2 * self._n_at_once, _MAX_CLAIMS)
        self._begun, self._records = deque(places), self._compute(places) if places else iter(())

    def _next(self):
        record = next(self._records)
        self._cache.release(self._keys[self._begun.popleft()])
        return record


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


def function_identity(function):
    """What tells a function from others, as :func:`code_identity`; None where that is not known."""
    code = getattr(function, "__code__", None)
    if code is None or function.__closure__ is not None or function.__defaults__ is not None:
        return None  # it may depend on more than its code
    return function.__module__, function.__qualname__, _constants(code)


def _constants(code):
    """A function's instructions, names and constants, those of functions within it included."""
    inner = [_constants(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, inner


def training_key(X, settings):
    """Digest of settings and of all images of X; None without a cache, or without settings."""
    if settings is None or X.cache is None:
        return None
    return digest(settings, X.keys)


def recall_learned(cache, images, rows, settings, learn):
    """What is learned from some images: from the cache, or learned and kept.

    Parameters
    ----------
    cache : Cache
    images : collection of images
    rows : ndarray of shape (n,), int
        The images that are learned from.
    settings : object
        All that the result depends on beside the images.
    learn : callable
        Collection of n images in, dict of str to ndarray out; each image is read once.

    Returns
    -------
    dict of str to ndarray
    """
    found = cache.load(digest(settings, image_keys(images, rows)))
    if found is None:
        contents = _Contents(images, rows)
        found = learn(contents)
        cache.save(digest(settings, contents.digests), found)
    return found


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
        At least so many are returned, or as many as there are.
    n_ahead : callable
        Returns how many are computed where there is a cache, for those who ask for more later.
    compute : callable
        ``compute(n)`` returns a dict of str to ndarray, of which the one called `name` has n rows,
        or as many as there are.

    Returns
    -------
    found : dict of str to ndarray
    key : str or None
        Digest of all that a row depends on beside its place; None without a cache.
    """
    if X.cache is None or (found := settings()) is None:
        return compute(n_rows), None
    settings = name, found
    key = training_key(X, settings)
    found = X.cache.load(key)
    if found is None or int(found.get(_N_ASKED, len(found[name]))) < n_rows:
        n_asked = max(n_rows, n_ahead())
        found = {**compute(n_asked), _N_ASKED: np.array(n_asked)}
        key = training_key(X, settings)  # of the images as they were read
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
    X : FeatureMaps of shape (n, D)
    settings : object or None
        All that the arrays depend on beside the image's features; None: unknown, so that nothing
        is kept.
    compute : callable
        Stored FeatureMaps of b images in, dict of str to ndarray of shape (b, ...) out.

    Yields
    ------
    frames : ndarray of shape (b, 2), int
    arrays : dict of str to ndarray of shape (b, ...)
        Of a few consecutive images; with them "roi", their ``roi_bits``, where they have such.
    """

    def compute_with_roi(batch):
        bits = batch.roi_bits
        return compute(batch) | ({} if bits is None else {_ROI: bits})

    if settings is None or X.cache is None:
        for batch in X.batches():
            yield batch.frames, compute_with_roi(batch)
        return
    identity = digest(settings)

    def compute_some(places):
        for batch in X[places].batches():
            arrays = {"frame": batch.frames, **compute_with_roi(batch)}
            for j, key in enumerate(batch.keys.tolist()):
                record = {name: values[j] for name, values in arrays.items()}
                X.cache.save(digest(identity, key), record)
                yield record

    keys = [digest(identity, key) for key in X.keys.tolist()]
    found = _recall_each(X.cache, keys, compute_some)
    for part in gen_batches(len(X), usual_batch(X.layer_shapes)):
        records = list(islice(found, part.stop - part.start))
        arrays = {name: _each(records, name) for name in records[0]}
        yield arrays.pop("frame"), arrays


def _each(records, name):
    """The arrays of that name of several records as one, (b, ...); (b,) objects of masks."""
    arrays = [record[name] for record in records]
    return object_array(arrays) if name == _ROI else np.stack(arrays)
