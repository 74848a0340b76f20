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


class Named(layers.SquaredReLU):
    """A user's, with Keras' arguments in its signature."""

    def __init__(self, power=2, name=None, dtype=None, trainable=True):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.power = power


class Restored(layers.SquaredReLU):
    """One that knows more when it comes from a config."""

    restored = False

    @classmethod
    def from_config(cls, config):
        layer = super().from_config(config)
        layer.restored = True
        return layer


class DenseBelow(ConfiguredLayer, keras.layers.Dense):
    """Keras' arguments in between."""

    def __init__(self, units, scale=2.0, **kwargs):
        super().__init__(units=units, **kwargs)
        self.scale = scale


@pytest.mark.parametrize(
    "layer",
    [
        layers.StarReLU(
            "paper", learn_bias=False, dtype="mixed_bfloat16", name="given"
        ),
        layers.StarReLU((2.0, 0.5), name="given"),
        layers.SquaredReLU(trainable=False, name="given"),
        layers.SquaredReLU(activity_regularizer="l2", name="given"),
        Doubled(3, inner=layers.GELU(True), name="given"),
        SaysItself("word", factor=7, name="given"),
        Named(3, "given", dtype="bfloat16", trainable=False),
        DenseBelow(3, use_bias=False, name="given"),
        keras.layers.Dense(3, kernel_regularizer="l2", name="given"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_copy_has_everything_but_the_name(layer):
    copy = unnamed_copy(layer)
    assert copy.get_config() == layer.get_config() | {"name": copy.name}
    assert layer.name == "given" != copy.name


def test_a_copy_is_made_as_its_class_says():
    assert unnamed_copy(Restored()).restored
