"""FeatureMaps: the features of n images by layer, channels last, as scikit-learn may index them.

Stored in memory or streamed from the images batch by batch: detectors see one loop either way.
"""

import numpy as np
from sklearn.utils import gen_batches

from skanomaly._cache import digest
from skanomaly._image_fit import ImageFit, upsampling

BATCH_SIZE = 16  # images; what detectors work on at a time


class FeatureMaps:
    """Features of n images.

    Parameters
    ----------
    layers : dict of str to ndarray of shape (n, h, w, C), float32
        One entry per layer; the grids (h, w) may differ between layers.
    frames : ndarray of shape (n, 2), int, default=None
        Height and width of each image in its own pixels. None: the first layer's grid.
    image_fit : ImageFit, default=None
        How the images were brought to the network's input. None: the grid is the input.

    Attributes
    ----------
    shape : tuple (n,)
        What scikit-learn counts samples by.
    ndim : int
        Always 1.
    layer_shapes : dict of str to tuple (h, w, C)
    frames : ndarray of shape (n, 2), or None
        None while the features are streamed: an image's frame is known once it is read.
    keys : ndarray of shape (n,), str, or None
        Digests of all that each image's features depend on; None without a cache.
    cache : Cache or None
        Where answers about these images may be kept.

    Notes
    -----
    Indexing with a slice, an int array, a bool array, or the pair ``(key, Ellipsis)`` answers
    FeatureMaps of the chosen images without copying features; an int answers those of one image.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly import FeatureMaps
    >>> X = FeatureMaps({"stage2": np.zeros((5, 4, 4, 8), np.float32)})
    >>> X.shape, X[[0, 3]].shape, X[1:].layer_shapes
    ((5,), (2,), {'stage2': (4, 4, 8)})
    """

    ndim = 1

    def __init__(self, layers, frames=None, image_fit=None):
        lengths = {len(maps) for maps in layers.values()}
        if len(lengths) != 1 or any(maps.ndim != 4 for maps in layers.values()):
            shapes = {name: np.shape(maps) for name, maps in layers.items()}
            raise ValueError(f"expected layers of shape (n, h, w, C) with one n, got {shapes}")
        n_images = lengths.pop()
        grid = next(iter(layers.values())).shape[1:3]
        self._layers = layers
        self._stream = self._keys = self.cache = None
        self._rows = np.arange(n_images)
        self._frames = np.tile(grid, (n_images, 1)) if frames is None else np.asarray(frames)
        self.layer_shapes = {name: maps.shape[1:] for name, maps in layers.items()}
        self.image_fit = ImageFit(*grid) if image_fit is None else image_fit

    @classmethod
    def streamed(cls, images, extract, layer_shapes, image_fit):
        """Features computed when asked for, and again each time.

        Parameters
        ----------
        images : sequence of images
        extract : callable
            ``extract(images, batch_size)`` yields stored FeatureMaps of consecutive batches.
        layer_shapes : dict of str to tuple (h, w, C)
        image_fit : ImageFit
        """
        maps = cls.__new__(cls)
        maps._layers = maps._frames = maps._keys = maps.cache = None
        maps._stream = (images, extract)
        maps._rows = np.arange(len(images))
        maps.layer_shapes, maps.image_fit = dict(layer_shapes), image_fit
        return maps

    @property
    def shape(self):
        return (len(self._rows),)

    @property
    def frames(self):
        return None if self._frames is None else self._frames[self._rows]

    @property
    def keys(self):
        return None if self._keys is None else self._keys[self._rows]

    def remember(self, keys, cache):
        """Set the keys of all images, and where answers about them are kept; answers itself."""
        self._keys, self.cache = np.asarray(keys), cache
        return self

    @property
    def is_stored(self):
        """Whether the features lie in memory."""
        return self._stream is None

    @property
    def nbytes(self):
        """Bytes the chosen images' features take in memory; 0 while they are streamed."""
        n_values = sum(h * w * c for h, w, c in self.layer_shapes.values())
        return 4 * n_values * len(self) if self.is_stored else 0

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, key):
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]
        if isinstance(key, (int, np.integer)):
            key = [key]
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__, _rows=self._rows[key])
        return chosen

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        layers = ", ".join(f"{name} {shape}" for name, shape in self.layer_shapes.items())
        kind = "stored" if self.is_stored else "streamed"
        return f"FeatureMaps({len(self)} images, {kind}: {layers})"

    def __getstate__(self):
        """Only the chosen images travel."""
        state = self.__dict__.copy()
        if self.is_stored and len(self._rows) != len(self._frames):
            state["_layers"] = self.arrays()
            state["_frames"], state["_keys"] = self.frames, self.keys
            state["_rows"] = np.arange(len(self))
        return state

    def arrays(self):
        """The features themselves.

        Returns
        -------
        dict of str to ndarray of shape (n, h, w, C), float32
            A view where the chosen images follow one another in memory. Streamed features are
            computed and held.
        """
        if not self.is_stored:
            return self.store().arrays()
        rows = self._rows
        consecutive = len(rows) > 0 and np.array_equal(
            rows, np.arange(rows[0], rows[0] + len(rows))
        )
        key = slice(rows[0], rows[0] + len(rows)) if consecutive else rows
        return {name: maps[key] for name, maps in self._layers.items()}

    def store(self):
        """FeatureMaps held in memory (itself, where it already is)."""
        return self if self.is_stored else concatenate(list(self.batches()))

    def batches(self, batch_size=BATCH_SIZE):
        """Stored FeatureMaps of batch_size consecutive images each, the last one shorter."""
        if len(self) == 0:
            return
        if self.is_stored:
            for part in gen_batches(len(self), batch_size):
                yield self[part]
        else:
            images, extract = self._stream
            yield from extract([images[i] for i in self._rows], batch_size)

    def answers(self, function, identity=None):
        """What a function says of each image, computed once where there is a cache.

        Parameters
        ----------
        function : callable
            Stored FeatureMaps of b images in, dict of str to array of shape (b, ...) out.
        identity : str or None
            Digest of all that the function's answers depend on beside the image; None: unknown,
            so that nothing is kept.

        Yields
        ------
        frames : ndarray of shape (b, 2)
        answers : dict of str to array of shape (b, ...)
            Of a few consecutive images.
        """
        if self.cache is None or identity is None:
            for piece in self.batches():
                yield piece.frames, function(piece)
            return
        keys = [digest(identity, key) for key in self.keys.tolist()]
        missing = np.array([i for i, key in enumerate(keys) if key not in self.cache], dtype=int)
        done = 0
        for piece in self[missing].batches():
            answers = {"frame": piece.frames, **function(piece)}
            for j, i in enumerate(missing[done : done + len(piece)]):
                self.cache.save(keys[i], {name: values[j] for name, values in answers.items()})
            done += len(piece)
        for part in gen_batches(len(self), BATCH_SIZE):
            records = [self.cache.load(key) for key in keys[part]]
            answers = {name: np.stack([r[name] for r in records]) for name in records[0]}
            yield answers.pop("frame"), answers

    def joined(self):
        """All layers at the finest grid, side by side.

        Returns
        -------
        ndarray of shape (n, h, w, D), float32
            Coarser layers are resized bilinearly; D is the sum of the layers' channels.
        """
        return join(self.arrays())


