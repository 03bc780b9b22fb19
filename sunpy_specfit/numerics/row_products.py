"""A small matrix times rows of pixels in compiled code (Numba), with sums that stay in the processor's registers."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .loops import inner_loop

__all__ = ["PIXELS", "multiply"]

# Rows are a multiple of so many pixels long, in single or double precision.
PIXELS = 16
# What a processor with AVX takes at once; others split it.
_BYTES = 32


def _block(count: int):
    """The product of so many rows of the matrix.

    Numba cannot say that sums are vectors in registers: written as loops over arrays, each of them goes to memory and
    back for every few terms.
    """

    @intrinsic
    def block(typing_context, matrix, source, which, target, places, at):
        arrays = matrix, source, which, target, places
        if not (matrix.dtype == source.dtype == target.dtype and all(array.layout == "C" for array in arrays)):
            return None

        def generate(context, builder, signature, arguments):
            kinds = signature.args
            arrays = [
                context.make_array(kind)(context, builder, value)
                for kind, value in zip(kinds[:5], arguments[:5], strict=True)
            ]
            number = context.get_value_type(kinds[0].dtype)
            lanes = _BYTES // (kinds[0].dtype.bitwidth // 8)
            vector, size = ir.VectorType(number, lanes), ir.IntType(64)
            (_, terms), (_, width) = (cgutils.unpack_tuple(builder, array.shape) for array in arrays[:2])
            first = context.cast(builder, arguments[5], kinds[5], types.intp)
            rows = [builder.add(first, size(r)) for r in range(count)]
            factors = [builder.gep(arrays[0].data, [builder.mul(row, terms)]) for row in rows]
            outputs = []
            for row in rows:
                place = builder.load(builder.gep(arrays[4].data, [row]))
                outputs.append(builder.gep(arrays[3].data, [builder.mul(place, width)]))
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(2)] for _ in rows]

            def two(pointer, place):
                for half in range(2):
                    at_half = builder.gep(pointer, [builder.add(place, size(half * lanes))])
                    yield builder.bitcast(at_half, vector.as_pointer())

            with cgutils.for_range_slice(builder, size(0), width, size(2 * lanes), size) as (pixel, _):
                for pair in sums:
                    for one in pair:
                        builder.store(ir.Constant(vector, [number(0.0)] * lanes), one)
                with cgutils.for_range(builder, terms) as loop:
                    row = builder.load(builder.gep(arrays[2].data, [loop.index]))
                    here = builder.add(builder.mul(row, width), pixel)
                    samples = [builder.load(p, align=4) for p in two(arrays[1].data, here)]
                    for factor, pair in zip(factors, sums, strict=True):
                        scalar = builder.load(builder.gep(factor, [loop.index]))
                        spread = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
                        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                        spread = builder.shuffle_vector(spread, ir.Constant(vector, ir.Undefined), zeros)
                        for sample, one in zip(samples, pair, strict=True):
                            product = builder.fmul(spread, sample, flags=("contract",))
                            builder.store(builder.fadd(builder.load(one), product, flags=("contract",)), one)
                for output, pair in zip(outputs, sums, strict=True):
                    for one, place in zip(pair, two(output, pixel), strict=True):
                        builder.store(builder.load(one), place, align=4)
            return context.get_dummy_value()

        return types.void(matrix, source, which, target, places, at), generate

    return block


_one, _two, _three, _four, _five, _six = map(_block, range(1, 7))


@inner_loop
def multiply(matrix, source, which, target, places):
    """Some rows of pixels times a matrix.

    Parameters
    ----------
    matrix : `numpy.ndarray`
        ``(m, n)``; this and the others in C order and of one precision.
    source : `numpy.ndarray`
        ``(any, pixels)``, of a multiple of `PIXELS`.
    which : `numpy.ndarray`
        Its rows that the matrix is for, int64 ``(n,)``.
    target : `numpy.ndarray`
        ``(any, pixels)``, some rows of which are filled.
    places : `numpy.ndarray`
        Which of them, int64 ``(m,)``.
    """
    at, rows = 0, len(places)
    # As many rows at a time as there are registers for, and no single one left over.
    while rows - at >= 11 or rows - at == 6:
        _six(matrix, source, which, target, places, at)
        at += 6
    while rows - at in (5, 9, 10):
        _five(matrix, source, which, target, places, at)
        at += 5
    while rows - at in (4, 7, 8):
        _four(matrix, source, which, target, places, at)
        at += 4
    if rows - at == 3:
        _three(matrix, source, which, target, places, at)
    elif rows - at == 2:
        _two(matrix, source, which, target, places, at)
    elif rows - at == 1:
        _one(matrix, source, which, target, places, at)
