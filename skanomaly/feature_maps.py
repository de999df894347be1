"""FeatureMaps: the features of n images by layer, channels last, as scikit-learn may index them.

Stored in memory or streamed from the images batch by batch: detectors see one loop either way.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.embedding import embed
from skanomaly.images import ImageFit, ImageSubset

__all__ = ["FeatureMaps", "concatenate"]

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
    scratch : object or None
        What one hook of a detector leaves with a batch for the next one; neither indexed nor
        pickled.

    Notes
    -----
    Indexing with a slice, an int array, a bool array, or the pair ``(key, Ellipsis)`` returns
    FeatureMaps of the chosen images without copying features; with an int, of one image.
    A pickle holds the chosen images alone: their features, or what it takes to compute them.

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
        self._images = self._extract = self.scratch = None
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
            ``extract(images, batch_size)`` yields stored FeatureMaps of consecutive batches. To be
            pickled it must be a function of a module, a bound method, or a partial of these.
        layer_shapes : dict of str to tuple (h, w, C)
        image_fit : ImageFit

        Returns
        -------
        FeatureMaps of shape (n,)
        """
        maps = cls.__new__(cls)
        maps._layers = maps._frames = maps.scratch = None
        maps._images, maps._extract = images, extract
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
    def is_stored(self):
        """Whether the features lie in memory."""
        return self._extract is None

    @property
    def nbytes(self):
        """Bytes the chosen images' features take in memory; 0 while they are streamed."""
        n_values = sum(h * w * c for h, w, c in self.layer_shapes.values())
        return 4 * n_values * len(self) if self.is_stored else 0

    def __sizeof__(self):
        return object.__sizeof__(self) + self.nbytes

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, key):
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]
        if isinstance(key, (int, np.integer)):
            key = [key]
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__, _rows=self._rows[key], scratch=None)
        return chosen

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        layers = ", ".join(f"{name} {shape}" for name, shape in self.layer_shapes.items())
        kind = "stored" if self.is_stored else "streamed"
        return f"FeatureMaps({len(self)} images, {kind}: {layers})"

    def __getstate__(self):
        """State of the chosen images alone."""
        state = self.__dict__.copy()
        if self.is_stored:
            state["_layers"], state["_frames"] = self.arrays(), self.frames
        else:
            images = self._chosen_images()
            state["_images"] = images if images is self._images else list(images)
        state["_rows"], state["scratch"] = np.arange(len(self)), None
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
            yield from self._extract(self._chosen_images(), batch_size)

    def joined(self):
        """All layers at the finest grid, side by side.

        Returns
        -------
        ndarray of shape (n, h, w, D), float32
            Coarser layers are resized bilinearly; D is the sum of the layers' channels.
        """
        return embed(self.arrays())

    def _chosen_images(self):
        """The images whose features are streamed; the collection itself where all are chosen."""
        if np.array_equal(self._rows, np.arange(len(self._images))):
            return self._images
        return ImageSubset(self._images, self._rows)


def concatenate(pieces: Sequence[FeatureMaps]) -> FeatureMaps:
    """One stored FeatureMaps from several."""
    layers = {
        name: np.concatenate([piece.arrays()[name] for piece in pieces])
        for name in pieces[0].layer_shapes
    }
    frames = np.concatenate([piece.frames for piece in pieces])
    return FeatureMaps(layers, frames, pieces[0].image_fit)