def finest_grid(layer_shapes):
    """Rows and columns of the finest grid among layers {layer: (h, w, C)}."""
    return tuple(max(shape[axis] for shape in layer_shapes.values()) for axis in (0, 1))


def join(layers):
    """{layer: (b, h, w, C)} -> (b, H, W, D) at the finest grid; coarser ones by bilinear resize."""
    grid = finest_grid({name: maps.shape[1:] for name, maps in layers.items()})
    same_size = [resize_maps(maps, grid) for maps in layers.values()]
    return same_size[0] if len(same_size) == 1 else np.concatenate(same_size, axis=-1)


def resize_maps(maps, grid):
    """(b, h, w, C) -> (b, H, W, C), bilinear with aligned edges."""
    b, h, w, c = maps.shape
    if (h, w) == tuple(grid):
        return maps
    tall = upsampling(h, grid[0]) @ maps.reshape(b, h, w * c)  # (b, H, w * C)
    return upsampling(w, grid[1]) @ tall.reshape(b, grid[0], w, c)  # (b, H, W, C)


def check_odd(patch_size):
    """Raise ValueError unless a neighbourhood of so many cells a side has a middle."""
    if patch_size % 2 == 0:
        raise ValueError(f"patch_size must be odd, to have a middle; got {patch_size}")


def local_mean(maps, size):
    """Mean over size x size cells around each, with zeros beyond the border: (b, h, w, C).

    A lone cell has no neighbourhood and stays as it is.
    """
    if maps.shape[1] == maps.shape[2] == 1:
        return maps
    for axis in (1, 2):
        total = maps.copy()
        for shift in range(1, min(size // 2, maps.shape[axis] - 1) + 1):
            ahead, behind = _part(axis, shift, None), _part(axis, None, -shift)
            total[behind] += maps[ahead]
            total[ahead] += maps[behind]
        maps = total / np.float32(size)
    return maps


def _part(axis, start, stop):
    """Index of a part along one of the axes 1 and 2."""
    return (slice(None),) * axis + (slice(start, stop),)


def concatenate(pieces):
    """One stored FeatureMaps from several."""
    layers = {
        name: np.concatenate([piece.arrays()[name] for piece in pieces])
        for name in pieces[0].layer_shapes
    }
    frames = np.concatenate([piece.frames for piece in pieces])
    maps = FeatureMaps(layers, frames, pieces[0].image_fit)
    if pieces[0].keys is not None:
        maps.remember(np.concatenate([piece.keys for piece in pieces]), pieces[0].cache)
    return maps
