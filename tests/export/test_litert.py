"""Exported files: one piece, exact, whole or not there, with their metadata."""

import concurrent.futures
import json
import os
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.export import ExportError, LiteRTModel, ModelFileError, to_litert
from keras_metaformer.export import litert as module
from keras_metaformer.inference import folding
from tests.export.models import SMALL_MODELS, hierarchical, tiny_model

QUICK = {"check_gpu": False, "latency_runs": 1, "verbose": False}
ON_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="elsewhere the child process, with a model of each kind, shows the way",
)
LABELS = [f"class {letter}" for letter in "abcdefghij"]


def images(number=3, size=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (number, size, size, 3)).astype("uint8")


def check_one_piece(report):
    assert report.xnnpack_partitions == 1
    assert report.outside_xnnpack == []
    assert report.maximal_rank <= 4
    assert report.gpu_obstacles == []
    assert not any("Flex" in name for name in report.operators)


@ON_TENSORFLOW
@pytest.mark.parametrize("name", SMALL_MODELS)
def test_float32(name, tmp_path):
    model = SMALL_MODELS[name]()
    report = to_litert(model, tmp_path / "model.tflite", **QUICK)
    check_one_piece(report)
    assert report.relative_difference < 1e-5
    assert report.top1_agreement == 1
    assert report.images == "12 images, photographs"
    assert report.input == {
        "name": "image",
        "shape": [1, 64, 64, 3],
        "dtype": "float32",
    }
    assert report.output == {"name": "probabilities", "shape": [1, 10]}
    assert report.size_bytes == (tmp_path / "model.tflite").stat().st_size
    assert report.size_bytes < 4 * model.count_params() + 100_000


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_to_compare_on(channels):
    shape = (32, 48, channels)
    pixels, source = module.example_images(shape, pixels=True)
    assert source == ("generated" if channels == 4 else "photographs")
    assert pixels.shape[1:] == shape
    assert pixels.min() >= 0
    assert 200 < pixels.max() <= 255
    standardised, _ = module.example_images(shape, pixels=False)
    assert standardised.mean() == pytest.approx(0, abs=1e-3)
    assert standardised.std() == pytest.approx(1, abs=1e-3)
    assert standardised.shape == pixels.shape


@ON_TENSORFLOW
@pytest.mark.parametrize(
    ("quantize", "part", "difference"),
    [("float16", 0.55, 1e-2), ("dynamic", 0.33, 1e-1)],
)
def test_smaller_formats(quantize, part, difference, tmp_path):
    mixers: Any = ["separable_convolution", "pooling", *2 * ["self_attention"]]
    # Wide enough that weights, not tables, make the size.
    model = km.MetaFormer(
        [1, 1, 1, 1],
        [64, 96, 128, 256],
        mixer=mixers,
        input_shape=(64, 64, 3),
        classes=10,
    )
    path = tmp_path / "model.tflite"
    report = to_litert(model, path, quantize, **QUICK)
    check_one_piece(report)
    assert report.size_bytes < part * 4 * model.count_params()
    assert 1e-7 < report.relative_difference < difference


def test_file_of_this_backend_and_its_runner(tmp_path):
    """The file's whole life."""
    model = hierarchical(include_preprocessing=True)
    path, json_path = tmp_path / "model.tflite", tmp_path / "report.json"
    report = to_litert(
        model,
        path,
        labels=LABELS,
        input_type="uint8",
        images=images(),
        report_path=json_path,
        check_gpu=False,
        latency_runs=1,
        verbose=False,
    )
    check_one_piece(report)
    written = json.loads(json_path.read_text())
    assert written["exact"] is True
    assert written["operators"] == report.operators
    assert set(written["latency_milliseconds"]) == {"1", "2"}

    runner = LiteRTModel(path)
    assert runner.labels == LABELS
    assert runner.takes_pixels
    expected = to_numpy(model(images().astype("float32")))
    np.testing.assert_allclose(runner.predict(images()), expected, atol=1e-5)
    threaded = LiteRTModel(path, num_threads=2, weight_cache=tmp_path / "cache")
    np.testing.assert_allclose(threaded.predict(images()), expected, atol=1e-5)

    picture = Image.fromarray(images()[0])
    picture.save(tmp_path / "picture.png")
    for image in (picture, tmp_path / "picture.png", str(tmp_path / "picture.png")):
        np.testing.assert_allclose(runner.predict(image), expected[:1], atol=1e-5)
    np.testing.assert_allclose(
        runner.predict([images()[2], picture]), expected[[2, 0]], atol=1e-5
    )
    (best, *others) = runner.classify(images()[0], top=3)[0]
    assert best == (
        LABELS[expected[0].argmax()],
        pytest.approx(expected[0].max(), abs=1e-5),
    )
    assert [score for _, score in others] == sorted(
        (score for _, score in others), reverse=True
    )
    assert runner.predict([]).shape == (0, 10)


