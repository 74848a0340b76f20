"""The verifier of `.tflite` files: what strangers may send, and a fuzzer's mutants."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from keras_metaformer.export import LiteRTModel, ModelFileError
from keras_metaformer_lite.litert import operators
from keras_metaformer_lite.litert.flatbuffer import TFLiteFile
from keras_metaformer_lite.litert.tables import DamagedFileError
from keras_metaformer_lite.litert.verify import verify
from tests.export import fuzz_tflite
from tests.export.tflite_seeds import make_seeds

pytestmark = pytest.mark.backend_independent


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Small files by name."""
    folder = tmp_path_factory.mktemp("seeds")
    return {path.stem: path for path in make_seeds(folder)}


def test_sound_files_are_run(seeds):
    for path in seeds.values():
        model = LiteRTModel(path)
        scores = model.predict(np.zeros(model.input_shape, "float32"))
        assert scores.shape == (1, 3)
        np.testing.assert_allclose(scores.sum(), 1, atol=0.05)


def _operator(file, name):
    """The first operator of a kind."""
    (number,) = (key for key, value in operators.NAMES.items() if value == name)
    codes = [
        max(code.builtinCode, code.deprecatedBuiltinCode)
        for code in file.model.operatorCodes
    ]
    return next(
        operator
        for operator in file.graph.operators
        if codes[operator.opcodeIndex] == number
    )


def _with(numbers, place, number):
    """A copy with another number, as what is read of a file cannot be written to."""
    numbers = np.array(numbers)
    numbers[place] = number
    return numbers


def _leave_out_a_required_input(file):
    operator = _operator(file, "CONV_2D")
    operator.inputs = _with(operator.inputs, 1, -1)


def _let_the_last_operator_write_elsewhere(file):
    file.graph.operators[-1].outputs = file.graph.operators[0].outputs


def _let_the_last_operator_write_to_a_constant(file):
    weights = _operator(file, "CONV_2D").inputs[1:2]
    file.graph.operators[-1].outputs = weights


def _read_before_writing(file):
    file.graph.operators.reverse()


def _name_a_tensor_that_is_not_there(file):
    operator = _operator(file, "CONV_2D")
    operator.inputs = _with(operator.inputs, 0, 10_000)


def _cut_the_weights(file):
    weights = file.graph.tensors[_operator(file, "CONV_2D").inputs[1]]
    buffer = file.model.buffers[weights.buffer]
    buffer.data = buffer.data[:-4]


def _state_a_larger_output(file):
    output = file.graph.tensors[_operator(file, "CONV_2D").outputs[0]]
    output.shape = _with(output.shape, 1, 8)


def _pad_by_gigabytes(file):
    sides = file.graph.tensors[_operator(file, "PAD").inputs[1]]
    data = file.model.buffers[sides.buffer].data.copy()
    data.view("<i4")[3] = 1_000_000
    file.model.buffers[sides.buffer].data = data


def _reduce_an_axis_that_is_not_there(file):
    axes = file.graph.tensors[_operator(file, "MEAN").inputs[1]]
    file.model.buffers[axes.buffer].data = np.array([7, 8], "<i4").view("uint8")


def _stride_by_zero(file):
    _operator(file, "CONV_2D").builtinOptions.strideH = 0


def _call_a_custom_operator(file):
    file.model.operatorCodes[0].customCode = "Evil"


def _use_another_operator(file):
    file.model.operatorCodes[0].builtinCode = 119


def _add_a_graph(file):
    file.model.subgraphs.append(file.graph)


