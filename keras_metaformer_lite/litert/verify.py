"""Checks that a `.tflite` file is a whole image classifier before the runtime sees it.

The runtime trusts what it loads: a wrong index, a tensor that nothing computes or an
operator with other shapes than its kernel was written for can end the process, and a
few bytes can ask for all of the memory. `verify` follows the file's tables within
bounds (`tables.py`), works the graph out operator by operator (`operators.py`), and
refuses what does not fit. Its own time and memory are bounded by the size of the file.
"""

import dataclasses
import struct
from typing import Any

import numpy as np

from keras_metaformer_lite.litert import operators
from keras_metaformer_lite.litert.flatbuffer import operator_name
from keras_metaformer_lite.litert.operators import BITS, RULES, Call, Tensor
from keras_metaformer_lite.litert.tables import Content, DamagedFileError, Table, check

_VERSION = 3
# Fields of the schema's tables, in the order of the schema.
_MODEL, _CODE, _GRAPH, _TENSOR, _QUANTIZATION, _OPERATOR = 10, 4, 6, 11, 7, 14
_BUFFER, _METADATA, _SIGNATURE, _TENSOR_MAP = 3, 2, 5, 2

_MOST_TENSORS = 1 << 16
_MOST_ENTRIES = 1 << 10
# The least that a tensor or operator takes in a file, for what it takes here.
_LEAST_BYTES = 32
_MOST_ELEMENTS = 1 << 28
# Multiplications and elements moved for one image: some minutes of one core.
_MOST_WORK = 1 << 42
#: What the maps of one moment may take where that is more than ten times the file.
MOST_ACTIVATION_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class VerifiedFile:
    """What `verify` read.

    Attributes:
        image: the input.
        output: the output.
        metadata: the bytes of the file's named entries.
    """

    image: Tensor
    output: Tensor
    metadata: dict[str, memoryview]


def verify(content: bytes) -> VerifiedFile:
    """Check a file.

    Args:
        content: all of its bytes.

    Raises:
        DamagedFileError: if it is damaged, or no image classifier of static shapes
            made of known operators. The message says what was found.
    """
    try:
        return _Verifier(content).run()
    except (struct.error, ValueError, OverflowError, UnicodeError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"{type(error).__name__}: {error}") from error


