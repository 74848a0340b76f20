"""Looking into TFLite files and changing them, on ai-edge-litert's schema."""

import functools
from typing import Any

import numpy as np

_IDENTIFIER = b"TFL3"


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def enum_names(enum: type) -> dict[int, str]:
    """Names of a flatbuffer enum's values."""
    return {
        value: name for name, value in vars(enum).items() if not name.startswith("_")
    }


def operator_name(number: int) -> str:
    """The name of an operator of TFLite's own, such as `CONV_2D`."""
    return _operator_names().get(number, str(number))


@functools.cache
def _operator_names() -> dict[int, str]:
    return enum_names(_schema().BuiltinOperator)


class TFLiteFile:
    """The tables of a TFLite file with one graph, to read and to change.

    Args:
        content: the bytes of the file.
    """

    def __init__(self, content: bytes) -> None:
        self.model = _schema().ModelT.InitFromPackedBuf(content, 0)
        for buffer in self.model.buffers:
            # Weights may stand behind the tables, found by their place in the file.
            if buffer.offset > 1:
                end = buffer.offset + buffer.size
                if end > len(content):
                    raise ValueError(f"a weight ends at byte {end} of {len(content)}")
                buffer.data = np.frombuffer(content[buffer.offset : end], "uint8")
                buffer.offset = buffer.size = 0

    @property
    def graph(self) -> Any:
        """The graph's tables."""
        return self.model.subgraphs[0]

    def content(self) -> bytes:
        """The bytes of the file."""
        import flatbuffers

        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), file_identifier=_IDENTIFIER)
        return bytes(builder.Output())

    # Reading ----------------------------------------------------------------------

    def operators(self) -> dict[str, int]:
        """How many operators of each kind there are."""
        names = enum_names(_schema().BuiltinOperator)
        histogram: dict[str, int] = {}
        for graph in self.model.subgraphs:
            for operator in graph.operators:
                code = self.model.operatorCodes[operator.opcodeIndex]
                kind = max(code.builtinCode, code.deprecatedBuiltinCode)
                name = names[kind]
                if name == "CUSTOM":
                    custom = code.customCode
                    name = custom.decode() if isinstance(custom, bytes) else custom
                histogram[name] = histogram.get(name, 0) + 1
        return dict(sorted(histogram.items()))

    def maximal_rank(self) -> int:
        """Axes of the tensor that has most."""
        return max(
            0 if tensor.shape is None else len(tensor.shape)
            for graph in self.model.subgraphs
            for tensor in graph.tensors
        )

    def has_dynamic_shape(self) -> bool:
        """Whether a tensor's shape is decided at run time."""
        return any(
            tensor.shapeSignature is not None and np.any(tensor.shapeSignature == -1)
            for graph in self.model.subgraphs
            for tensor in graph.tensors
        )

    def shrinking_slices(self) -> int:
        """STRIDED_SLICEs that drop an axis, which GPU delegates refuse."""
        return sum(
            getattr(operator.builtinOptions, "shrinkAxisMask", 0) != 0
            for graph in self.model.subgraphs
            for operator in graph.operators
        )

    # Changing ---------------------------------------------------------------------

    def name_signature(self, key: str, image: str, output: str) -> None:
        """Name the one input and the one output, as tensors and in the signature."""
        schema = _schema()
        signature = schema.SignatureDefT()
        signature.signatureKey = key
        signature.subgraphIndex = 0
        signature.inputs, signature.outputs = [], []
        for name, (index,), entries in (
            (image, self.graph.inputs, signature.inputs),
            (output, self.graph.outputs, signature.outputs),
        ):
            self.graph.tensors[index].name = name
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, int(index)
            entries.append(entry)
        self.model.signatureDefs = [signature]

    def take_uint8(self) -> None:
        """Make the float32 input uint8, with a DEQUANTIZE behind it.

        A CAST would cut XNNPACK's partition.
        """
        schema = _schema()
        floats = self.graph.inputs[0]
        name = self.graph.tensors[floats].name
        pixels = schema.TensorT()
        pixels.name, pixels.type = name, schema.TensorType.UINT8
        pixels.shape = self.graph.tensors[floats].shape
        pixels.buffer = self._add_buffer(None)
        pixels.quantization = schema.QuantizationParametersT()
        pixels.quantization.scale = np.array([1.0], "float32")
        pixels.quantization.zeroPoint = np.array([0], "int64")
        self.graph.tensors[floats].name = b"image_float"
        self.graph.tensors.append(pixels)
        index = len(self.graph.tensors) - 1

        dequantize = schema.OperatorT()
        dequantize.opcodeIndex = self._operator_code(schema.BuiltinOperator.DEQUANTIZE)
        dequantize.inputs = np.array([index], "int32")
        dequantize.outputs = np.array([floats], "int32")
        self.graph.operators.insert(0, dequantize)
        self.graph.inputs = np.array([index], "int32")
        for signature in self.model.signatureDefs or []:
            signature.inputs[0].tensorIndex = index

    def _operator_code(self, builtin: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                return index
        code = _schema().OperatorCodeT()
        code.builtinCode = builtin
        code.deprecatedBuiltinCode = min(builtin, 127)
        code.version = 2
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def add_metadata(self, name: str, data: bytes) -> None:
        """Put bytes into the file under a name, in place of what had that name."""
        entry = _schema().MetadataT()
        entry.name, entry.buffer = name, self._add_buffer(data)
        kept = [
            other for other in self.model.metadata or [] if _text(other.name) != name
        ]
        self.model.metadata = [*kept, entry]

    def metadata(self, name: str) -> bytes | None:
        """The bytes under a name, or None."""
        for entry in self.model.metadata or []:
            if _text(entry.name) == name:
                return bytes(bytearray(self.model.buffers[entry.buffer].data))
        return None

    def _add_buffer(self, data: bytes | None) -> int:
        buffer = _schema().BufferT()
        if data is not None:
            buffer.data = np.frombuffer(data, "uint8")
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
