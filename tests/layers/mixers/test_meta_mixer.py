"""MetaMixer: the known mixers as instances of it, and one's own."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.blocks import ChannelMLP
from tests.layer_checks import randomize, to_numpy

layers: Any = km.layers  # also called with arguments of wrong types
MAP = np.random.default_rng(0).normal(size=(2, 5, 4, 8)).astype("float32")


def _built(layer):
    layer.build(MAP.shape)
    randomize(layer)
    return layer


def _assert_same_function(one, other):
    expected = to_numpy(one(MAP, training=False))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(
        to_numpy(other(MAP, training=False)), expected, rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("use_bias", [False, True])
def test_self_attention(use_bias):
    attention = _built(layers.SelfAttentionMixer(4, use_bias=use_bias))
    meta = layers.MetaMixer.self_attention(8, head_dim=4, use_bias=use_bias)
    meta.build(MAP.shape)
    for position, part in enumerate((meta.query, meta.key, meta.value)):
        weights = attention.qkv.get_weights()
        part.set_weights([np.split(weight, 3, -1)[position] for weight in weights])
    meta.projection.set_weights(attention.output_projection.get_weights())
    _assert_same_function(attention, meta)


def test_ffnified_attention():
    attention = _built(layers.FFNifiedAttention(3))
    meta = layers.MetaMixer(
        query=layers.BatchNormalized(keras.layers.Dense(8, use_bias=False)),
        interaction=layers.DepthwiseConvolution(3, use_bias=True),
        activation=layers.GELU(),
        aggregation=layers.DepthwiseConvolution(3, use_bias=True),
    )
    _copy_parts(attention, meta)
    _assert_same_function(attention, meta)


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_convnext_channel_mixer(kernel_size):
    mixer = _built(layers.ConvNeXtChannelMixer(kernel_size, ratio=2))
    meta = layers.MetaMixer(
        query=(
            layers.ReparameterizableDepthwise(7)
            if kernel_size == 7
            else layers.BatchNormalized(layers.DepthwiseConvolution(3))
        ),
        interaction=keras.layers.Dense(16),
        activation=keras.layers.Activation("gelu"),
        aggregation=keras.layers.Dense(8),
    )
    # Keras' own GELU is the exact form only if asked for.
    meta.activation = layers.GELU()
    _copy_parts(mixer, meta)
    _assert_same_function(mixer, meta)


def test_channel_mlp():
    mlp = _built(ChannelMLP(2, activation="gelu", use_bias=True))
    meta = layers.MetaMixer(
        query=layers.IdentityMixer(),
        interaction=keras.layers.Dense(16),
        activation=layers.GELU(),
        aggregation=keras.layers.Dense(8),
    )
    meta.build(MAP.shape)
    meta.interaction.set_weights(mlp.expand.get_weights())
    meta.aggregation.set_weights(mlp.project.get_weights())
    _assert_same_function(mlp, meta)


def _copy_parts(mixer, meta):
    meta.build(MAP.shape)
    for name in ("query", "interaction", "aggregation"):
        getattr(meta, name).set_weights(getattr(mixer, name).get_weights())


def test_attention_works_on_maps_of_unknown_size():
    image = keras.Input((None, None, 8))
    model: Any = keras.Model(
        image, layers.MetaMixer.self_attention(8, head_dim=4)(image)
    )
    assert model.output_shape == (None, None, None, 8)
    assert model.predict(MAP, verbose=0).shape == MAP.shape
    assert model.predict(MAP[:, :3], verbose=0).shape == (2, 3, 4, 8)


def _own_mixer():
    return km.MetaMixer(
        query=layers.IdentityMixer(),
        interaction=layers.DepthwiseConvolution(3),
        activation=keras.layers.Activation("tanh"),
        aggregation=layers.DepthwiseConvolution(5),
        projection=layers.Affine(),
    )


@pytest.mark.parametrize("as_instance", [False, True])
def test_ones_own_as_a_mixer_of_a_model(as_instance, tmp_path):
    own: Any = _own_mixer() if as_instance else _own_mixer
    model: Any = km.MetaFormer(
        depths=(2, 1),
        widths=(8, 16),
        mixer=own,
        input_shape=(16, 16, 3),
        classes=3,
    )
    blocks = [layer for layer in model.layers if "block" in layer.name]
    mixers = [block.token_mixing.transform for block in blocks]
    assert len({id(mixer) for mixer in mixers}) == 3
    kernels = [to_numpy(mixer.interaction.kernel) for mixer in mixers]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3  # weights of their own

    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    before = [to_numpy(weight) for weight in mixers[0].trainable_weights]
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    history = model.fit(images, np.arange(4) % 3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for old, weight in zip(before, mixers[0].trainable_weights, strict=True):
        assert not np.array_equal(old, to_numpy(weight)), weight.path

    path = tmp_path / "model.keras"
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    np.testing.assert_array_equal(
        to_numpy(loaded(images, training=False)),
        to_numpy(model(images, training=False)),
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_self_attention_hands_its_dtype_on_to_the_parts(policy):
    mixer = layers.MetaMixer.self_attention(8, head_dim=4, dtype=policy)
    outputs = mixer(MAP)
    expected = keras.DTypePolicy(policy)
    assert keras.backend.standardize_dtype(outputs.dtype) == expected.compute_dtype
    for part in (mixer.query, mixer.interaction, mixer.activation, mixer.projection):
        assert part.dtype_policy.name == policy
    assert {weight.dtype for weight in mixer.weights} == {expected.variable_dtype}


def test_attention_starts_as_the_reference_codes_do():
    mixer = layers.MetaMixer.self_attention(64)
    mixer.build((None, 5, 4, 64))
    assert abs(to_numpy(mixer.query.kernel).std() - 0.02) < 0.004


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"query": "linear"},
            "`query` must be a Keras layer. Received: query='linear'",
        ),
        ({"projection": 3}, "Received: projection=3 of type int"),
        ({"interaction": keras.layers.Dense}, "of type type"),
    ],
)
def test_parts_must_be_layers(parts, message):
    standard = {
        name: layers.IdentityMixer()
        for name in ("query", "interaction", "activation", "aggregation")
    }
    with pytest.raises(TypeError) as error:
        layers.MetaMixer(**{**standard, **parts})
    assert message in str(error.value)


def test_parts_must_be_there():
    mixer = layers.MetaMixer(
        query=layers.IdentityMixer(),
        interaction=layers.IdentityMixer(),
        activation=None,
        aggregation=layers.IdentityMixer(),
    )
    with pytest.raises(TypeError, match="needs `activation`"):
        mixer.build(MAP.shape)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match=r"Received: channels=8, head_dim=3"):
        layers.MetaMixer.self_attention(8, head_dim=3).build(MAP.shape)
