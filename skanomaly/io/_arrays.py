"""The one file format: a line, JSON, then the bytes of arrays, all of it under checksums.

    skanomaly 1 LENGTH DIGEST\\n     length and SHA-256 of the JSON
    {"kind": ..., "head": ..., "arrays": [{"name", "dtype", "shape", "order", "checksum"}, ...]}
    the arrays' bytes               each one begins at a multiple of 64 and is padded to the next

The JSON holds the checksum of each array (XXH3, 128 bits), so that its own digest stands for the
whole file. Nothing in a file is ever executed, and its length is compared with what the JSON
declares before memory is taken.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from skanomaly.exceptions import DamagedFileError

MAGIC = b"skanomaly"
FORMAT = 1
MAX_JSON = 4 << 20  # bytes; parsing JSON takes many times its length, so that it is bounded
_ALIGNMENT = 64  # bytes
_KINDS = "biufcSU"  # of dtypes: no objects, no structures
_MAX_ITEM_SIZE, _MAX_ITEMS = 1 << 16, 1 << 48  # of an array, whatever its file declares
_FIRST_LINE = 128  # bytes; the first line is shorter


def write_arrays(path: str | Path, arrays: dict[str, Any], head: Any = None, kind: str = "") -> str:
    """Write arrays by name, and a head of whatever JSON can hold, to a file.

    Parameters
    ----------
    path : str or Path
        Replaced without further care; see :func:`skanomaly.io.atomic_file`.
    arrays : dict of str to array-like
        Numbers, booleans and strings of fixed length.
    head : object, default=None
    kind : str, default=""
        What the file is, such as "estimator"; a reader may ask for it.

    Returns
    -------
    str
        Digest of the whole file, hexadecimal.

    Raises
    ------
    TypeError
        An array holds objects, or the head something that JSON lacks.
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    blocks: list[Any] = []
    entries = []
    for name, array in arrays.items():
        if not _can_hold(array.dtype):
            raise TypeError(f"array {name!r}: expected numbers or strings, got {array.dtype}")
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        block = np.ascontiguousarray(array.T if order == "F" else array).reshape(-1).view(np.uint8)
        blocks.append(block)
        entries.append([name, array.dtype.str, array.shape, order, _checksum(block)])
    fields = "name", "dtype", "shape", "order", "checksum"
    table = [dict(zip(fields, entry, strict=True)) for entry in entries]
    text = json.dumps({"kind": kind, "head": head, "arrays": table}, default=_plain_number).encode()
    if len(text) > MAX_JSON:
        raise TypeError(
            f"expected at most {MAX_JSON} bytes beside the arrays, got {len(text)}; keep long "
            "lists as arrays"
        )
    digest = hashlib.sha256(text).hexdigest()
    first = b"%s %d %d %s\n" % (MAGIC, FORMAT, len(text), digest.encode())
    with open(path, "wb") as file:
        for block in [first + text, *blocks]:
            file.write(block)
            file.write(bytes(-file.tell() % _ALIGNMENT))
    return digest


def read_arrays(
    path: str | Path, kind: str = "a file of arrays", mmap_mode: Literal["r", "c"] | None = None
) -> tuple[dict[str, np.ndarray], Any]:
    """Read a file of :func:`write_arrays`.

    Parameters
    ----------
    path : str or Path
    kind : str
        What messages call such a file.
    mmap_mode : {None, "r", "c"}, default=None
        None: the arrays are read. "r" or "c": they are mapped, read-only or copied on writing, so
        that processes share their memory; the file must stay as it is.

    Returns
    -------
    arrays : dict of str to ndarray
    head : object

    Raises
    ------
    DamagedFileError
        The file is damaged, of another kind, or of another format. It is a ValueError.
    """
    with open(path, "rb", buffering=0) as file:
        head, table, start = _read_head(file, path, kind)
        _check_padding(file, file.tell(), start, path)
        size, end = os.fstat(file.fileno()).st_size, start + sum(entry.length for entry in table)
        if size != end:
            raise DamagedFileError(f"{path}: damaged, expected {end} bytes, got {size}")
        arrays = {}
        for entry in table:
            if mmap_mode is None or entry.length == 0:  # nothing cannot be mapped
                array = entry.read(file, start)
            else:
                array = np.memmap(path, entry.dtype, mmap_mode, start, entry.shape, entry.order)
            if _checksum(_bytes_of(array)) != entry.checksum:
                raise DamagedFileError(
                    f"{path}: damaged, array {entry.name!r} differs from its checksum; use a copy "
                    "of the file, or make it again"
                )
            _check_padding(file, start + entry.n_bytes, start + entry.length, path)
            arrays[entry.name] = array
            start += entry.length
    return arrays, head


