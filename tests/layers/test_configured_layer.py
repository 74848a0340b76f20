"""Configs that follow from constructors, of layers of the package and of a user's."""

import json
from typing import Any

import keras
import pytest

from keras_metaformer import layers
from keras_metaformer.layers.configured_layer import ConfiguredLayer, unnamed_copy

pytestmark = pytest.mark.backend_independent


class Doubled(layers.SeparableConvolutionMixer):
    """A user's: one argument more, and the base's."""

    def __init__(self, factor=2, *, inner=None, name=None, dtype=None, **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.factor = factor
        self.inner = inner


class SaysItself(Doubled):
    """One that keeps an argument elsewhere, and says so."""

    def __init__(self, secret, **kwargs):
        super().__init__(**kwargs)
        self._secret = secret

    def get_config(self):
        return {**super().get_config(), "secret": self._secret}


class Forgets(layers.SquaredReLU):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)


def _again(layer: Any) -> Any:
    """As from a file."""
    config = json.loads(json.dumps(layer.get_config()))
    return type(layer).from_config(config)


def test_arguments_of_a_class_and_of_its_bases():
    layer = Doubled(3, inner=layers.GELU(True), kernel_size=5, dtype="mixed_bfloat16")
    again = _again(layer)
    assert again.factor == 3 and again.kernel_size == 5
    assert again.name == layer.name
    assert again.dtype_policy == layer.dtype_policy
    assert isinstance(again.inner, layers.GELU) and again.inner.approximate
    assert not again.inner.built
    assert isinstance(again.activation, layers.StarReLU)
    assert again.get_config() == layer.get_config()


def test_parts_are_made_unbuilt_whatever_is_around_them():
    layer = Doubled(inner=keras.layers.Dense(8))
    layer.build((None, 4, 4, 8))
    layer.inner.build((None, 8))
    assert not _again(layer).inner.built


def test_a_class_may_say_an_argument_itself():
    again = _again(SaysItself("word", factor=7))
    assert again._secret == "word" and again.factor == 7


def test_an_argument_that_is_not_kept():
    with pytest.raises(
        TypeError, match=r"self\.factor`, or define.*Received: <Forgets"
    ):
        Forgets(2).get_config()


def test_the_arguments_that_a_class_gives_its_base_are_not_its_own():
    config = layers.FFNifiedAttention(3, activation="relu").get_config()
    assert {"kernel_size", "activation", "branches"} <= config.keys()
    assert not {"query", "interaction", "aggregation"} & config.keys()


def test_a_layer_without_arguments_and_with_a_policy():
    layer = layers.IdentityMixer(dtype=keras.DTypePolicy("mixed_float16"))
    assert issubclass(layers.IdentityMixer, ConfiguredLayer)
    assert _again(layer).dtype_policy == layer.dtype_policy


@pytest.mark.parametrize(
    "layer",
    [
        layers.StarReLU("paper", learn_bias=False, dtype="mixed_bfloat16"),
        layers.SquaredReLU(trainable=False),
        layers.SquaredReLU(activity_regularizer="l2"),
        Doubled(3, inner=layers.GELU(True)),
        SaysItself("word", factor=7),
        keras.layers.Dense(3, kernel_regularizer="l2"),
    ],
    ids=lambda layer: layer.name,
)
def test_a_copy_has_everything_but_the_name(layer):
    copy = unnamed_copy(layer)
    expected = layer.get_config() | {"name": copy.name}
    assert copy.get_config() == expected
    assert copy is not layer and copy.name != layer.name
