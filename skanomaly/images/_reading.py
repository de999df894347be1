"""Read images of any kind as arrays (H, W, C) of uint8, uint16 or float32."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.utils import gen_batches

from skanomaly.exceptions import ImageError, MissingImageError
from skanomaly.images._fitting import ImageFit

MIN_SIDE = 8  # pixels; a smaller array is usually an argument of the wrong shape

_TO_GRAY = {"1", "L", "LA", "La"}
_TO_16_BIT = {"I", "I;16", "I;16L", "I;16B", "I;16N"}


def check_images(X: Any) -> Any:
    """Validate a collection of images.

    Parameters
    ----------
    X : sequence of paths, arrays or PIL images, or array of shape (n, H, W[, C])

    Returns
    -------
    X, or a list if X is a pandas Series
        It has a length and integer indices.

    Raises
    ------
    ValueError
        If X is empty, a single image or a single path.
    """
    advice = "pass a list of paths, arrays or PIL images, or an array of shape (n, H, W[, C])"
    if isinstance(X, (str, Path)):
        raise ValueError(
            f"expected a collection of images, got the single path {str(X)!r}; {advice}. "
            "For the images of a folder use skanomaly.load_folder."
        )
    if isinstance(X, Image.Image) or not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise ValueError(f"expected a collection of images, got {type(X).__name__}; {advice}")
    if isinstance(X, np.ndarray) and X.dtype.kind not in "OUS" and X.ndim not in (3, 4):
        raise ValueError(
            f"expected images of shape (n, H, W) or (n, H, W, C), got shape {X.shape}; {advice}"
        )
    if len(X) == 0:
        raise ValueError(f"expected at least one image, got none; {advice}")
    return X.tolist() if hasattr(X, "iloc") else X


def image_name(item: Any, index: int) -> str:
    """Name of an image in messages: its path, or its index in the collection.

    Parameters
    ----------
    item : str, Path, PIL image or ndarray
    index : int

    Returns
    -------
    str
    """
    return str(item) if isinstance(item, (str, Path)) else f"image {index}"


class ImageSubset:
    """Some images of a collection; in messages they keep their indices in the whole collection.

    Parameters
    ----------
    images : collection of images
    rows : ndarray of shape (n,), int
        Indices of the images.
    """

    def __init__(self, images, rows):
        self.images, self.rows = images, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self.images[row] for row in self.rows[i]]
        return self.images[self.rows[i]]


def name_in(images: Any, i: int) -> str:
    """Name in messages of the image with index i of a collection.

    Parameters
    ----------
    images : collection of images
    i : int

    Returns
    -------
    str
    """
    if isinstance(images, ImageSubset):
        return name_in(images.images, images.rows[i])
    return image_name(images[i], i)


def titles(images: Any, names: Sequence[str] | None) -> list[str]:
    """A title for each image, for plots and reports.

    Parameters
    ----------
    images : collection of images
    names : sequence of str or None
        The titles. None: folder and name of a file, or the index of another image.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If there is not one name per image.
    """
    if names is None:
        return [
            "/".join(Path(item).parts[-2:]) if isinstance(item, (str, Path)) else f"image {i}"
            for i, item in enumerate(images)
        ]
    if len(names) != len(images):
        raise ValueError(
            f"expected one name per image, got {len(names)} names for {len(images)} images"
        )
    return list(names)


def read_image(item: Any, name: str = "image") -> np.ndarray:
    """Read one image as an array.

    Parameters
    ----------
    item : str, Path, PIL image or ndarray of shape (H, W) or (H, W, C)
        Arrays are uint8, uint16 or floats in [0, 1].
    name : str, default="image"
        Name of the image in messages, if it is not a path.

    Returns
    -------
    ndarray of shape (H, W, C), uint8, uint16 or float32
        The EXIF orientation of files and PIL images is applied. Palettes, CMYK and other color
        spaces are converted to RGB, an alpha channel is dropped, and 16 bits are kept.

    Raises
    ------
    ImageError
        If the item cannot be read or is not an image. It is a ValueError.
    """
    if isinstance(item, (str, Path)):
        image = _read_file(Path(item))
        name = str(item)
    elif isinstance(item, Image.Image):
        image = _from_pil(item, name)
    elif item is None:
        raise ImageError(f"{name}: expected a path, an array or a PIL image, got None")
    else:
        image = np.asarray(item)
    return _check_array(image, name)


def image_content(item: Any, name: str) -> bytes | np.ndarray:
    """Content of an image, from which a digest can be computed.

    Parameters
    ----------
    item : str, Path, PIL image or ndarray
    name : str
        Name of the image in messages, if it is not a path.

    Returns
    -------
    bytes or ndarray
        The bytes of a file, or the pixels of an array or PIL image.

    Raises
    ------
    ImageError
        If there is no such file, or the item is not an image.
    """
    if isinstance(item, (str, Path)):
        _check_file(Path(item))
        return Path(item).read_bytes()
    return item if isinstance(item, np.ndarray) else read_image(item, name)


def _check_file(path):
    if not path.exists():
        raise MissingImageError(f"{path}: no such image file")
    if path.is_dir():
        raise ImageError(
            f"{path}: expected an image file, got a folder; list its files, "
            "or read it with skanomaly.load_folder"
        )


def _read_file(path):
    _check_file(path)
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise ImageError(
                    f"{path}: expected one image, got {image.n_frames} pages; save them as "
                    "separate files"
                )
            return _from_pil(image, str(path))
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image file, or an unknown format") from error
    except (OSError, SyntaxError, EOFError) as error:  # what Pillow raises on damaged files
        raise ImageError(f"{path}: damaged or unreadable image file ({error})") from error


def _from_pil(image, name):
    image = ImageOps.exif_transpose(image)
    if image.mode in _TO_16_BIT:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
            raise ImageError(
                f"{name}: expected 16-bit values, got {values.min()} to {values.max()}; "
                "scale them to floats in [0, 1]"
            )
        return values.astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a direct conversion to RGB would raise a warning
    return np.asarray(image.convert("L" if image.mode in _TO_GRAY else "RGB"))


def _check_array(image, name):
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] == 0:
        raise ImageError(f"{name}: expected shape (H, W) or (H, W, C), got {image.shape}")
    if min(image.shape[:2]) < MIN_SIDE:
        hint = "; channels come last" if image.shape[0] in (1, 3, 4) else ""
        raise ImageError(
            f"{name}: expected at least {MIN_SIDE} x {MIN_SIDE} pixels, "
            f"got an array of shape {image.shape}{hint}"
        )
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype.kind != "f":
        raise ImageError(
            f"{name}: expected uint8, uint16 or float pixels, got {image.dtype}; convert them, "
            "for example with .astype(np.uint8)"
        )
    if not np.isfinite(image).all():
        raise ImageError(f"{name}: holds NaN or infinite pixels; correct or remove the image")
    low, high = image.min(), image.max()
    if low < 0 or high > 1:
        raise ImageError(
            f"{name}: float pixels are expected in [0, 1], got {low:.6g} to {high:.6g}; "
            "divide by the largest value the camera can give"
        )
    return image.astype(np.float32, copy=False)


def channels_of(images: Any) -> int:
    """Number of channels of the first image; gray images count as RGB.

    Parameters
    ----------
    images : collection of images

    Returns
    -------
    int
    """
    return _color_channels(read_image(images[0], name_in(images, 0)))


def _color_channels(image):
    return 3 if image.shape[2] == 1 else image.shape[2]


def to_channels(image: np.ndarray, n_channels: int, name: str) -> np.ndarray:
    """The image with a number of channels: gray is repeated as RGB, others must match.

    Parameters
    ----------
    image : ndarray of shape (H, W, C)
    n_channels : int
    name : str
        Name of the image in messages.

    Returns
    -------
    ndarray of shape (H, W, n_channels)

    Raises
    ------
    ImageError
        If the image has another number of channels.
    """
    if image.shape[2] == n_channels:
        return image
    if image.shape[2] == 1 and n_channels == 3:
        return np.repeat(image, 3, axis=2)
    raise ImageError(
        f"{name}: expected {n_channels} channels, got {image.shape[2]}; "
        "fit on images of the same kind, or select the channels with image[..., :3]"
    )


def load_batch(
    images: Any, indices: Sequence[int], image_fit: ImageFit, n_channels: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Read some images and resize them to the input size.

    Parameters
    ----------
    images : collection of images
    indices : sequence of int
    image_fit : ImageFit
    n_channels : int or None
        Number of channels that the images must have; None: that of the first of these images.

    Returns
    -------
    batch : ndarray of shape (b, height, width, n_channels), float32 in [0, 1]
    frames : ndarray of shape (b, 2), int
        Height and width of each image before it was resized.

    Raises
    ------
    ImageError
        If an image cannot be read or has another number of channels.
    """
    fitted, frames = [], []
    for index in indices:
        name = name_in(images, index)
        image = read_image(images[index], name)
        n_channels = _color_channels(image) if n_channels is None else n_channels
        frames.append(image.shape[:2])
        fitted.append(to_channels(image_fit.apply(image), n_channels, name))
    return np.stack(fitted), np.array(frames)


