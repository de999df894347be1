"""Check a PNG file to the last bit, and hand its lines to Pillow uncompressed."""

import struct
import zlib

from skanomaly.exceptions import ImageError
from skanomaly.images._limits import check_size
from skanomaly.images._tiff import check_exif

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_KEPT = (b"PLTE", b"tRNS", b"eXIf")  # chunks that change pixels
# First row and column of each pass of an interlaced image, and the steps between them.
_PASSES = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
    (1, 0, 2, 1),
)  # fmt: skip


def inspect_png(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Check every checksum of a PNG file, and unpack its lines.

    Parameters
    ----------
    content : bytes

    Returns
    -------
    content : bytes
        The same image as a PNG file whose lines are stored uncompressed, with the chunks that
        pixels depend on alone.
    size : (int, int)
        Width and height.

    Raises
    ------
    ImageError
        The image is animated or has too many pixels.
    ValueError
        A checksum is wrong, or something is missing.
    """
    chunks = list(_chunks(content))
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise ValueError("it does not begin with its header")
    head = struct.unpack(">IIBBBBB", chunks[0][1])
    width, height, depth, color, *_ = head
    check_size(width, height)
    if color not in _CHANNELS:
        raise ValueError(f"its color type is {color}")
    kept = [(kind, data) for kind, data in chunks[1:] if kind in _KEPT]
    for kind, data in chunks:
        if kind == b"acTL" and int.from_bytes(data[:4], "big") > 1:
            n_frames = int.from_bytes(data[:4], "big")
            raise ImageError(
                f"expected one image, got {n_frames} pages; save them as separate files"
            )
        if kind == b"eXIf":
            check_exif(data)
    bits = depth * _CHANNELS[color]
    lines = _unpack(
        b"".join(data for kind, data in chunks if kind == b"IDAT"),
        sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in _pieces(head)),
    )
    whole = [(b"IHDR", struct.pack(">IIBBBBB", *head)), *kept]
    whole += [(b"IDAT", zlib.compress(lines, 0)), (b"IEND", b"")]
    return SIGNATURE + b"".join(_chunk(*one) for one in whole), (width, height)


def _chunks(content):
    """(kind, data) of each chunk until the last, whose checksums are right."""
    position, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(content):
            raise ValueError("it ends before its last chunk")
        length = int.from_bytes(content[position : position + 4], "big")
        kind = content[position + 4 : position + 8]
        end = position + 8 + length
        if end + 4 > len(content):
            raise ValueError("it ends within a chunk")
        if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError(f"the checksum of its chunk {kind.decode('latin-1')!r} is wrong")
        yield kind, content[position + 8 : end]
        position = end + 4


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pieces(head):
    """(rows, columns) of the whole image or of each pass."""
    width, height, is_interlaced = head[0], head[1], head[6]
    if not is_interlaced:
        return [(height, width)]
    passes = [
        (-(-(height - row) // down), -(-(width - column) // across))
        for row, column, down, across in _PASSES
    ]
    return [(rows, columns) for rows, columns in passes if rows > 0 and columns > 0]


def _unpack(data, expected):
    unpacker = zlib.decompressobj()
    lines = unpacker.decompress(data, expected + 1)
    unpacker.decompress(unpacker.unconsumed_tail, 1)  # reads the checksum
    if not unpacker.eof or len(lines) != expected:
        raise ValueError("it has more or fewer lines than its header says")
    return lines
