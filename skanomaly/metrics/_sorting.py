"""Sorting of scores by their bits, several times faster than by comparisons.

The bits of float32 numbers, read as unsigned integers and with negative numbers turned around, are
in the order of the numbers: their keys. A radix sort distributes keys by one group of their bits
after another, from the lowest to the highest that differ. Numbers of other types, and few of them,
are left to NumPy.
"""

import numpy as np

from skanomaly.utils.compiling import compiled

_FEW = 10_000  # numbers that are sorted as fast by comparisons
_DIGIT_BITS = 12  # at most: the places of 4,096 digits stay in the first-level cache
_SIGN = np.uint32(1 << 31)
_PLACE_BITS = 32


def sorted_scores(scores):
    """The scores (n,) of finite numbers in ascending order; the array passed is overwritten."""
    if scores.dtype != np.float32 or scores.size < _FEW:
        scores.sort()
        return scores
    keys = scores.view(np.uint32)
    lowest, highest = _to_keys(keys)
    keys = _radix_sort(keys, np.empty_like(keys), lowest, *_digits(highest - lowest), 0)
    _to_bits(keys)
    return keys.view(np.float32)


def sorting_order(scores):
    """The order (n,), int, that sorts scores of finite numbers; equal ones stay in theirs."""
    if scores.dtype != np.float32 or scores.size < _FEW:
        return np.argsort(scores, kind="stable")
    keys = scores.copy().view(np.uint32)
    lowest, highest = _to_keys(keys)
    # The place of each number travels with its key.
    pairs = (keys.astype(np.uint64) << _PLACE_BITS) | np.arange(len(keys), dtype=np.uint64)
    base = np.uint64(int(lowest) << _PLACE_BITS)
    digits = _digits(highest - lowest)
    pairs = _radix_sort(pairs, np.empty_like(pairs), base, *digits, _PLACE_BITS)
    return (pairs & np.uint64(0xFFFFFFFF)).astype(np.intp)


def _digits(span):
    """How many digits keys have that differ by at most `span`, and the bits of each."""
    n_bits = int(span).bit_length()
    n_digits = -(-n_bits // _DIGIT_BITS)
    return n_digits, -(-n_bits // max(n_digits, 1))


@compiled(nogil=True)
def _to_keys(bits):
    """Turn bits of float32 numbers into their keys, and return the lowest and the highest."""
    lowest, highest = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(bits.shape[0]):
        key = np.uint32(0) if bits[i] == _SIGN else bits[i]  # -0 equals 0
        key ^= np.uint32(np.int32(key) >> 31) | _SIGN  # all bits of a negative number
        bits[i] = key
        lowest, highest = min(lowest, key), max(highest, key)
    return lowest, highest


@compiled(nogil=True)
def _to_bits(keys):
    """Turn keys back into the bits of their numbers."""
    for i in range(keys.shape[0]):
        keys[i] = keys[i] ^ _SIGN if keys[i] >> 31 else ~keys[i]


@compiled(nogil=True)
def _radix_sort(keys, spare, lowest, n_digits, n_bits, shift):
    """The keys in ascending order, in one of the two arrays; both are overwritten.

    Digits of `n_bits` bits each, from bit `shift` on, of what the keys have beyond the lowest.
    """
    last_digit = (1 << n_bits) - 1
    places = np.empty(1 << n_bits, dtype=np.int64)
    for _ in range(n_digits):
        places[:] = 0
        for i in range(keys.shape[0]):
            places[((keys[i] - lowest) >> shift) & last_digit] += 1
        first = 0
        for digit in range(places.shape[0]):
            places[digit], first = first, first + places[digit]
        for i in range(keys.shape[0]):
            digit = ((keys[i] - lowest) >> shift) & last_digit
            spare[places[digit]] = keys[i]
            places[digit] += 1
        keys, spare = spare, keys
        shift += n_bits
    return keys