class _Verifier:
    def __init__(self, content: bytes) -> None:
        self._bytes = content
        # What must take space of its own in an honest file.
        self._shapes: dict[operators.Shape, operators.Shape] = {}
        self._most = min(_MOST_TENSORS, len(content) // _LEAST_BYTES)

    def run(self) -> VerifiedFile:
        content = Content(self._bytes)
        root = content.root()
        model = Table(content, root.position, _MODEL)
        check(model.number(0, "I") == _VERSION, f"version {model.number(0, 'I')}")
        check(not {8, 9} & set(model.slots), "weights in other files")
        model.text(3)
        model.numbers(5, "i4")
        self._codes = [self._code(code) for code in model.tables(1, _CODE, self._most)]
        self._find_buffers(model)
        graphs = list(model.tables(2, _GRAPH, 2))
        check(len(graphs) == 1, f"{len(graphs)} graphs")
        (graph,) = graphs
        graph.text(4)
        self._tensors = [
            self._tensor(tensor) for tensor in graph.tables(0, _TENSOR, self._most)
        ]
        image, output = (self._indices(graph, slot) for slot in (1, 2))
        check(len(image) == len(output) == 1, "other than one input and one output")
        self._graph(graph, image[0], output[0])
        self._signatures(model, image[0], output[0])
        metadata = {}
        for entry in model.tables(6, _METADATA, _MOST_ENTRIES):
            name = bytes(entry.text(0)).decode()
            metadata[name] = self._buffer(entry.number(1, "I")) or memoryview(b"")
        return VerifiedFile(self._tensors[image[0]], self._tensors[output[0]], metadata)

    def _code(self, code: Table) -> int:
        number = max(code.number(3, "i"), code.number(0, "b"))
        custom = bytes(code.text(1)[:64]).decode(errors="replace")
        check(not custom, f"the custom operator {custom!r}")
        if number not in RULES:
            raise DamagedFileError(f"the operator {operator_name(number)}")
        check(code.number(2, "i", 1) > 0, "an operator's version")
        return number

    def _find_buffers(self, model: Table) -> None:
        start, count = model.vector(4, 4)
        check(count <= 4 * _MOST_TENSORS, f"{count} buffers")
        # Each is looked at once for all, and again where something refers to it.
        self._buffers = (model.content, start, count)
        for _ in model.tables(4, _BUFFER, 4 * _MOST_TENSORS):
            pass
        for index in range(count):
            self._buffer(index)

    def _buffer(self, index: int) -> memoryview | None:
        """The bytes of a buffer, or None if it is empty."""
        content, start, count = self._buffers
        check(index < count, f"buffer {index} of {count}")
        place = start + 4 * index
        buffer = Table(content, place + content.number("I", place), _BUFFER)
        data, length = buffer.vector(0, 1)
        offset, size = buffer.number(1, "Q"), buffer.number(2, "Q")
        if offset > 1:  # The weights stand behind the tables.
            check(length == 0, "a buffer in two places")
            data, length = offset, size
        if length == 0:
            return None
        total = len(self._bytes)
        check(data + length <= total, f"a weight that ends at byte {data + length}")
        return memoryview(self._bytes)[data : data + length]

    def _tensor(self, table: Table) -> Tensor:
        bytes(table.text(3)).decode()  # As the runtime will.
        check(not {6, 9} & set(table.slots), "a sparse tensor or variants")
        check(not table.number(5, "?") and not table.number(10, "I"), "a variable")
        shape = tuple(table.numbers(0, "i4").tolist())
        shape = self._shapes.setdefault(shape, shape)  # One for all that are equal.
        kind = table.number(1, "b")
        check(kind in BITS, f"a tensor of type {kind}")
        signature = tuple(table.numbers(7, "i4").tolist())
        check(signature in ((), shape), f"a shape {signature} that is known later")
        data = self._buffer(table.number(2, "I"))
        scales, axis = self._scales(table, shape, kind)
        tensor = Tensor(shape, kind, data, scales, axis, known=data is not None)
        empty = data is None and shape == (0,) and kind == operators.INT32
        if empty:  # The shape of a scalar.
            tensor.data, tensor.known = memoryview(b""), True
            return tensor
        fits = len(shape) <= operators.MOST_AXES and min(shape, default=1) > 0
        check(fits and tensor.size <= _MOST_ELEMENTS, f"a tensor of shape {shape}")
        if data is not None:
            found = f"{len(data)} bytes of a tensor of {tensor.nbytes}"
            check(len(data) == tensor.nbytes, found)
        small = kind not in (operators.FLOAT16, operators.INT4)
        check(small or data is not None, "a map of a type of weights")
        return tensor

    def _scales(self, tensor: Table, shape: Any, kind: int) -> tuple[Any, int]:
        table = tensor.table(4, _QUANTIZATION)
        if table is None:
            return None, 0
        check(not {4, 5} & set(table.slots), "quantisation of another kind")
        for slot in (0, 1):  # The range: not used, but it must be there.
            table.numbers(slot, "f4")
        scales, zeros = table.numbers(2, "f4"), table.numbers(3, "i8")
        axis = table.number(6, "i")
        if len(scales) == 0:
            check(len(zeros) == 0, "zero points without scales")
            return None, 0
        check(len(zeros) in (1, len(scales)), f"{len(zeros)} zero points")
        check(np.isfinite(scales).all() and scales.min() > 1e-30, "a scale of zero")
        check(scales.max() < 1e30, "an infinite scale")
        if len(scales) > 1:
            fits = 0 <= axis < len(shape) and shape[axis] == len(scales)
            check(
                fits and len(zeros) == len(scales), f"{len(scales)} scales of {shape}"
            )
        lowest, highest = (0, 255) if kind == operators.UINT8 else (-128, 127)
        if kind in operators.QUANTIZED:
            check(lowest <= zeros.min() <= zeros.max() <= highest, "a zero point")
        return scales, axis

    def _indices(self, table: Table, slot: int) -> list[int]:
        indices = table.numbers(slot, "i4").tolist()
        for index in indices:
            found = f"tensor {index} of {len(self._tensors)}"
            check(-1 <= index < len(self._tensors), found)
        return indices

    def _graph(self, graph: Table, image: int, output: int) -> None:
        check(min(image, output) >= 0, "no input or no output")
        first = self._tensors[image]
        check(not first.known, "an input that is a constant")
        first.known = True
        self._produced: list[tuple[int, list[int]]] = []
        work = scratch = number = 0
        for number, table in enumerate(graph.tables(3, _OPERATOR, self._most)):
            call = self._call(table, number)
            work += call.work
            for tensor in (*call.inputs, *call.outputs):
                work += 0 if tensor is None else tensor.size
            scratch = max(scratch, call.scratch)
        last = self._tensors[output]
        check(last.known and last.data is None, "an output that nothing computes")
        last.last_use = number + 1
        check(work <= _MOST_WORK, f"{work} multiplications for one image")
        self._check_memory(image, scratch)

    def _call(self, table: Table, number: int) -> Call:
        index = table.number(0, "I")
        check(index < len(self._codes), f"operator {index} of {len(self._codes)}")
        code = self._codes[index]
        rule, name = RULES[code], operators.NAMES[code]
        inputs, outputs = (self._indices(table, slot) for slot in (1, 2))
        check(not {9, 10, 11, 12} & set(table.slots), f"options of {name}")
        check(table.vector(8, 4)[1] == 0, f"intermediate tensors of {name}")
        check(table.vector(5, 1)[1] == 0, f"custom options of {name}")
        check(not table.numbers(7, "u1").any(), f"variables of {name}")
        fits = rule.least <= len(inputs) <= rule.most
        needed = inputs[: rule.least] if rule.gap else inputs
        check(fits and -1 not in needed, f"inputs {inputs} of {name}")
        most = rule.outputs or len(outputs)
        fits = 0 < len(outputs) == most and -1 not in outputs
        check(fits and len(set(outputs)) == len(outputs), f"outputs of {name}")
        read = [None if i == -1 else self._tensors[i] for i in inputs]
        for tensor in read:
            if tensor is not None:
                check(tensor.known, f"an input of {name} that nothing has computed")
                tensor.last_use = number
        written = [self._tensors[i] for i in outputs]
        for tensor in written:
            check(not tensor.known, f"an output of {name} that is there already")
            tensor.known, tensor.last_use = True, number
        call = Call(read, written, self._options(table, rule))
        try:
            shapes = [tuple(shape) for shape in rule.shapes(call)]
        except DamagedFileError as error:
            raise DamagedFileError(f"{name}: {error}") from error
        stated = [tensor.shape for tensor in written]
        check(shapes == stated, f"{name}: outputs of {stated} instead of {shapes}")
        self._produced.append((number, outputs))
        return call

    def _options(self, table: Table, rule: operators.Rule) -> Table | None:
        kind, options = table.number(3, "B"), table.table(4)
        if kind == 0 or options is None:
            return None
        if rule.options is None:
            check(not options.slots, "settings of an operator that has none")
            return None
        check(kind == rule.options, f"settings of kind {kind}, not {rule.options}")
        for slot in options.slots:
            check(slot in rule.settings, "a setting that is not known")
            if rule.settings[slot] == "v":
                options.numbers(slot, "i4")
            else:
                options.number(slot, rule.settings[slot])
        return options

    def _check_memory(self, image: int, scratch: int) -> None:
        """Maps that are there at the same time must not take too much."""
        first = self._tensors[image]
        now = most = first.nbytes
        ends: dict[int, int] = {first.last_use: first.nbytes}
        for number, outputs in self._produced:
            for index in outputs:
                tensor = self._tensors[index]
                now += tensor.nbytes
                ends[tensor.last_use] = ends.get(tensor.last_use, 0) + tensor.nbytes
            most = max(most, now)
            now -= ends.pop(number, 0)
        limit = max(MOST_ACTIVATION_BYTES, 10 * len(self._bytes))
        check(most + scratch <= limit, f"maps of {most + scratch} bytes")

    def _signatures(self, model: Table, image: int, output: int) -> None:
        for signature in model.tables(7, _SIGNATURE, _MOST_ENTRIES):
            signature.text(2)
            check(signature.number(4, "I") == 0, "a signature of another graph")
            for slot, index in ((0, image), (1, output)):
                entries = list(signature.tables(slot, _TENSOR_MAP, 1))
                fits = len(entries) == 1 and entries[0].number(1, "I") == index
                check(fits, "a signature with another input or output")
                bytes(entries[0].text(0)).decode()
