"""Ranks of thresholds among scores, and sorting, by bits: several times faster than by comparisons.

The bits of float32 numbers, read as unsigned integers and with negative numbers turned around, are
in the order of the numbers: their keys. Where the keys of many scores are close together, how many
scores have each is counted in a table. Otherwise scores are sorted: a radix sort distributes keys
by one group of their bits after another, from the lowest to the highest that differ. Numbers of
other types, and few of them, are left to NumPy.
"""

from typing import NamedTuple

import numpy as np

from skanomaly.utils.compiling import compiled

_FEW = 10_000  # numbers that are sorted as fast by comparisons
_TABLE = 1 << 23  # keys, 34 MB: a table that is hardly slower than the cache
_DIGIT_BITS = 12  # at most: the places of 4,096 digits stay in the first-level cache
_SIGN = np.uint32(1 << 31)
_PLACE_BITS = 32


class Ranks(NamedTuple):
    """Where t thresholds are among n scores."""

    n_below: np.ndarray  # (t,) number of scores below each threshold
    n_up_to: np.ndarray  # (t,) number of scores below it, or equal to it
    above: np.ndarray  # (t,) lowest score above it; the highest of all if there is none
    n: int
    lowest: float  # of the scores
    highest: float


def ranks(scores, thresholds):
    """Ranks of descending thresholds (t,) among finite scores (n,), which are overwritten."""
    n_below = np.empty(thresholds.size, dtype=np.int64)
    n_up_to = np.empty(thresholds.size, dtype=np.int64)
    if scores.dtype == thresholds.dtype == np.float32 and scores.size >= _FEW:
        keys, targets = scores.view(np.uint32), thresholds.copy().view(np.uint32)
        ends = np.array(_to_keys(keys), dtype=np.uint32)  # lowest and highest
        _to_keys(targets)
        if ends[1] - ends[0] < min(_TABLE, 4 * scores.size):
            counts = np.zeros(int(ends[1] - ends[0]) + 1, dtype=np.int32)
            above = np.empty_like(targets)
            _count_keys(keys, ends[0], counts)
            _find_in_table(counts, ends[0], targets, n_below, n_up_to, above)
            _to_bits(above)
            _to_bits(ends)
            above, ends = above.view(np.float32), ends.view(np.float32)
            return Ranks(n_below, n_up_to, above, keys.size, *ends)
        _to_bits(keys)
    scores = sorted_scores(scores)
    _find_in_order(scores, thresholds, n_below, n_up_to)
    above = scores[np.minimum(n_up_to, scores.size - 1)]
    return Ranks(n_below, n_up_to, above, scores.size, scores[0], scores[-1])


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


@compiled(nogil=True)
def _count_keys(keys, lowest, counts):
    """Count how many keys there are of each, from the lowest one on."""
    for i in range(keys.shape[0]):
        counts[keys[i] - lowest] += np.int32(1)


@compiled(nogil=True)
def _find_in_table(counts, lowest, targets, n_below, n_up_to, above):
    """Fill in the ranks of descending keys, from a table of counts that begins at the lowest key.

    ``above`` are keys.
    """
    n = 0
    for i in range(counts.shape[0]):
        n += counts[i]
    place = next_place = counts.shape[0] - 1
    for t in range(targets.shape[0]):
        target = np.int64(targets[t]) - np.int64(lowest)
        while place > target and place >= 0:
            n -= counts[place]
            next_place = place if counts[place] > 0 else next_place
            place -= 1
        n_up_to[t] = n_below[t] = n
        if 0 <= target < counts.shape[0]:
            n_below[t] -= counts[target]
        above[t] = lowest + np.uint32(next_place)


@compiled(nogil=True)
def _find_in_order(ascending, thresholds, n_below, n_up_to):
    """Fill in the ranks of descending thresholds among ascending scores."""
    n = 0
    for t in range(thresholds.shape[0] - 1, -1, -1):
        while n < ascending.shape[0] and ascending[n] < thresholds[t]:
            n += 1
        n_below[t] = n
        while n < ascending.shape[0] and ascending[n] == thresholds[t]:
            n += 1
        n_up_to[t] = n
