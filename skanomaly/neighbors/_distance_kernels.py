"""Compiled loops of the exact search: from a table of cheap values to the nearest rows.

A screen computes a table of values, one for each query and each row of a part of the bank: about
half the squared distance, minus a term that depends on the query only. A row at squared distance d
has a value of at most ``(reach^2 scale - base) / 2``, where
``reach = sqrt((sqrt(d) + rounding)^2 - apart) + margin``, with limits that each query has. Blocks
of rows are visited, the most promising ones first, until no other row can be among the nearest.

Only the sum of squared differences of the rows themselves decides; of rows at the same distance
the lower index is nearer. So all screens give the same result.

Arguments that many loops share, for m rows of d columns, q queries and k neighbors:

rows        (m, d) float32, and queries (q, d) or one query (d,)
nearest     (q, k) or (k,) squared distances found so far, ascending, inf where there are none yet
ids         like nearest: indices of these rows
order       (m,) indices of the rows in the order of the table's columns
shorts      (q, width) or (width,) short vectors of the queries, row_shorts those of the rows in
            the table's order; of width 0 where none are kept
limits      (q, N_LIMITS) or (N_LIMITS,): ROUNDING, by how much it may raise a distance of short
            vectors; APART, a squared distance from all rows that is no part of the value; MARGIN
            and BASE of the value; SHORT_APART and SHORT_MARGIN, which are to the bound of a
            waiting row what APART and MARGIN are to a value; and ORDERED, by how much two values
            must differ to be in the order of the distances, for tables of products only
"""

import numba
import numpy as np
from numba.extending import overload
from numba.np.numpy_support import as_dtype

from skanomaly.utils.compiling import compiled
from skanomaly.utils.distances import squared_distance

ROUNDING, APART, MARGIN, BASE, SHORT_APART, SHORT_MARGIN, ORDERED = range(7)
N_LIMITS = 7
# Rows of the bank, or columns of a table of products, that share one minimum; both are padded to a
# multiple.
BLOCK = 64
# Numbers that one instruction handles; minima are kept lane by lane, which compilers vectorize.
LANES = 16
# One block in advance, chosen as the most promising one, for this many neighbors.
_NEIGHBORS_PER_SEED = 3
# Rows that wait to be measured, so that the most promising of them is measured first.
WAITING = 128
# Tolerance for the rounding of float32 sums of squares when a distance is compared with a bound.
_TOLERANCE = 1 + 4e-6
# A screen that leaves more than this fraction of the rows to be measured is slower than a plain
# matrix product over all of them. This many queries are not counted at the beginning of a tile.
_WORTHWHILE_FRACTION = 0.09
_GRACE_QUERIES = 8
# Cost of one number of a short vector relative to one of a row; short vectors are read in order.
_SHORT_COST = 0.5


@compiled(nogil=True)
def _insert(nearest, ids, distance, row):
    """Insert a row into the sorted list of the nearest; ties are sorted by index."""
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


@compiled(nogil=True)
def smallest(values):
    """Position of the smallest value."""
    place = 0
    for other in range(1, values.shape[0]):
        if values[other] < values[place]:
            place = other
    return place


@compiled(nogil=True)
def _reach(nearest, rounding, apart, margin):
    """How far a row may be that is nearer than the last one of the list; -1: there is none."""
    longest = np.sqrt(nearest[-1] * _TOLERANCE) + rounding
    rest = longest * longest - apart
    return np.sqrt(rest) + margin if rest >= 0 else -1.0


@compiled(nogil=True)
def cap_of(nearest, limit, scale):
    """Largest value of a row that may be nearer than the last one of the list."""
    reach = _reach(nearest, limit[ROUNDING], limit[APART], limit[MARGIN])
    return (reach * reach * scale - limit[BASE]) / 2 if reach >= 0 else -np.inf


