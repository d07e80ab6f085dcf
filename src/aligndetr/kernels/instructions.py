"""Instructions of LLVM that vectors are made of (`simd.py`), whatever numba knows of types."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

RELAXED = ("contract", "reassoc", "nsz")
"""What LLVM may do to floats: fuse and reorder. NaN and infinity keep their meaning."""

INDEX = ir.IntType(32)

Emitted = Any
"""A value of the machine code being written; llvmlite's classes for them are not annotated."""


def arithmetic(builder: ir.IRBuilder, name: str, a: Emitted, b: Emitted) -> Emitted:
    """Return a and b under an operation on floats, which LLVM may fuse and reorder."""
    return getattr(builder, name)(a, b, flags=RELAXED)


def alignment(vector: ir.VectorType) -> int:
    """Return the bytes of one lane: all the alignment that a row of an array promises."""
    lane = vector.element
    if isinstance(lane, ir.IntType):
        return lane.width // 8
    return 8 if isinstance(lane, ir.DoubleType) else 4


def widened(builder: ir.IRBuilder, halves: Emitted) -> Emitted:
    """Return bfloat16 lanes as float32, of which they are the upper half."""
    wide = ir.VectorType(INDEX, halves.type.count)
    shifted = builder.shl(builder.zext(halves, wide), everywhere(wide, 16))
    return builder.bitcast(shifted, ir.VectorType(ir.FloatType(), wide.count))


def rounded(builder: ir.IRBuilder, x: Emitted) -> Emitted:
    """Return float32 lanes as bfloat16, rounded to the nearest, ties to even; NaN stays NaN."""
    wide = ir.VectorType(INDEX, x.type.count)
    bits = builder.bitcast(x, wide)
    odd = builder.and_(builder.lshr(bits, everywhere(wide, 16)), everywhere(wide, 1))
    nearest = builder.add(bits, builder.add(odd, everywhere(wide, 0x7FFF)))
    is_nan = builder.fcmp_unordered("uno", x, x)
    chosen = builder.select(is_nan, builder.or_(bits, everywhere(wide, 0x400000)), nearest)
    upper = builder.lshr(chosen, everywhere(wide, 16))
    return builder.trunc(upper, ir.VectorType(ir.IntType(16), wide.count))


def everywhere(vector: ir.VectorType, number: int) -> ir.Constant:
    """Return a vector of whole numbers that are all the same."""
    return ir.Constant(vector, [number] * vector.count)


def shuffle(builder: ir.IRBuilder, a: Emitted, b: Emitted, lanes: Sequence[int]) -> Emitted:
    """Return the vector of the chosen lanes of a followed by b."""
    mask = ir.Constant(ir.VectorType(INDEX, len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, mask)


def splat(builder: ir.IRBuilder, lane: Emitted, count: int) -> Emitted:
    """Return a vector with `lane` in all lanes."""
    empty = ir.Constant(ir.VectorType(lane.type, count), ir.Undefined)
    return shuffle(builder, builder.insert_element(empty, lane, INDEX(0)), empty, [0] * count)
