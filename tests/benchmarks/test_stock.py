"""The same models of stock layers: equal outputs, and nothing of ours left in them."""

import math
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from benchmarks.matrix_products import matrix_products
from benchmarks.stock import Scale, stock_model
from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers import MetaMixer
from keras_metaformer.models.complexity import count_macs, layer_macs
from tests.small_models import FAMILIES, build_small, every_family

# The same layers of Keras on each backend, for layers that are tested on each.
pytestmark = pytest.mark.one_backend


def _randomised(model: Any) -> Any:
    """Weights that are not all zeros and ones, so that none can be left out unseen."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if not weight.path.startswith("seed_generator"):
            noise = random.uniform(-0.2, 0.2, weight.shape).astype("float32")
            weight.assign(to_numpy(weight) + noise)
    return model


def _same(model: Any, stock: Any) -> None:
    images = np.random.default_rng(1).normal(size=(2, *model.input_shape[1:]))
    images = images.astype("float32")
    expected, received = (
        to_numpy(each(images, training=False)) for each in (model, stock)
    )
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4)


@every_family
def test_equal_outputs(family):
    model = build_small(family, classifier_activation=None)
    model = _randomised(model)
    stock = stock_model(model)
    assert stock.count_params() == model.count_params()
    for layer in stock.layers:
        module = type(layer).__module__
        assert module.startswith("keras.") or isinstance(layer, Scale), layer
    _same(model, stock)


def test_parts_that_only_some_ffnets_have():
    fields = {"squeeze_excitation": (True,) * 4, "layer_scale_initial_value": 0.5}
    model = _randomised(build_small("ffnet", fields=fields, classifier_activation=None))
    stock = stock_model(model)
    kinds = [type(operation).__name__ for operation in stock.operations]
    assert kinds.count("Scale") == 8  # two steps in each of four blocks
    assert kinds.count("Mean") == 4
    _same(model, stock)


def test_self_attention_as_a_metamixer():
    model = km.MetaFormer(
        (1,),
        (16,),
        lambda: MetaMixer.self_attention(16, 8),
        input_shape=(32, 32, 3),
        classifier_activation=None,
    )
    _same(model, stock_model(_randomised(model)))


def test_stochastic_depth_drops_whole_images_in_training():
    model = build_small("poolformerv2", fields={"stochastic_depth_rate": 0.5})
    stock = stock_model(model)
    dropouts = [
        layer for layer in stock.layers if isinstance(layer, keras.layers.Dropout)
    ]
    assert [layer.noise_shape for layer in dropouts] == [(None, 1, 1, 1)] * len(
        dropouts
    )
    assert len(dropouts) == 6  # three blocks with a rate above 0


def test_a_class_derived_from_one_of_keras():
    class Halved(keras.layers.GroupNormalization):
        def __init__(self, **kwargs):
            super().__init__(groups=2, epsilon=0.1, **kwargs)

        def get_config(self):
            config = super().get_config()
            del config["groups"], config["epsilon"]
            return config

    inputs = keras.layers.Input((4, 4, 8))
    model = _randomised(keras.Model(inputs, Halved()(inputs)))
    stock = stock_model(model)
    assert type(stock.layers[1]) is keras.layers.GroupNormalization
    _same(model, stock)


def test_a_layer_without_a_stock_form():
    class Mine(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    inputs = keras.layers.Input((8, 8, 3))
    with pytest.raises(TypeError, match="no stock form"):
        stock_model(keras.Model(inputs, Mine()(inputs)))


@pytest.mark.backend_independent
@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrix_products_are_those_that_are_counted(family):
    model = build_small(family)
    stock = stock_model(model)
    products = matrix_products(stock, batch=3)
    expected = count_macs(model) - _depthwise_macs(stock)
    assert sum(each.macs for each in products) == 3 * expected


def _depthwise_macs(stock: Any) -> int:
    """What depthwise convolutions multiply; they are no matrix products."""
    return sum(
        math.prod(layer.output.shape[1:]) * layer.kernel_size[0] ** 2
        for layer in stock.layers
        if type(layer).__name__ == "DepthwiseConv2D"
    )


def test_a_product_of_each_kind():
    model = build_small("caformer", input_shape=(64, 64, 3))
    products = matrix_products(stock_model(model), batch=2)
    stem = products[0]
    assert (stem.batch, stem.rows, stem.inner, stem.columns) == (
        1,
        2 * 16 * 16,
        7 * 7 * 3,
        16,
    )
    assert not stem.weight_is_activation
    attention = [each for each in products if each.weight_is_activation]
    # Two stages of one block, two products each: 64 and 32 channels in heads of 32.
    assert [
        (each.batch, each.rows, each.inner, each.columns) for each in attention
    ] == [
        (2 * 2, 4 * 4, 32, 4 * 4),
        (2 * 2, 4 * 4, 4 * 4, 32),
        (2 * 1, 2 * 2, 32, 2 * 2),
        (2 * 1, 2 * 2, 2 * 2, 32),
    ]
    assert layer_macs(model.layers[1], (1, 64, 64, 3)) == stem.macs // 2
