"""Pictures, score maps and crops as the bytes that a report carries."""

import struct
import zlib
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image

from skanomaly._heat_maps import HEAT_COLOURS, OPACITY, crop_around, heat_levels

_QUALITY = 80
_SQUEEZED_QUALITY = 60
_SQUEEZED_SHARE = 0.75  # of the bytes that are left at that quality, about
_SMALLEST_SIDE = 64  # pixels; no full view is squeezed below
# The slower ways to look for a smaller file take twice as long and gain a twentieth.
_EXTRA = {"WEBP": {"method": 2}, "JPEG": {"optimize": True}}
_OPACITY = np.rint(255 * OPACITY).astype(np.uint8)


@dataclass
class Picture:
    """What a report keeps of one picture: words, numbers and encoded bytes."""

    name: str
    decision: float
    label: int | None
    frame: tuple  # height, width of the picture as it came
    thumb: bytes
    full: bytes
    heat: "Heat"
    levels: tuple | None  # what the limits of the colours are taken from, where they are not given
    regions: list = field(default_factory=list)
    n_regions: int = 0  # of which regions holds the first ones
    spots: list = field(default_factory=list)


@dataclass
class Heat:
    """A score map as a small 8-bit picture; its colours come later, when all maps are known."""

    png: bytes
    low: float  # score of level 0
    high: float  # score of level 255

    def coloured(self, vmin, vmax):
        """PNG bytes with the house's colours and opacities, a colour for a score."""
        scores = np.linspace(self.low, self.high, 256)
        levels = heat_levels(scores, vmin, vmax)
        return _with_palette(self.png, HEAT_COLOURS[levels], _OPACITY[levels])


@dataclass
class Crop:
    """A piece of a picture and the box in it that it was cut for."""

    encoded: bytes
    frame: tuple  # height, width in the picture's own pixels
    box: tuple  # top, left, bottom, right in the crop


def shrunk(rgb, side):
    """Pillow picture whose longer side is at most so many pixels."""
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    return picture


def encode(picture, image_format, quality=_QUALITY):
    """Bytes of a picture."""
    return _bytes(picture, format=image_format, quality=quality, **_EXTRA[image_format])


def squeezed(encoded, max_bytes, image_format):
    """The same picture in at most so many bytes: compressed harder, then smaller."""
    if len(encoded) <= max_bytes:
        return encoded
    whole = Image.open(BytesIO(encoded))
    side, n_bytes = max(whole.size), _SQUEEZED_SHARE * len(encoded)
    while True:
        # Bytes grow a little more slowly than pixels: the root alone would shrink too little.
        shrink = 1 if n_bytes <= max_bytes else 0.95 * np.sqrt(max(0, max_bytes) / n_bytes)
        side = max(_SMALLEST_SIDE, int(side * shrink))
        picture = whole.copy()
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        encoded = encode(picture, image_format, _SQUEEZED_QUALITY)
        n_bytes = len(encoded)
        if n_bytes <= max_bytes or side == _SMALLEST_SIDE:
            return encoded


def fair_limit(sizes, budget):
    """The bytes that each may take, so that all together stay within the budget.

    Examples
    --------
    >>> from skanomaly.report._pictures import fair_limit
    >>> fair_limit([10, 50, 90], budget=90)  # 10 + 40 + 40
    40.0
    """
    for i, size in enumerate(sorted(sizes)):
        limit = budget / (len(sizes) - i)
        if size > limit:
            return limit
        budget -= size
    return float("inf")


def small_map(score_map, side):
    """(h, w) float32, the longer side at most so many pixels."""
    score_map = np.asarray(score_map, dtype=np.float32)
    shrink = min(1, side / max(score_map.shape))
    size = [max(1, round(n * shrink)) for n in score_map.shape[::-1]]
    return np.asarray(Image.fromarray(score_map).resize(size, Image.Resampling.BOX))


def encode_map(small, vmin, vmax):
    """Heat of a small map: 256 levels between the limits, or where not given, its extremes."""
    low = float(small.min()) if vmin is None else vmin
    high = float(small.max()) if vmax is None else vmax
    high = high if high > low else low + 1
    levels = Image.fromarray(heat_levels(small, low, high))
    return Heat(_bytes(levels, format="PNG"), low, high)


def encode_crop(rgb, box, context, side, image_format):
    """Crop around a box."""
    crop, inside = crop_around(rgb, box, context)
    encoded = encode(shrunk(crop, side), image_format)
    return Crop(encoded, crop.shape[:2], tuple(int(n) for n in inside))


def _bytes(picture, **options):
    buffer = BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def _with_palette(png, colours, opacities):
    """A PNG of 256 grey levels as one of 256 colours: its pixels are not packed again."""
    start, header, pixels = png[:8], png[16:29], png[33:]  # header: width, height, depth, kind, ...
    return b"".join(
        [
            start,
            _chunk(b"IHDR", header[:9] + b"\3" + header[10:]),
            _chunk(b"PLTE", colours.tobytes()),
            _chunk(b"tRNS", opacities.tobytes()),
            pixels,
        ]
    )


def _chunk(kind, data):
    """One chunk of a PNG file."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
