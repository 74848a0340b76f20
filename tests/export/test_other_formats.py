"""ONNX and SavedModel files give what the model gives, and replace nothing else."""

import importlib.util
import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from keras_metaformer.arrays import to_numpy
from keras_metaformer.export import (
    ExportError,
    convert,
    to_onnx,
    to_openvino,
    to_pt2,
    to_saved_model,
    to_stablehlo,
)
from keras_metaformer_lite.litert import files
from tests.export.models import SMALL_MODELS, hierarchical, tiny_model
from tests.small_models import build_small

IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
ON_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="elsewhere a child process does it, which one model shows",
)


@pytest.mark.one_backend
def test_onnx_of_a_model_that_was_never_called(tmp_path):
    """On each backend: a child process does it where that is not TensorFlow."""
    pytest.importorskip("tf2onnx", reason="Keras' ONNX export needs tf2onnx")
    runtime = pytest.importorskip("onnxruntime", reason="runs the ONNX file")
    model = hierarchical()
    path = to_onnx(model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    (got,) = session.run(None, {image.name: IMAGES})
    np.testing.assert_allclose(got, to_numpy(model(IMAGES)), atol=1e-5)
    assert list(tmp_path.iterdir()) == [path]


@ON_TENSORFLOW
def test_saved_model_with_the_signature_of_tensorflow_serving(tmp_path):
    import tensorflow as tf

    model = hierarchical()
    to_saved_model(tiny_model(), tmp_path / "model")
    path = to_saved_model(model, tmp_path / "model")
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    ((name, _),) = serve.structured_input_signature[1].items()
    (got,) = serve(**{name: tf.constant(IMAGES)}).values()
    np.testing.assert_allclose(to_numpy(got), to_numpy(model(IMAGES)), atol=1e-5)
    assert list(tmp_path.iterdir()) == [path]


def _run_openvino(path):
    import openvino

    # It computes in bfloat16 where the processor has operations for that.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    program = openvino.compile_model(path, "CPU", options)
    return lambda images: program(images)[0]


def _run_pt2(path):
    import torch

    program = torch.export.load(path).module()
    return lambda images: program(torch.from_numpy(images)).detach().numpy()


def _run_stablehlo(path):
    from jax import export

    program = export.deserialize(bytearray(path.read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    return lambda images: np.asarray(program.call(images))


OTHER_FORMS = {
    "openvino": (to_openvino, "model.xml", _run_openvino),
    "pt2": (to_pt2, "model.pt2", _run_pt2),
    "stablehlo": (to_stablehlo, "model.stablehlo", _run_stablehlo),
}


def _assert_runs_alike(form, model, folder):
    """In its own runtime, with any number of images."""
    export, name, run = OTHER_FORMS[form]
    path = export(model, folder / name)
    program = run(path)
    expected = to_numpy(model(IMAGES, training=False))
    assert np.ptp(expected) > 0
    for number in (1, len(IMAGES)):
        got = program(IMAGES[:number])
        np.testing.assert_allclose(got, expected[:number], atol=1e-5)
    weights = [path.with_suffix(".bin")] if form == "openvino" else []
    assert sorted(folder.iterdir()) == sorted([path, *weights])


# A child process makes those of other backends: on the first from here, on each in
# `make test-all`.
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(
            form,
            marks=()
            if convert.MAKERS[form].backend == keras.backend.backend()
            else pytest.mark.one_backend,
        )
        for form in OTHER_FORMS
    ],
)
def test_other_forms_in_their_own_runtimes(form, tmp_path):
    _assert_runs_alike(form, hierarchical(), tmp_path)


@pytest.mark.large
@pytest.mark.parametrize("form", OTHER_FORMS)
@pytest.mark.parametrize("name", ["with_token_weights", "ffnet", "hybrid"])
def test_every_mixer_in_other_forms(form, name, tmp_path):
    _assert_runs_alike(form, SMALL_MODELS[name](), tmp_path)


@pytest.mark.backend_independent
def test_what_other_forms_are_not_made_of(tmp_path):
    anything = build_small("caformer", (None, None, 3), include_top=False)
    for export, name, _ in OTHER_FORMS.values():
        with pytest.raises(ValueError, match=r"height and width.*Received"):
            export(anything, tmp_path / name)
        with pytest.raises(TypeError, match="knows its inputs"):
            export(keras.Sequential([keras.layers.Dense(2)]), tmp_path / name)
        with pytest.raises(ValueError, match="Received"):
            export(tiny_model(), tmp_path)
    (tmp_path / "model.bin").mkdir()
    with pytest.raises(ValueError, match="folder"):
        to_openvino(tiny_model(), tmp_path / "model.xml")
    with pytest.raises(ValueError, match=r"end in \.xml.*Received"):
        to_openvino(tiny_model(), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def _tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def _make_empty(folder):
    folder.mkdir()


def _make_with_photographs(folder):
    folder.mkdir()
    (folder / "photograph.jpg").write_text("dear")


def _make_saved_model_with_notes(folder):
    folder.mkdir()
    (folder / "saved_model.pb").write_text("graph")
    (folder / "notes.txt").write_text("dear")


def _make_file(path):
    path.write_text("dear")


def _make_link(path):
    (path.parent / "elsewhere").mkdir()
    (path.parent / "elsewhere" / "saved_model.pb").write_text("graph")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_make_empty, "it is none"),
        (_make_with_photographs, "'photograph.jpg'"),
        (_make_saved_model_with_notes, "'notes.txt'"),
        (_make_file, "a file"),
        (_make_link, "a link"),
    ],
)
def test_saved_models_replace_nothing_else(make, message, tmp_path, monkeypatch):
    """And say so before any work: the model is not even looked at."""
    make(tmp_path / "target")
    before = _tree(tmp_path)
    monkeypatch.setattr(convert, "run_on_its_backend", None)
    with pytest.raises(ValueError, match=f"{message}.*Received: path="):
        to_saved_model(tiny_model(), tmp_path / "target")
    assert _tree(tmp_path) == before


