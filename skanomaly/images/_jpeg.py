"""Check a JPEG file: its segments, and that its compressed data are whole."""

import struct
from math import ceil
from typing import NamedTuple

import numpy as np

from skanomaly.images._jpeg_entropy import (
    BAD_CODE,
    N_CODES,
    PADDING,
    TOO_SHORT,
    code_table,
    copy_data,
    walk_first_ac,
    walk_first_dc,
    walk_next_ac,
    walk_sequential,
)
from skanomaly.images._limits import check_size
from skanomaly.images._tiff import check_exif

_JFIF, _ADOBE = 0xE0, 0xEE
_COLORS = (b"\0", b"\1", b"\2")  # RGB or CMYK, YCbCr, YCCK
_START, _END, _SCAN, _TABLES, _INTERVAL, _EXIF = 0xD8, 0xD9, 0xDA, 0xC4, 0xDD, 0xE1
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2


class _Component(NamedTuple):
    """A color: how many blocks a unit of all colors has across and down, and all have."""

    across: int
    down: int
    columns: int
    rows: int
    known: np.ndarray  # (rows * columns,) uint64, see walk_first_ac
    bits: list  # for each coefficient the lowest bit that was seen


def inspect_jpeg(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Check the segments of a JPEG file and walk through its compressed data.

    The data have no checksum: damage that leaves valid codes and the number of blocks as they were
    cannot be seen. Data with arithmetic codes, which are rare, are not walked through.

    Parameters
    ----------
    content : bytes

    Returns
    -------
    content : bytes
        For Pillow to decode. What comes after the end of the image is left out.
    size : (int, int)
        Width and height.

    Raises
    ------
    ImageError
        The image has too many pixels.
    ValueError
        The file is damaged.
    """
    walk, pixels = _Walk(), np.frombuffer(bytearray(content), dtype=np.uint8)
    position = 2
    while True:
        marker, position = _marker_at(content, position)
        if marker == _END:
            break
        (length,) = struct.unpack(">H", content[position : position + 2].ljust(2, b"\0"))
        data = content[position + 2 : position + length]
        if length < 2 or position + length > len(content):
            raise ValueError("it ends within a segment, or a segment has no length")
        position += length
        if marker in _FRAMES:
            walk.begin(marker, data)
        elif marker == _TABLES:
            walk.add_tables(data)
        elif marker == _INTERVAL:
            walk.interval = int.from_bytes(data[:2], "big")
        elif marker == _EXIF and data.startswith(b"Exif\0\0"):
            check_exif(data)
        elif marker == _JFIF and data.startswith(b"JFIF\0") and data[5:6] != b"\1":
            raise ValueError("it is of an unknown version of JFIF")
        elif marker == _ADOBE and data.startswith(b"Adobe") and data[11:12] not in (b"", *_COLORS):
            raise ValueError("the kind of its colors is unknown")
        elif marker == _SCAN:
            position = walk.scan(data, pixels, position)
    walk.end()
    return content[:position], walk.size


def _marker_at(content, position):
    """The marker at a position, which may have fill bytes before it, and where it ends."""
    start = position
    while content[position : position + 1] == b"\xff":
        position += 1
    if position >= len(content):
        raise ValueError("it ends before its end marker")
    marker = content[position]
    if position == start or marker < 0xC0 or 0xD0 <= marker <= _START:
        raise ValueError("a segment does not begin where it should")
    return marker, position + 1


class _Walk:
    """What is known while the segments are read."""

    def __init__(self):
        self.kind, self.size, self.interval = None, None, 0
        self.components = {}  # by their numbers
        self.tables = {}  # (is for AC, number) -> codes

    def begin(self, kind, data):
        if self.kind is not None:
            raise ValueError("it has two frames")
        _, height, width, n_components = struct.unpack_from(">BHHB", data)
        if len(data) != 6 + 3 * n_components or not n_components:
            raise ValueError("its header has a wrong length")
        check_size(width, height)
        self.kind, self.size = kind, (width, height)
        factors = [(data[i], data[i + 1] >> 4, data[i + 1] & 15) for i in range(6, len(data), 3)]
        if any(not 1 <= n <= 4 for _, *both in factors for n in both):
            raise ValueError("its header has impossible sampling factors")
        most_across, most_down = (max(f[i] for f in factors) for i in (1, 2))
        self.units = ceil(width / (8 * most_across)), ceil(height / (8 * most_down))
        for number, across, down in factors:
            columns = ceil(ceil(width * across / most_across) / 8)
            rows = ceil(ceil(height * down / most_down) / 8)
            is_progressive = kind == _PROGRESSIVE
            known = np.zeros(rows * columns if is_progressive else 0, dtype=np.uint64)
            component = _Component(across, down, columns, rows, known, [None] * 64)
            self.components[number] = component

    def add_tables(self, data):
        while data:
            n_codes = sum(data[1:17])
            if len(data) < 17 + n_codes:
                raise ValueError("its table of codes is too short")
            codes = code_table(data[1:17], data[17 : 17 + n_codes])
            self.tables[bool(data[0] >> 4), data[0] & 15] = codes
            data = data[17 + n_codes :]

    def scan(self, head, content, position):
        """Check the parameters of a scan, then its data; where the next marker is."""
        n_components = head[0] if head else 0
        if self.kind is None or len(head) != 4 + 2 * n_components or not n_components:
            raise ValueError("the header of its data is damaged")
        chosen = [(head[i], head[i + 1] >> 4, head[i + 1] & 15) for i in range(1, len(head) - 3, 2)]
        first, last, high, low = head[-3], head[-2], head[-1] >> 4, head[-1] & 15
        if any(number not in self.components for number, *_ in chosen):
            raise ValueError("the header of its data names an unknown color")
        if self.kind in _SEQUENTIAL and (first, last, high, low) != (0, 63, 0, 0):
            raise ValueError("the header of its data is not that of a sequential file")
        if self.kind not in (*_SEQUENTIAL, _PROGRESSIVE):
            first, last, high, low = 0, 63, 0, 0
        if not first <= last <= 63 or (first > 0 and n_components > 1):
            raise ValueError("the header of its data has impossible limits")
        for number, *_ in chosen:
            bits = self.components[number].bits
            for k in range(first, last + 1):
                if bits[k] != (high if high else None) or (high and low != high - 1):
                    raise ValueError("its scans do not follow one another")
                bits[k] = low
        parts = [self.components[number] for number, *_ in chosen]
        if len(parts) == 1:  # not padded to whole units of all colors
            n_units, repeats = parts[0].columns * parts[0].rows, [1]
        else:
            n_units, repeats = self.units[0] * self.units[1], [p.across * p.down for p in parts]
        interval = self.interval or n_units
        walk = self._walk(chosen, np.repeat(np.arange(len(parts)), repeats), first, last, high > 0)
        data = np.empty(len(content) - position + PADDING, dtype=np.uint8)
        for i, done in enumerate(range(0, n_units, interval)):
            if i > 0:
                position = _after_restart(content, position, i - 1)
            position, n_bytes = copy_data(content, position, data)
            data[n_bytes : n_bytes + PADDING] = 0
            if position + 1 >= len(content):
                raise ValueError("it ends within its pixels")
            used = walk(data, 8 * n_bytes, done, min(interval, n_units - done))
            _check_use(used, 8 * n_bytes)
        return position

    def _walk(self, chosen, order, first, last, is_refined):
        """The walk through a scan: (data, number of bits, units done, units to do) -> bits used.

        ``order`` are the colors of the blocks of a unit.
        """
        if self.kind not in (*_SEQUENTIAL, _PROGRESSIVE):
            return lambda data, n_bits, done, n_units: n_bits
        if first > 0:
            ((number, _, table),) = chosen
            known, codes = self.components[number].known, self._codes(True, table)
            through = walk_next_ac if is_refined else walk_first_ac
            return lambda data, n_bits, done, n_units: through(
                data, n_bits, known[done : done + n_units], codes, first, last
            )
        if is_refined:  # one bit of each block, which needs no codes
            dc_codes = np.zeros((len(chosen), N_CODES), dtype=np.uint16)
        else:
            dc_codes = np.stack([self._codes(False, dc) for _, dc, _ in chosen])
        if self.kind == _PROGRESSIVE:
            return lambda data, n_bits, done, n_units: walk_first_dc(
                data, n_bits, n_units, order, dc_codes, is_refined
            )
        ac_codes = np.stack([self._codes(True, ac) for *_, ac in chosen])
        return lambda data, n_bits, done, n_units: walk_sequential(
            data, n_bits, n_units, order, dc_codes, ac_codes
        )

    def _codes(self, is_ac, number):
        if (is_ac, number) not in self.tables:
            raise ValueError("it lacks a table of codes")
        return self.tables[is_ac, number]

    def end(self):
        """All coefficients must have been seen to their last bit."""
        if self.kind is None:
            raise ValueError("it holds no image")
        if any(bit != 0 for component in self.components.values() for bit in component.bits):
            raise ValueError("some of its scans are missing")


def _check_use(used, n_bits):
    if used == BAD_CODE:
        raise ValueError("its data hold codes that do not exist")
    if used == TOO_SHORT:
        raise ValueError("its data end before the last pixel")
    if n_bits - used >= 8:
        raise ValueError("its data go on after the last pixel")


def _after_restart(content, position, i):
    """Where the data go on after a restart marker, which must be number i."""
    while position < len(content) and content[position] == 0xFF:
        position += 1
    if position >= len(content) or content[position] != 0xD0 + i % 8:
        raise ValueError("its restart markers do not follow one another")
    return position + 1
