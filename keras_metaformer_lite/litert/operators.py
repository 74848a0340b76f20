"""What each TFLite operator makes of the shapes and types of its inputs.

The verifier lets an operator pass only if the file states for its outputs what follows
from its inputs: what the runtime computes is then as large as the file says, and no
kernel meets a combination that it was not written for. Operators that are not here
(control flow, custom operators, strings, shapes that are known at run time only) are
refused by name.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_metaformer_lite.litert.tables import Table, check

Shape = tuple[int, ...]

# Numbers of the schema's enum TensorType.
FLOAT32, FLOAT16, INT32, UINT8, INT64, BOOL, INT8, INT4 = 0, 1, 2, 3, 4, 6, 9, 17
#: Bits of an element.
BITS = {
    FLOAT32: 32,
    FLOAT16: 16,
    INT32: 32,
    UINT8: 8,
    INT64: 64,
    BOOL: 8,
    INT8: 8,
    INT4: 4,
}
QUANTIZED = (UINT8, INT8)
_WHOLE = (INT32, INT64)
MOST_AXES = 6
# Pixels that a window may reach over.
_LARGEST_WINDOW = 1 << 12
# By how much kernels multiply when they round to a quantised result: beyond that they
# give up, some with memory freed twice. Honest ones stay below 1 or little above.
_MOST_MULTIPLIER = 256.0
_LEAST_MULTIPLIER = 1e-30


@dataclasses.dataclass(slots=True)
class Tensor:
    """A tensor as the file states it.

    Attributes:
        shape: sizes of its axes.
        type: number of the schema's enum `TensorType`.
        data: the bytes of a constant, or None.
        scales: of a quantised tensor, one or one for each place on `axis`.
        axis: of the scales.
        known: whether it is there when the next operator runs.
        last_use: number of the last operator that reads it.
    """

    shape: Shape
    type: int
    data: memoryview | None
    scales: np.ndarray | None
    axis: int
    known: bool = False
    last_use: int = -1

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return (self.size * BITS[self.type] + 7) // 8


@dataclasses.dataclass(slots=True)
class Call:
    """One operator of the graph.

    Attributes:
        inputs: the tensors read, None for optional ones that are left out.
        outputs: the tensors written.
        options: its settings, or None.
        work: multiplications and elements read, added up by the rule.
        scratch: bytes that its kernel may need besides.
    """

    inputs: list[Any]
    outputs: list[Tensor]
    options: Table | None
    work: int = 0
    scratch: int = 0

    def option(self, slot: int, letter: str, default: Any = 0) -> Any:
        """A setting."""
        if self.options is None:
            return default
        return self.options.number(slot, letter, default)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What an operator takes.

    Attributes:
        shapes: gives the shapes of the outputs, or raises.
        least: number of inputs that must be there.
        most: number of inputs that may be there.
        gap: whether -1 may stand for an input after the least. Kernels of other
            operators ask only how many there are, and read what is not there.
        outputs: number of outputs, or None for any.
        options: number of the schema's union `BuiltinOptions`, or None for any that
            has no settings.
        settings: letter of the number in each slot of the options; `"v"` for a vector
            of int32.
    """

    shapes: Callable[[Call], Sequence[Shape]]
    least: int
    most: int
    outputs: int | None
    options: int | None
    settings: dict[int, str]
    gap: bool = False


# Numbers of the schema's enum BuiltinOperator.
_OPERATORS = {
    "ADD": 0,
    "AVERAGE_POOL_2D": 1,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 4,
    "DEPTH_TO_SPACE": 5,
    "DEQUANTIZE": 6,
    "FLOOR": 8,
    "FULLY_CONNECTED": 9,
    "L2_NORMALIZATION": 11,
    "LOGISTIC": 14,
    "MAX_POOL_2D": 17,
    "MUL": 18,
    "RELU": 19,
    "RELU_N1_TO_1": 20,
    "RELU6": 21,
    "RESHAPE": 22,
    "RESIZE_BILINEAR": 23,
    "SOFTMAX": 25,
    "SPACE_TO_DEPTH": 26,
    "TANH": 28,
    "PAD": 34,
    "GATHER": 36,
    "TRANSPOSE": 39,
    "MEAN": 40,
    "SUB": 41,
    "DIV": 42,
    "SQUEEZE": 43,
    "STRIDED_SLICE": 45,
    "EXP": 47,
    "SPLIT": 49,
    "LOG_SOFTMAX": 50,
    "CAST": 53,
    "PRELU": 54,
    "MAXIMUM": 55,
    "ARG_MAX": 56,
    "MINIMUM": 57,
    "LESS": 58,
    "NEG": 59,
    "PADV2": 60,
    "GREATER": 61,
    "GREATER_EQUAL": 62,
    "LESS_EQUAL": 63,
    "SLICE": 65,
    "SIN": 66,
    "TILE": 69,
    "EXPAND_DIMS": 70,
    "EQUAL": 71,
    "NOT_EQUAL": 72,
    "LOG": 73,
    "SUM": 74,
    "SQRT": 75,
    "RSQRT": 76,
    "POW": 78,
    "REDUCE_MAX": 82,
    "PACK": 83,
    "LOGICAL_OR": 84,
    "LOGICAL_AND": 86,
    "LOGICAL_NOT": 87,
    "UNPACK": 88,
    "REDUCE_MIN": 89,
    "SQUARE": 92,
    "FILL": 94,
    "RESIZE_NEAREST_NEIGHBOR": 97,
    "LEAKY_RELU": 98,
    "SQUARED_DIFFERENCE": 99,
    "MIRROR_PAD": 100,
    "ABS": 101,
    "SPLIT_V": 102,
    "CEIL": 104,
    "REVERSE_V2": 105,
    "COS": 108,
    "ELU": 111,
    "QUANTIZE": 114,
    "ROUND": 116,
    "HARD_SWISH": 117,
    "SELECT_V2": 123,
    "BATCH_MATMUL": 126,
    "BROADCAST_TO": 130,
    "GELU": 150,
    "SIGN": 158,
}