def test_the_working_directory_stays(tmp_path, monkeypatch):
    (tmp_path / "saved_model.pb").write_text("graph")
    monkeypatch.chdir(tmp_path)
    for path in (".", tmp_path, ""):
        with pytest.raises(ValueError, match="working directory"):
            to_saved_model(tiny_model(), path)
    (tmp_path / "variables").mkdir()
    monkeypatch.chdir(tmp_path / "variables")
    with pytest.raises(ValueError, match="working directory"):
        to_saved_model(tiny_model(), tmp_path)
    assert (tmp_path / "saved_model.pb").read_text() == "graph"


def test_files_do_not_replace_folders(tmp_path):
    (tmp_path / "photograph.jpg").write_text("dear")
    for path in (tmp_path, "."):
        with pytest.raises(ValueError, match="must be a file"):
            to_onnx(tiny_model(), path)
    with pytest.raises(ValueError, match="device"):
        to_onnx(tiny_model(), os.devnull)
    with pytest.raises(ValueError, match=r"photograph\.jpg' is not"):
        to_onnx(tiny_model(), tmp_path / "photograph.jpg" / "model.onnx")
    assert _tree(tmp_path) == {"photograph.jpg": b"dear"}


def test_threads_put_saved_models_into_one_place(tmp_path):
    """The last one stays, whole, and nothing is left beside it."""
    target = tmp_path / "model"
    errors = []

    def save(number):
        try:
            for turn in range(20):
                with files.folder_beside(target) as folder:
                    new = folder / "new"
                    new.mkdir()
                    (new / "saved_model.pb").write_text(f"{number} {turn}")
                    files.place_saved_model(new, target, folder)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "saved_model.pb").read_text().endswith(" 19")


@ON_TENSORFLOW
def test_what_cannot_be_exported(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operation")

    model = hierarchical()
    monkeypatch.setattr(keras.Model, "export", fail)
    with pytest.raises(ExportError, match="no such operation"):
        to_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_converter_whose_backend_is_not_installed(tmp_path, monkeypatch):
    # Of the three forms at least two are made on another backend than this one.
    forms = {"onnx": to_onnx, "pt2": to_pt2, "stablehlo": to_stablehlo}
    here = keras.backend.backend()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for backend in {"tensorflow", "torch", "jax"} - {here}:
        monkeypatch.delitem(sys.modules, backend, raising=False)
    for form, export in forms.items():
        maker = convert.MAKERS[form]
        if maker.backend == here:
            continue
        with pytest.raises(ExportError) as found:
            export(tiny_model(), tmp_path / "model")
        assert f"{maker.backend!r} backend, which is not installed" in str(found.value)
        assert f"keras-metaformer[{maker.extra}]" in str(found.value)
    assert list(tmp_path.iterdir()) == []


def test_models_that_do_not_know_their_inputs(tmp_path):
    for model in ("model", keras.Sequential([keras.layers.Dense(2)])):
        with pytest.raises(TypeError, match="knows its inputs"):
            to_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.backend_independent
def test_the_child_imports_nothing_from_the_working_directory(tmp_path, monkeypatch):
    """Such as a `tensorflow.py` beside the user's photographs."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "own_layers.py").write_text("")
    monkeypatch.chdir(tmp_path)
    # As in `python -c` and in the interactive interpreter.
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(convert._search_path())}
    program = """
import importlib.util
import own_layers
print(importlib.util.find_spec("tensorflow").origin)
"""
    child = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert not child.stdout.startswith(str(tmp_path))
