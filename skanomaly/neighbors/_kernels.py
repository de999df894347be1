"""Compiled loops of the exact search: from a screen of cheap values to the nearest rows.

A screen is a table of values, one for each query and each row of a part of the bank: about half
the squared distance, less a term of the query's own. A row at squared distance d has a value of at
most ``((sqrt(d) + margin)^2 scale - base) / 2``, where margin and base belong to the query. Rows
are looked at in ascending order of value, block by block, until no other can be among the nearest.
Whatever the screen, what counts is the sum of squared differences of the rows themselves; of rows
at the same distance the lower index is nearer. So all screens give one answer.
"""

import numba
import numpy as np

from skanomaly._distances import squared_distance

# Columns of a table of products that share one minimum; such tables are padded to a multiple.
BLOCK = 64
# Numbers that one instruction handles; minima are kept lane by lane, which compilers vectorise.
LANES = 16
# Blocks looked at out of turn, as the most promising, for every so many neighbours asked for.
_NEIGHBORS_PER_SEED = 3
# Rows that wait to be measured, so that the most promising of them is measured first.
WAITING = 128
# Room for the rounding of sums of float32 squares when a distance is compared with a bound.
_ROOM = 1 + 4e-6
# A screen that leaves more than this share of the rows to be measured is slower than a plain
# matrix product over all of them. The first queries of a tile are let off.
_WORTHWHILE_SHARE = 0.09
_LET_OFF = 8
# Cost of a number of a short vector beside one of a row: short vectors lie in the order of use.
_COMPARING = 0.5


@numba.njit(cache=True, nogil=True)
def _insert(nearest, ids, distance, row):
    """Put a row into the sorted list of the nearest; of equally distant ones the lowest first."""
    place = nearest.shape[0] - 1
    if distance > nearest[place] or (distance == nearest[place] and row > ids[place]):
        return
    while place > 0 and (
        nearest[place - 1] > distance or (nearest[place - 1] == distance and ids[place - 1] > row)
    ):
        nearest[place] = nearest[place - 1]
        ids[place] = ids[place - 1]
        place -= 1
    nearest[place] = distance
    ids[place] = row


@numba.njit(cache=True, nogil=True)
def smallest(values):
    """Position of the smallest value."""
    place = 0
    for other in range(1, values.shape[0]):
        if values[other] < values[place]:
            place = other
    return place


@numba.njit(cache=True, nogil=True)
def cap_of(nearest, limit, scale):
    """Largest value that a row may have which belongs into the list."""
    reach = np.sqrt(nearest[-1] * _ROOM) + limit[0]
    return (reach * reach * scale - limit[1]) / 2


@numba.njit(cache=True, nogil=True)
def cap_of_minima(lows, n_neighbors, room):
    """Largest value of a row that belongs into an empty list, by the blocks' smallest values.

    So many blocks hold a row each that is at most ``room`` worse than its value says.
    """
    if lows.shape[0] < n_neighbors or room == np.inf:
        return np.inf
    least = np.full(n_neighbors, np.inf)
    for low in lows:
        place = n_neighbors - 1
        if low < least[place]:
            while place > 0 and least[place - 1] > low:
                least[place] = least[place - 1]
                place -= 1
            least[place] = low
    return least[-1] + room


@numba.njit(cache=True, nogil=True)
def reach_of(nearest, limit):
    """Largest squared distance of short vectors of a row that belongs into the list."""
    reach = np.sqrt(nearest[-1] * _ROOM) + limit[2]
    return reach * reach


@numba.njit(cache=True, nogil=True)
def fill_list(values, beyond, start, order, query, rows, nearest, ids):
    """Measure as many rows of a block as the list holds, smallest value first; how many."""
    measured = 0
    while measured < nearest.shape[0]:
        column = smallest(values)
        if values[column] >= beyond:
            break
        values[column] = beyond
        row = order[start + column]
        _insert(nearest, ids, squared_distance(query, rows[row]), row)
        measured += 1
    return measured


@numba.njit(cache=True, nogil=True)
def collect(
    values,
    beyond,
    start,
    order,
    short,
    row_shorts,
    limit,
    cap,
    scale,
    nearest,
    bounds,
    waiting,
    n,
):
    """Append the rows of a block that may be among the nearest to the n waiting ones.

    Returns how many then wait, and how many short vectors were compared.

    The block begins at place ``start`` of the order. A bound is a squared distance of short
    vectors, or comes from the value where there are none.
    """
    reach = reach_of(nearest, limit)
    compared = 0
    for column in range(min(values.shape[0], order.shape[0] - start)):
        if values[column] <= cap and values[column] < beyond:
            if short.shape[0] == 0:
                bound = (2 * np.float64(values[column]) + limit[1]) / scale
            else:
                bound = np.float64(squared_distance(short, row_shorts[start + column]))
                compared += 1
            if bound <= reach:
                bounds[n] = bound
                waiting[n] = order[start + column]
                n += 1
    return n, compared