# Numbers of the schema's union BuiltinOptions.
_OPTIONS = {
    "Conv2DOptions": 1,
    "DepthwiseConv2DOptions": 2,
    "Pool2DOptions": 5,
    "FullyConnectedOptions": 8,
    "SoftmaxOptions": 9,
    "ConcatenationOptions": 10,
    "AddOptions": 11,
    "L2NormOptions": 12,
    "ResizeBilinearOptions": 15,
    "ReshapeOptions": 17,
    "SpaceToDepthOptions": 19,
    "MulOptions": 21,
    "GatherOptions": 23,
    "ReducerOptions": 27,
    "SubOptions": 28,
    "DivOptions": 29,
    "SqueezeOptions": 30,
    "StridedSliceOptions": 32,
    "SplitOptions": 35,
    "CastOptions": 37,
    "ArgMaxOptions": 40,
    "PackOptions": 59,
    "UnpackOptions": 64,
    "ResizeNearestNeighborOptions": 74,
    "LeakyReluOptions": 75,
    "MirrorPadOptions": 77,
    "SplitVOptions": 79,
    "DepthToSpaceOptions": 94,
    "BatchMatMulOptions": 101,
    "GeluOptions": 116,
}

#: Names by the numbers of the operators that have rules.
NAMES = {number: name for name, number in _OPERATORS.items()}
#: Likewise the rules.
RULES: dict[int, Rule] = {}


def _rule(
    names: str,
    *,
    least: int = 1,
    most: int | None = None,
    outputs: int | None = 1,
    options: str | None = None,
    settings: str = "",
    gap: bool = False,
) -> Callable[[Any], Any]:
    """Register a rule for operators; `settings` has the letters of slots 0, 1, 2 ..."""

    def register(shapes: Any) -> Any:
        letters = dict(enumerate(settings))
        kind = None if options is None else _OPTIONS[options]
        rule = Rule(shapes, least, most or least, outputs, kind, letters, gap)
        RULES.update({_OPERATORS[name]: rule for name in names.split()})
        return shapes

    return register


# Conditions ------------------------------------------------------------------------


def _types(tensors: Sequence[Tensor | None]) -> list[int]:
    return [tensor.type for tensor in tensors if tensor is not None]


def _alike(call: Call, allowed: Sequence[int], tensors: Any = None) -> None:
    """The tensors, by default all, are of one of the types."""
    kinds = set(_types(tensors or [*call.inputs, *call.outputs]))
    found = f"types {sorted(kinds)} where one of {sorted(allowed)} is needed"
    check(len(kinds) == 1 and kinds <= set(allowed), found)


def _computed(call: Call, allowed: Sequence[int], tensors: Any = None) -> None:
    """The same, for what computes with quantised numbers, and so needs their scales."""
    tensors = tensors or [*call.inputs, *call.outputs]
    _alike(call, allowed, tensors)
    for tensor in tensors:
        if tensor is not None and tensor.type in QUANTIZED:
            _scale(tensor)


def _scale(tensor: Tensor) -> float:
    """The one scale of a quantised tensor."""
    check(tensor.scales is not None and len(tensor.scales) == 1, "no scale, or several")
    return float(tensor.scales[0])  # pyright: ignore[reportOptionalSubscript]


def _multiplier(scale: float, call: Call) -> None:
    """What a quantised result is multiplied with is what kernels can do.

    Args:
        scale: of the numbers before they are rounded to the result's scale.
        call: the operator.
    """
    ratio = scale / _scale(call.outputs[0])
    sane = _LEAST_MULTIPLIER < ratio < _MOST_MULTIPLIER
    check(sane, f"a scale of {scale:g}, {ratio:g} times the result's")


