"""Decode the bytes of an image file: the one place where the errors of decoders become ImageError.

Pillow decodes. Before that, a check of each format goes through the whole file, because Pillow
reads on over many kinds of damage, or only warns; and warnings cannot be caught in one thread.
"""

import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from skanomaly.exceptions import ImageError, MissingImageError
from skanomaly.images._limits import without_limit_of_pillow
from skanomaly.images._other_formats import (
    inspect_bmp,
    inspect_gif,
    inspect_jpeg_2000,
    inspect_ppm,
    inspect_webp,
)
from skanomaly.images._pixels import file_pixels
from skanomaly.images._png import inspect_png
from skanomaly.images._tiff import inspect_tiff


class _Format(NamedTuple):
    """A format of image files."""

    name: str
    beginning: bytes  # a pattern
    find_check: Callable  # returns the function that goes through the content before Pillow
    opened: type  # the class of Pillow that reads it
    # Whether the check finds all that is missing, so that Pillow need not.
    is_complete: bool = False


_LONGEST_BEGINNING = 4096


def _jpeg_check():
    from skanomaly.images._jpeg import inspect_jpeg  # loads numba, which takes a second

    return inspect_jpeg


_FORMATS = (
    _Format("PNG", rb"\x89PNG\r\n\x1a\n", lambda: inspect_png, PngImagePlugin.PngImageFile, True),
    _Format("JPEG", rb"\xff\xd8\xff", _jpeg_check, JpegImagePlugin.JpegImageFile, True),
    _Format("TIFF", rb"II[*+]\0|MM\0[*+]", lambda: inspect_tiff, TiffImagePlugin.TiffImageFile),
    _Format("BMP", rb"BM", lambda: inspect_bmp, BmpImagePlugin.BmpImageFile),
    _Format("WebP", rb"RIFF....WEBP", lambda: inspect_webp, WebPImagePlugin.WebPImageFile),
    _Format("GIF", rb"GIF8[79]a", lambda: inspect_gif, GifImagePlugin.GifImageFile),
    _Format("PPM", rb"P[1-6f]\s", lambda: inspect_ppm, PpmImagePlugin.PpmImageFile),
    _Format(
        "JPEG 2000",
        rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
        lambda: inspect_jpeg_2000,
        Jpeg2KImagePlugin.Jpeg2KImageFile,
    ),
)

# What is often met under the name of an image.
_OTHERS = {
    rb"....ftyp(heic|heix|heim|heis|hevc|mif1|msf1)": "HEIC",
    rb"....ftypavi[fs]": "AVIF",
    rb"%PDF": "PDF",
    rb"PK\x03\x04": "ZIP",
    rb"\s*<": "SVG, HTML or XML",
    rb"[\s\x20-\x7e]{1,4096}\Z": "text (a path must be a str)",
}


def decode_image(content: bytes, name: str) -> np.ndarray:
    """The pixels in the content of an image file.

    Parameters
    ----------
    content : bytes
    name : str
        Name of the image in messages.

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3), uint8, uint16 or float32

    Raises
    ------
    ImageError
        The file is damaged, of another format, or not one image.
    """
    kind = _find_format(content, name)
    check = kind.find_check()  # first: what it raises is not about the image
    if ImageFile.LOAD_TRUNCATED_IMAGES and not kind.is_complete:
        raise ImageError(
            f"{name}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, with which a truncated "
            f"{kind.name} file cannot be told from a whole one; set it to False"
        )
    try:
        whole, size = check(content)
        with without_limit_of_pillow(size[0] * size[1]):
            return file_pixels(lambda: _open(kind, whole, size))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory to read the image") from error
    except Exception as error:  # decoders raise whatever comes to them
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"{name}: damaged or unreadable {kind.name} image file ({reason}); "
            "copy or convert it once more, or pass the image as an array"
        ) from error


@contextmanager
def opened_header(path: str) -> Iterator[ImageFile.ImageFile]:
    """Context with an image file of which only the header is read, whatever its size.

    Parameters
    ----------
    path : str

    Yields
    ------
    PIL image

    Raises
    ------
    ImageError
        The file cannot be read; or what the context asks of the image.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening it could wait forever
            raise ImageError(f"{path}: expected an image file")
        with open(path, "rb") as file:
            kind = _find_format(file.read(_LONGEST_BEGINNING), path)
        with kind.opened(path) as image:  # not Image.open, which has a limit of its own
            yield image
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise MissingImageError(f"{path}: no such image file") from error
    except Exception as error:  # decoders raise whatever comes to them
        reason = str(error) or type(error).__name__
        raise ImageError(f"{path}: damaged or unreadable image file ({reason})") from error


def _open(kind, content, size):
    image = kind.opened(io.BytesIO(content))
    if sorted(image.size) != sorted(size):  # Pillow turns some formats on its own
        raise ValueError(f"it has two sizes, {size} and {image.size}")
    return image


def _find_format(content, name):
    for kind in _FORMATS:
        if re.match(kind.beginning, content, flags=re.DOTALL):
            return kind
    others = [kind for begin, kind in _OTHERS.items() if re.match(begin, content, flags=re.DOTALL)]
    got = f", it is a file of {others[0]}" if others else "" if content else ", it is empty"
    names = ", ".join(kind.name for kind in _FORMATS)
    raise ImageError(
        f"{name}: not an image file, or an unknown format{got}; expected one of {names}. "
        "Convert it, or pass the image as an array or PIL image"
    )
