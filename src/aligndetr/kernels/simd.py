"""Vectors for numba kernels: lanes that the compiler keeps in registers, however many there are.

Numba leaves vectors to the luck of loops; here they are values. A kernel loads a run of a flat
contiguous array as a vector, computes with `+ - *` and the functions below, and stores it. LLVM
maps any number of lanes to what the processor has (SSE, AVX, NEON), so nothing here names one.
An array of uint16 holds bfloat16 numbers, which are loaded as float32 and rounded when they are
stored. Nothing checks bounds.
"""

import operator
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from llvmlite import ir
from numba import extending, types
from numba.core.base import BaseContext
from numba.core.cgutils import get_or_insert_function
from numba.core.datamodel.manager import DataModelManager
from numba.core.typing.templates import Signature
from numba.extending import (
    NativeValue,
    models,
    overload,
    register_model,
    typeof_impl,
    unbox,
)

from aligndetr.kernels import instructions
from aligndetr.kernels.instructions import (
    INDEX,
    Emitted,
    alignment,
    arithmetic,
    rounded,
    shuffle,
    splat,
    widened,
)

SOURCES = [Path(__file__), Path(instructions.__file__)]
CHECKSUM = zlib.crc32(b"".join(file.read_bytes() for file in SOURCES if file.exists()))
"""Part of every kernel's signature: numba's cache on disk watches the kernel's own file only."""

BFLOAT16 = types.uint16
"""What holds bfloat16 numbers: numba and numpy have no type for them."""

Vector = Any
"""Annotates a vector in kernel code, which Python itself never runs."""

Code = Callable[[BaseContext, ir.IRBuilder, Signature, Sequence[Emitted]], Emitted]
"""Writes the instructions of one call and returns its result."""

Definition = Callable[..., tuple[Signature, Code]]

intrinsic = cast(Callable[[Definition], Callable[..., Vector]], extending.intrinsic)
"""Make a kernel function of its definition, whose first parameter numba fills in."""


class Count:
    """A number that a kernel knows when it is compiled; `len` of it gives the number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __len__(self) -> int:
        return self.value


class CountType(types.Type):
    """The compiler's view of a `Count`: one type, hence one machine code, for each number."""

    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__(f"Count({value}, {CHECKSUM})")