def _integers(tensor: Tensor | None, most: int = 64) -> list[int]:
    """The numbers of a small constant."""
    check(
        tensor is not None
        and tensor.data is not None
        and tensor.type in _WHOLE
        and len(tensor.shape) <= 2
        and tensor.size <= most,
        "an operand that must be a constant of a few whole numbers",
    )
    assert tensor is not None and tensor.data is not None
    kind = "<i4" if tensor.type == INT32 else "<i8"
    return np.frombuffer(tensor.data, kind).tolist()


def _integer(tensor: Tensor | None) -> int:
    numbers = _integers(tensor)
    check(len(numbers) == 1, f"{len(numbers)} numbers instead of one")
    return numbers[0]


def _axis(axis: int, rank: int) -> int:
    check(-rank <= axis < rank, f"axis {axis} of {rank}")
    return axis % rank


def _fused(call: Call, slot: int) -> None:
    """A fused activation is none, ReLU, ReLU of -1 to 1, or ReLU6."""
    number = call.option(slot, "b")
    check(0 <= number <= 3, f"fused activation {number}")


def _broadcast(*shapes: Shape) -> Shape:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        check(False, f"shapes {shapes} that do not go together")
        raise


# One element for each element --------------------------------------------------------


@_rule("FLOOR EXP LOG SQRT RSQRT SQUARE SIN COS CEIL ROUND SIGN ELU")
def _float_by_float(call: Call) -> Sequence[Shape]:
    _alike(call, (FLOAT32,))
    return [call.inputs[0].shape]


@_rule("NEG ABS")
def _negative_or_absolute(call: Call) -> Sequence[Shape]:
    _alike(call, (FLOAT32, INT32))
    return [call.inputs[0].shape]


@_rule("RELU RELU_N1_TO_1 RELU6 LOGISTIC TANH HARD_SWISH")
def _activation(call: Call) -> Sequence[Shape]:
    _computed(call, (FLOAT32, *QUANTIZED))
    return [call.inputs[0].shape]


@_rule("GELU", options="GeluOptions", settings="?")
def _gelu(call: Call) -> Sequence[Shape]:
    return _activation(call)


@_rule("LEAKY_RELU", options="LeakyReluOptions", settings="f")
def _leaky_relu(call: Call) -> Sequence[Shape]:
    check(abs(call.option(0, "f")) <= 1, "a slope above 1")
    if call.inputs[0].type in QUANTIZED:
        _multiplier(_scale(call.inputs[0]), call)
    return _activation(call)


@_rule("SOFTMAX", options="SoftmaxOptions", settings="f")
def _softmax(call: Call) -> Sequence[Shape]:
    (x,) = call.inputs
    _computed(call, (FLOAT32, *QUANTIZED))
    beta = call.option(0, "f")
    check(0 < beta < 1e6 and 1 <= len(x.shape) <= 4, f"a softmax with beta {beta}")
    if x.type in QUANTIZED:
        check(beta * _scale(x) * 2.0**26 > 1, "a softmax with too small a scale")
    return [x.shape]


@_rule("LOG_SOFTMAX")
def _log_softmax(call: Call) -> Sequence[Shape]:
    _alike(call, (FLOAT32,))
    return [call.inputs[0].shape]


@_rule("L2_NORMALIZATION", options="L2NormOptions", settings="b")
def _l2_normalization(call: Call) -> Sequence[Shape]:
    _alike(call, (FLOAT32,))
    check(call.option(0, "b") == 0 and len(call.inputs[0].shape) <= 4, "no plain norm")
    return [call.inputs[0].shape]


@_rule("CAST", options="CastOptions", settings="bb")
def _cast(call: Call) -> Sequence[Shape]:
    allowed = {FLOAT32, INT32, INT64, UINT8, INT8, BOOL}
    check(set(_types([*call.inputs, *call.outputs])) <= allowed, "a cast of a type")
    return [call.inputs[0].shape]


@_rule("QUANTIZE")
def _quantize(call: Call) -> Sequence[Shape]:
    (x,), (y,) = call.inputs, call.outputs
    check(x.type in (FLOAT32, *QUANTIZED) and y.type in QUANTIZED, "types to quantise")
    for tensor in (x, y):
        if tensor.type in QUANTIZED:
            _scale(tensor)
    if x.type in QUANTIZED:
        _multiplier(_scale(x), call)
    return [x.shape]


@_rule("DEQUANTIZE")
def _dequantize(call: Call) -> Sequence[Shape]:
    (x,), (y,) = call.inputs, call.outputs
    check(x.type in (FLOAT16, *QUANTIZED) and y.type == FLOAT32, "types to dequantise")
    if x.type in QUANTIZED:
        check(x.scales is not None, "no scale")
        check(len(x.scales) == 1 or x.data is not None, "several scales")
    return [x.shape]