@ON_TENSORFLOW
def test_normalisation_and_output_added(tmp_path):
    model = hierarchical(classifier_activation=None)
    path = tmp_path / "model.tflite"
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    report = to_litert(model, path, mean=mean, std=std, output="probabilities", **QUICK)
    check_one_piece(report)
    pixels = images().astype("float32")
    logits = model(((pixels / 255 - mean) / std).astype("float32"))
    expected = to_numpy(keras.ops.softmax(logits))
    np.testing.assert_allclose(LiteRTModel(path).predict(pixels), expected, atol=1e-5)
    assert report.output["name"] == "probabilities"


@ON_TENSORFLOW
def test_static_int8(tmp_path):
    path = tmp_path / "model.tflite"
    model = hierarchical(include_preprocessing=True)
    report = to_litert(
        model,
        path,
        "int8",
        calibration_images=images(8),
        allow_inexact=True,
        **QUICK,
    )
    assert "QUANTIZE" in report.operators
    assert report.input["dtype"] == "float32"
    probabilities = LiteRTModel(path).predict(images())
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=0.05)
    with pytest.raises(ValueError, match="calibration_images"):
        to_litert(model, path, "int8", **QUICK)


@ON_TENSORFLOW
def test_out_of_tolerance_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match=r"allow_inexact.*Received: path="):
        to_litert(hierarchical(), path, "dynamic", tolerance=1e-9, **QUICK)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    report = to_litert(
        hierarchical(), path, "dynamic", tolerance=1e-9, allow_inexact=True, **QUICK
    )
    assert not report.exact
    assert path.stat().st_size == report.size_bytes


