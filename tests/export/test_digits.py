"""What quantisation costs a trained model: the digits, over the held-out set."""

import keras
import numpy as np
import pytest

from keras_metaformer.data.digits import load_digits
from keras_metaformer.demo.models import build_model
from keras_metaformer.demo.training import train
from keras_metaformer.export import LiteRTModel, to_litert


@pytest.mark.large
def test_accuracy_after_quantisation(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("elsewhere the same conversion runs in a child process")
    keras.utils.set_random_seed(0)
    digits = load_digits(seed=0)
    model = build_model(0)
    train(model, digits, epochs=16, seed=0)
    images = digits.test_images.astype("float32")
    accuracy = {}
    for quantize in (None, "float16", "dynamic", "int8"):
        path = tmp_path / f"{quantize}.tflite"
        options = {"calibration_images": digits.train_images[:200].astype("float32")}
        to_litert(
            model,
            path,
            quantize,
            images=images[:50],
            latency_runs=1,
            # Static int8 differs by more than rounding; its accuracy is what counts.
            allow_inexact=quantize == "int8",
            **(options if quantize == "int8" else {}),
        )
        scores = LiteRTModel(path).predict(images)
        accuracy[quantize] = float(np.mean(scores.argmax(-1) == digits.test_labels))
    assert accuracy[None] > 0.95
    assert accuracy["float16"] >= accuracy[None] - 0.003
    assert accuracy["dynamic"] >= accuracy[None] - 0.005
    assert accuracy["int8"] >= accuracy[None] - 0.01