@_rule("ADD", least=2, options="AddOptions", settings="b?")
@_rule("SUB", least=2, options="SubOptions", settings="b?")
def _sum(call: Call) -> Sequence[Shape]:
    if call.outputs[0].type in QUANTIZED:
        _computed(call, QUANTIZED)
        for x in call.inputs:
            _multiplier(_scale(x), call)
    return _binary(call)


@_rule("MUL", least=2, options="MulOptions", settings="b")
def _product(call: Call) -> Sequence[Shape]:
    if call.outputs[0].type in QUANTIZED:
        _computed(call, QUANTIZED)
        _multiplier(math.prod(_scale(x) for x in call.inputs), call)
    return _binary(call)


@_rule("DIV", least=2, options="DivOptions", settings="b")
def _quotient(call: Call) -> Sequence[Shape]:
    # Whole numbers may be divided by zero.
    _alike(call, (FLOAT32,))
    return _binary(call)


def _binary(call: Call) -> Sequence[Shape]:
    _fused(call, 0)
    _computed(call, (FLOAT32, INT32, *QUANTIZED))
    return [_broadcast(*(x.shape for x in call.inputs))]


@_rule("MAXIMUM MINIMUM", least=2)
def _extremum(call: Call) -> Sequence[Shape]:
    _computed(call, (FLOAT32, INT32, *QUANTIZED))
    return [_broadcast(*(x.shape for x in call.inputs))]


@_rule("SQUARED_DIFFERENCE POW", least=2)
def _float_binary(call: Call) -> Sequence[Shape]:
    _alike(call, (FLOAT32,))
    return [_broadcast(*(x.shape for x in call.inputs))]


@_rule("PRELU", least=2)
def _prelu(call: Call) -> Sequence[Shape]:
    _alike(call, (FLOAT32,))
    x, slope = call.inputs
    check(_broadcast(x.shape, slope.shape) == x.shape, "slopes of another shape")
    return [x.shape]


@_rule("LESS GREATER GREATER_EQUAL LESS_EQUAL EQUAL NOT_EQUAL", least=2)
def _comparison(call: Call) -> Sequence[Shape]:
    _alike(call, (FLOAT32, INT32), call.inputs)
    _alike(call, (BOOL,), call.outputs)
    return [_broadcast(*(x.shape for x in call.inputs))]


@_rule("LOGICAL_OR LOGICAL_AND", least=2)
@_rule("LOGICAL_NOT")
def _logical(call: Call) -> Sequence[Shape]:
    _alike(call, (BOOL,))
    return [_broadcast(*(x.shape for x in call.inputs))]


@_rule("SELECT_V2", least=3)
def _select(call: Call) -> Sequence[Shape]:
    _alike(call, (BOOL,), call.inputs[:1])
    _alike(call, (FLOAT32, INT32), [*call.inputs[1:], *call.outputs])
    return [_broadcast(*(x.shape for x in call.inputs))]


# Sums of products ----------------------------------------------------------------


def _weighted(call: Call, axis: int) -> None:
    """Types of a linear operator: floats, quantised, or floats with small weights."""
    x, weights, *rest = call.inputs
    bias = rest[0] if rest else None
    (y,) = call.outputs
    kinds = (x.type, weights.type)
    check(
        kinds
        in {
            (FLOAT32, FLOAT32),
            (FLOAT32, INT8),
            (FLOAT32, INT4),
            (INT8, INT8),
            (INT8, INT4),
            (UINT8, UINT8),
        }
        and y.type == x.type,
        f"types {kinds} of a linear operator",
    )
    if weights.type != FLOAT32:
        scales = weights.scales
        check(weights.data is not None and scales is not None, "weights without scales")
        assert scales is not None
        places = weights.shape[axis]
        check(
            len(scales) == 1 or (len(scales) == places and weights.axis == axis),
            f"{len(scales)} scales of {places} channels",
        )
    if x.type in QUANTIZED:
        assert weights.scales is not None
        for extreme in (weights.scales.min(), weights.scales.max()):
            _multiplier(_scale(x) * float(extreme), call)
    if bias is not None:
        kind = FLOAT32 if x.type == FLOAT32 else INT32
        channels = (y.shape or (1,))[-1]
        fits = bias.type == kind and bias.size == channels and len(bias.shape) <= 2
        check(fits, f"a bias of shape {bias.shape} and type {bias.type}")


