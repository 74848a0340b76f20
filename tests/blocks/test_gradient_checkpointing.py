"""Training that computes branches twice instead of keeping what is inside them."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.blocks import ChannelMLP, MetaFormerBlock, ResidualBranch
from keras_metaformer.layers import FFNifiedAttention, PoolingMixer

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


def _block_with_states(again: bool) -> Any:
    """Batch norms before and inside of branches, dropout, whole branches dropped."""
    keras.utils.set_random_seed(0)
    step: Any = ResidualBranch
    mixing = step(
        FFNifiedAttention((7, 3)),
        keras.layers.BatchNormalization(momentum=0.5),
        stochastic_depth_rate=0.3,
        seed=5,
        gradient_checkpointing=again,
    )
    channels = step(
        ChannelMLP(dropout=0.3, seed=4),
        keras.layers.LayerNormalization(),
        gradient_checkpointing=again,
    )
    image = keras.Input((6, 6, 8))
    x = MetaFormerBlock(mixing, channels)(image)
    return keras.Model(image, keras.layers.Dense(3)(x))


@pytest.mark.parametrize(
    "run_eagerly", [False, pytest.param(True, marks=pytest.mark.one_backend)]
)
def test_statistics_and_random_numbers_change_once(run_eagerly):
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 6, 6, 8)).astype("float32")
    targets = random.normal(size=(4, 6, 6, 3)).astype("float32")
    results = []
    for again in (False, True):
        model = _block_with_states(again)
        before = [to_numpy(variable.value) for variable in model.variables]
        model.compile(keras.optimizers.SGD(0.3), "mse", run_eagerly=run_eagerly)
        for _ in range(3):
            model.train_on_batch(images, targets)
        results.append([to_numpy(variable.value) for variable in model.variables])
        changed = zip(model.variables, before, results[-1], strict=True)
        assert all(np.any(old != new) for _, old, new in changed)
    for plain, leaner in zip(*results, strict=True):
        np.testing.assert_allclose(leaner, plain, rtol=1e-4, atol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class Unseeded(keras.layers.Layer):
    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs))


def test_layers_that_change_what_is_not_theirs_are_refused():
    inner = keras.Sequential([keras.layers.BatchNormalization(), Unseeded()])
    step: Any = ResidualBranch(
        inner, keras.layers.LayerNormalization(), gradient_checkpointing=True
    )
    images = np.ones((1, 4, 4, 8), "float32")
    # On JAX Keras refuses them by itself, as soon as anything is traced.
    with pytest.raises(ValueError, match=r"SeedGenerator"):
        step(images)
        step(images, training=True)