class _Entry:
    """What the JSON says of an array; ValueError where that cannot be."""

    def __init__(self, name, dtype, shape, order, checksum):
        self.name, self.checksum = name, checksum
        self.dtype, self.shape, self.order = np.dtype(dtype), tuple(shape), order
        is_shape = len(shape) <= 32 and all(type(n) is int and n >= 0 for n in self.shape)
        is_small = is_shape and math.prod(n or 1 for n in self.shape) < _MAX_ITEMS
        if not is_small or not _can_hold(self.dtype) or order not in ("C", "F"):
            raise ValueError(f"array {name!r} of {dtype}, {shape}")
        self.n_bytes = math.prod(self.shape) * self.dtype.itemsize
        self.length = self.n_bytes + -self.n_bytes % _ALIGNMENT  # in the file

    def read(self, file, start):
        """The array from an unbuffered file."""
        array = np.empty(self.shape, self.dtype, self.order)
        rest = memoryview(_bytes_of(array))
        file.seek(start)
        while len(rest) and (n_read := file.readinto(rest)):
            rest = rest[n_read:]
        return array


def _read_head(file, path, kind):
    """Head, entries, and where the arrays begin."""
    line, separator, _ = file.read(_FIRST_LINE).partition(b"\n")
    words = line.split(b" ")
    if words[0] != MAGIC or not separator or len(words) != 4:
        raise DamagedFileError(f"{path}: damaged, or not {kind}")
    try:
        version, length = int(words[1]), int(words[2])
        if version != FORMAT:
            raise DamagedFileError(
                f"{path} has format {version}, this version reads {FORMAT}; use the version of "
                "skanomaly that wrote it"
            )
        if not 0 <= length <= MAX_JSON:
            raise ValueError(f"JSON of {length} bytes")
        file.seek(len(line) + 1)
        text = file.read(length)
        if hashlib.sha256(text).hexdigest().encode() != words[3]:
            raise ValueError("its description differs from its checksum")
        content = json.loads(text)
        head, table = content["head"], [_Entry(**entry) for entry in content["arrays"]]
        if len({entry.name for entry in table}) < len(table):
            raise ValueError("two arrays have one name")
    except DamagedFileError:
        raise
    # numpy parses some names of dtypes as code would be, which raises SyntaxError.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SyntaxError) as error:
        raise DamagedFileError(f"{path}: damaged, or not {kind} ({error})") from error
    end = len(line) + 1 + length
    return head, table, -(-end // _ALIGNMENT) * _ALIGNMENT


def _check_padding(file, begin, end, path):
    """Between the parts of a file there are zeros."""
    file.seek(begin)
    if any(file.read(end - begin)):
        raise DamagedFileError(f"{path}: damaged, expected zeros at {begin}")


def _can_hold(dtype):
    return dtype.kind in _KINDS and 0 < dtype.itemsize <= _MAX_ITEM_SIZE


def _checksum(block):
    return xxhash.xxh3_128_hexdigest(block)


def _bytes_of(array):
    """A flat view of an array's bytes."""
    flat = array.T if array.flags.f_contiguous and not array.flags.c_contiguous else array
    return np.asarray(flat).reshape(-1).view(np.uint8)


def _plain_number(number):
    """numpy's numbers as Python's."""
    if isinstance(number, np.generic):
        return number.item()
    raise TypeError(f"expected what JSON can hold, got {type(number).__name__}")