def _point_the_signature_elsewhere(file):
    file.model.signatureDefs[0].outputs[0].tensorIndex = 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_leave_out_a_required_input, "inputs .* of CONV_2D"),
        (_let_the_last_operator_write_elsewhere, "is there already"),
        (_let_the_last_operator_write_to_a_constant, "is there already"),
        (_read_before_writing, "nothing has computed"),
        (_name_a_tensor_that_is_not_there, "tensor 10000 of"),
        (_cut_the_weights, "bytes of a tensor of"),
        (_state_a_larger_output, "CONV_2D: outputs of .* instead of"),
        (_pad_by_gigabytes, "PAD: outputs of .* instead of"),
        (_reduce_an_axis_that_is_not_there, "MEAN: axis 7 of 4"),
        (_stride_by_zero, "CONV_2D: a window of 3 with stride 0"),
        (_call_a_custom_operator, "custom operator 'Evil'"),
        (_use_another_operator, "the operator WHILE"),
        (_add_a_graph, "2 graphs"),
        (_point_the_signature_elsewhere, "a signature with another"),
    ],
)
def test_graphs_that_are_refused(damage, message, seeds, tmp_path):
    file = TFLiteFile(seeds["stock"].read_bytes())
    damage(file)
    path = tmp_path / "model.tflite"
    path.write_bytes(file.content())
    with pytest.raises(ModelFileError, match=f"{message}.*Received: path="):
        LiteRTModel(path)


@pytest.mark.parametrize("scale", [2e22, 1e-38])
def test_scales_that_kernels_give_up_on(scale, seeds):
    """XNNPACK freed memory twice when it could not round to the result's scale."""
    file = TFLiteFile(seeds["int8"].read_bytes())
    weights = file.graph.tensors[_operator(file, "CONV_2D").inputs[1]]
    scales = weights.quantization.scale
    weights.quantization.scale = _with(scales, 0, scale)
    with pytest.raises(DamagedFileError, match="scale"):
        verify(file.content())


