from typing import Any

import keras
import numpy as np

from examples import custom_mixer
from tests.layer_checks import to_numpy


def test_it_trains_and_comes_back_from_its_file(tmp_path):
    start = [to_numpy(weight) for weight in custom_mixer.build().weights]
    model, accuracy = custom_mixer.train(epochs=1, samples=64)

    assert 0.0 <= accuracy <= 1.0
    assert [weight.shape for weight in start] == [
        tuple(weight.shape) for weight in model.weights
    ]
    block = model.get_layer("stage_0_block_0")
    assert isinstance(block.token_mixing.transform, custom_mixer.ShiftMixer)
    assert model.optimizer.iterations == 2
    path = tmp_path / "model.keras"
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    images = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
    np.testing.assert_array_equal(
        to_numpy(loaded(images, training=False)),
        to_numpy(model(images, training=False)),
    )
