"""What the layers of MLP-Mixer, ResMLP, gMLP and FFNet do beside their formulas."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from tests.layer_checks import randomize, to_numpy

layers: Any = km.layers  # also called with arguments of wrong types
MAP = np.random.default_rng(0).normal(size=(2, 5, 4, 8)).astype("float32")


def test_a_fresh_gate_is_the_identity_on_its_first_half():
    gate = layers.SpatialGatingUnit()
    outputs = to_numpy(gate(MAP))
    np.testing.assert_allclose(outputs, MAP[..., :4], atol=1e-4)
    # Near zero, not zero: the two tokens' sides must be able to part.
    kernel = to_numpy(gate.projection.kernel)
    assert 0 < np.abs(kernel).max() < 1e-5
    np.testing.assert_array_equal(to_numpy(gate.projection.bias), 1.0)


def test_a_gate_lets_the_second_half_through_once_trained():
    gate = layers.SpatialGatingUnit()
    gate.build(MAP.shape)
    randomize(gate)
    changed = MAP.copy()
    changed[:, 0, 0, 4:] += np.arange(4)
    difference = np.abs(to_numpy(gate(changed)) - to_numpy(gate(MAP)))
    assert (difference.max(axis=(0, 3)) > 1e-3).all()  # at every token


def test_token_mlp_counts_hidden_tokens_by_channels():
    mixer = layers.TokenMLP(ratio=0.5)
    mixer.build((None, 5, 4, 24))
    assert mixer.expand.kernel.shape == (20, 12)
    assert mixer.project.kernel.shape == (12, 20)
    assert mixer.expand.input_grid == mixer.project.output_grid == (5, 4)
    assert mixer.expand.output_grid is None
    assert mixer.project.input_grid is None


def test_fresh_affine_changes_nothing():
    np.testing.assert_array_equal(to_numpy(layers.Affine()(MAP)), MAP)


def _normalized_layers():
    return {
        "dense": layers.BatchNormalized(keras.layers.Dense(8, use_bias=False)),
        "skip": layers.BatchNormalizedSkip(),
        "branches": layers.ReparameterizableDepthwise(3),
        "ffnified": layers.FFNifiedAttention(3),
        "convnext": layers.ConvNeXtChannelMixer(3),
    }


def _statistics(layer):
    return [
        to_numpy(weight)
        for weight in layer.weights
        if weight.name in ("moving_mean", "moving_variance")
    ]


@pytest.mark.parametrize("name", _normalized_layers())
def test_batch_norms_use_the_batch_in_training_and_their_statistics_else(name):
    layer = _normalized_layers()[name]
    layer.build(MAP.shape)
    randomize(layer)
    before = _statistics(layer)
    assert before

    # Outside training a sample's answer does not depend on the others.
    alone = to_numpy(layer(MAP[:1], training=False))
    together = to_numpy(layer(MAP, training=False))
    np.testing.assert_allclose(alone, together[:1], atol=1e-5)
    for old, new in zip(before, _statistics(layer), strict=True):
        np.testing.assert_array_equal(old, new)

    trained = to_numpy(layer(MAP, training=True))
    assert np.abs(trained - together).max() > 1e-2
    assert np.abs(to_numpy(layer(MAP[:1], training=True)) - trained[:1]).max() > 1e-3
    for old, new in zip(before, _statistics(layer), strict=True):
        assert not np.array_equal(old, new)


def test_batch_normalized_outputs_are_normal_in_training():
    layer = layers.BatchNormalized(layers.DepthwiseConvolution(3))
    outputs = to_numpy(layer(MAP * 4 + 2, training=True))
    np.testing.assert_allclose(outputs.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(outputs.std(axis=(0, 1, 2)), 1, atol=1e-2)


@pytest.mark.parametrize(
    ("size", "small"), [(3, 1), (5, 1), (7, 3), (9, 3), (11, 5), (13, 5)]
)
def test_the_second_branch_has_half_the_kernel(size, small):
    layer = layers.ReparameterizableDepthwise(size)
    assert layer.large.linear.kernel_size == size
    assert layer.small.linear.kernel_size == small


def test_large_kernels_of_ffnet_are_branched():
    assert isinstance(
        layers.FFNifiedAttention(9).interaction, layers.ReparameterizableDepthwise
    )
    assert isinstance(
        layers.FFNifiedAttention(5).aggregation, layers.DepthwiseConvolution
    )
    assert isinstance(
        layers.ConvNeXtChannelMixer(7).query, layers.ReparameterizableDepthwise
    )
    assert isinstance(layers.ConvNeXtChannelMixer(5).query, layers.BatchNormalized)


def test_squeeze_excitation_weighs_channels_by_the_whole_map():
    layer = layers.SqueezeExcitation(0.5)
    layer.build(MAP.shape)
    randomize(layer)
    weights = to_numpy(layer(MAP)) / MAP
    np.testing.assert_allclose(weights, weights[:, :1, :1] * np.ones_like(MAP), 1e-4)
    assert (weights > 0).all() and (weights < 1).all()
    assert np.abs(weights[0] - weights[1]).max() > 1e-4  # image by image


@pytest.mark.parametrize(("channels", "hidden"), [(80, 24), (76, 16), (8, 8)])
def test_squeeze_excitation_rounds_to_multiples_of_eight(channels, hidden):
    # 20 and 19 are nearest to 24, half of 8 upwards, and to 16.
    layer = layers.SqueezeExcitation()
    layer.build((None, 4, 4, channels))
    assert layer.squeeze.units == hidden


def test_squeeze_excitation_has_at_least_one_hidden_channel():
    layer = layers.SqueezeExcitation(0.01, divisor=1)
    layer.build((None, 5, 4, 8))
    assert layer.squeeze.units == 1


@pytest.mark.parametrize(
    "layer",
    [
        layers.TokenMLP(),
        layers.CrossPatchLinear(),
        layers.SpatialGatingUnit(),
        layers.GatedMLP(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_with_a_weight_per_token_need_a_known_size(layer):
    assert layer.needs_static_size
    with pytest.raises(ValueError, match=r"height and width.*Received: input_shape="):
        layer.build((None, None, 4, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.TokenMLP(ratio=0), "Received: ratio=0"),
        (lambda: layers.TokenMLP(ratio=-1.0), "Received: ratio=-1.0"),
        (
            lambda: layers.TokenMLP(ratio=0.1).build((None, 5, 4, 8)),
            "Received: ratio=0.1, channels=8",
        ),
        (lambda: layers.TokenLinear(0), "Received: units=0"),
        (lambda: layers.GatedMLP(ratio=1.5), "Received: ratio=1.5"),
        (
            lambda: layers.GatedMLP(ratio=3).build((None, 5, 4, 5)),
            "Received: channels=15",
        ),
        (
            lambda: layers.SpatialGatingUnit().build((None, 5, 4, 7)),
            "Received: channels=7",
        ),
        (
            lambda: layers.CrossPatchLinear().build((None, 20)),
            "Received: input_shape=(None, 20)",
        ),
        (lambda: layers.SqueezeExcitation(0), "Received: ratio=0"),
        (lambda: layers.SqueezeExcitation(1.5), "Received: ratio=1.5"),
        (lambda: layers.ReparameterizableDepthwise(6), "Received: kernel_size=6"),
        (lambda: layers.ReparameterizableDepthwise(1), "Received: kernel_size=1"),
        (lambda: layers.FFNifiedAttention(4), "Received: kernel_size=4"),
        (lambda: layers.FFNifiedAttention(8), "Received: kernel_size=8"),
        (lambda: layers.FFNifiedAttention("3"), "Received: kernel_size='3'"),
        (lambda: layers.ConvNeXtChannelMixer(2), "Received: kernel_size=2"),
        (lambda: layers.ConvNeXtChannelMixer(3.0), "Received: kernel_size=3.0"),
        (lambda: layers.ConvNeXtChannelMixer(3, ratio=0.5), "Received: ratio=0.5"),
        (lambda: layers.BatchNormalized(keras.layers.Dense(4)), "use_bias=True"),
        (
            lambda: layers.BatchNormalized(
                keras.layers.Dense(4, "relu", use_bias=False)
            ),
            "activation=<function relu",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_a_batch_norm_cannot_stand_behind_any_layer():
    with pytest.raises(TypeError, match=r"Dense, Conv2D.*Received: linear=<ReLU"):
        layers.BatchNormalized(keras.layers.ReLU())
