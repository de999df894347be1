"""Read images of any kind: an image becomes an array (H, W, C) of uint8, uint16 or float32."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.utils import gen_batches

MIN_SIDE = 8  # pixels; below this there is nothing to inspect and the cause is a wrong argument

_TO_GREY = {"1", "L", "LA", "La"}
_TO_16_BIT = {"I", "I;16", "I;16L", "I;16B", "I;16N"}


class ImageError(ValueError):
    """An image that cannot be used; the message names it."""


class MissingImageError(ImageError, FileNotFoundError):
    """An image file that does not exist."""


def check_images(X):
    """Collection of images as something with ``len`` and integer indices.

    Raises ValueError where X is empty, one single image, or one path.
    """
    way_out = "pass a list of paths, arrays or PIL images, or an array of shape (n, H, W[, C])"
    if isinstance(X, (str, Path)):
        raise ValueError(
            f"expected a collection of images, got the single path {str(X)!r}; {way_out}. "
            "For the images of a folder use skanomaly.load_folder."
        )
    if isinstance(X, Image.Image) or not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise ValueError(f"expected a collection of images, got {type(X).__name__}; {way_out}")
    if isinstance(X, np.ndarray) and X.dtype.kind not in "OUS" and X.ndim not in (3, 4):
        raise ValueError(
            f"expected images of shape (n, H, W) or (n, H, W, C), got shape {X.shape}; {way_out}"
        )
    if len(X) == 0:
        raise ValueError(f"expected at least one image, got none; {way_out}")
    return X.tolist() if hasattr(X, "iloc") else X


def image_name(item, index):
    """How messages call an image: its path, or its place in the collection."""
    return str(item) if isinstance(item, (str, Path)) else f"image {index}"


def titles(images, names):
    """A title for each image: given, or folder and file name, or its place."""
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


def read_image(item, name="image"):
    """One image as an array.

    Parameters
    ----------
    item : str, Path, PIL image or ndarray of shape (H, W) or (H, W, C)
        Arrays are uint8, uint16 or floats in [0, 1].
    name : str
        What messages call it, where it is no path.

    Returns
    -------
    ndarray of shape (H, W, C), uint8, uint16 or float32
        Files and PIL images are turned upright as their EXIF orientation says; palettes, CMYK
        and other colour spaces become RGB; an alpha channel is dropped; 16 bits are kept.

    Raises
    ------
    ImageError
        The item cannot be read or is no image. It is a ValueError.
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


def image_content(item, name):
    """What tells an image from others: a file's bytes, or an array's pixels."""
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
                    f"{path}: expected one image, got {image.n_frames} pages; save them apart"
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
        image = image.convert("RGBA")  # Pillow wants to be asked in two steps
    return np.asarray(image.convert("L" if image.mode in _TO_GREY else "RGB"))


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
        raise ImageError(f"{name}: holds NaN or infinite pixels; mend or leave out the image")
    low, high = image.min(), image.max()
    if low < 0 or high > 1:
        raise ImageError(
            f"{name}: float pixels are expected in [0, 1], got {low:.6g} to {high:.6g}; "
            "divide by the largest value the camera can give"
        )
    return image.astype(np.float32, copy=False)


def channels_of(images):
    """Channels of the first image; grey counts as RGB."""
    n_channels = read_image(images[0], image_name(images[0], 0)).shape[2]
    return 3 if n_channels == 1 else n_channels


def to_channels(image, n_channels, name):
    """Image with n_channels channels; grey is repeated, anything else must match."""
    if image.shape[2] == n_channels:
        return image
    if image.shape[2] == 1 and n_channels == 3:
        return np.repeat(image, 3, axis=2)
    raise ImageError(
        f"{name}: expected {n_channels} channels, got {image.shape[2]}; "
        "fit on images of the same kind, or select the channels with image[..., :3]"
    )


def load_batch(images, indices, image_fit, n_channels):
    """Some images, read and fitted.

    Returns
    -------
    batch : ndarray of shape (b, height, width, n_channels), float32 in [0, 1]
    frames : ndarray of shape (b, 2), int
        Height and width of each image.
    """
    fitted, frames = [], []
    for index in indices:
        name = image_name(images[index], index)
        image = read_image(images[index], name)
        frames.append(image.shape[:2])
        fitted.append(to_channels(image_fit.apply(image), n_channels, name))
    return np.stack(fitted), np.array(frames)


def load_batches(images, image_fit, n_channels, batch_size, indices=None, n_threads=2):
    """Batches as from load_batch, read ahead by threads while the caller computes.

    ``indices`` names the images to read; None: all.
    """
    indices = range(len(images)) if indices is None else indices
    slices = list(gen_batches(len(indices), batch_size)) if len(indices) else []
    with ThreadPoolExecutor(n_threads) as pool:
        waiting = deque()
        try:
            for i in range(len(slices) + n_threads):
                if i < len(slices):
                    part = indices[slices[i]]
                    waiting.append(pool.submit(load_batch, images, part, image_fit, n_channels))
                if i >= n_threads and waiting:
                    yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
