"""Walk through the compressed data of a JPEG file: do its codes and the bits of the data agree?

Nothing is decoded but the lengths of the codes. A damaged file has codes that do not exist, runs
out of bits before its last block, or has bits left behind it. Pillow reads on in all three cases.
"""

from functools import lru_cache

import numba
import numpy as np
from numba import int64, types, uint8, uint16, uint64

from skanomaly.utils.compiling import compiled

# What a walk returns where it fails; otherwise the bits that it has used.
BAD_CODE, TOO_SHORT = -1, -2

# A table of codes begins with a short one, of the first ten bits, which stays in the fastest cache.
_N_SHORT, _REST = 2**10, 6
N_CODES = _N_SHORT + 2**16
_LONG = 11 * 256  # a code of more than ten bits

# Bytes of padding that data need at their end: a code has 16 bits, its value up to 15.
PADDING = 8


@numba.njit(inline="always")
def _peek(data, position):
    """The next 16 bits."""
    i = position >> 3
    bits = int64(data[i]) << 16 | int64(data[i + 1]) << 8 | int64(data[i + 2])
    return bits >> (8 - (position & 7)) & 0xFFFF


@numba.njit(inline="always")
def _find(codes, bits):
    """length * 256 + symbol of the code that 16 bits begin with, or 0."""
    code = int64(codes[bits >> _REST])
    return code if 0 < code < _LONG else int64(codes[_N_SHORT + bits])


@compiled(types.UniTuple(int64, 2)(uint8[::1], int64, uint8[::1]), nogil=True)
def copy_data(content, start, data):
    """Copy compressed data up to the next marker, without stuffed zeros.

    Returns where the marker is, or would be, and how many bytes were copied.
    """
    n, i = 0, start
    while i + 1 < content.shape[0]:
        data[n] = content[i]
        if content[i] == 0xFF:
            if content[i + 1] != 0:
                break
            i += 1
        n += 1
        i += 1
    return i, n


@compiled(
    int64(uint8[::1], int64, int64, int64[::1], uint16[:, ::1], uint16[:, ::1]),
    nogil=True,
)
def walk_sequential(data, n_bits, n_units, order, dc_codes, ac_codes):
    """Blocks of all 64 coefficients.

    order has for each block of a unit its color: the row of its table in dc_codes and ac_codes.
    """
    position = 0
    for _ in range(n_units):
        for b in range(order.shape[0]):
            code = _find(dc_codes[order[b]], _peek(data, position))
            if code == 0:
                return BAD_CODE
            position += (code >> 8) + (code & 15)
            k = 1
            while k < 64:
                if position > n_bits:
                    return TOO_SHORT
                code = _find(ac_codes[order[b]], _peek(data, position))
                if code == 0:
                    return BAD_CODE
                run, size = code >> 4 & 15, code & 15
                position += (code >> 8) + size
                if size == 0 and run < 15:
                    break
                k += run + 1
            if k > 64:
                return BAD_CODE
            if position > n_bits:
                return TOO_SHORT
    return position


@compiled(int64(uint8[::1], int64, int64, int64[::1], uint16[:, ::1], int64), nogil=True)
def walk_first_dc(data, n_bits, n_units, order, codes, is_refined):
    """First coefficients of a progressive file: their high bits, or one more bit of each."""
    if is_refined:
        position = n_units * order.shape[0]
        return position if position <= n_bits else TOO_SHORT
    position = 0
    for _ in range(n_units):
        for b in range(order.shape[0]):
            code = _find(codes[order[b]], _peek(data, position))
            if code == 0:
                return BAD_CODE
            position += (code >> 8) + (code & 15)
            if position > n_bits:
                return TOO_SHORT
    return position


@compiled(int64(uint8[::1], int64, uint64[::1], uint16[::1], int64, int64), nogil=True)
def walk_first_ac(data, n_bits, known, codes, first, last):
    """Coefficients first to last of a progressive file, their high bits.

    known has a bit for each coefficient of each block that is not 0, which is set.
    """
    position, n_empty = 0, 0
    for b in range(known.shape[0]):
        if n_empty > 0:
            n_empty -= 1
            continue
        k = first
        while k <= last:
            if position > n_bits:
                return TOO_SHORT
            code = _find(codes, _peek(data, position))
            if code == 0:
                return BAD_CODE
            run, size = code >> 4 & 15, code & 15
            position += code >> 8
            if size == 0 and run < 15:
                n_empty = (1 << run) - 1 + (_peek(data, position) >> (16 - run))
                position += run
                break
            k += run
            if k > last:
                return BAD_CODE
            if size > 0:
                position += size
                known[b] |= uint64(1) << uint64(k)
            k += 1
        if position > n_bits:
            return TOO_SHORT
    return position


@compiled(int64(uint8[::1], int64, uint64[::1], uint16[::1], int64, int64), nogil=True)
def walk_next_ac(data, n_bits, known, codes, first, last):
    """Coefficients first to last of a progressive file, one more bit of each."""
    position, n_empty = 0, 0
    for b in range(known.shape[0]):
        k = first
        while n_empty == 0 and k <= last:
            if position > n_bits:
                return TOO_SHORT
            code = _find(codes, _peek(data, position))
            if code == 0 or code & 15 > 1:
                return BAD_CODE
            run, is_new = code >> 4 & 15, code & 15
            position += (code >> 8) + is_new
            if not is_new and run < 15:
                n_empty = (1 << run) + (_peek(data, position) >> (16 - run))
                position += run
                break
            # Over so many zeros; each known coefficient on the way has a bit.
            while k <= last:
                if known[b] >> uint64(k) & uint64(1):
                    position += 1
                elif run == 0:
                    break
                else:
                    run -= 1
                k += 1
            if k > last:
                return BAD_CODE
            if is_new:
                known[b] |= uint64(1) << uint64(k)
            k += 1
        if n_empty > 0:
            while k <= last:
                position += int64(known[b] >> uint64(k) & uint64(1))
                k += 1
            n_empty -= 1
        if position > n_bits:
            return TOO_SHORT
    return position


@lru_cache(maxsize=32)  # most files have the tables of the standard
def code_table(lengths: bytes, symbols: bytes) -> np.ndarray:
    """What the walks look up: the code that 16 bits begin with.

    Parameters
    ----------
    lengths : bytes
        Number of codes of 1 to 16 bits.
    symbols : bytes
        Of the codes, in their order.

    Returns
    -------
    ndarray of shape (1024 + 65536,), uint16
        length * 256 + symbol of the code, or 0 where there is none: by the first ten bits, where
        they are enough, and by all 16 bits.

    Raises
    ------
    ValueError
        There can be no such codes.
    """
    table = np.zeros(2**16, dtype=np.uint16)
    start = i = 0
    for length, n_codes in enumerate(lengths, start=1):
        width = 1 << (16 - length)
        if start + n_codes * width > len(table):
            raise ValueError("its table of codes is impossible")
        for _ in range(n_codes):
            table[start : start + width] = length * 256 + symbols[i]
            start, i = start + width, i + 1
    return np.concatenate([table[:: 2**_REST], table])
