"""Compiled loops of the greedy coreset.

Arrays of n rows of d columns, of which m have been selected (the picks):

rows         (n, d) float32
short        (n, N_SHORT + 1): short vectors, whose distances are lower bounds of the distances of
             the rows (see skanomaly.utils.distances), and their squared lengths
d            (n,) squared distance to the nearest of the first seen[p] picks: an upper bound of the
             squared distance to all of them; PICKED for the picks themselves
seen         (n,) how many picks d[p] takes into account
picks        (m,) indices of the rows selected
reached      (m + 1,) their squared distances to those before, when they were selected
picked_rows  (m, d) their copies, contiguous
tiles        (n_tiles, N_SHORT + 1, LANES): for each pick b a column, -2 times its short vector and
             the squared length of that

Most pairs are decided by the two bounds; the exact distance is computed only where the bounds do
not decide. So the picks depend on exact distances alone, not on the bounds, the tiles or the number
of threads. The lower bounds of one row a to the LANES picks of a tile, |a|^2 - 2 a.b + |b|^2, are
N_SHORT fused multiply-adds of vector registers.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from skanomaly.utils.compiling import compiled
from skanomaly.utils.distances import squared_distance

# In the file of the loops that use them: numba's cache does not notice that a constant of another
# file has changed.
N_SHORT = 21  # numbers in a short vector; their squared length follows as one more
LANES = 16  # picks per tile
TILES = 16  # tiles per block: 22 kB, which fits the first-level cache
BLOCK = TILES * LANES
GROUP = 128  # rows compared with a block while it is cached
PICKED = np.float32(-1)  # squared distance of a row that has been selected: never the farthest
EMPTY = np.float32(3e38)  # squared length in unused columns of a tile: farther than any row

_INT32 = ir.IntType(32)
_LANES = ir.VectorType(ir.FloatType(), LANES)


@intrinsic
def _within(typingctx, short, tile, limit):
    """Bit mask of the picks of a tile for which ``-2 a.b + |b|^2 <= limit``.

    Written with vector registers, because the compiler turns a plain loop into a comparison and a
    branch per pick.
    """

    def generate(context, builder, signature, arguments):
        short, tile = (
            context.make_array(kind)(context, builder, argument).data
            for kind, argument in zip(signature.args[:2], arguments[:2], strict=True)
        )
        columns = builder.bitcast(tile, _LANES.as_pointer())
        total = _load(builder, columns, N_SHORT)
        for x in range(N_SHORT):
            number = _repeat(builder, _load(builder, short, x))
            product = builder.fmul(number, _load(builder, columns, x), flags=["fast"])
            total = builder.fadd(total, product, flags=["fast"])
        hits = builder.fcmp_ordered("<=", total, _repeat(builder, arguments[2]))
        return builder.zext(builder.bitcast(hits, ir.IntType(LANES)), _INT32)

    return numba.uint32(short, tile, limit), generate


def _load(builder, pointer, index):
    """Load the item at an index; only the alignment of float32 is guaranteed."""
    return builder.load(builder.gep(pointer, [_INT32(index)]), align=4)


def _repeat(builder, number):
    """A vector with the number in every lane."""
    undefined = ir.Constant(_LANES, ir.Undefined)
    first = builder.insert_element(undefined, number, _INT32(0))
    lane_0 = ir.Constant(ir.VectorType(_INT32, LANES), None)
    return builder.shuffle_vector(first, undefined, lane_0)


@intrinsic
def _lowest_bit(typingctx, bits):
    """Position of the lowest bit that is set."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return numba.uint32(bits), generate


@compiled(nogil=True)
def start_distances(rows, first, d):
    """Set d to the squared distances of all rows to the first pick."""
    for p in range(rows.shape[0]):
        d[p] = squared_distance(rows[p], first)


@compiled(nogil=True)
def append_pick(p, n_picks, rows, short, picks, picked_rows, tiles):
    """Append row p to the picks, their copies and the tiles."""
    tile, lane = n_picks // LANES, n_picks % LANES
    picks[n_picks] = p
    picked_rows[n_picks] = rows[p]
    for x in range(N_SHORT):
        tiles[tile, x, lane] = np.float32(-2) * short[p, x]
    tiles[tile, N_SHORT, lane] = short[p, N_SHORT]


@compiled(nogil=True)
def _nearest_in_block(row, short, nearest, block, picked_rows, tiles):
    """The smaller of ``nearest`` and the squared distance to the nearest pick of a block."""
    # |a|^2 is moved to the right-hand side of the bound. The limit stays the same for the block,
    # though nearest may fall: a tile need not wait for the distances of the last one.
    limit = nearest - short[N_SHORT]
    for tile in range(block * TILES, (block + 1) * TILES):
        hits = _within(short, tiles[tile], limit)
        while hits:
            pick = tile * LANES + _lowest_bit(hits)
            hits &= hits - np.uint32(1)
            nearest = min(nearest, squared_distance(row, picked_rows[pick]))
    return nearest


@compiled(nogil=True)
def update_distances(members, d, seen, threshold, n_picks, rows, short, picked_rows, tiles):
    """Compare members with the picks they have not seen, while they exceed the threshold."""
    n_blocks = (n_picks + BLOCK - 1) // BLOCK
    for first in range(0, members.shape[0], GROUP):
        group = members[first : first + GROUP]
        oldest = n_blocks
        for p in group:
            oldest = min(oldest, seen[p] // BLOCK)
        for block in range(oldest, n_blocks):
            for p in group:
                if seen[p] // BLOCK > block or d[p] <= threshold:
                    continue
                d[p] = _nearest_in_block(rows[p], short[p], d[p], block, picked_rows, tiles)
                # A block that is not full yet is seen again later; that changes no minimum.
                seen[p] = min((block + 1) * BLOCK, n_picks)


@compiled(fastmath=True, nogil=True)
def select_among(
    members, d, seen, threshold, n_picks, n_samples, rows, short, picks, reached, picked_rows, tiles
):
    """Select greedily among updated members while one exceeds the threshold; how many picks.

    Each pick is compared with all members at once, so that they stay up to date.
    """
    members = members[d[members] > threshold]
    n = members.shape[0]
    nearest = d[members]
    vectors = np.empty((N_SHORT + 1, n), np.float32)  # transposed: the loops below are contiguous
    for i in range(n):
        vectors[:, i] = short[members[i]]
    bounds = np.empty(n, np.float32)
    while n_picks < n_samples:
        farthest = PICKED
        for i in range(n):
            farthest = nearest[i] if nearest[i] > farthest else farthest
        if not farthest > threshold:
            break
        winner = 0
        while nearest[winner] != farthest:  # members are sorted: the lowest index wins a tie
            winner += 1
        p = members[winner]
        append_pick(p, n_picks, rows, short, picks, picked_rows, tiles)
        reached[n_picks] = farthest
        n_picks += 1
        # Lower bounds |a|^2 - 2 a.b + |b|^2 of all members, one coordinate after another.
        for i in range(n):
            bounds[i] = short[p, N_SHORT] + vectors[N_SHORT, i]
        for x in range(N_SHORT):
            factor = np.float32(-2) * short[p, x]
            for i in range(n):
                bounds[i] += factor * vectors[x, i]
        for i in range(n):
            if bounds[i] <= nearest[i]:
                nearest[i] = min(nearest[i], squared_distance(rows[members[i]], rows[p]))
        nearest[winner] = PICKED
    for i in range(n):
        d[members[i]] = nearest[i]
        seen[members[i]] = n_picks
    return n_picks