@compiled(nogil=True)
def cap_of_minima(lows, n_neighbors, margin):
    """Largest value of a row that may be among the nearest, while the list is still empty.

    The k smallest minima of blocks belong to k different rows. Values that differ by more than
    ``margin`` are in the order of the distances, so a row whose value exceeds the k-th minimum by
    more than that is not among the k nearest.
    """
    if lows.shape[0] < n_neighbors or margin == np.inf:
        return np.inf
    least = np.full(n_neighbors, np.inf)  # the k smallest minima so far, ascending
    for low in lows:
        place = n_neighbors - 1
        if low < least[place]:
            while place > 0 and least[place - 1] > low:
                least[place] = least[place - 1]
                place -= 1
            least[place] = low
    return least[-1] + margin


@compiled(nogil=True)
def reach_of(nearest, limit):
    """Largest bound of a row that may be nearer than the last one of the list."""
    reach = _reach(nearest, limit[ROUNDING], limit[SHORT_APART], limit[SHORT_MARGIN])
    return reach * reach if reach >= 0 else -1.0


@compiled(nogil=True)
def fill_list(values, beyond, start, order, query, rows, nearest, ids):
    """Measure as many rows of a block as the list holds, smallest value first.

    Returns how many were measured. They get the value ``beyond``, so that they are not measured
    again.
    """
    measured = 0
    while measured < nearest.shape[0]:
        column = smallest(values)
        if values[column] >= beyond:  # only padding is left
            break
        values[column] = beyond
        row = order[start + column]
        _insert(nearest, ids, squared_distance(query, rows[row]), row)
        measured += 1
    return measured


