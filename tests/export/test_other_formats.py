"""ONNX and SavedModel files give what the model gives, and replace nothing else."""

import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from keras_metaformer.arrays import to_numpy
from keras_metaformer.export import ExportError, convert, to_onnx, to_saved_model
from keras_metaformer_lite.litert import files
from tests.export.models import hierarchical, tiny_model

IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
ON_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="elsewhere a child process does it, which one model shows",
)


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
    monkeypatch.setattr(convert, "run_on_tensorflow", None)
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
