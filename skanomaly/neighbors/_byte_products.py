"""Products of short vectors of bytes, by instructions that add four products at once (VNNI).

No compiler makes them of a loop, so they are written out here: for a block of 64 rows and a few
queries, one instruction for four bytes of a query and for as many rows as fit a register. Of each
block only the smallest value is stored, so that no table of products is written and read again.

Arguments of the loops:

codes       (q, WIDTH) int8, of queries
packed      (blocks, WIDTH / 4, BLOCK, 4) uint8, of rows, as from :func:`pack`
half_norms  (blocks, BLOCK) int32; a value is a half norm minus a product
"""

import functools

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from skanomaly.neighbors._distance_kernels import BLOCK
from skanomaly.utils.compiling import compiled

WIDTH = 64  # bytes of a code
RAISED = 128  # see pack
_FOUR = 4  # bytes that one instruction multiplies and adds, and bytes of their sum
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


@functools.cache
def register_bits():
    """Width of the registers for which this processor has the instructions; 0: it has none."""
    if numba.config.DISABLE_JIT or not numba.config.ENABLE_AVX:
        return 0
    features = numba.config.CPU_FEATURES  # set by an environment variable, as the others
    if features is None:
        try:
            features = binding.get_host_cpu_features().flatten()
        except RuntimeError:  # LLVM does not know this processor
            return 0
    if {"+avx512f", "+avx512vnni"} <= set(features.split(",")):
        return 512
    return 256 if "+avxvnni" in features.split(",") else 0


# Queries whose sums for a block stay in registers: 24 of 32, or 8 of 16.
_AT_ONCE = 6 if register_bits() == 512 else 1


def pack(codes):
    """Codes of rows (blocks * BLOCK, WIDTH), int8, in the order in which they are multiplied.

    The instructions take one factor without a sign: rows are raised by 128, which raises the
    product with a query by 128 times the sum of its code.
    """
    raised = codes.view(np.uint8) ^ np.uint8(RAISED)
    blocks = raised.reshape(-1, BLOCK, WIDTH // _FOUR, _FOUR)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))


@compiled(nogil=True)
def lowest_values(codes, packed, half_norms, minima):
    """Fill in the smallest value of each block for each query, ``minima`` (q, blocks) int32."""
    n_queries, n_blocks = minima.shape
    for block in range(n_blocks):
        rows = np.uintp(packed[block].ctypes.data)
        norms = np.uintp(half_norms[block].ctypes.data)
        step = np.uintp(minima.strides[0])
        for i in range(0, n_queries - _AT_ONCE + 1, _AT_ONCE):
            lowest = np.uintp(minima[i, block:].ctypes.data)
            _lowest_of_several(np.uintp(codes[i].ctypes.data), rows, norms, lowest, step)
        for i in range(n_queries - n_queries % _AT_ONCE, n_queries):
            lowest = np.uintp(minima[i, block:].ctypes.data)
            _lowest_of_one(np.uintp(codes[i].ctypes.data), rows, norms, lowest, step)


@compiled(nogil=True)
def values_of_block(code, rows, half_norms, values):
    """Fill in the values (BLOCK,) int32 of the rows of one block for one query."""
    _all_of_one(
        np.uintp(code.ctypes.data), np.uintp(rows.ctypes.data),
        np.uintp(half_norms.ctypes.data), np.uintp(values.ctypes.data),
    )  # fmt: skip


@intrinsic
def _lowest_of_several(_context, codes, rows, half_norms, minima, step):
    """Store the smallest values of a block for several queries, `step` bytes apart."""
    return types.void(*[types.uintp] * 5), functools.partial(_write_lowest, _AT_ONCE)


@intrinsic
def _lowest_of_one(_context, codes, rows, half_norms, minima, step):
    """Store the smallest value of a block for one query."""
    return types.void(*[types.uintp] * 5), functools.partial(_write_lowest, 1)


@intrinsic
def _all_of_one(_context, code, rows, half_norms, values):
    """Store all values of a block for one query."""
    return types.void(*[types.uintp] * 4), _write_all


# Each argument of what follows is an address, as the instructions have it.


def _write_lowest(n_queries, context, builder, _signature, arguments):
    codes, rows, half_norms, minima, step = arguments
    lanes = register_bits() // 32
    name = f"llvm.vector.reduce.smin.v{lanes}i32"
    for vectors in _values(builder, n_queries, codes, rows, half_norms):
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [_smaller(builder, one, other) for one, other in pairs]
        lowest = builder.call(_llvm_function(builder, name, _INT32, vectors[0]), vectors)
        builder.store(lowest, _pointer(builder, minima, 0, _INT32), align=1)
        minima = builder.add(minima, step)
    return context.get_dummy_value()


def _write_all(context, builder, _signature, arguments):
    code, rows, half_norms, values = arguments
    (vectors,) = _values(builder, 1, code, rows, half_norms)
    for i, vector in enumerate(vectors):
        place = _pointer(builder, values, i * _FOUR * vector.type.count, vector.type)
        builder.store(vector, place, align=1)
    return context.get_dummy_value()


def _values(builder, n_queries, codes, rows, half_norms):
    """The values of a block, as a list of vectors for each query."""
    lanes = register_bits() // 32
    vector = ir.VectorType(_INT32, lanes)
    zero = ir.Constant(vector, None)
    multiply_add = _llvm_function(
        builder, f"llvm.x86.avx512.vpdpbusd.{register_bits()}", vector, zero, zero, zero
    )
    parts = range(0, BLOCK, lanes)  # of the rows
    sums = [[zero for _ in parts] for _ in range(n_queries)]
    for start in range(0, WIDTH, _FOUR):
        columns = [_load(builder, rows, BLOCK * start + _FOUR * part, vector) for part in parts]
        for query in range(n_queries):
            four = _repeated(builder, _load(builder, codes, WIDTH * query + start, _INT32), vector)
            sums[query] = [
                builder.call(multiply_add, [total, column, four])
                for total, column in zip(sums[query], columns, strict=True)
            ]
    norms = [_load(builder, half_norms, _FOUR * part, vector) for part in parts]
    return [list(map(builder.sub, norms, of_query)) for of_query in sums]


def _pointer(builder, address, offset, kind):
    """Pointer to what is so many bytes after an address."""
    place = builder.add(address, ir.Constant(_INT64, offset))
    return builder.inttoptr(place, kind.as_pointer())


def _load(builder, address, offset, kind):
    return builder.load(_pointer(builder, address, offset, kind), align=1)


def _repeated(builder, number, vector):
    """The vector that holds a number in all lanes."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(vector, None))


def _smaller(builder, one, other):
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def _llvm_function(builder, name, result, *arguments):
    """A function that LLVM knows by name, for arguments like these."""
    known = builder.module.globals.get(name)
    kind = ir.FunctionType(result, [one.type for one in arguments])
    return known or ir.Function(builder.module, kind, name)