@compiled(nogil=True)
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

    Returns how many rows are waiting then, and how many short vectors were compared. The block
    begins at position ``start`` of the order. The bound of a waiting row is the squared distance
    of the short vectors, or is computed from its value where there are none.
    """
    reach = reach_of(nearest, limit)
    compared = 0
    for column in range(min(values.shape[0], order.shape[0] - start)):  # without padding
        if values[column] <= cap and values[column] < beyond:
            if short.shape[0] == 0:
                bound = (2 * np.float64(values[column]) + limit[BASE]) / scale
            else:
                bound = np.float64(squared_distance(short, row_shorts[start + column]))
                compared += 1
            if bound <= reach:
                bounds[n] = bound
                waiting[n] = order[start + column]
                n += 1
    return n, compared


@compiled(nogil=True)
def measure_waiting(bounds, waiting, n, query, rows, limit, nearest, ids):
    """Measure waiting rows, smallest bound first, while they may be near enough.

    Returns how many were measured. Rows whose bound is beyond the reach are dropped.
    """
    measured = 0
    reach = reach_of(nearest, limit)
    while n > 0:
        place = smallest(bounds[:n])
        if bounds[place] > reach:  # and so are all others
            break
        row = waiting[place]
        # The last waiting row takes the place of this one.
        n -= 1
        bounds[place], waiting[place] = bounds[n], waiting[n]
        if nearest[-1] == 0 and row > ids[-1]:  # of many identical rows most are skipped
            continue
        measured += 1
        _insert(nearest, ids, squared_distance(query, rows[row]), row)
        reach = reach_of(nearest, limit)  # it only shrinks
    return measured


@compiled(fastmath=True, nogil=True)
def minima_of_floats(half_norms, products, minima):
    """Smallest value ``half_norms - products`` of each block of a table of float32 products.

    ``half_norms`` is (columns,), ``products`` (q, columns), ``minima`` (q, columns / BLOCK).
    """
    lanes = np.empty(LANES, dtype=np.float32)
    for i in range(minima.shape[0]):
        row = products[i]
        for block in range(minima.shape[1]):
            # One minimum per lane first, then one of the lanes: no step across lanes inside.
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


@compiled(nogil=True)
def seeds(n_neighbors, n_blocks):
    """How many blocks are visited first, as the most promising ones."""
    return min(-(-n_neighbors // _NEIGHBORS_PER_SEED), n_blocks)


@compiled(nogil=True)
def is_worthwhile(measured, compared, widths, n_queries, n_rows):
    """Whether few enough rows were measured.

    A short vector compared counts as the corresponding fraction of a row measured; ``widths`` are
    the lengths of a short vector and of a row.
    """
    work = measured + _SHORT_COST * compared * widths[0] / widths[1]
    return work <= _WORTHWHILE_FRACTION * n_rows * (n_queries + _GRACE_QUERIES)


_VALUES: dict = {}  # what fills in the values of a block, by the dtype of its numbers


def values_by(dtype):
    """Decorator of what fills in the values of a block whose numbers have this dtype.

    Its arguments are named as those of :func:`fill_values`. numba does not see when it is edited:
    delete the folders ``__pycache__`` then.
    """

    def register(function):
        _VALUES[np.dtype(dtype)] = function

        @overload(fill_values, jit_options={"fastmath": True})
        def _for_these(code, block, half_norms, values):
            is_array = isinstance(block, numba.types.Array)
            own = as_dtype(block.dtype if is_array else block)
            return function if own == dtype else None

        return function

    return register


def fill_values(code, block, half_norms, values):
    """Fill in the values of the rows of a block for one query; see :func:`nearest_in_blocks`."""
    _VALUES[np.asarray(block).dtype](code, block, half_norms, values)  # in a loop not compiled


@compiled(nogil=True)
def nearest_in_blocks(
    minima, codes, blocks, half_norms, beyond, order, shorts, row_shorts, queries, rows,
    limits, scale, nearest, ids, may_give_up,
):  # fmt: skip
    """Merge a part of the bank into the lists of the queries; False if that is not worthwhile.

    The values of a block's rows are computed, or looked up, when it is visited: from what ``codes``
    (q, ...) holds of the query, and ``blocks`` (blocks, ...), whose dtype says how, and
    ``half_norms`` (blocks, rows of a block) hold of the block. Those of padding are at least
    ``beyond``. The ``minima`` of blocks, (q, blocks), are overwritten.
    """
    n_blocks, n_rows = half_norms.shape
    n_seeds = seeds(nearest.shape[1], n_blocks)
    values = np.empty(n_rows, dtype=half_norms.dtype)
    bounds, waiting = np.empty(WAITING), np.empty(WAITING, dtype=np.int64)
    widths = shorts.shape[1], queries.shape[1]
    measured = compared = 0
    for i in range(queries.shape[0]):
        lows, limit, best, best_ids = minima[i], limits[i], nearest[i], ids[i]
        cap = cap_of(best, limit, scale)
        if best[-1] == np.inf:
            cap = cap_of_minima(lows, best.shape[0], limit[ORDERED])
        n = 0
        # First the most promising blocks, which lower the cap; then the blocks still below it.
        for turn in range(n_seeds + n_blocks):
            block = smallest(lows) if turn < n_seeds else turn - n_seeds
            if lows[block] > cap or lows[block] >= beyond:
                continue
            lows[block] = beyond  # not visited again
            start = block * n_rows
            fill_values(codes[i], blocks[block], half_norms[block], values)
            # Without a cap every row would wait: fill the list from this block instead.
            if cap == np.inf:
                measured += fill_list(
                    values, beyond, start, order, queries[i], rows, best, best_ids
                )
                cap = cap_of(best, limit, scale)
            n, n_compared = collect(
                values, beyond, start, order, shorts[i], row_shorts, limit, cap, scale, best,
                bounds, waiting, n,
            )  # fmt: skip
            compared += n_compared
            # At once after a promising block, to lower the cap; later when the next may not fit.
            if turn < n_seeds or n > WAITING - n_rows:
                measured += measure_waiting(
                    bounds, waiting, n, queries[i], rows, limit, best, best_ids
                )
                n = 0
                cap = min(cap, cap_of(best, limit, scale))
        measured += measure_waiting(bounds, waiting, n, queries[i], rows, limit, best, best_ids)
        if may_give_up and not is_worthwhile(measured, compared, widths, i + 1, order.shape[0]):
            return False
    return True


@compiled(nogil=True)
def measure(columns, wanted, queries, rows, nearest, ids):
    """Fill the lists of the wanted queries, a mask (q,), from the rows in ``columns`` (q, any)."""
    for i in range(queries.shape[0]):
        if wanted[i]:
            for place in range(columns.shape[1]):
                row = columns[i, place]
                _insert(nearest[i], ids[i], squared_distance(queries[i], rows[row]), row)
