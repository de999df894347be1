"""Compiled loops of the greedy coreset.

Every row p has an upper bound d[p], its squared distance to the nearest of the first seen[p]
picks, and a short vector whose distances are lower bounds. Most pairs are settled by the two
bounds; an exact distance is computed only where they leave a doubt. So picks depend on exact
distances alone, not on the bounds, the tiles or the number of threads.

Picks are kept in tiles of 16, as many as a wide vector register holds. A tile has a column per
pick b: -2 times its short vector, then the squared length of that. The bounds of one row a to 16
picks, |a|^2 - 2 a.b + |b|^2, are then 21 fused multiply-adds of registers.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from skanomaly._distances import squared_distance

# numba's cache does not notice a changed constant of another file: these stay with their loops.
N_SHORT = 21  # numbers in a short vector; their squared length follows as one more
LANES = 16  # picks per tile
TILES = 16  # tiles per block: 22 kB, which fits the first-level cache
BLOCK = TILES * LANES
GROUP = 128  # rows that meet one block after another while it is cached
PICKED = np.float32(-1)  # squared distance of a row that has been picked
EMPTY = np.float32(3e38)  # squared length in unused columns of a tile: farther than any row

_INT32 = ir.IntType(32)
_LANES = ir.VectorType(ir.FloatType(), LANES)


@intrinsic
def _within(typingctx, short, tile, limit):
    """Bits of the picks of a tile for which ``-2 a.b + |b|^2 <= limit``.

    Written in vector registers: of a plain loop the compiler makes a compare and a branch per pick.
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
    """What lies at an index, of which only the alignment of float32 is promised."""
    return builder.load(builder.gep(pointer, [_INT32(index)]), align=4)


def _repeat(builder, number):
    """A number in every lane."""
    undefined = ir.Constant(_LANES, ir.Undefined)
    first = builder.insert_element(undefined, number, _INT32(0))
    lane_0 = ir.Constant(ir.VectorType(_INT32, LANES), None)
    return builder.shuffle_vector(first, undefined, lane_0)


@intrinsic
def _lowest_bit(typingctx, bits):
    """Place of the lowest bit that is set."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return numba.uint32(bits), generate


@numba.njit(nogil=True, cache=True)
def start_distances(rows, start, d):
    """Squared distances of all rows to the first pick."""
    for p in range(rows.shape[0]):
        d[p] = squared_distance(rows[p], rows[start])
    d[start] = PICKED


@numba.njit(nogil=True, cache=True)
def append_pick(p, n_picks, rows, short, picks, picked_rows, tiles):
    """Write row p down as the next pick."""
    tile, lane = n_picks // LANES, n_picks % LANES
    picks[n_picks] = p
    picked_rows[n_picks] = rows[p]
    for x in range(N_SHORT):
        tiles[tile, x, lane] = np.float32(-2) * short[p, x]
    tiles[tile, N_SHORT, lane] = short[p, N_SHORT]


@numba.njit(nogil=True, cache=True)
def _nearest_in_block(row, short, nearest, block, picked_rows, tiles):
    """Squared distance to the nearest pick of a block, or what it was if that is less."""
    limit = nearest - short[N_SHORT]  # kept for the block: a hit need not wait for the last one
    for tile in range(block * TILES, (block + 1) * TILES):
        hits = _within(short, tiles[tile], limit)
        while hits:
            pick = tile * LANES + _lowest_bit(hits)
            hits &= hits - np.uint32(1)
            nearest = min(nearest, squared_distance(row, picked_rows[pick]))
    return nearest


@numba.njit(nogil=True, cache=True)
def catch_up(members, d, seen, threshold, n_picks, rows, short, picked_rows, tiles):
    """Show members the picks they have not seen, until they have or fall to the threshold."""
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
                # a block not yet full is shown again when it is: that changes no minimum
                seen[p] = min((block + 1) * BLOCK, n_picks)


@numba.njit(fastmath=True, nogil=True, cache=True)
def pick_among(
    members, d, seen, threshold, n_picks, n_samples, rows, short, picks, picked_rows, tiles
):
    """Pick greedily among members, all of them up to date, while one lies above the threshold."""
    members = members[d[members] > threshold]
    n = members.shape[0]
    nearest = d[members]
    vectors = np.empty((N_SHORT + 1, n), np.float32)  # transposed: loops below run along rows
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
        while nearest[winner] != farthest:  # members ascend: the lowest index wins a tie
            winner += 1
        p = members[winner]
        append_pick(p, n_picks, rows, short, picks, picked_rows, tiles)
        n_picks += 1
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
