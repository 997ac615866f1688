"""Distances of a block of 64 codes from one query, as vector instructions.

Written as LLVM vectors, since the loop in plain Python is vectorised by luck alone, and then with its sums in memory
instead of registers. Every processor can run it; one with AVX-512 VPOPCNTDQ counts 8 words by one instruction.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.hamming.codes import LANES

GROUP = 8
GROUPS = LANES // GROUP
_WORDS = ir.VectorType(ir.IntType(64), GROUP)


@intrinsic
def block_distances(context, codes, start, query, block):
    """Write uint64[64] distances to `block`, and return the least of them.

    codes  uint64[]; the block's words begin at `start`: 64 first words, 64 second ones, ...
    query  uint64[W]
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
            if isinstance(kind, types.Array)
        ]
        first = builder.gep(arrays[0].data, [arguments[1]])
        words = builder.extract_value(arrays[1].shape, 0)
        sums = _sums(builder, first, arrays[1].data, words)
        least = sums[0]
        for number, part in enumerate(sums):
            place = builder.gep(arrays[2].data, [ir.Constant(ir.IntType(64), number * GROUP)])
            builder.store(part, builder.bitcast(place, _WORDS.as_pointer()), align=8)
            least = builder.select(builder.icmp_unsigned("<", part, least), part, least) if number else least
        reduce_ = _declared(builder, f"llvm.vector.reduce.umin.v{GROUP}i64", ir.IntType(64))
        return builder.call(reduce_, [least])

    return types.uint64(codes, types.int64, query, block), generate


def _sums(builder: Any, codes: Any, query: Any, words: Any) -> list[Any]:
    """Emit the loop over words; return a vector of sums for each 8 documents."""
    integer = ir.IntType(64)
    count = _declared(builder, f"llvm.ctpop.v{GROUP}i64", _WORDS)
    before = builder.block
    loop, after = builder.append_basic_block("words"), builder.append_basic_block("counted")
    builder.branch(loop)
    builder.position_at_end(loop)
    word = builder.phi(integer)
    word.add_incoming(ir.Constant(integer, 0), before)
    sums = [builder.phi(_WORDS) for _ in range(GROUPS)]
    bits = builder.load(builder.gep(query, [word]))
    every = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), bits, ir.Constant(ir.IntType(32), 0))
    every = builder.shuffle_vector(every, every, ir.Constant(ir.VectorType(ir.IntType(32), GROUP), [0] * GROUP))
    start = builder.mul(word, ir.Constant(integer, LANES))
    longer = []
    for number, total in enumerate(sums):
        total.add_incoming(ir.Constant(_WORDS, [0] * GROUP), before)
        place = builder.gep(codes, [builder.add(start, ir.Constant(integer, number * GROUP))])
        loaded = builder.load(builder.bitcast(place, _WORDS.as_pointer()), align=8)
        longer.append(builder.add(total, builder.call(count, [builder.xor(loaded, every)])))
        total.add_incoming(longer[-1], loop)
    following = builder.add(word, ir.Constant(integer, 1))
    word.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, words), loop, after)
    builder.position_at_end(after)
    return longer


def _declared(builder: Any, name: str, result: Any) -> Any:
    """Return an LLVM intrinsic over a vector of words."""
    module = builder.module
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(result, [_WORDS]), name)


@intrinsic
def ones(context, word):
    """Count the set bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate
