"""FeatureMaps: the features of n images by layer, channels last, as scikit-learn may index them.

Stored in memory or streamed from the images batch by batch: detectors see one loop either way.
numpy's ``hstack`` puts them side by side, as scikit-learn's FeatureUnion asks for it.
"""

import sys
from collections.abc import Sequence
from numbers import Real

import numpy as np
from sklearn.utils import gen_batches

from skanomaly.embedding import embed
from skanomaly.images import ImageFit, ImageSubset, cells_inside, pack_mask, unpack_mask
from skanomaly.io import digest
from skanomaly.utils.notebooks import html_table, html_text

__all__ = ["FeatureMaps", "JoinedFeatureMaps", "concatenate", "side_by_side"]

BATCH_SIZE = 16  # images; what detectors work on at a time, at most
BATCH_BYTES = 2**28  # of features; large images are fewer at a time


def usual_batch(layer_shapes: dict[str, tuple[int, ...]]) -> int:
    """Images that detectors work on at a time, from the layers' shapes {layer: (h, w, C)}."""
    n_bytes = 4 * sum(h * w * c for h, w, c in layer_shapes.values())
    return int(min(BATCH_SIZE, max(1, BATCH_BYTES // max(1, n_bytes))))


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
    rois : sequence of n arrays (H, W), bool, or ``roi_bits``, default=None
        Regions of interest in the images' own pixels: patches outside are neither learned nor
        scored. None: all patches count.

    Attributes
    ----------
    shape : tuple (n, D)
        Images, and channels of all layers: what scikit-learn counts samples and features by.
    ndim : int
        Always 2.
    layer_shapes : dict of str to tuple (h, w, C)
    frames : ndarray of shape (n, 2), or None
        None while the features are streamed: an image's frame is known once it is read.
    roi_bits : ndarray of shape (n,), object, or None
        The regions of interest as bits, of stored features that have such.
    cache : Cache or None
        Where features are kept, and what is computed from them.
    scratch : object or None
        What one hook of a detector leaves with a batch for the next one; neither indexed nor
        pickled.

    Notes
    -----
    Indexing with a slice, an int array, a bool array, or the pair ``(key, Ellipsis)`` returns
    FeatureMaps of the chosen images without copying features; with an int, of one image.
    A pickle holds the chosen images alone: their features, or what it takes to compute them.

    ``np.hstack([X1, X2])`` and ``np.concatenate([X1, X2], axis=1)`` are :func:`side_by_side`, and
    ``X * number`` has all features times the number: of numpy's functions and operators these
    are all, those that a scikit-learn FeatureUnion calls.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly import FeatureMaps
    >>> X = FeatureMaps({"stage2": np.zeros((5, 4, 4, 8), np.float32)})
    >>> X.shape, X[[0, 3]].shape, X[1:].layer_shapes
    ((5, 8), (2, 8), {'stage2': (4, 4, 8)})
    """

    ndim = 2
    cache = None
    _roi_bits = None  # an object array, as the masks of images of several sizes are unlike

    def __init__(self, layers, frames=None, image_fit=None, rois=None):
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
        self._roi_bits = None if rois is None else self._packed(rois)

    def _packed(self, rois):
        """Bits of masks (H, W), one for each image, or these bits themselves."""
        if len(rois) != len(self._frames):
            raise ValueError(
                f"expected one region of interest per image, got {len(rois)} for "
                f"{len(self._frames)} images"
            )
        bits, known = [], {}
        for i, (mask, frame) in enumerate(zip(rois, self._frames, strict=True)):
            if mask.ndim == 1:
                bits.append(mask)
                continue
            if mask.shape != tuple(frame):
                raise ValueError(
                    f"expected a region of interest of the image's own {tuple(frame.tolist())} "
                    f"pixels, got {mask.shape} for image {i}"
                )
            if id(mask) not in known:  # one that is shared is packed once
                known[id(mask)] = pack_mask(mask)
            bits.append(known[id(mask)])
        return object_array(bits)

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
        FeatureMaps of shape (n, D)
        """
        maps = cls.__new__(cls)
        maps._layers = maps._frames = maps.scratch = None
        maps._images, maps._extract = images, extract
        maps._rows = np.arange(len(images))
        maps.layer_shapes, maps.image_fit = dict(layer_shapes), image_fit
        return maps

    @property
    def shape(self):
        return len(self), sum(shape[2] for shape in self.layer_shapes.values())

    @property
    def frames(self):
        return None if self._frames is None else self._frames[self._rows]

    @property
    def roi_bits(self):
        return None if self._roi_bits is None else self._roi_bits[self._rows]

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
        """Bytes of the features, or of the images they are streamed from.

        By it dask tells what it sends to each worker once from what goes with every task.
        """
        n_bytes = self.nbytes if self.is_stored else _size_of(self._images, self._rows)
        return object.__sizeof__(self) + n_bytes

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

    def _repr_html_(self):
        kind = "stored" if self.is_stored else "streamed"
        shapes = self.layer_shapes.items()
        rows = [[html_text(one) for one in (name, *shape)] for name, shape in shapes]
        title = f"FeatureMaps: {len(self)} images, {kind}"
        return html_table(title, ["layer", "height", "width", "channels"], rows)

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "expected an array or a table, got FeatureMaps, whose layers have grids of their own; "
            "take X.arrays() or X.joined(), and leave set_output and transform_output at their "
            "default"
        )

    def __array_function__(self, function, types, args, kwargs):
        """What numpy calls for its functions of FeatureMaps: those that put arrays side by side."""
        axis = kwargs.get("axis", args[1] if len(args) > 1 else 0)
        if function is np.hstack or (function is np.concatenate and axis in (1, -1)):
            return side_by_side(args[0])
        return NotImplemented

    def __mul__(self, weight):
        if not isinstance(weight, Real):
            return NotImplemented
        if not np.isfinite(weight):
            raise ValueError(f"expected a finite number to multiply features by, got {weight}")
        return JoinedFeatureMaps([self], [""], [float(weight)])

    def __getstate__(self):
        """State of the chosen images alone."""
        state = self.__dict__.copy()
        if self.is_stored:
            state["_layers"], state["_frames"] = self.arrays(), self.frames
            state["_roi_bits"] = self.roi_bits
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

    def inside(self, grid):
        """The patches that lie in the images' regions of interest, of stored features.

        Parameters
        ----------
        grid : tuple (h, w)

        Returns
        -------
        ndarray of shape (n, h, w), bool, or None
            True where at least half of a patch's cell is inside; None: all patches count.
        """
        if (bits := self.roi_bits) is None:
            return None
        found, known = np.empty((len(self), *grid), dtype=bool), {}
        for i, (one, frame) in enumerate(zip(bits, self.frames.tolist(), strict=True)):
            key = id(one), *frame
            if key not in known:
                known[key] = cells_inside(one, frame, self.image_fit, grid)
            found[i] = known[key]
        return found

    def scored_inside(self, score_maps):
        """Score maps (n, h, w) with -inf for the patches outside the regions of interest."""
        inside = self.inside(score_maps.shape[1:])
        return score_maps if inside is None else np.where(inside, score_maps, -np.inf)

    def batches(self, batch_size=None):
        """Stored FeatureMaps of batch_size consecutive images each, the last one shorter.

        None: 16 images, or fewer where their features take more than 256 MB.
        """
        if len(self) == 0:
            return
        batch_size = usual_batch(self.layer_shapes) if batch_size is None else batch_size
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


class JoinedFeatureMaps(FeatureMaps):
    """Features of the same images from several extractors, as those of one.

    Nothing is copied: parts that are stored stay stored, the others are streamed or read from
    their caches.

    Parameters
    ----------
    parts : list of FeatureMaps of shape (n, D_i)
    prefixes : list of str
        What each part's layers are named with, in front of their own names.
    weights : list of float
        Each part's features are multiplied by its weight.
    """

    def __init__(self, parts, prefixes, weights):
        self._parts = list(zip(parts, prefixes, weights, strict=True))
        self.layer_shapes = {
            prefix + name: shape
            for part, prefix, _ in self._parts
            for name, shape in part.layer_shapes.items()
        }
        self.image_fit, self.scratch = parts[0].image_fit, None

    @property
    def frames(self):
        return next((p.frames for p, *_ in self._parts if p.frames is not None), None)

    @property
    def is_stored(self):
        """Whether the features of all parts lie in memory."""
        return all(part.is_stored for part, *_ in self._parts)

    @property
    def roi_bits(self):
        """What lies in the regions of interest of all parts that have such."""
        found = [bits for part, *_ in self._parts if (bits := part.roi_bits) is not None]
        if len(found) < 2:
            return found[0] if found else None
        return object_array([np.bitwise_and.reduce(some) for some in zip(*found, strict=True)])

    @property
    def nbytes(self):
        """Bytes of the parts that are stored."""
        return sum(part.nbytes for part, *_ in self._parts)

    @property
    def cache(self):
        """That of the first part; None where the features of one are not cached."""
        caches = [part.cache for part, *_ in self._parts]
        return None if None in caches else caches[0]

    @property
    def keys(self):
        """Digests (n,) of all that each image's features depend on, where all parts have them."""
        names = [(prefix, weight) for _, prefix, weight in self._parts]
        of_parts = zip(*(part.keys.tolist() for part, *_ in self._parts), strict=True)
        return np.array([digest(names, keys) for keys in of_parts])

    def __sizeof__(self):
        return sum(sys.getsizeof(part) for part, *_ in self._parts)

    def __len__(self):
        return len(self._parts[0][0])

    def __getitem__(self, key):
        return self._with([part[key] for part, *_ in self._parts])

    def __getstate__(self):
        return {**self.__dict__, "scratch": None}

    def arrays(self):
        """The features themselves, {layer: (n, h, w, C) float32}; of a weight 1 not copied."""
        return {
            prefix + name: maps if weight == 1 else maps * np.float32(weight)
            for part, prefix, weight in self._parts
            for name, maps in part.arrays().items()
        }

    def batches(self, batch_size=None):
        """Stored JoinedFeatureMaps of batch_size consecutive images each, the last one shorter."""
        batch_size = usual_batch(self.layer_shapes) if batch_size is None else batch_size
        streams = (part.batches(batch_size) for part, *_ in self._parts)
        for pieces in zip(*streams, strict=True):
            _check_frames(pieces)
            yield self._with(pieces)

    def _with(self, parts):
        """The same of other images."""
        return JoinedFeatureMaps(parts, *zip(*(names for _, *names in self._parts), strict=True))


def side_by_side(parts: Sequence[FeatureMaps]) -> FeatureMaps:
    """The features of several extractors for the same images as those of one.

    Parameters
    ----------
    parts : sequence of FeatureMaps of shape (n, D_i)
        Of the same images in the same order. Images of unlike sizes of input lie on the same
        places only if they are stretched; where ``resize`` is "pad" or "crop", the sizes must be
        the same.

    Returns
    -------
    FeatureMaps of shape (n, D)
        The layers of all parts, named by the number of their part as well, as "0.energies" and
        "1.energies". A detector's sigma is in pixels of the first part's input.

    Raises
    ------
    ValueError
        The parts have unlike numbers of images, or images of unlike sizes or ``resize``; or one
        of them is no FeatureMaps.

    Examples
    --------
    >>> import numpy as np
    >>> from skanomaly import FeatureMaps
    >>> from skanomaly.feature_maps import side_by_side
    >>> fine = FeatureMaps({"a": np.ones((2, 8, 8, 3), np.float32)})
    >>> coarse = FeatureMaps({"a": np.zeros((2, 4, 4, 5), np.float32)}, fine.frames, fine.image_fit)
    >>> side_by_side([fine, coarse])
    FeatureMaps(2 images, stored: 0.a (8, 8, 3), 1.a (4, 4, 5))
    """
    for i, part in enumerate(parts):
        if not isinstance(part, FeatureMaps):
            raise ValueError(
                f"expected the features of an extractor from each transformer of a union, got "
                f"{type(part).__name__} from that at place {i}; take extractors alone, such as "
                "FilterBank() and FeatureExtractor()"
            )
        first, fit = parts[0].image_fit, part.image_fit
        if len(part) != len(parts[0]):
            raise ValueError(
                f"expected features of the same images, got {len(parts[0])} images from the "
                f"extractor at place 0 and {len(part)} from that at place {i}"
            )
        if fit.resize != first.resize or (fit != first and fit.resize != "stretch"):
            raise ValueError(
                "expected extractors that see the same part of an image, got "
                f"{_described(first)} of that at place 0 and {_described(fit)} of that at place "
                f'{i}; set the same resize, and with "pad" or "crop" the same image_size'
            )
    _check_frames(parts)
    return JoinedFeatureMaps(parts, [f"{i}." for i in range(len(parts))], [1.0] * len(parts))


def _described(fit):
    return f'resize="{fit.resize}", image_size=({fit.height}, {fit.width})'


def _check_frames(parts):
    """Refuse parts whose images have other sizes, as far as these are known by now."""
    known = [(i, part.frames) for i, part in enumerate(parts) if part.frames is not None]
    for i, frames in known[1:]:
        first, expected = known[0]
        unlike = (frames != expected).any(axis=1)
        if unlike.any():
            one, other = (tuple(sizes[unlike][0].tolist()) for sizes in (expected, frames))
            raise ValueError(
                f"expected features of the same images, got one of {one} pixels from the extractor "
                f"at place {first} and of {other} from that at place {i}"
            )


def _size_of(images, rows):
    """Bytes of some images of a collection, as far as they are in memory."""
    if isinstance(images, np.ndarray) and len(images):
        return images.nbytes // len(images) * len(rows)
    if isinstance(images, list):
        chosen = (images[row] for row in rows)
        return sum(getattr(image, "nbytes", sys.getsizeof(image)) for image in chosen)
    return sys.getsizeof(images)


def concatenate(pieces: Sequence[FeatureMaps]) -> FeatureMaps:
    """One stored FeatureMaps from several."""
    layers = {
        name: np.concatenate([piece.arrays()[name] for piece in pieces])
        for name in pieces[0].layer_shapes
    }
    frames = np.concatenate([piece.frames for piece in pieces])
    bits = None if pieces[0].roi_bits is None else np.concatenate([p.roi_bits for p in pieces])
    return FeatureMaps(layers, frames, pieces[0].image_fit, bits)


def object_array(items: Sequence[np.ndarray]) -> np.ndarray:
    """An array (n,) of arrays of any lengths."""
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def masks_of(bits: np.ndarray | None, frames: np.ndarray) -> list[np.ndarray | None]:
    """Regions of interest (H, W) from ``roi_bits``; None where all pixels count."""
    if bits is None:
        return [None] * len(frames)
    return [unpack_mask(one, frame) for one, frame in zip(bits, frames, strict=True)]
