"""ONNX and SavedModel files give what the model gives."""

import keras
import numpy as np
import pytest

from keras_metaformer.arrays import to_numpy
from keras_metaformer.export import ExportError, to_onnx, to_saved_model
from tests.export.models import hierarchical

IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
ON_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="Keras' own exporters are tested on the backend that has both",
)


@ON_TENSORFLOW
def test_onnx(tmp_path):
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
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("replaced")
    path = to_saved_model(model, tmp_path / "model")
    assert not (path / "old").exists()
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    ((name, _),) = serve.structured_input_signature[1].items()
    (got,) = serve(**{name: tf.constant(IMAGES)}).values()
    np.testing.assert_allclose(to_numpy(got), to_numpy(model(IMAGES)), atol=1e-5)


@ON_TENSORFLOW
def test_what_cannot_be_exported(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operation")

    model = hierarchical()
    monkeypatch.setattr(keras.Model, "export", fail)
    with pytest.raises(ExportError, match="no such operation"):
        to_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
