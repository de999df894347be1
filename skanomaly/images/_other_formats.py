"""Check files of the smaller formats: BMP, GIF, WebP, portable maps and JPEG 2000."""

import struct

from skanomaly.exceptions import ImageError
from skanomaly.images._limits import check_size
from skanomaly.images._tiff import check_exif

_PAGES = "expected one image, got {} pages; save them as separate files"


def _read(layout, content, position):
    """The numbers at a position."""
    if position + struct.calcsize(layout) > len(content):
        raise ValueError("it ends too early")
    return struct.unpack_from(layout, content, position)


# --- BMP --------------------------------------------------------------------------------------

_CORE_HEADER = 12  # bytes of the oldest header, with sizes of 16 bits


def inspect_bmp(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Check the header of a BMP file, and that the file is as long as it says.

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
        The image has too many pixels.
    ValueError
        The file is damaged.
    """
    n_bytes, start, header = _read("<2xI4xII", content, 0)
    is_core = header == _CORE_HEADER
    width, height, planes, bits = _read("<HHHH" if is_core else "<iiHH", content, 18)
    height = abs(height)
    check_size(width, height)
    compression, n_colors = (0, 0) if is_core else _read("<I12xI", content, 30)
    if planes != 1 or bits not in (1, 2, 4, 8, 16, 24, 32):
        raise ValueError(f"it has {planes} planes of {bits} bits")
    line = (width * bits + 31) // 32 * 4
    n_colors = n_colors or (2**bits if bits <= 8 else 0)
    palette = n_colors * (3 if is_core else 4) if bits <= 8 else 0
    if start < 14 + header + palette or n_bytes > len(content):
        raise ValueError("its length, its palette and its header do not fit together")
    if compression in (0, 3) and start + line * height > len(content):
        raise ValueError("it ends within its pixels")
    return content, (width, height)


# --- GIF --------------------------------------------------------------------------------------

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B


def inspect_gif(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Check the blocks of a GIF file.

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
        The image is animated or has too many pixels.
    ValueError
        The file is damaged.
    """
    width, height, flags = _read("<HHB", content, 6)
    check_size(width, height)
    position = 13 + _color_table(flags)
    n_images = 0
    while (kind := _read("B", content, position)[0]) != _TRAILER:
        if kind == _EXTENSION:
            position = _after_blocks(content, position + 2)
        elif kind == _IMAGE:
            n_images += 1
            left, top, across, down, flags = _read("<HHHHB", content, position + 1)
            if not across or not down or left + across > width or top + down > height:
                raise ValueError("a part of it lies outside of the image")
            position += 10 + _color_table(flags)
            if not 2 <= _read("B", content, position)[0] <= 8:
                raise ValueError("its codes have an impossible size")
            position = _after_blocks(content, position + 1)
        else:
            raise ValueError(f"it has a block of the unknown kind {kind}")
    if n_images > 1:
        raise ImageError(_PAGES.format(n_images))
    return content, (width, height)


def _color_table(flags):
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(content, position):
    while (length := _read("B", content, position)[0]) > 0:
        position += 1 + length
    return position + 1


# --- WebP -------------------------------------------------------------------------------------


_HAS_ALPHA, _IS_ANIMATED = 0x10, 0x02  # bits of the extended header


def inspect_webp(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Check the chunks of a WebP file.

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
        The image is animated or has too many pixels.
    ValueError
        The file is damaged.
    """
    (length,) = _read("<I", content, 4)
    if 8 + length > len(content):
        raise ValueError("it ends too early")
    chunks, position = [], 12
    while position < 8 + length:
        kind, size = _read("<4sI", content, position)
        position += 8
        if position + size > 8 + length:
            raise ValueError("it ends within a chunk")
        chunks.append((kind, content[position : position + size]))
        position += size + size % 2
    n_frames = sum(kind == b"ANMF" for kind, _ in chunks)
    if n_frames:
        raise ImageError(f"expected one image, got an animation of {n_frames} frames")
    kinds, sizes = {kind for kind, _ in chunks}, []
    for kind, data in chunks:
        if kind == b"VP8X":
            if (b"ALPH" in kinds and not data[0] & _HAS_ALPHA) or data[0] & _IS_ANIMATED:
                raise ValueError("its header and its chunks do not fit together")
            width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (4, 7))
            sizes.append((width, height))
        elif kind == b"VP8 ":
            width, height = _read("<HH", data, 6)
            sizes.append((width & 0x3FFF, height & 0x3FFF))
        elif kind == b"VP8L":
            (bits,) = _read("<I", data, 1)
            sizes.append(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        elif kind == b"EXIF":
            check_exif(data)
    if not sizes or len(set(sizes)) > 1:
        raise ValueError(f"it has {len(set(sizes))} different sizes")
    check_size(*sizes[0])
    return content, sizes[0]


# --- Portable maps ----------------------------------------------------------------------------


def inspect_ppm(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Check the header of a portable bitmap, gray map, pixel map or float map.

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
        The image has too many pixels, or colors of 16 bits.
    ValueError
        The file is damaged.
    """
    words = [
        word for line in content[:4096].split(b"\n")[:8] for word in line.split(b"#")[0].split()
    ]
    if len(words) < 3 or not (words[1].isdigit() and words[2].isdigit()):
        raise ValueError("its header names no size")
    size = int(words[1]), int(words[2])
    check_size(*size)
    is_color = words[0] in (b"P3", b"P6")
    if is_color and len(words) > 3 and words[3].isdigit() and int(words[3]) > 255:
        raise ImageError(
            f"expected 8 bits per color, got values up to {int(words[3])}; save it as a PNG or "
            "TIFF file of 16 bits per color, or pass the image as an array"
        )
    return content, size


# --- JPEG 2000 --------------------------------------------------------------------------------

_CODESTREAM = b"\xff\x4f\xff\x51"
_TILE_PART, _END, _SIZE = 0xFF90, 0xFFD9, 0xFF51


def inspect_jpeg_2000(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Check the segments of a JPEG 2000 file, and that all of them are there.

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
        The image has too many pixels, or colors of more than 8 bits.
    ValueError
        The file is damaged.
    """
    position = 0 if content.startswith(_CODESTREAM) else _find_codestream(content)
    if content[position : position + 4] != _CODESTREAM:
        raise ValueError("it holds no image")
    position += 2
    marker, length, _, right, bottom, left, top = _read(">HHHIIII", content, position)
    (n_colors,) = _read(">H", content, position + 38)
    size = right - left, bottom - top
    check_size(*size)
    depths = _read(">" + "Bxx" * n_colors, content, position + 40)
    bits = max(1 + (depth & 0x7F) for depth in depths) if depths else 0
    if bits > (8 if n_colors > 1 else 16):
        raise ImageError(
            f"expected 8 bits per color, or gray values of up to 16 bits, got {bits} bits; save it "
            "as a PNG or TIFF file, or pass the image as an array"
        )
    origin_and_tile = _read(">IIII", content, position + 22)
    n_tiles, seen = _count_tiles(right, bottom, *origin_and_tile), set()
    while marker != _END:
        if marker == _TILE_PART:
            seen.add(_read(">H", content, position + 4)[0])
            (length,) = _read(">I", content, position + 6)
            if 0 < length < 14:
                raise ValueError("a part of it is shorter than its header")
            position = position + length if length else len(content) - 2  # 0: it is the last one
        elif marker < 0xFF00:
            raise ValueError("a segment does not begin where it should")
        else:
            position += 2 + length
        (marker,) = _read(">H", content, position)
        if marker != _END:
            (length,) = _read(">H", content, position + 2)
    if len(seen) != n_tiles or max(seen) >= n_tiles:
        raise ValueError(f"it has {len(seen)} tiles instead of {n_tiles}")
    return content, size


def _count_tiles(right, bottom, width, height, left, top):
    if not width or not height:
        raise ValueError("its tiles have no pixels")
    return -(-(right - left) // width) * -(-(bottom - top) // height)


def _find_codestream(content):
    position = 0
    while True:
        length, kind = _read(">I4s", content, position)
        head = 8
        if length == 1:
            (length,), head = _read(">Q", content, position + 8), 16
        if kind == b"jp2c":
            if length and position + length > len(content):
                raise ValueError("it ends within its image")
            return position + head
        if length < head:
            raise ValueError("it has a box of no length")
        position += length