def load_batches(
    images: Any,
    image_fit: ImageFit,
    n_channels: int | None,
    batch_size: int,
    indices: Sequence[int] | None = None,
    n_threads: int = 2,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of :func:`load_batch`, read in advance by threads while the caller computes.

    Parameters
    ----------
    images : collection of images
    image_fit : ImageFit
    n_channels : int or None
        Number of channels that the images must have; None: that of the first image.
    batch_size : int
    indices : sequence of int or None, default=None
        The images to read; None: all.
    n_threads : int, default=2

    Yields
    ------
    batch : ndarray of shape (b, height, width, n_channels), float32 in [0, 1]
    frames : ndarray of shape (b, 2), int
        Height and width of each image before it was resized.

    Raises
    ------
    ImageError
        If an image cannot be read or has another number of channels.
    """
    indices = range(len(images)) if indices is None else indices
    slices = list(gen_batches(len(indices), batch_size)) if len(indices) else []
    if slices and n_channels is None:
        first = load_batch(images, indices[slices.pop(0)], image_fit, None)
        n_channels = first[0].shape[3]
        yield first
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque = deque()
        try:
            # One batch per thread is read ahead of the batch that is yielded.
            for i in range(len(slices) + n_threads):
                if i < len(slices):
                    part = indices[slices[i]]
                    waiting.append(pool.submit(load_batch, images, part, image_fit, n_channels))
                if i >= n_threads and waiting:
                    yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
