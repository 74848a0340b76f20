"""Each block through `run_layer_test`, with its formula in NumPy."""

import keras
import numpy as np
import pytest

from keras_metaformer import blocks, layers
from tests.layer_checks import kernel_of, run_layer_test, to_numpy
from tests.reference import formulas

MAP = (2, 5, 4, 8)


def _dense(layer, x):
    y = x @ kernel_of(layer)
    return y + to_numpy(layer.bias) if layer.use_bias else y


def _layer_norm(layer, x):
    y = formulas.normalize(x, -1, layer.epsilon) * to_numpy(layer.gamma)
    return y + to_numpy(layer.beta) if layer.center else y


def _mlp(layer, x):
    hidden = _dense(layer.expand, x)
    if isinstance(layer.activation, layers.StarReLU):
        star = layer.activation
        hidden = formulas.star_relu(hidden, to_numpy(star.scale), to_numpy(star.bias))
    else:
        hidden = formulas.gelu(hidden)
    return _dense(layer.project, hidden)


def _downsampling(layer, x):
    if layer.pre_norm is not None:
        x = _layer_norm(layer.pre_norm, x)
    kernel = kernel_of(layer.convolution)
    x = formulas.convolution(x, kernel, layer.strides, layer.padding)
    x = x + to_numpy(layer.convolution.bias)
    return x if layer.post_norm is None else _layer_norm(layer.post_norm, x)


def _residual(transform):
    def reference(layer, x):
        scale = layer.residual_scale
        weight = layer.layer_scale
        return formulas.residual_step(
            x,
            lambda y: transform(layer.transform, y),
            lambda y: _layer_norm(layer.norm, y),
            1.0 if scale is None else to_numpy(scale.scale),
            1.0 if weight is None else to_numpy(weight.scale),
        )

    return reference


def _pool(_, x):
    return formulas.pooling_mixer(x)


def _block(layer, x):
    hidden = _residual(_pool)(layer.token_mixing, x)
    return _residual(_mlp)(layer.channel_mixing, hidden)


def _norm(dtype):
    return keras.layers.LayerNormalization(epsilon=1e-3, dtype=dtype)


def _step(transform, **options):
    def make(dtype=None, name=None):
        return blocks.ResidualBranch(
            transform(dtype=dtype), _norm(dtype), dtype=dtype, name=name, **options
        )

    return make


def _metaformer_block(dtype=None, name=None):
    return blocks.MetaFormerBlock(
        _step(layers.PoolingMixer)(dtype),
        _step(blocks.ChannelMLP, residual_scaling="residual")(dtype),
        dtype=dtype,
        name=name,
    )


def _with_norms(dtype=None, name=None):
    return blocks.Downsampling(
        6,
        3,
        2,
        1,
        pre_norm=_norm(dtype),
        post_norm=_norm(dtype),
        dtype=dtype,
        name=name,
    )


@pytest.mark.parametrize(
    ("make", "trainable", "output_shape", "reference"),
    [
        pytest.param(blocks.ChannelMLP, 4, MAP, _mlp, id="ChannelMLP"),
        pytest.param(
            lambda **kw: blocks.ChannelMLP(1.5, "gelu", use_bias=True, **kw),
            4,
            MAP,
            _mlp,
            id="ChannelMLP-biased",
        ),
        pytest.param(
            lambda **kw: blocks.ChannelMLP(2, use_bias=(False, True), **kw),
            5,
            MAP,
            _mlp,
            id="ChannelMLP-half-biased",
        ),
        pytest.param(
            lambda **kw: blocks.Downsampling(6, 3, 2, 1, **kw),
            2,
            (2, 3, 2, 6),
            _downsampling,
            id="Downsampling",
        ),
        pytest.param(
            lambda **kw: blocks.Downsampling(6, 2, 2, **kw),
            2,
            (2, 2, 2, 6),
            _downsampling,
            id="Downsampling-patches",
        ),
        pytest.param(
            _with_norms, 6, (2, 3, 2, 6), _downsampling, id="Downsampling-norms"
        ),
        pytest.param(
            _step(layers.PoolingMixer), 2, MAP, _residual(_pool), id="ResidualBranch"
        ),
        pytest.param(
            _step(
                blocks.ChannelMLP,
                residual_scaling="branch",
                layer_scale_initial_value=0.5,
                stochastic_depth_rate=0.1,
                seed=1,
            ),
            8,
            MAP,
            _residual(_mlp),
            id="ResidualBranch-branch",
        ),
        pytest.param(_metaformer_block, 9, MAP, _block, id="MetaFormerBlock"),
    ],
)
def test_block(make, trainable, output_shape, reference, tmp_path):
    run_layer_test(
        make,
        MAP,
        tmp_path,
        trainable=trainable,
        output_shape=output_shape,
        reference=reference,
    )


def test_patch_merging(tmp_path):
    run_layer_test(
        blocks.PatchMerging,
        (2, 6, 4, 4),
        tmp_path,
        trainable=9,
        frozen=6,
        output_shape=(2, 3, 2, 8),
    )


def test_a_dropped_branch_leaves_the_identity():
    step = _step(layers.IdentityMixer, stochastic_depth_rate=0.5, seed=3)()
    x = np.random.default_rng(0).normal(size=(64, 2, 2, 8)).astype("float32")
    change = to_numpy(step(x, training=True)) - x
    dropped = np.abs(change).max(axis=(1, 2, 3)) == 0
    assert 10 < dropped.sum() < 54
    normed = to_numpy(step.norm(x))
    np.testing.assert_allclose(change[~dropped], 2 * normed[~dropped], atol=1e-5)


def test_dropout_of_the_mlp_acts_in_training_only_and_is_seeded():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype("float32")

    def train():
        keras.utils.set_random_seed(2)
        mlp = blocks.ChannelMLP(dropout=0.5, seed=4)
        mlp(x)
        return to_numpy(mlp(x)), to_numpy(mlp(x, training=True))

    first, second = train(), train()
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    # Half of the outputs are dropped at the very end.
    assert 0.3 < (first[1] == 0).mean() < 0.7
    assert not (first[0] == 0).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: blocks.ChannelMLP(ratio=0), "Received: ratio=0"),
        (lambda: blocks.ChannelMLP(use_bias=(True,)), "Received: use_bias="),
        (lambda: blocks.ChannelMLP(ratio=0.1).build((None, 8)), "channels=8"),
        (lambda: blocks.Downsampling(0, 3, 2), "Received: filters=0"),
        (lambda: blocks.Downsampling(8, 3, -2), "Received: strides=-2"),
        (
            lambda: blocks.Downsampling(8, 7, 4, 2).build((None, 2, 9, 3)),
            "at least 3 pixels high and wide. Received: 2",
        ),
        (
            lambda: _step(layers.IdentityMixer, residual_scaling="res")(),
            "Received: residual_scaling='res'",
        ),
        (
            lambda: _step(layers.IdentityMixer, stochastic_depth_rate=1.0)(),
            "Received: rate=1.0",
        ),
        (
            lambda: _step(lambda dtype: keras.layers.Dense(3))().build(MAP),
            "Dense that makes (2, 5, 4, 3) of (2, 5, 4, 8)",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.backend_independent
def test_every_public_block_is_checked():
    assert set(blocks.__all__) == {
        "ChannelMLP",
        "Downsampling",
        "MetaFormerBlock",
        "PatchMerging",
        "ResidualBranch",
    }
