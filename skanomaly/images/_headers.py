"""What the header of an image file says, without decoding the image."""

from typing import Any

from PIL import Image

from skanomaly.images._decoding import opened_header
from skanomaly.images._files import path_of

_ORIENTATION = 0x0112
_SIDEWAYS = {5, 6, 7, 8}
_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"}


def image_frame(path: str) -> tuple[int, int]:
    """Height and width of an image file as a viewer shows it.

    Parameters
    ----------
    path : str

    Returns
    -------
    (int, int)

    Raises
    ------
    ImageError
        The header cannot be read.
    """
    with opened_header(path) as image:
        width, height = image.size
        is_sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
    return (width, height) if is_sideways else (height, width)


def is_transparent(item: Any) -> bool:
    """Whether pixels of an image are transparent, which :func:`read_image` lays on black.

    Parameters
    ----------
    item : path, PIL image or anything else
        One that :func:`read_image` has read.

    Returns
    -------
    bool
        False for anything but a path or a PIL image.

    Raises
    ------
    ImageError
        The header cannot be read.
    """
    if isinstance(item, Image.Image):
        return _hides_pixels(item)
    path = path_of(item)
    if path is None:
        return False
    with opened_header(path) as image:
        return _hides_pixels(image)


def _hides_pixels(image):
    if not image.has_transparency_data:
        return False
    if image.mode not in _EIGHT_BITS:  # 16 bits, of which one value is transparent
        return True
    return image.convert("RGBA").getchannel("A").getextrema()[0] < 255