@ON_TENSORFLOW
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_interruption_leaves_the_old_file(moment, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    model = tiny_model()
    monkeypatch.setattr(module.os, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        to_litert(model, path, **QUICK)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@keras.saving.register_keras_serializable(package="export_tests")
class Doubled(keras.layers.Layer):
    """A user's own layer, which TFLite has operators for."""

    def call(self, inputs):
        return 2.0 * inputs

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="export_tests")
class Determinant(Doubled):
    """A user's own layer, which TFLite has no operator for."""

    def call(self, inputs):
        square = inputs[..., :4, :]
        return (
            inputs
            + keras.ops.det(
                keras.ops.matmul(square, keras.ops.swapaxes(square, -1, -2))
            )[..., None, None]
        )


def _with_layer(layer):
    image = keras.Input((4, 4, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(layer(image))
    return keras.Model(image, keras.layers.Dense(2)(pooled))


@ON_TENSORFLOW
def test_layers_of_the_users_own(tmp_path):
    path = tmp_path / "model.tflite"
    assert to_litert(_with_layer(Doubled()), path, **QUICK).exact
    path.unlink()
    with pytest.raises(ExportError, match="Determinant"):
        to_litert(_with_layer(Determinant()), path, **QUICK)
    assert list(tmp_path.iterdir()) == []


class CannotBeCopied(keras.layers.Layer):
    """A user's own layer whose config its constructor does not take."""

    def call(self, inputs):
        return inputs

    def get_config(self):
        return {**super().get_config(), "unknown": 1}


def _softmax_layer(features):
    return keras.layers.Softmax()(keras.layers.Dense(2)(features))


def _inner_model(features):
    inner = keras.Input((3,))
    outputs = keras.layers.Dense(2, activation="softmax")(inner)
    return keras.Model(inner, outputs)(features)


@ON_TENSORFLOW
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(
    "head",
    [keras.layers.Dense(2, activation="softmax"), _softmax_layer, _inner_model],
    ids=["dense", "softmax", "model"],
)
def test_logits_of_a_model_that_stays_as_it_is(copied, head, tmp_path):
    image = keras.Input((4, 4, 3))
    layer = keras.layers.Identity() if copied else CannotBeCopied()
    model = keras.Model(
        image, head(keras.layers.GlobalAveragePooling2D()(layer(image)))
    )
    pixels = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    before, nodes = to_numpy(model(pixels)), len(layer._inbound_nodes)
    path = tmp_path / "model.tflite"
    report = to_litert(model, path, output="logits", images=pixels, **QUICK)
    assert report.output["name"] == "logits"
    logits = LiteRTModel(path).predict(pixels)
    np.testing.assert_allclose(to_numpy(keras.ops.softmax(logits)), before, atol=1e-6)
    assert np.abs(logits.sum(-1) - 1).max() > 1e-3
    np.testing.assert_array_equal(to_numpy(model(pixels)), before)
    assert len(layer._inbound_nodes) == nodes


@ON_TENSORFLOW
@pytest.mark.parametrize("step", ["folding", "lowering"])
def test_a_fault_of_a_rule_is_not_hidden(step, tmp_path, monkeypatch):
    from keras_metaformer.export.lowering import rules

    def fail(*_):
        raise KeyError("a fault")

    module = {"folding": folding, "lowering": rules}[step]
    name = {"folding": "fold_layer", "lowering": "lower"}[step]
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(KeyError, match="a fault"):
        to_litert(tiny_model(), tmp_path / "model.tflite", **QUICK)


@ON_TENSORFLOW
def test_threads_export_to_one_path(tmp_path):
    """The file is one of theirs, whole, and standard error is not lost."""
    path, report_path = tmp_path / "model.tflite", tmp_path / "report.json"
    model = tiny_model()
    names = [("a", "b"), ("c", "d"), ("e", "f")]
    before = os.fstat(2).st_ino
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        list(
            threads.map(
                lambda labels: to_litert(
                    model, path, labels=labels, report_path=report_path, **QUICK
                ),
                names,
            )
        )
    assert os.fstat(2).st_ino == before
    assert tuple(LiteRTModel(path).labels or ()) in names
    assert json.loads(report_path.read_text())["exact"] is True
    assert sorted(tmp_path.iterdir()) == [path, report_path]


def test_paths_are_checked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "convert", None)
    (tmp_path / "folder").mkdir()
    for options, message in [
        ({"path": tmp_path / "folder"}, "a folder.*Received: path="),
        ({"path": tmp_path / "m", "report_path": tmp_path}, "report_path="),
        ({"path": os.devnull}, "a device"),
    ]:
        with pytest.raises(ValueError, match=message):
            to_litert(tiny_model(), **options)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int4"}, "quantize='int4'"),
        ({"input_type": "int8"}, "input_type='int8'"),
        ({"input_type": "uint8"}, "0..255"),
        ({"output": "scores"}, "output='scores'"),
        ({"mean": (0, 0, 0)}, "together"),
        ({"mean": (0, 0), "std": (1, 1)}, "3 channels"),
        ({"labels": ["one"]}, "each of the 2 classes"),
        ({"labels": ["one\n", "two"]}, "line breaks"),
        ({"input_size": (5, 5)}, r"input_size=\(5, 5\)"),
        ({"images": np.zeros((2, 5, 5, 3))}, r"shape=\(2, 5, 5, 3\)"),
    ],
)
def test_wrong_arguments(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_litert(tiny_model(), tmp_path / "model.tflite", **options)
    assert list(tmp_path.iterdir()) == []


def test_models_that_classify_nothing(tmp_path):
    with pytest.raises(TypeError, match="Keras model"):
        to_litert("model", tmp_path / "model.tflite")  # type: ignore[arg-type]
    open_size = km.MetaFormer([1], [8], include_top=False, pooling="avg")
    with pytest.raises(ValueError, match="input_size"):
        to_litert(open_size, tmp_path / "model.tflite")
    maps = km.MetaFormer([1], [8], include_top=False, input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="pooling"):
        to_litert(maps, tmp_path / "model.tflite")


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "model.tflite"
    for content, message in [
        (b"", "empty"),
        (b"PK\3\4 a zip archive", "TFL3"),
        (b"\x1c\0\0\0TFL3" + bytes(64), "Received: path="),
    ]:
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=message):
            LiteRTModel(path)
    with pytest.raises(ModelFileError, match="No such file"):
        LiteRTModel(tmp_path / "none.tflite")


@ON_TENSORFLOW
def test_damaged_and_wrongly_used_files(tmp_path):
    path = tmp_path / "model.tflite"
    to_litert(tiny_model(), path, **QUICK)
    content = path.read_bytes()
    runner = LiteRTModel(path)
    with pytest.raises(ValueError, match=r"\(4, 4, 3\).*shape=\(5, 5, 3\)"):
        runner.predict(np.zeros((5, 5, 3), "float32"))
    with pytest.raises(ValueError, match="does not say that it takes pixels"):
        runner.predict(tmp_path / "picture.png")
    for length in (9, len(content) // 3, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="Received: path="):
            LiteRTModel(path)