@pytest.mark.parametrize("seed", ["float16", "int8"])
@pytest.mark.parametrize("name", ["CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("bias", [[], [-1]])
def test_convolutions_without_a_bias(bias, name, seed, seeds):
    """The kernel of a depthwise one read it anyway, from address 0."""
    file = TFLiteFile(seeds[seed].read_bytes())
    operator = _operator(file, name)
    operator.inputs = np.array([*operator.inputs[:2], *bias], "int32")
    with pytest.raises(DamagedFileError, match=f"inputs .* of {name}"):
        verify(file.content())


def test_reshapes_without_a_shape(seeds):
    """The kernel read the one that is left out, although the settings have it."""
    from ai_edge_litert import schema_py_generated as schema

    file = TFLiteFile(seeds["attention"].read_bytes())
    operator = _operator(file, "RESHAPE")
    settings = schema.ReshapeOptionsT()
    settings.newShape = file.graph.tensors[operator.outputs[0]].shape
    operator.builtinOptions = settings
    operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    operator.inputs = operator.inputs[:1]
    verify(file.content())  # Not there at all, it is not read.
    operator.inputs = np.append(operator.inputs, np.int32(-1))
    with pytest.raises(DamagedFileError, match=r"inputs .* of RESHAPE"):
        verify(file.content())


def test_dense_layers_without_a_bias(seeds, tmp_path):
    """That of a dense layer may be left out, in either way."""
    for bias in ([], [-1]):
        file = TFLiteFile(seeds["int8"].read_bytes())
        operator = _operator(file, "FULLY_CONNECTED")
        operator.inputs = np.array([*operator.inputs[:2], *bias], "int32")
        path = tmp_path / "model.tflite"
        path.write_bytes(file.content())
        model = LiteRTModel(path)
        scores = model.predict(np.zeros(model.input_shape, "float32"))
        np.testing.assert_allclose(scores.sum(), 1, atol=0.05)


def test_maps_of_gigabytes(seeds):
    """Sound, but for an image that would need more memory than anyone grants it."""
    file = TFLiteFile(seeds["stock"].read_bytes())
    graph = file.graph
    pixels = graph.tensors[graph.inputs[0]]
    pixels.shape = pixels.shapeSignature = np.array([1, 16_000, 16_000, 3], "int32")
    with pytest.raises(DamagedFileError, match="a tensor of shape"):
        verify(file.content())
    # A mean of 192 MB, and nothing else.
    pixels.shape = pixels.shapeSignature = np.array([1, 4_000, 4_000, 3], "int32")
    operator = _operator(file, "MEAN")
    mean = graph.tensors[operator.outputs[0]]
    mean.shape = np.array([1, 3], "int32")
    operator.inputs = np.array([graph.inputs[0], operator.inputs[1]], "int32")
    graph.operators = [operator]
    graph.outputs = operator.outputs
    file.model.signatureDefs = []
    with pytest.raises(DamagedFileError, match="maps of 192000012 bytes"):
        verify(file.content())


def test_references_that_are_followed_again_and_again():
    """A few kilobytes that the schema's own reader unpacks into gigabytes."""
    import flatbuffers

    builder = flatbuffers.Builder(0)
    name = builder.CreateString("n" * 30_000)
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(3, name, 0)
    tensor = builder.EndObject()

    def vector(items):
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependUOffsetTRelative(item)
        return builder.EndVector()

    tensors = vector([tensor] * 900)
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(0, tensors, 0)
    graphs = vector([builder.EndObject()])
    builder.StartObject(5)
    buffer = builder.EndObject()
    buffers = vector([buffer])
    builder.StartObject(5)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(2, graphs, 0)
    builder.PrependUOffsetTRelativeSlot(4, buffers, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    with pytest.raises(DamagedFileError, match="again and again"):
        verify(bytes(builder.Output()))


@pytest.mark.parametrize(
    ("structural", "changed", "seed"),
    [
        (100, 100, 1),
        # An hour and a half of one core.
        pytest.param(
            20_000,
            100_000,
            0,
            marks=[pytest.mark.large, pytest.mark.timeout(8 * 3600)],
        ),
    ],
)
def test_mutants_are_run_or_refused(structural, changed, seed, seeds):
    folder = seeds["stock"].parent
    for kind, number in (("structural", structural), ("bytes", changed)):
        report = fuzz_tflite.fuzz(folder, kind, number, seed)
        assert report["failures"] == []
        assert report["run"] + report["refused"] == number
        # Neither all run nor all refused: the mutations reach all the way through.
        assert report["run"] > number / 50
        assert report["refused"] > number / 50


def test_no_table_comes_to_be_within_itself(seeds):
    """The fuzzer's own walk through such a mutant would have no end."""
    model = TFLiteFile(seeds["int8"].read_bytes()).model
    tables = {
        id(table)
        for tensor in model.subgraphs[0].tensors
        for table in vars(tensor).values()
    }
    random = np.random.default_rng(0)
    put_in = [fuzz_tflite._other(random, None, model) for _ in range(100)]
    assert any(hasattr(table, "Pack") for table in put_in)
    assert not any(table is not None and id(table) in tables for table in put_in)


def _crash(path):
    os.kill(os.getpid(), signal.SIGSEGV)


def _allocate(path):
    np.ones(64 << 20, "uint8")


def _raise(path):
    raise KeyError("not the error that is promised")


def _hang(path):
    time.sleep(60)


PROGRAM = """
import sys
from pathlib import Path
from tests.export import fuzz_tflite, test_verify

fuzz_tflite.HANG_SECONDS = 1 if sys.argv[2] == "_hang" else 60
calls = []

def run(path):
    calls.append(path)
    if len(calls) > 1:  # The first is the seed.
        getattr(test_verify, sys.argv[2])(path)

content = Path(sys.argv[1]).read_bytes()
fuzz_tflite.run_mutants([content], "bytes", 0, 0, 2, run)
"""


@pytest.mark.parametrize(
    ("fault", "noticed"),
    [
        (_crash, None),
        (_hang, None),
        (_allocate, "bytes for a file of"),
        (_raise, "KeyError"),
    ],
)
def test_the_fuzzer_notices(fault, noticed, seeds):
    """A crash and a hang end the child in the middle, the others are said."""
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(seeds["stock"]), fault.__name__],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        encoding="utf-8",
    )
    if noticed is None:
        assert child.returncode != 0
        assert child.stdout == '{"number": 0}\n', child.stderr
    else:
        assert child.returncode == 0, child.stderr
        answers = [json.loads(line) for line in child.stdout.splitlines()[1::2]]
        assert [answer["outcome"] for answer in answers] == ["failed", "failed"]
        assert all(noticed in answer["why"] for answer in answers)