class VectorType(types.Type):
    """`count` lanes of `dtype`."""

    def __init__(self, dtype: types.Type, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(f"Vector({dtype}, {count})")


register_model(CountType)(models.OpaqueModel)


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is an LLVM vector."""

    def __init__(self, manager: DataModelManager, vector: VectorType) -> None:
        lane = manager.lookup(vector.dtype).get_value_type()
        super().__init__(manager, vector, ir.VectorType(lane, vector.count))


@typeof_impl.register(Count)
def _type_of_count(count: Count, _context: object) -> CountType:
    return CountType(count.value)


@unbox(CountType)
def _unbox_count(_type: CountType, _count: Emitted, frame: Emitted) -> NativeValue:
    return NativeValue(frame.context.get_dummy_value())


@overload(len)
def _length(count: types.Type) -> Callable[..., int] | None:
    if not isinstance(count, CountType):
        return None
    value = count.value

    def length(count: types.Type) -> int:  # noqa: ARG001
        return value

    return length


@intrinsic
def zeros(_: object, array: types.Array, count: CountType) -> tuple[Signature, Code]:
    """Return `count` zeros of the array's type."""
    vector = VectorType(array.dtype, count.value)

    def code(context: BaseContext, _builder: ir.IRBuilder, *_: object) -> Emitted:
        return ir.Constant(context.get_value_type(vector), None)

    return vector(array, count), code


@intrinsic
def fill(_: object, like: VectorType, number: types.Number) -> tuple[Signature, Code]:
    """Return a vector like `like` with `number` in all lanes."""

    def code(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: Sequence[Emitted]
    ) -> Emitted:
        lane = context.cast(builder, args[1], signature.args[1], like.dtype)
        return splat(builder, lane, like.count)

    return like(like, number), code


@intrinsic
def at(_: object, array: types.Array, index: types.Integer) -> tuple[Signature, Code]:
    """Return array[index] as it is, and do not ask, as numba does, whether an index is below 0."""

    def code(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: Sequence[Emitted]
    ) -> Emitted:
        return builder.load(_element(context, builder, signature, args))

    return array.dtype(array, index), code


def _loader(parts: int) -> Callable[..., Vector]:
    """Return the intrinsic that loads a run of numbers and deals them out to `parts` vectors."""

    @intrinsic
    def load(
        _: object, array: types.Array, start: types.Integer, count: CountType
    ) -> tuple[Signature, Code]:
        vector = VectorType(_lane_type(array), count.value)
        result = vector if parts == 1 else types.UniTuple(vector, parts)

        def code(
            context: BaseContext,
            builder: ir.IRBuilder,
            signature: Signature,
            args: Sequence[Emitted],
        ) -> Emitted:
            lane = context.get_value_type(array.dtype)
            run = ir.VectorType(lane, count.value * parts)
            pointer = _pointer(context, builder, signature, args, run)
            whole = builder.load(pointer, align=alignment(run))
            if array.dtype == BFLOAT16:
                whole = widened(builder, whole)
            if parts == 1:
                return whole
            dealt = [
                shuffle(builder, whole, whole, range(part, run.count, parts))
                for part in range(parts)
            ]
            return context.make_tuple(builder, result, dealt)

        return result(array, start, count), code

    return load


load = _loader(1)
"""`load(array, start, count)`: the vector array[start : start + count]."""

load_pairs = _loader(2)
"""The even and the odd numbers of a run of 2 * count, as two vectors."""

load_fours = _loader(4)
"""Every fourth number of a run of 4 * count, as four vectors."""


@intrinsic
def store(
    _: object, array: types.Array, start: types.Integer, vector: VectorType
) -> tuple[Signature, Code]:
    """Write a vector to array[start:]."""

    def code(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: Sequence[Emitted]
    ) -> Emitted:
        value = args[2]
        if array.dtype == BFLOAT16:
            value = rounded(builder, value)
        pointer = _pointer(context, builder, signature, args, value.type)
        builder.store(value, pointer, align=alignment(value.type))
        return context.get_dummy_value()

    return types.void(array, start, vector), code


@intrinsic
def interleave(_: object, even: VectorType, odd: VectorType) -> tuple[Signature, Code]:
    """Return even[0], odd[0], even[1], odd[1], ..."""
    result = VectorType(even.dtype, 2 * even.count)
    order = [lane for pair in range(even.count) for lane in (pair, even.count + pair)]

    def emit(builder: ir.IRBuilder, even: Emitted, odd: Emitted) -> Emitted:
        return shuffle(builder, even, odd, order)

    return result(even, odd), _code(emit)


@intrinsic
def dots(
    _: object, vector: VectorType, a: VectorType, b: VectorType, c: VectorType, d: VectorType
) -> tuple[Signature, Code]:
    """Return the vector of the four inner products of `vector` with a, b, c and d.

    Together they take half the shuffles of four separate sums: the products lie side by side,
    and each step adds the upper half of every one to its lower half.
    """
    count = vector.count
    width = 1 << (count - 1).bit_length()
    result = VectorType(vector.dtype, 4)

    def emit(builder: ir.IRBuilder, vector: Emitted, *others: Emitted) -> Emitted:
        products = [arithmetic(builder, "fmul", vector, other) for other in others]
        zero = ir.Constant(vector.type, None)
        padded = [min(lane, count) for lane in range(width)]
        rows = [shuffle(builder, product, zero, padded) for product in products]
        left = shuffle(builder, rows[0], rows[1], range(2 * width))
        right = shuffle(builder, rows[2], rows[3], range(2 * width))
        sums = shuffle(builder, left, right, range(4 * width))
        half = width // 2
        while half:
            lower = [row * 2 * half + lane for row in range(4) for lane in range(half)]
            low = shuffle(builder, sums, sums, lower)
            high = shuffle(builder, sums, sums, [lane + half for lane in lower])
            sums = arithmetic(builder, "fadd", low, high)
            half //= 2
        return sums

    return result(vector, a, b, c, d), _code(emit)


@intrinsic
def clamp(_: object, x: VectorType, low: VectorType, high: VectorType) -> tuple[Signature, Code]:
    """Return x within low and high; NaN stays NaN."""

    def emit(builder: ir.IRBuilder, x: Emitted, low: Emitted, high: Emitted) -> Emitted:
        x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
        return builder.select(builder.fcmp_ordered(">", x, high), high, x)

    return x(x, low, high), _code(emit)


@intrinsic
def inside(_: object, x: VectorType, cell: VectorType, last: VectorType) -> tuple[Signature, Code]:
    """Return x in the lanes where 0 <= cell <= last or cell is NaN, otherwise 0."""

    def emit(builder: ir.IRBuilder, x: Emitted, cell: Emitted, last: Emitted) -> Emitted:
        zero = ir.Constant(x.type, None)
        below = builder.fcmp_ordered("<", cell, zero)
        above = builder.fcmp_ordered(">", cell, last)
        return builder.select(builder.or_(below, above), zero, x)

    return x(x, cell, last), _code(emit)


@intrinsic
def floor(_: object, x: VectorType) -> tuple[Signature, Code]:
    """Return the largest whole numbers that are not above x."""

    def emit(builder: ir.IRBuilder, x: Emitted) -> Emitted:
        name = f"llvm.floor.v{x.type.count}f{8 * alignment(x.type)}"
        kind = ir.FunctionType(x.type, [x.type])
        return builder.call(get_or_insert_function(builder.module, kind, name), [x])

    return x(x), _code(emit)


@intrinsic
def to_index(_: object, cell: VectorType, last: VectorType) -> tuple[Signature, Code]:
    """Return whole numbers `cell` as int32 lanes within 0 and `last`; NaN becomes 0."""

    def emit(builder: ir.IRBuilder, x: Emitted, last: Emitted) -> Emitted:
        zero = ir.Constant(x.type, None)
        x = builder.select(builder.fcmp_ordered(">", x, zero), x, zero)
        x = builder.select(builder.fcmp_ordered("<", x, last), x, last)
        return builder.fptosi(x, ir.VectorType(INDEX, cell.count))

    return VectorType(types.int32, cell.count)(cell, last), _code(emit)


def _overload_arithmetic(symbol: Callable[..., object], name: str) -> None:
    """Give vectors an operator: LLVM calls it `name` for ints and f`name` for floats."""

    @intrinsic
    def operation(_: object, a: VectorType, b: VectorType) -> tuple[Signature, Code]:
        def emit(builder: ir.IRBuilder, a: Emitted, b: Emitted) -> Emitted:
            if isinstance(a.type.element, ir.IntType):
                return getattr(builder, name)(a, b)
            return arithmetic(builder, f"f{name}", a, b)

        return a(a, b), _code(emit)

    @overload(symbol)
    def _operator(a: types.Type, b: types.Type) -> Callable[..., Vector] | None:
        if not (isinstance(a, VectorType) and isinstance(b, VectorType)):
            return None

        def apply(a: types.Type, b: types.Type) -> Vector:
            return operation(a, b)

        return apply


_overload_arithmetic(operator.add, "add")
_overload_arithmetic(operator.sub, "sub")
_overload_arithmetic(operator.mul, "mul")


def _code(emit: Callable[..., Emitted]) -> Code:
    """Return the code of a function that needs to know nothing but its arguments."""

    def code(
        _context: BaseContext, builder: ir.IRBuilder, _sig: Signature, args: Sequence[Emitted]
    ) -> Emitted:
        return emit(builder, *args)

    return code


def _element(
    context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: Sequence[Emitted]
) -> Emitted:
    """Return the address of element `args[1]` of `args[0]`, a flat array."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [context.cast(builder, args[1], signature.args[1], types.intp)])


def _pointer(
    context: BaseContext,
    builder: ir.IRBuilder,
    signature: Signature,
    args: Sequence[Emitted],
    vector: ir.VectorType,
) -> Emitted:
    """Return where a vector begins that starts at element `args[1]` of `args[0]`."""
    element = _element(context, builder, signature, args)
    return builder.bitcast(element, vector.as_pointer())


def _lane_type(array: types.Array) -> types.Type:
    """Return the type of the lanes that are loaded from an array."""
    return types.float32 if array.dtype == BFLOAT16 else array.dtype
