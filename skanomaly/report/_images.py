"""Images, score maps and crops, encoded for a report."""

import struct
import tempfile
import weakref
import zlib
from dataclasses import dataclass, field
from io import SEEK_END, BytesIO

import numpy as np
from PIL import Image

from skanomaly.images import HEAT_COLORS, OPACITY, crop_around, heat_levels
from skanomaly.io import name_disk_errors

_QUALITY = 80
_LOW_QUALITY = 60
_LOW_QUALITY_SHARE = 0.75  # of the bytes at the usual quality, about
_MIN_SIDE = 64  # pixels; full views are not made smaller
_SPOOL_BYTES = 32 << 20  # of full views that are held in memory
# Slower settings take twice as long and make files smaller by a twentieth.
_EXTRA = {"WEBP": {"method": 2}, "JPEG": {"optimize": True}}
_OPACITY = np.rint(255 * OPACITY).astype(np.uint8)


class Spool:
    """Bytes that lie in a temporary file, once they are many."""

    def __init__(self):
        self._file = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)
        weakref.finalize(self, self._file.close)

    def add(self, content):
        """Keep bytes; returns where they are, for :meth:`read`."""
        with name_disk_errors(tempfile.gettempdir()):
            start = self._file.seek(0, SEEK_END)
            self._file.write(content)
        return start, len(content)

    def read(self, place):
        """The bytes at a place."""
        start, length = place
        self._file.seek(start)
        return self._file.read(length)


@dataclass
class ImageRecord:
    """What a report keeps of one image: text, numbers and encoded bytes."""

    name: str
    decision: float
    label: int | None
    shape: tuple  # height, width of the original image
    thumb: bytes
    full: tuple  # its place in a Spool
    heat_map: "HeatMap"
    levels: tuple | None  # what the limits of the colors are computed from, if they are not given
    regions: list = field(default_factory=list)
    n_regions: int = 0  # of all regions, also of those that are not in the list
    spots: list = field(default_factory=list)
    truth: str = ""  # path around the defects of the ground truth
    roi: str = ""  # path around the region of interest
    file: str | None = None  # what a review calls the image


@dataclass
class HeatMap:
    """A score map as a small 8-bit image; its colors are set when all maps are known."""

    png: bytes
    low: float  # score of level 0
    high: float  # score of level 255

    def colored(self, vmin, vmax):
        """PNG bytes with the colors and opacities between the two limits."""
        scores = np.linspace(self.low, self.high, 256)
        levels = heat_levels(scores, vmin, vmax)
        return _with_palette(self.png, HEAT_COLORS[levels], _OPACITY[levels])


@dataclass
class Crop:
    """A crop of an image and the box of a patch in it."""

    encoded: bytes
    shape: tuple  # height, width in the image's own pixels
    box: tuple  # top, left, bottom, right in the crop


def shrink(rgb, side):
    """PIL image whose longer side has at most this many pixels."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    return image


def encode(image, image_format, quality=_QUALITY):
    """Bytes of a PIL image."""
    return _bytes(image, format=image_format, quality=quality, **_EXTRA[image_format])


def under_heat_map(encoded, heat_map):
    """An encoded image under its heat map, a PNG file with opacities, as one PIL image."""
    image = Image.open(BytesIO(encoded)).convert("RGBA")
    heat = Image.open(BytesIO(heat_map)).convert("RGBA")
    heat = heat.resize(image.size, Image.Resampling.BILINEAR)
    return Image.alpha_composite(image, heat).convert("RGB")


def compress(encoded, max_bytes, image_format):
    """The same image in at most max_bytes: at a lower quality, then of a smaller size."""
    if len(encoded) <= max_bytes:
        return encoded
    original = Image.open(BytesIO(encoded))
    side, n_bytes = max(original.size), _LOW_QUALITY_SHARE * len(encoded)
    while True:
        # A smaller image has more bytes per pixel, so that the square root alone is not enough.
        shrink = 1 if n_bytes <= max_bytes else 0.95 * np.sqrt(max(0, max_bytes) / n_bytes)
        side = max(_MIN_SIDE, int(side * shrink))
        image = original.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        encoded = encode(image, image_format, _LOW_QUALITY)
        n_bytes = len(encoded)
        if n_bytes <= max_bytes or side == _MIN_SIDE:
            return encoded


def fair_limit(sizes, budget):
    """The largest size to which all are reduced, so that their sum stays within the budget.

    Examples
    --------
    >>> from skanomaly.report._images import fair_limit
    >>> fair_limit([10, 50, 90], budget=90)  # 10 + 40 + 40
    40.0
    """
    for i, size in enumerate(sorted(sizes)):
        limit = budget / (len(sizes) - i)
        if size > limit:
            return limit
        budget -= size
    return float("inf")


def shrink_map(score_map, side):
    """(h, w) float32 whose longer side has at most this many pixels, by averaging."""
    score_map = np.asarray(score_map, dtype=np.float32)
    scale = min(1, side / max(score_map.shape))
    size = [max(1, round(n * scale)) for n in score_map.shape[::-1]]
    return np.asarray(Image.fromarray(score_map).resize(size, Image.Resampling.BOX))


def encode_map(small, vmin, vmax):
    """HeatMap with 256 levels between the limits; None stands for the map's own extreme."""
    low = float(small.min()) if vmin is None else vmin
    high = float(small.max()) if vmax is None else vmax
    high = high if high > low else low + 1
    levels = Image.fromarray(heat_levels(small, low, high))
    return HeatMap(_bytes(levels, format="PNG"), low, high)


def encode_crop(rgb, box, context, side, image_format):
    """Crop around a box."""
    crop, inside = crop_around(rgb, box, context)
    encoded = encode(shrink(crop, side), image_format)
    return Crop(encoded, crop.shape[:2], tuple(int(n) for n in inside))


def _bytes(image, **options):
    buffer = BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def _with_palette(png, colors, opacities):
    """A PNG of 256 gray levels as one of 256 colors, without compressing its pixels again."""
    start, header, pixels = png[:8], png[16:29], png[33:]  # header: width, height, depth, kind, ...
    return b"".join(
        [
            start,
            _chunk(b"IHDR", header[:9] + b"\3" + header[10:]),
            _chunk(b"PLTE", colors.tobytes()),
            _chunk(b"tRNS", opacities.tobytes()),
            pixels,
        ]
    )


def _chunk(kind, data):
    """One chunk of a PNG file."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