@numba.njit(cache=True, nogil=True)
def measure_waiting(bounds, waiting, n, query, rows, limit, nearest, ids):
    """Measure waiting rows in ascending order of bound while they may be near; how many."""
    measured = 0
    reach = reach_of(nearest, limit)
    while n > 0:
        place = smallest(bounds[:n])
        if bounds[place] > reach:
            break
        row = waiting[place]
        n -= 1
        bounds[place], waiting[place] = bounds[n], waiting[n]
        if nearest[-1] == 0 and row > ids[-1]:  # spares most of a crowd of identical rows
            continue
        measured += 1
        _insert(nearest, ids, squared_distance(query, rows[row]), row)
        reach = reach_of(nearest, limit)
    return measured


@numba.njit(fastmath=True, cache=True, nogil=True)
def minima_of_floats(half_norms, products, minima):
    """Smallest value of each block of a table of float32 products."""
    lanes = np.empty(LANES, dtype=np.float32)
    for i in range(minima.shape[0]):
        row = products[i]
        for block in range(minima.shape[1]):
            for lane in range(LANES):
                column = block * BLOCK + lane
                lowest = half_norms[column] - row[column]
                for step in range(1, BLOCK // LANES):
                    value = half_norms[column + step * LANES] - row[column + step * LANES]
                    lowest = value if value < lowest else lowest
                lanes[lane] = lowest
            lowest = lanes[0]
            for lane in range(1, LANES):
                lowest = lanes[lane] if lanes[lane] < lowest else lowest
            minima[i, block] = lowest


@numba.njit(cache=True, nogil=True)
def minima_of_integers(half_norms, products, minima):
    """Smallest value of each block of a table of int32 products."""
    for i in range(minima.shape[0]):
        for block in range(minima.shape[1]):
            norms = half_norms[block * BLOCK : (block + 1) * BLOCK]
            values = products[i, block * BLOCK : (block + 1) * BLOCK]
            lowest = np.int32(norms[0] - values[0])
            for column in range(BLOCK):
                lowest = min(lowest, np.int32(norms[column] - values[column]))
            minima[i, block] = lowest


@numba.njit(cache=True, nogil=True)
def seeds(n_neighbors, n_blocks):
    """How many blocks are looked at out of turn."""
    return min(-(-n_neighbors // _NEIGHBORS_PER_SEED), n_blocks)


@numba.njit(cache=True, nogil=True)
def is_worthwhile(measured, compared, widths, n_queries, n_rows):
    """Whether few enough rows were measured; comparing short vectors is work in proportion."""
    work = measured + _COMPARING * compared * widths[0] / widths[1]
    return work <= _WORTHWHILE_SHARE * n_rows * (n_queries + _LET_OFF)


@numba.njit(cache=True, nogil=True)
def nearest_in_products(
    minima, half_norms, products, beyond, order, shorts, row_shorts, queries, rows,
    limits, scale, nearest, ids, may_give_up,
):  # fmt: skip
    """Merge a part of the bank into the lists of the queries; False where this does not pay.

    Values are ``half_norms - products``, ``beyond`` those of padding.
    """
    n_blocks = minima.shape[1]
    n_seeds = seeds(nearest.shape[1], n_blocks)
    values = np.empty(BLOCK, dtype=products.dtype)
    bounds, waiting = np.empty(WAITING), np.empty(WAITING, dtype=np.int64)
    widths = shorts.shape[1], queries.shape[1]
    measured = compared = 0
    for i in range(queries.shape[0]):
        lows, limit, best, best_ids = minima[i], limits[i], nearest[i], ids[i]
        cap = cap_of(best, limit, scale)
        if best[-1] == np.inf:
            cap = cap_of_minima(lows, best.shape[0], limit[3])
        n = 0
        # First the most promising blocks, which lower the cap; then whatever is still below it.
        for turn in range(n_seeds + n_blocks):
            block = smallest(lows) if turn < n_seeds else turn - n_seeds
            if lows[block] > cap or lows[block] >= beyond:
                continue
            lows[block] = beyond
            start = block * BLOCK
            for column in range(BLOCK):
                values[column] = half_norms[start + column] - products[i, start + column]
            if cap == np.inf:
                measured += fill_list(
                    values, beyond, start, order, queries[i], rows, best, best_ids
                )
                cap = cap_of(best, limit, scale)
            n, looked_at = collect(
                values, beyond, start, order, shorts[i], row_shorts, limit, cap, scale, best,
                bounds, waiting, n,
            )  # fmt: skip
            compared += looked_at
            if turn < n_seeds or n > WAITING - BLOCK:
                measured += measure_waiting(
                    bounds, waiting, n, queries[i], rows, limit, best, best_ids
                )
                n = 0
                cap = min(cap, cap_of(best, limit, scale))
        measured += measure_waiting(bounds, waiting, n, queries[i], rows, limit, best, best_ids)
        if may_give_up and not is_worthwhile(measured, compared, widths, i + 1, order.shape[0]):
            return False
    return True


@numba.njit(cache=True, nogil=True)
def measure(columns, wanted, queries, rows, nearest, ids):
    """Fill the lists of the wanted queries from the rows named in ``columns`` (n, any)."""
    for i in range(queries.shape[0]):
        if wanted[i]:
            for place in range(columns.shape[1]):
                row = columns[i, place]
                _insert(nearest[i], ids[i], squared_distance(queries[i], rows[row]), row)