def _window(
    call: Call, shape: Shape, sides: Shape, first: int, dilations: int | None
) -> Shape:
    """Height and width behind a window.

    The options hold the padding in slot 0, then the strides, width first.
    """
    width_step, height_step = call.option(first, "i"), call.option(first + 1, "i")
    width_gap = height_gap = 1
    if dilations is not None:
        width_gap = call.option(dilations, "i", 1)
        height_gap = call.option(dilations + 1, "i", 1)
    padding = call.option(0, "b")
    check(padding in (0, 1), f"padding {padding}")
    result = []
    for size, side, step, gap in (
        (shape[1], sides[0], height_step, height_gap),
        (shape[2], sides[1], width_step, width_gap),
    ):
        check(
            0 < side <= _LARGEST_WINDOW
            and 0 < step <= _LARGEST_WINDOW
            and 0 < gap <= _LARGEST_WINDOW
            and (side - 1) * gap < _LARGEST_WINDOW,
            f"a window of {side} with stride {step} and dilation {gap}",
        )
        seen = size if padding == 0 else size - (side - 1) * gap
        check(seen > 0, f"a window of {side} with dilation {gap} on {size}")
        result.append(-(-seen // step))
    return tuple(result)


# A convolution needs its bias, although the schema lets it be left out: the kernel of
# CONV_2D refuses to run without one, and that of DEPTHWISE_CONV_2D reads it anyway.


@_rule("CONV_2D", least=3, options="Conv2DOptions", settings="biibiib")
def _convolution(call: Call) -> Sequence[Shape]:
    x, kernel = call.inputs[:2]
    check(len(x.shape) == len(kernel.shape) == 4, "a convolution of other axes than 4")
    channels, height, width, depth = kernel.shape
    groups = x.shape[3] // depth
    fits = x.shape[3] == groups * depth and channels % groups == 0
    check(fits, f"a kernel of shape {kernel.shape} on {x.shape}")
    _fused(call, 3)
    sides = _window(call, x.shape, (height, width), 1, 4)
    _weighted(call, 0)
    places = x.shape[0] * math.prod(sides)
    call.work = places * kernel.size
    if (height, width) != (1, 1):  # The windows, one beside the other.
        call.scratch = 4 * places * height * width * x.shape[3]
    return [(x.shape[0], *sides, channels)]


@_rule(
    "DEPTHWISE_CONV_2D",
    least=3,
    options="DepthwiseConv2DOptions",
    settings="biiibii",
)
def _depthwise(call: Call) -> Sequence[Shape]:
    x, kernel = call.inputs[:2]
    check(len(x.shape) == len(kernel.shape) == 4, "a convolution of other axes than 4")
    one, height, width, channels = kernel.shape
    multiplier = call.option(3, "i")
    fits = one == 1 and multiplier > 0 and channels == multiplier * x.shape[3]
    check(fits, f"a depthwise kernel of shape {kernel.shape} on {x.shape}")
    _fused(call, 4)
    sides = _window(call, x.shape, (height, width), 1, 5)
    _weighted(call, 3)
    call.work = x.shape[0] * math.prod(sides) * kernel.size
    return [(x.shape[0], *sides, channels)]


@_rule(
    "FULLY_CONNECTED",
    least=2,
    most=3,
    options="FullyConnectedOptions",
    settings="bb??b",
    gap=True,
)
def _fully_connected(call: Call) -> Sequence[Shape]:
    x, weights = call.inputs[:2]
    check(len(weights.shape) == 2 and len(x.shape) >= 1, "weights of other axes than 2")
    check(call.option(1, "b") == 0, "weights in another order")
    units, features = weights.shape
    keep = call.option(2, "?")
    fits = x.shape[-1] == features if keep else x.size % features == 0
    check(fits, f"weights of shape {weights.shape} on {x.shape}")
    _fused(call, 0)
    shape = x.shape[:-1] if keep else (x.size // features,)
    _weighted(call, 0)
    call.work = math.prod(shape) * weights.size
    return [(*shape, units)]


@_rule("BATCH_MATMUL", least=2, options="BatchMatMulOptions", settings="???")
def _matrix_product(call: Call) -> Sequence[Shape]:
    x, y = call.inputs
    check(min(len(x.shape), len(y.shape)) >= 2, "a product of other than matrices")
    check(max(len(x.shape), len(y.shape)) <= 5, "a product of too many axes")
    _computed(call, (FLOAT32, INT8))
    if x.type == INT8:
        _multiplier(_scale(x) * _scale(y), call)
    (rows, inner), (other, columns) = x.shape[-2:], y.shape[-2:]
    if call.option(0, "?"):
        rows, inner = inner, rows
    if call.option(1, "?"):
        other, columns = columns, other
    check(inner == other, f"a product of {x.shape} and {y.shape}")
    batch = _broadcast(x.shape[:-2], y.shape[:-2])
    call.work = math.prod(batch) * rows * inner * columns
    call.scratch = x.nbytes + y.nbytes  # Transposed copies.
    return [(*batch, rows, columns)]


@_rule("AVERAGE_POOL_2D MAX_POOL_2D", options="Pool2DOptions", settings="biiiib")
def _pooling(call: Call) -> Sequence[Shape]:
    (x,) = call.inputs
    check(len(x.shape) == 4, "a pooling of other axes than 4")
    _computed(call, (FLOAT32, *QUANTIZED))
    _fused(call, 5)
    sides = (call.option(4, "i"), call.option(3, "i"))
    places = _window(call, x.shape, sides, 1, None)
    shape = (x.shape[0], *places, x.shape[3])
    call.work = math.prod(shape) * math.prod(sides)
    return [shape]


@_rule("MEAN SUM", least=2, options="ReducerOptions", settings="?")
@_rule("REDUCE_MAX REDUCE_MIN", least=2, options="ReducerOptions", settings="?")
def _reduction(call: Call) -> Sequence[Shape]:
    x, axes = call.inputs
    _computed(call, (FLOAT32, *QUANTIZED), [x, *call.outputs])
    if x.type in QUANTIZED:
        _multiplier(_scale(x), call)
    gone = {_axis(axis, len(x.shape)) for axis in _integers(axes, MOST_AXES)}
    if call.option(0, "?"):
        return [tuple(1 if i in gone else n for i, n in enumerate(x.shape))]
    return [tuple(n for i, n in enumerate(x.shape) if i not in gone)]


@_rule("ARG_MAX", least=2, options="ArgMaxOptions", settings="b")
def _arg_max(call: Call) -> Sequence[Shape]:
    x, axis = call.inputs
    _alike(call, (FLOAT32,), [x])
    _alike(call, _WHOLE, call.outputs)
    kind = call.option(0, "b")
    check(kind == call.outputs[0].type, f"places of type {kind}")
    gone = _axis(_integer(axis), len(x.shape))
    return [tuple(n for i, n in enumerate(x.shape) if i != gone)]


# Moving numbers --------------------------------------------------------------------

_MOVED = (FLOAT32, INT32, INT64, *QUANTIZED)


@_rule("RESHAPE", most=2, options="ReshapeOptions", settings="v")
def _reshape(call: Call) -> Sequence[Shape]:
    x = call.inputs[0]
    _alike(call, (*_MOVED, BOOL), [x, *call.outputs])
    if len(call.inputs) == 2:
        shape = _integers(call.inputs[1], MOST_AXES)
    else:
        check(call.options is not None, "a reshaping without a shape")
        assert call.options is not None
        shape = call.options.numbers(0, "i4").tolist()
    return [_completed(shape, x.size)]


def _completed(shape: list[int], size: int) -> Shape:
    check(
        len(shape) <= MOST_AXES
        and shape.count(-1) <= 1
        and all(n > 0 or n == -1 for n in shape),
        f"a shape {shape}",
    )
    rest = math.prod(n for n in shape if n != -1)
    result = tuple(size // rest if n == -1 else n for n in shape)
    check(math.prod(result) == size, f"a shape {shape} of {size} numbers")
    return result


@_rule("SQUEEZE", options="SqueezeOptions", settings="v")
def _squeeze(call: Call) -> Sequence[Shape]:
    (x,) = call.inputs
    _alike(call, _MOVED)
    axes = [] if call.options is None else call.options.numbers(0, "i4").tolist()
    rank = len(x.shape)
    check(len(axes) <= rank, f"{len(axes)} axes of {rank}")
    gone = {_axis(axis, rank) for axis in axes}
    if not axes:
        gone = {i for i, n in enumerate(x.shape) if n == 1}
    check(all(x.shape[i] == 1 for i in gone), f"axes {axes} of {x.shape}")
    return [tuple(n for i, n in enumerate(x.shape) if i not in gone)]


@_rule("EXPAND_DIMS", least=2)
def _expand_dims(call: Call) -> Sequence[Shape]:
    x, axis = call.inputs
    _alike(call, _MOVED, [x, *call.outputs])
    place = _axis(_integer(axis), len(x.shape) + 1)
    return [(*x.shape[:place], 1, *x.shape[place:])]


@_rule("TRANSPOSE", least=2)
def _transpose(call: Call) -> Sequence[Shape]:
    x, order = call.inputs
    _alike(call, _MOVED, [x, *call.outputs])
    axes = _integers(order, MOST_AXES)
    check(sorted(axes) == list(range(len(x.shape))), f"axes {axes} of {len(x.shape)}")
    return [tuple(x.shape[axis] for axis in axes)]


@_rule("CONCATENATION", most=64, options="ConcatenationOptions", settings="ib")
def _concatenation(call: Call) -> Sequence[Shape]:
    _computed(call, _MOVED)
    check(call.option(1, "b") == 0, "a fused activation")
    return [_joined([x.shape for x in call.inputs], call.option(0, "i"))]


def _joined(shapes: list[Shape], axis: int) -> Shape:
    axis = _axis(axis, len(shapes[0]))
    others = {(shape[:axis], shape[axis + 1 :]) for shape in shapes}
    same = len(others) == 1 and len({len(shape) for shape in shapes}) == 1
    check(same, f"shapes {shapes} to join")
    length = sum(shape[axis] for shape in shapes)
    return (*shapes[0][:axis], length, *shapes[0][axis + 1 :])


@_rule("PACK", most=64, options="PackOptions", settings="ii")
def _pack(call: Call) -> Sequence[Shape]:
    _alike(call, _MOVED)
    shape = call.inputs[0].shape
    check(all(x.shape == shape for x in call.inputs), "shapes to pack")
    check(call.option(0, "i") == len(call.inputs), "a number of tensors to pack")
    axis = _axis(call.option(1, "i"), len(shape) + 1)
    return [(*shape[:axis], len(call.inputs), *shape[axis:])]


@_rule("UNPACK", outputs=None, options="UnpackOptions", settings="ii")
def _unpack(call: Call) -> Sequence[Shape]:
    _alike(call, _MOVED)
    shape = call.inputs[0].shape
    axis = _axis(call.option(1, "i"), len(shape))
    number = call.option(0, "i")
    check(number == shape[axis] == len(call.outputs), f"{number} parts of {shape}")
    return [(*shape[:axis], *shape[axis + 1 :])] * number


@_rule("SPLIT", least=2, outputs=None, options="SplitOptions", settings="i")
def _split(call: Call) -> Sequence[Shape]:
    axis, x = call.inputs
    _alike(call, _MOVED, [x, *call.outputs])
    place = _axis(_integer(axis), len(x.shape))
    number = call.option(0, "i")
    fits = number == len(call.outputs) and x.shape[place] % number == 0
    check(fits, f"{number} parts of {x.shape}")
    part = x.shape[place] // number
    return [(*x.shape[:place], part, *x.shape[place + 1 :])] * number


@_rule("SPLIT_V", least=3, outputs=None, options="SplitVOptions", settings="i")
def _split_v(call: Call) -> Sequence[Shape]:
    x, sizes, axis = call.inputs
    _alike(call, _MOVED, [x, *call.outputs])
    place = _axis(_integer(axis), len(x.shape))
    parts = _integers(sizes)
    fits = (
        call.option(0, "i") == len(call.outputs) == len(parts)
        and min(parts) > 0
        and sum(parts) == x.shape[place]
    )
    check(fits, f"parts {parts} of {x.shape}")
    return [(*x.shape[:place], part, *x.shape[place + 1 :]) for part in parts]


@_rule("SLICE", least=3)
def _slice(call: Call) -> Sequence[Shape]:
    x, begin, size = call.inputs
    _alike(call, _MOVED, [x, *call.outputs])
    starts, sizes = _integers(begin, MOST_AXES), _integers(size, MOST_AXES)
    check(len(starts) == len(sizes) == len(x.shape) <= 5, "a slice of other axes")
    shape = tuple(
        n - start if length == -1 else length
        for n, start, length in zip(x.shape, starts, sizes, strict=True)
    )
    inside = all(
        start >= 0 and length > 0 and start + length <= n
        for n, start, length in zip(x.shape, starts, shape, strict=True)
    )
    check(inside, f"a slice of {sizes} from {starts} of {x.shape}")
    return [shape]


@_rule("STRIDED_SLICE", least=4, options="StridedSliceOptions", settings="iiiii?")
def _strided_slice(call: Call) -> Sequence[Shape]:
    x = call.inputs[0]
    _alike(call, (*_MOVED, BOOL), [x, *call.outputs])
    begin, end, strides = (_integers(part, MOST_AXES) for part in call.inputs[1:])
    masks = [call.option(slot, "i") for slot in range(5)]
    check(masks[2] == masks[3] == 0 and not call.option(5, "?"), "a slice's mask")
    rank = len(x.shape)
    check(len(begin) == len(end) == len(strides) == rank <= 5, "a slice of other axes")
    shape = []
    for axis, n in enumerate(x.shape):
        bit = 1 << axis
        check(strides[axis] != 0, "a stride of zero")
        if masks[4] & bit:
            inside = -n <= begin[axis] < n and strides[axis] == 1
            check(inside and not masks[0] & bit, f"place {begin[axis]} of {n}")
            continue
        places = slice(
            None if masks[0] & bit else begin[axis],
            None if masks[1] & bit else end[axis],
            strides[axis],
        )
        shape.append(len(range(*places.indices(n))))
    return [tuple(shape)]


@_rule("PAD", least=2)
@_rule("PADV2", least=3)
def _pad(call: Call) -> Sequence[Shape]:
    x, sides, *value = call.inputs
    _alike(call, _MOVED, [x, *value, *call.outputs])
    check(all(each.size == 1 for each in value), "a value to pad with")
    return [_padded(x.shape, sides)]


def _padded(shape: Shape, sides: Tensor) -> Shape:
    numbers = _integers(sides)
    fits = sides.shape == (len(shape), 2) and len(shape) <= 5
    check(fits and min(numbers) >= 0, f"a padding of {numbers}")
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return tuple(n + a + b for n, (a, b) in zip(shape, pairs, strict=True))


@_rule("MIRROR_PAD", least=2, options="MirrorPadOptions", settings="b")
def _mirror_pad(call: Call) -> Sequence[Shape]:
    x, sides = call.inputs
    _alike(call, (FLOAT32, *QUANTIZED), [x, *call.outputs])
    mode = call.option(0, "b")
    check(mode in (0, 1), f"mirroring {mode}")
    shape = _padded(x.shape, sides)
    numbers = _integers(sides)
    most = [n - 1 + mode for n in x.shape for _ in range(2)]
    fits = all(number <= limit for number, limit in zip(numbers, most, strict=True))
    check(fits, f"a mirroring of {numbers} of {x.shape}")
    return [shape]


@_rule("GATHER", least=2, options="GatherOptions", settings="ii")
def _gather(call: Call) -> Sequence[Shape]:
    x, places = call.inputs
    _alike(call, _MOVED, [x, *call.outputs])
    check(call.option(1, "i") == 0, "places for each of a batch")
    axis = _axis(call.option(0, "i"), len(x.shape))
    check(places.data is not None and places.type in _WHOLE, "places not constant")
    assert places.data is not None
    numbers = np.frombuffer(places.data, "<i4" if places.type == INT32 else "<i8")
    inside = len(numbers) and numbers.min() >= 0 and numbers.max() < x.shape[axis]
    check(inside, f"places outside {x.shape[axis]}")
    return [(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])]


@_rule("TILE", least=2)
def _tile(call: Call) -> Sequence[Shape]:
    x, times = call.inputs
    _alike(call, (FLOAT32, INT32), [x, *call.outputs])
    numbers = _integers(times, MOST_AXES)
    fits = len(numbers) == len(x.shape) and min(numbers, default=0) > 0
    check(fits, f"{numbers} copies of {x.shape}")
    return [tuple(n * m for n, m in zip(x.shape, numbers, strict=True))]


@_rule("BROADCAST_TO", least=2)
def _broadcast_to(call: Call) -> Sequence[Shape]:
    x, shape = call.inputs
    _alike(call, (FLOAT32, INT32), [x, *call.outputs])
    target = tuple(_integers(shape, MOST_AXES))
    check(min(target, default=0) > 0, f"a shape {target}")
    check(_broadcast(x.shape, target) == target, f"{x.shape} as {target}")
    return [target]


@_rule("FILL", least=2)
def _fill(call: Call) -> Sequence[Shape]:
    shape, value = call.inputs
    _alike(call, (FLOAT32, INT32), [value, *call.outputs])
    check(value.size == 1, "a value to fill with")
    return [tuple(_integers(shape, MOST_AXES))]


@_rule("REVERSE_V2", least=2)
def _reverse(call: Call) -> Sequence[Shape]:
    x, axes = call.inputs
    _alike(call, (FLOAT32,), [x, *call.outputs])
    _axis(_integer(axes), len(x.shape))
    return [x.shape]


@_rule("RESIZE_BILINEAR", least=2, options="ResizeBilinearOptions", settings="ii??")
@_rule(
    "RESIZE_NEAREST_NEIGHBOR",
    least=2,
    options="ResizeNearestNeighborOptions",
    settings="??",
)
def _resize(call: Call) -> Sequence[Shape]:
    x, size = call.inputs
    _alike(call, (FLOAT32, *QUANTIZED), [x, *call.outputs])
    sides = _integers(size, 2)
    fits = len(x.shape) == 4 and len(sides) == 2 and min(sides) > 0
    check(fits, f"a size of {sides} for {x.shape}")
    return [(x.shape[0], *sides, x.shape[3])]


@_rule("SPACE_TO_DEPTH", options="SpaceToDepthOptions", settings="i")
def _space_to_depth(call: Call) -> Sequence[Shape]:
    (x,) = call.inputs
    _alike(call, (FLOAT32, *QUANTIZED))
    block = call.option(0, "i")
    check(len(x.shape) == 4 and 0 < block <= _LARGEST_WINDOW, f"blocks of {block}")
    n, height, width, channels = x.shape
    check(height % block == width % block == 0, f"blocks of {block} in {x.shape}")
    return [(n, height // block, width // block, channels * block**2)]


@_rule("DEPTH_TO_SPACE", options="DepthToSpaceOptions", settings="i")
def _depth_to_space(call: Call) -> Sequence[Shape]:
    (x,) = call.inputs
    _alike(call, (FLOAT32, *QUANTIZED))
    block = call.option(0, "i")
    check(len(x.shape) == 4 and 0 < block <= _LARGEST_WINDOW, f"blocks of {block}")
    n, height, width, channels = x.shape
    check(channels % block**2 == 0, f"blocks of {block} in {x.shape}")
    return [(n, height * block, width * block, channels // block**2)]
