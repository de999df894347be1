"""Check a TIFF file, and the block of EXIF data that other files carry in the same format."""

import struct
import zlib

from PIL import TiffTags

from skanomaly.exceptions import ImageError
from skanomaly.images._limits import check_size

# Type of an entry -> bytes of a value, and the letter by which struct reads the whole numbers.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
          16: 8, 17: 8, 18: 8}  # fmt: skip
_LETTERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
_TEXT = (2, 7)  # one value of many bytes

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _ROWS_PER_STRIP, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT = 277, 278, 284, 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)  # offsets, counts of bytes
_EXIF_TABLES = (34665, 34853, 40965)  # EXIF, GPS, interoperability
_NONE, _DEFLATE = 1, (8, 32946)
_SUBSAMPLED = 6  # photometric interpretation YCbCr: some pixels have fewer values


class _Tables:
    """The tables of a TIFF file: {tag: (type, number of values, where they are)}."""

    def __init__(self, content):
        self.content = content
        self.order = {b"II": "<", b"MM": ">"}.get(bytes(content[:2]), "")
        if not self.order or len(content) < 8:
            raise ValueError("it does not begin as a TIFF table does")
        self.is_big = self._number("H", 2) == 43
        self.first = self._number("Q", 8) if self.is_big else self._number("I", 4)

    def _number(self, letter, position):
        if position + struct.calcsize(letter) > len(self.content):
            raise ValueError("it ends within a table")
        return struct.unpack_from(self.order + letter, self.content, position)[0]

    def read(self, offset):
        """The table at an offset, and the offset of the next one (0: none)."""
        width = 8 if self.is_big else 4
        n_entries = self._number("Q" if self.is_big else "H", offset)
        position = offset + (8 if self.is_big else 2)
        if position + n_entries * (4 + 2 * width) + width > len(self.content):
            raise ValueError("it ends within a table")
        entries, n_bytes = {}, 0
        for _ in range(n_entries):
            tag, kind = self._number("H", position), self._number("H", position + 2)
            count = self._number("Q" if self.is_big else "I", position + 4)
            size, place = _SIZES.get(kind, 0) * count, position + 4 + width
            if size > width:
                place = self._number("Q" if self.is_big else "I", place)
                n_bytes += size
                if place + size > len(self.content) or n_bytes > len(self.content):
                    raise ValueError(f"the values of tag {tag} lie outside of it")
            if count > 1 and kind not in _TEXT and TiffTags.lookup(tag).length == 1:
                if tag != _PHOTOMETRIC:
                    raise ValueError(f"tag {tag} has {count} values instead of one")
            entries.setdefault(tag, (kind, count, place))
            position += 4 + 2 * width
        return entries, self._number("Q" if self.is_big else "I", position)

    def values(self, entries, tag, default=()):
        """The whole numbers of an entry."""
        if tag not in entries:
            return default
        kind, count, place = entries[tag]
        if kind not in _LETTERS:
            raise ValueError(f"tag {tag} holds no whole numbers")
        return struct.unpack_from(f"{self.order}{count}{_LETTERS[kind]}", self.content, place)

    def read_all(self):
        """The first table; the number of tables of pages; those of EXIF data are checked."""
        first, following = self.read(self.first)
        if 0 in first:
            raise ValueError("its table has an entry without a tag")
        for tag in _EXIF_TABLES:
            for offset in self.values(first, tag):
                inner, _ = self.read(offset)
                for below in self.values(inner, _EXIF_TABLES[2]):
                    self.read(below)
        seen = {self.first}
        while following:
            if following in seen:
                raise ValueError("its tables form a circle")
            seen.add(following)
            _, following = self.read(following)
        return first, len(seen)


def check_exif(block: bytes) -> None:
    """Check a block of EXIF data, which may tell how the image is turned.

    Parameters
    ----------
    block : bytes
        As in a file, with or without its first word "Exif".

    Raises
    ------
    ValueError
        The block is damaged.
    """
    tables = _Tables(block.removeprefix(b"Exif\0\0"))
    try:
        tables.read_all()
    except ValueError as error:
        raise ValueError(f"its EXIF data are damaged: {error}") from error


def inspect_tiff(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Check the tables of a TIFF file and where its pixels are.

    Parameters
    ----------
    content : bytes

    Returns
    -------
    content : bytes
        For Pillow to decode.
    size : (int, int)
        Width and height.

    Raises
    ------
    ImageError
        The file has several pages, too many pixels or an order of pixels that is not read.
    ValueError
        The file is damaged.
    """
    tables = _Tables(content)
    entries, n_pages = tables.read_all()
    (width,), (height,) = (tables.values(entries, tag, (0,)) for tag in (_WIDTH, _HEIGHT))
    check_size(width, height)
    if n_pages > 1:
        raise ImageError(f"expected one image, got {n_pages} pages; save them as separate files")
    bits = tables.values(entries, _BITS, (1,))
    if tables.values(entries, _PLANAR, (1,)) == (2,) and max(bits) > 8:
        raise ImageError(
            f"expected the colors of {max(bits)} bits of each pixel side by side, got a plane for "
            "each color (PlanarConfiguration 2); save it with the colors of a pixel together, or "
            "pass the image as an array"
        )
    _check_pieces(tables, entries, width, height, bits)
    return content, (width, height)


def _check_pieces(tables, entries, width, height, bits):
    """The strips or tiles of the pixels are there, inside of the file, and long enough."""
    (n_samples,) = tables.values(entries, _SAMPLES, (1,))
    (planar,) = tables.values(entries, _PLANAR, (1,))
    is_tiled = _TILES[0] in entries
    if is_tiled:
        (across,), (down,) = (tables.values(entries, t, (0,)) for t in (_TILE_WIDTH, _TILE_HEIGHT))
    else:
        across, (down,) = width, tables.values(entries, _ROWS_PER_STRIP, (height,))
    offsets, counts = (tables.values(entries, tag) for tag in (_TILES if is_tiled else _STRIPS))
    if min(across, down) < 1:
        raise ValueError("its strips or tiles have no pixels")
    down = down if is_tiled else min(down, height)
    n_planes = n_samples if planar == 2 else 1
    n_pieces = -(-width // across) * -(-height // down) * n_planes
    if len(offsets) != n_pieces or len(counts) != n_pieces:
        raise ValueError(f"it has {len(offsets)} strips or tiles instead of {n_pieces}")
    n_bits = (sum(bits) if len(bits) == n_samples else bits[0] * n_samples) // n_planes
    line = (across * n_bits + 7) // 8
    (compression,) = tables.values(entries, _COMPRESSION, (_NONE,))
    knows_length = tables.values(entries, _PHOTOMETRIC, (0,)) != (_SUBSAMPLED,)
    for i, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        rows = down if is_tiled else min(down, height - (i * down) % (-(-height // down) * down))
        if offset + count > len(tables.content):
            raise ValueError("it ends within its pixels")
        piece = tables.content[offset : offset + count]
        if compression in _DEFLATE:
            count = _inflated_length(piece, line * rows)
        if compression in (_NONE, *_DEFLATE) and knows_length and count < line * rows:
            raise ValueError("some of its pixels are missing")


def _inflated_length(piece, expected):
    """Bytes of a compressed strip, whose checksum must be right."""
    unpacker = zlib.decompressobj()
    length = len(unpacker.decompress(piece, expected + 1))
    unpacker.decompress(unpacker.unconsumed_tail, 1)  # reads the checksum
    if not unpacker.eof:
        raise ValueError("a compressed strip or tile lacks its end")
    return length
