"""Read images of any kind as arrays (H, W, C) of uint8, uint16 or float32."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from sklearn.utils import gen_batches

from skanomaly.exceptions import ImageError
from skanomaly.images._collections import name_in
from skanomaly.images._decoding import decode_image
from skanomaly.images._files import file_content, path_of
from skanomaly.images._fitting import ImageFit
from skanomaly.images._pixels import to_pixels

T = TypeVar("T")

MIN_SIDE = 8  # pixels; a smaller array is usually an argument of the wrong shape

# Floats may leave [0, 1] by so much, a quarter of a step of 8 bits, as arithmetic with few digits
# leaves them. They are clipped.
_ROUNDING = 1e-3

_EXPECTED = "expected a path, the bytes of an image file, an array or a PIL image"


def read_image(item: Any, name: str = "image") -> np.ndarray:
    """Read one image as an array.

    Parameters
    ----------
    item : path, content of an image file, PIL image, or ndarray of shape (H, W) or (H, W, C)
        A path is a str or os.PathLike; the content of a file is bytes, such as a web service gets,
        or a binary file object. Arrays are uint8, uint16, bool or floats in [0, 1].
    name : str, default="image"
        Name of the image in messages, if it is not a path.

    Returns
    -------
    ndarray of shape (H, W, C), uint8, uint16 or float32
        The EXIF orientation of files and PIL images is applied. Palettes, CMYK and other color
        spaces are converted to RGB, what is transparent is laid on black, and 16 bits are kept.

    Raises
    ------
    ImageError
        If the item cannot be read, is damaged or is not an image. It is a ValueError.
    """
    content = file_content(item, name)
    if content is not None:
        name = path_of(item) or name
        image = decode_image(content, name)
    elif isinstance(item, Image.Image):
        image = _from_pil(item, name)
    else:
        image = _from_array(item, name)
    return _check_array(image, name)


def image_content(item: Any, name: str) -> bytes | np.ndarray:
    """Content of an image, from which a digest can be computed.

    Parameters
    ----------
    item : path, content of an image file, PIL image or ndarray
    name : str
        Name of the image in messages, if it is not a path.

    Returns
    -------
    bytes or ndarray
        The bytes of a file, which :func:`read_image` takes as well, or the pixels of an array or
        PIL image.

    Raises
    ------
    ImageError
        If there is no such file, or the item is not an image.
    """
    content = file_content(item, name)
    if content is not None:
        return content
    return item if isinstance(item, np.ndarray) else read_image(item, name)


def _from_pil(image, name):
    try:
        return to_pixels(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # its file is read only now
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"{name}: damaged or unreadable PIL image ({reason}); pass the path or the bytes of "
            "its file"
        ) from error


def _from_array(item, name):
    if item is None or isinstance(item, (dict, set)):
        raise ImageError(f"{name}: {_EXPECTED}, got {type(item).__name__.removesuffix('Type')}")
    try:
        image = np.asarray(item)
    except Exception as error:  # tensors on a GPU, lists of unequal lengths, ...
        raise ImageError(
            f"{name}: {_EXPECTED}, got {type(item).__name__}, which is no array ({error})"
        ) from error
    if np.ma.is_masked(item):
        raise ImageError(
            f"{name}: some of its pixels are masked; give them a value: image.filled(0)"
        )
    if image.dtype.kind == "O":
        raise ImageError(f"{name}: {_EXPECTED}, got {type(item).__name__}")
    if image.dtype == bool:
        return np.where(image, np.uint8(255), np.uint8(0))
    return image.astype(image.dtype.newbyteorder("="), copy=False)


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
            "for example with .astype(np.uint8) if they are from 0 to 255"
        )
    if not np.isfinite(image).all():
        raise ImageError(f"{name}: holds NaN or infinite pixels; correct or remove the image")
    low, high = image.min(), image.max()
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ImageError(
            f"{name}: float pixels are expected in [0, 1], got {low:.6g} to {high:.6g}; "
            "divide by the largest value the camera can give"
        )
    image = image.astype(np.float32, copy=False)
    return image.clip(0, 1) if low < 0 or high > 1 else image


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
    tasks = [partial(load_batch, images, indices[p], image_fit, n_channels) for p in slices]
    yield from computed_ahead(tasks, n_threads)


def computed_ahead(tasks: Sequence[Callable[[], T]], n_threads: int) -> Iterator[T]:
    """Results of functions in their order, computed in advance by threads.

    Parameters
    ----------
    tasks : sequence of callables without arguments
    n_threads : int
        One task per thread is done ahead of the one whose result is yielded.

    Yields
    ------
    object
    """
    if len(tasks) == 1:  # nothing is computed meanwhile
        yield tasks[0]()
        return
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque = deque()
        try:
            for i in range(len(tasks) + n_threads):
                if i < len(tasks):
                    waiting.append(pool.submit(tasks[i]))
                if i >= n_threads and waiting:
                    yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
