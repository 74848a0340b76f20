"""Training that computes branches twice instead of keeping what is inside them."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.blocks import ChannelMLP, ResidualBranch
from keras_metaformer.layers import (
    BatchNormalized,
    DepthwiseConvolution,
    PoolingMixer,
)

BACKEND = keras.backend.backend()


def _model(**fields: Any) -> Any:
    keras.utils.set_random_seed(0)
    return km.MetaFormer(
        depths=(1, 1, 1, 1),
        widths=(8, 16, 32, 32),
        mixer=("separable_convolution", "pooling", "random", "self_attention"),
        norm=("layer_norm", "group_norm", "layer_norm", "layer_norm"),
        residual_scaling=("none", "residual", "layer", "branch"),
        layer_scale_initial_value=0.5,
        input_shape=(64, 64, 3),
        classes=4,
        seed=0,
        **fields,
    )


def _trained(model: Any) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 64, 64, 3)).astype("float32")
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    for _ in range(2):
        model.train_on_batch(images, np.arange(4))
    return [to_numpy(weight.value) for weight in model.weights]


@pytest.mark.parametrize(
    "stochastic_depth_rate", [pytest.param(0.0, marks=pytest.mark.large), 0.5]
)
def test_training_gives_the_same_weights(stochastic_depth_rate):
    options = {"stochastic_depth_rate": stochastic_depth_rate}
    before = [to_numpy(weight.value) for weight in _model(**options).weights]
    plain = _trained(_model(**options))
    leaner = _trained(_model(gradient_checkpointing=True, **options))
    assert any(
        np.abs(new - old).max() > 1e-3 for new, old in zip(plain, before, strict=True)
    )
    for mine, theirs in zip(leaner, plain, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_some_stages_only_and_kept_in_the_file(tmp_path):
    model = _model(gradient_checkpointing=(True, False, False, True))
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        found = [
            each.get_layer(f"stage_{stage}_block_0").channel_mixing
            for stage in range(4)
        ]
        flags = [step.gradient_checkpointing for step in found]
        assert flags == [True, False, False, True]
    with pytest.raises(ValueError, match="one for each of the 4 stages"):
        _model(gradient_checkpointing=(True, False))


def test_isotropic_models_and_constructors_take_it():
    small: Any = {"weights": None, "classes": 3, "gradient_checkpointing": True}
    mixer = km.MLPMixerS32(input_shape=(64, 64, 3), **small)
    former = km.PoolFormerV2S12(input_shape=(32, 32, 3), **small)
    for name, model in (("block_0", mixer), ("stage_3_block_1", former)):
        assert model.get_layer(name).token_mixing.gradient_checkpointing


@pytest.mark.skipif(BACKEND != "jax", reason="about JAX's program")
def test_jax_computes_the_branch_again():
    import jax

    step: Any = ResidualBranch(
        PoolingMixer(), keras.layers.LayerNormalization(), gradient_checkpointing=True
    )
    images = np.ones((1, 4, 4, 8), "float32")
    step(images)
    program = str(jax.make_jaxpr(lambda x: step(x, training=True))(images))
    assert "checkpoint" in program or "remat" in program
    assert "remat" not in str(jax.make_jaxpr(lambda x: step(x))(images))


@pytest.mark.skipif(BACKEND == "jax", reason="JAX runs the Python code once in all")
def test_the_branch_is_called_again_for_the_gradient(monkeypatch):
    calls = []
    plain_call = PoolingMixer.call
    monkeypatch.setattr(
        PoolingMixer, "call", lambda self, x: calls.append(1) or plain_call(self, x)
    )
    counts = []
    for again in (False, True):
        step = ResidualBranch(
            PoolingMixer(),
            keras.layers.LayerNormalization(),
            gradient_checkpointing=again,
        )
        model: Any = keras.Sequential([keras.Input((4, 4, 8)), step])
        model.compile("sgd", "mse", run_eagerly=True)
        calls.clear()
        model.train_on_batch(np.ones((1, 4, 4, 8)), np.ones((1, 4, 4, 8)))
        counts.append(len(calls))
        calls.clear()
        model.predict_on_batch(np.ones((1, 4, 4, 8)))
        assert len(calls) == 1
    assert counts[1] == counts[0] + 1


@pytest.mark.parametrize(
    "transform",
    [
        lambda: ChannelMLP(dropout=0.1),
        lambda: BatchNormalized(DepthwiseConvolution(3)),
    ],
)
def test_layers_that_would_not_repeat_themselves_are_refused(transform):
    step = ResidualBranch(
        transform(), keras.layers.LayerNormalization(), gradient_checkpointing=True
    )
    with pytest.raises(ValueError, match="draw no random numbers"):
        step(np.ones((1, 4, 4, 8), "float32"))
