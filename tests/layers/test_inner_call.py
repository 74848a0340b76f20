"""Layers inside layers: called without bookkeeping where that changes nothing."""

import contextlib
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest

from keras_metaformer import blocks, layers
from keras_metaformer.layers import fast_paths
from tests.small_models import EACH_BUILDER, FAMILIES, build_small, metaformer

BACKEND = keras.backend.backend()
MAP = (2, 6, 5, 8)
needs_torch = pytest.mark.skipif(BACKEND != "torch", reason="elsewhere always Keras'")


def _images(size: int = 64, batch: int = 2) -> np.ndarray:
    return (
        np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype("float32")
    )


def _numpy(tensor) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


def _called_by_keras(kind: type) -> contextlib.AbstractContextManager:
    """Records the layers of a class that are called as Keras calls layers."""
    return mock.patch.object(kind, "__call__", autospec=True, side_effect=kind.__call__)


# In half precision one family with attention and one with batch norms speak for all.
_HALF = ("caformer", "ffnet")


@pytest.mark.parametrize(
    ("family", "policy"),
    [
        *(
            pytest.param(
                family,
                "float32",
                # Only on torch are layers called in another way.
                marks=()
                if BACKEND == "torch" or family in EACH_BUILDER
                else pytest.mark.one_backend,
            )
            for family in FAMILIES
        ),
        *(
            pytest.param(
                family,
                "mixed_bfloat16",
                marks=pytest.mark.one_backend if family in _HALF else pytest.mark.large,
            )
            for family in FAMILIES
        ),
    ],
)
def test_on_and_off_agree(family, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        model = build_small(family)
    finally:
        keras.config.set_dtype_policy(before)
    outputs = []
    for on in (True, False):
        with fast_paths.switched(on):
            outputs.append(_numpy(model(_images())))
    tolerance = 1e-5 if policy == "float32" else 3e-2
    difference = np.abs(outputs[0] - outputs[1]).max()
    assert difference <= tolerance * np.abs(outputs[1]).max()


@needs_torch
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_inside_a_block_is_called_directly(family):
    model = build_small(family)
    for on in (True, False):
        with fast_paths.switched(on), _called_by_keras(keras.layers.Dense) as called:
            model(_images())
        inside = [
            call.args[0].name
            for call in called.call_args_list
            if call.args[0] not in model.layers
        ]
        assert bool(inside) != on


@needs_torch
def test_a_model_walks_through_its_layers():
    model = build_small("convformer")
    images: Any = keras.ops.convert_to_tensor(_images())
    assert model._can_walk(images)
    assert not model._can_walk([images])
    assert not model._can_walk(_images())
    assert not model._can_walk(images[0])
    with fast_paths.switched(False):
        assert not model._can_walk(images)
    expected = _numpy(model(images))
    # Whatever a functional model takes, it goes on taking.
    for inputs in ([images], {"image": images}, _images()):
        np.testing.assert_allclose(_numpy(model(inputs)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="incompatible with the layer"):
        model(images[:, :32])


@needs_torch
def test_a_model_that_branches_does_not_walk():
    model = build_small("convformer")
    output = model.output + keras.layers.Dense(7)(
        model.get_layer("average_pool").output
    )
    branched = type(model)(model.input, output)
    images: Any = keras.ops.convert_to_tensor(_images())
    assert branched._chain is None
    assert not np.allclose(_numpy(branched(images)), _numpy(model(images)))


@pytest.mark.parametrize("training", [True, False, None])
def test_layers_learn_whether_this_is_training(training):
    keras.utils.set_random_seed(0)
    mlp = blocks.ChannelMLP(dropout=0.5)
    block = blocks.MetaFormerBlock(
        blocks.ResidualBranch(
            layers.SeparableConvolutionMixer(activation=keras.layers.Dropout(0.5)),
            keras.layers.BatchNormalization(),
        ),
        blocks.ResidualBranch(mlp, keras.layers.LayerNormalization()),
    )
    model = keras.Sequential([keras.Input(MAP[1:]), block])
    inputs = np.random.default_rng(0).normal(size=MAP).astype("float32")
    statistics = _numpy(block.token_mixing.norm.moving_mean).copy()
    first, second = (_numpy(model(inputs, training=training)) for _ in range(2))
    assert np.allclose(first, second) != bool(training)
    changed = not np.allclose(statistics, _numpy(block.token_mixing.norm.moving_mean))
    assert changed == bool(training)


def test_dropout_in_the_activation_alone_is_seen():
    layer = layers.SeparableConvolutionMixer(activation=keras.layers.Dropout(0.5))
    inputs = np.ones(MAP, "float32")
    layer.build(MAP)
    model = keras.Sequential([keras.Input(MAP[1:]), layer])
    first, second = (_numpy(model(inputs, training=True)) for _ in range(2))
    assert not np.allclose(first, second)


class OwnDense(keras.layers.Dense):
    """A user's layer, which may count on all that Keras does."""


@needs_torch
def test_layers_of_users_are_called_by_keras():
    step = blocks.ResidualBranch(OwnDense(8), layers.IdentityMixer())
    inputs = np.ones(MAP, "float32")
    step(inputs)
    with _called_by_keras(OwnDense) as called:
        step(inputs)
    assert called.call_count == 1


@needs_torch
def test_hooks_of_torch_run():
    import torch

    mlp = blocks.ChannelMLP()
    inputs = np.ones(MAP, "float32")
    mlp(inputs)
    seen = []
    handle = mlp.expand.register_forward_hook(lambda *_: seen.append("forward"))
    mlp(inputs)
    handle.remove()
    mlp(inputs)
    assert seen == ["forward"]
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: seen.append(module)
    )
    try:
        mlp(inputs)
    finally:
        handle.remove()
    assert mlp.project in seen


@needs_torch
@pytest.mark.parametrize(
    ("activation", "regularizer"),
    [("star_relu", None), ("squared_relu", None), ("squared_relu", "l2")],
)
def test_what_hooks_keep_stays_as_it_was(activation, regularizer):
    import torch

    step = blocks.ResidualBranch(
        # With a regularizer Keras calls the layer.
        blocks.ChannelMLP(activation=activation, activity_regularizer=regularizer),
        layers.IdentityMixer(),
    )
    inputs = keras.random.normal(MAP)
    expected = _numpy(step(inputs))
    kept: dict[str, Any] = {}
    for name, layer in {
        "expand": step.transform.expand,
        "project": step.transform.project,
        "transform": step.transform,
    }.items():
        layer.register_forward_hook(
            lambda _, __, outputs, name=name: kept.update({name: outputs})
        )
    received: list[Any] = []
    step.transform.activation.register_forward_pre_hook(
        lambda _, inputs: received.extend(inputs)
    )
    with torch.no_grad():
        outputs = step(inputs)
        mlp = step.transform
        hidden = _numpy(mlp.expand(inputs))
        np.testing.assert_allclose(_numpy(received[0]), hidden, atol=1e-6)
        for name, layer, given in (
            ("expand", mlp.expand, inputs),
            ("project", mlp.project, mlp.activation(kept["expand"])),
            ("transform", mlp, inputs),
        ):
            before = _numpy(kept[name]).copy()
            np.testing.assert_allclose(before, _numpy(layer(given)), atol=1e-6)
    np.testing.assert_allclose(_numpy(outputs), expected, atol=1e-6)


class OwnSquaredReLU(layers.SquaredReLU):
    """A user's activation, which knows nothing of overwriting."""

    def call(self, inputs):
        return super().call(inputs) + 1


def test_activations_of_users_get_the_map_alone():
    mlp = blocks.ChannelMLP(activation=OwnSquaredReLU())
    inputs = np.ones(MAP, "float32")
    outputs = _numpy(mlp(inputs))
    expected = _numpy(mlp.project(mlp.activation(mlp.expand(inputs))))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)


