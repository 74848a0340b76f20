"""Layers made of other layers."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer import blocks, layers
from tests.layer_checks import to_numpy

MAP = np.random.default_rng(0).normal(size=(2, 6, 5, 8)).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class DropoutAtInference(keras.layers.Dropout):
    """Monte Carlo dropout: drops whether in training or not."""

    def call(self, inputs, training=False):
        return super().call(inputs, training=True)


@keras.saving.register_keras_serializable(package="tests")
class OurDropoutAtInference(layers.Dropout):
    def call(self, inputs, training=False):
        return super().call(inputs, training=True)


def _places(layer: Any) -> dict[str, keras.layers.Layer]:
    identity = layers.IdentityMixer
    return {
        "activation": layers.SeparableConvolutionMixer(activation=layer),
        "hidden": blocks.ChannelMLP(activation=layer),
        "transform": blocks.ResidualBranch(layer(), identity()),
        "norm": blocks.ResidualBranch(identity(), layer()),
        "between": blocks.MetaFormerBlock(identity(), identity(), between=layer()),
        "query": layers.MetaMixer(layer(), identity(), identity(), identity()),
        "projection": blocks.PatchMerging(projection=layer()),
        "post_norm": blocks.Downsampling(8, 1, 1, post_norm=layer()),
    }


@pytest.mark.parametrize("kind", [DropoutAtInference, OurDropoutAtInference])
@pytest.mark.parametrize("place", list(_places(layers.IdentityMixer)))
def test_dropout_of_the_users_own_drops_at_inference(place, kind):
    layer: Any = _places(lambda: kind(0.5))[place]
    image = keras.Input(MAP.shape[1:])
    model: Any = keras.Model(image, layer(image))
    for each in (model, km.fold(model)):
        first, second = (to_numpy(each(MAP, training=False)) for _ in range(2))
        assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("kind", [keras.layers.Dropout, layers.Dropout])
def test_dropout_drops_in_training_only(kind):
    layer: Any = _places(lambda: kind(0.5))["transform"]
    np.testing.assert_array_equal(to_numpy(layer(MAP, training=False)), 2 * MAP)
    assert np.abs(to_numpy(layer(MAP, training=True)) - 2 * MAP).max() > 0.1


def test_a_part_is_named_as_its_attribute():
    norm = keras.layers.LayerNormalization(name="mine")
    layer: Any = blocks.ResidualBranch(layers.PoolingMixer(), norm)
    assert [part.name for part in (layer.transform, layer.norm)] == [
        "transform",
        "norm",
    ]
