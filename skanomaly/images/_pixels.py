"""The pixels of an image of Pillow as an array (H, W) or (H, W, C)."""

import re
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile

from skanomaly.exceptions import ImageError

_TO_GRAY = {"1", "L", "LA", "La"}
_TO_16_BIT = {"I", "I;16", "I;16L", "I;16B", "I;16N"}

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The last letter of a raw mode of 16 bits per color is the order of the bytes.
_CUT = re.compile(r".*;16[BLN]")
_GRAY_ALPHA = "LA;16B"
_COLORS = re.compile(r"(RGB|RGBA|RGBX);16[BLN]")
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def to_pixels(image: Image.Image) -> np.ndarray:
    """The pixels of an image of Pillow, upright.

    Parameters
    ----------
    image : PIL image

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3), uint8, uint16 or float32
        What is transparent is laid on black.

    Raises
    ------
    ImageError
        The values are beyond 16 bits. The message lacks the image's name.
    """
    image = _upright(image)
    if image.mode in _TO_16_BIT:
        return _to_16_bit(np.asarray(image), image.info.get("transparency"))
    if image.mode == "F":
        return np.asarray(image)
    is_gray = image.mode in _TO_GRAY
    if image.has_transparency_data:
        return _on_black(np.asarray(image.convert("LA" if is_gray else "RGBA")))
    return np.asarray(image.convert("L" if is_gray else "RGB"))


def _upright(image):
    image.load()
    turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    return image if turn is None else image.transpose(turn)


def _to_16_bit(values, hidden):
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise ImageError(
            f"expected 16-bit values, got {values.min()} to {values.max()}; "
            "scale them to floats in [0, 1]"
        )
    values = values.astype(np.uint16)
    return values if hidden is None else np.where(values == hidden, np.uint16(0), values)


def _on_black(values):
    """(H, W, C) whose last channel is alpha -> (H, W) or (H, W, C - 1)."""
    colors, alpha = values[..., :-1], values[..., -1:]
    opaque = np.iinfo(values.dtype).max
    if alpha.min() < opaque:
        product = colors.astype(np.uint32) * alpha + opaque // 2
        colors = (product // opaque).astype(values.dtype)
    return colors[..., 0] if colors.shape[2] == 1 else colors


def file_pixels(open_file: Callable[[], ImageFile.ImageFile]) -> np.ndarray:
    """The pixels of an image file, as :func:`to_pixels`, 16 bits per color included.

    Parameters
    ----------
    open_file : function
        Opens the file with Pillow, and does not load it.

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3), uint8, uint16 or float32
    """
    image = open_file()
    raw_modes = {_raw_mode(tile) for tile in image.tile}
    if image.mode in _TO_16_BIT or not any(map(_CUT.fullmatch, raw_modes)):
        return to_pixels(image)
    if raw_modes == {_GRAY_ALPHA}:  # in four bytes, as many as RGBA has
        image.tile = [_in_mode(tile, "RGBA") for tile in image.tile]
        values = np.ascontiguousarray(_upright(image)).view(">u2")  # (H, W, 2)
        return _on_black(values.astype(np.uint16))
    if not all(map(_COLORS.fullmatch, raw_modes)):
        raise ImageError(
            f"expected 16 bits per color as RGB or RGBA, got the layout {sorted(raw_modes)}; "
            "save it as RGB, or pass the image as an array"
        )
    # Pillow keeps the high byte of each color. In the other order of bytes it is the low one.
    lower = open_file()
    lower.tile = [_in_mode(tile, _in_other_order(_raw_mode(tile))) for tile in lower.tile]
    high, low = (np.asarray(_upright(one)) for one in (image, lower))
    values = high.astype(np.uint16) << 8 | low
    hidden = image.info.get("transparency")
    if hidden is not None:
        values[(values == np.array(hidden)).all(axis=2)] = 0
    return _on_black(values) if values.shape[2] == 4 else values


def _raw_mode(tile):
    args = tile[3]
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _in_other_order(raw_mode):
    return raw_mode[:-1] + _OTHER_ORDER[raw_mode[-1]]


def _in_mode(tile, raw_mode):
    args = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
    return getattr(tile, "_make", tuple)((*tile[:3], args))  # it has names since Pillow 11.1