class Remembering(keras.layers.Dense):
    """A user's layer that needs its output later."""

    def call(self, inputs, training=None):
        self.remembered = super().call(inputs, training=training)
        return self.remembered


class RememberingMixer(layers.PoolingMixer):
    """A user's mixer of one whose class says that its output may be overwritten."""

    def call(self, inputs):
        self.remembered = super().call(inputs)
        return self.remembered


@pytest.mark.parametrize(
    "make",
    [
        blocks.ChannelMLP,
        lambda: layers.GatedMLP(2),
        layers.IdentityMixer,
        layers.PoolingMixer,
        layers.RandomMixer,
        lambda: layers.SelfAttentionMixer(4),
        layers.SeparableConvolutionMixer,
        lambda: Remembering(8),
        RememberingMixer,
    ],
)
@pytest.mark.parametrize("scaling", ["none", "residual", "branch"])
def test_a_residual_sum_overwrites_only_the_branch(make, scaling):
    step = blocks.ResidualBranch(
        make(), layers.IdentityMixer(), scaling, layer_scale_initial_value=0.5
    )
    numbers = np.random.default_rng(0).normal(size=MAP).astype("float32")
    inputs: Any = keras.ops.convert_to_tensor(numbers.copy())
    with _without_gradients():
        outputs = _numpy(step(inputs))
        np.testing.assert_array_equal(_numpy(inputs), numbers)
        branch = _numpy(step.transform(inputs))
        if isinstance(step.transform, (Remembering, RememberingMixer)):
            step(inputs)
            np.testing.assert_array_equal(_numpy(step.transform.remembered), branch)
    factor = 0.5 if scaling == "branch" else 1.0
    np.testing.assert_allclose(outputs, numbers + factor * branch, atol=1e-5)


def _without_gradients() -> contextlib.AbstractContextManager:
    if BACKEND != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def test_losses_of_inner_layers_are_kept():
    mlp = blocks.ChannelMLP()
    inputs = np.ones(MAP, "float32")
    mlp(inputs)
    mlp.expand.activity_regularizer = keras.regularizers.L2(0.1)
    mlp(inputs)
    assert len(mlp.losses) == 1


def test_quantized_layers_compute_quantized():
    keras.utils.set_random_seed(0)
    model = metaformer()
    exact = _numpy(model(_images(32)))
    model.quantize("int8")
    outputs = []
    for on in (True, False):
        with fast_paths.switched(on):
            outputs.append(_numpy(model(_images(32))))
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-6)
    assert not np.array_equal(outputs[0], exact)


def test_low_rank_adaptation_is_seen():
    keras.utils.set_random_seed(0)
    mlp = blocks.ChannelMLP()
    inputs = np.random.default_rng(0).normal(size=MAP).astype("float32")
    before = _numpy(mlp(inputs))
    for layer in (mlp.expand, mlp.project):
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    outputs = []
    for on in (True, False):
        with fast_paths.switched(on):
            outputs.append(_numpy(mlp(inputs)))
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert np.abs(outputs[0] - before).max() > 0.1


def test_a_layer_of_another_dtype_casts():
    mlp = blocks.ChannelMLP(
        activation=layers.StarReLU(dtype="float32"), dtype="mixed_bfloat16"
    )
    inputs = np.ones(MAP, "float32")
    outputs = []
    for on in (True, False):
        with fast_paths.switched(on):
            outputs.append(mlp(inputs))
    assert keras.backend.standardize_dtype(outputs[0].dtype) == "bfloat16"
    np.testing.assert_allclose(_numpy(outputs[0]), _numpy(outputs[1]), atol=1e-3)
