"""Machine instructions that numba has no words for, as LLVM's own on any processor."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

STRIP = 32

_I32 = ir.IntType(32)
_STRIP = ir.VectorType(ir.IntType(16), STRIP)


@intrinsic
def prefetch(context, address):
    """Ask for the cache line at an address, which need not be valid."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", (pointer.type,), kind)
        # To be read, kept in all caches, data.
        builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def at_least(context, address, wanted):
    """Return one bit for each of the 32 uint16 from an address on: whether it is `wanted` or more."""

    def generate(context, builder, signature, arguments):
        strip = builder.load(builder.inttoptr(arguments[0], _STRIP.as_pointer()), align=2)
        undefined = ir.Constant(_STRIP, ir.Undefined)
        first = builder.insert_element(undefined, arguments[1], _I32(0))
        everywhere = ir.Constant(ir.VectorType(_I32, STRIP), [0] * STRIP)
        limits = builder.shuffle_vector(first, undefined, everywhere)
        return builder.bitcast(builder.icmp_unsigned(">=", strip, limits), _I32)

    return types.uint32(types.int64, types.uint16), generate


@intrinsic
def lowest_bit(context, bits):
    """Return the place of the lowest bit that is set; there must be one."""

    def generate(context, builder, signature, arguments):
        function = builder.module.declare_intrinsic("llvm.cttz", (_I32,), ir.FunctionType(_I32, [_I32, ir.IntType(1)]))
        return builder.zext(builder.call(function, [arguments[0], ir.IntType(1)(1)]), ir.IntType(64))

    return types.int64(types.uint32), generate
