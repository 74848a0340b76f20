"""Layers made of other layers."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer import blocks, layers
from keras_metaformer.models.complexity import layer_macs
from tests.layer_checks import randomize, to_numpy
from tests.reference import formulas

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


@keras.saving.register_keras_serializable(package="tests")
class Shifted(layers.Composite):
    """A mixer as a user writes one: two branches, a layer with nothing but a call."""

    def build(self, input_shape):
        channels, dtype = input_shape[-1], self.dtype_policy
        self.shift = CallOnly(dtype=dtype)
        self.depthwise = layers.DepthwiseConvolution(3, dtype=dtype)
        self.expand = keras.layers.Dense(2 * channels, dtype=dtype)
        self.activation = layers.StarReLU("paper", dtype=dtype)
        self.project = keras.layers.Dense(channels, dtype=dtype)
        self.scale = layers.ResScale(0.5, dtype=dtype)
        super().build(input_shape)

    def flow(self, run, x):
        local = run(x, self.shift, None, self.depthwise)
        wide = run(x, self.expand, self.activation, self.project)
        return run.add(local, wide, self.scale)


@keras.saving.register_keras_serializable(package="tests")
class CallOnly(keras.layers.Layer):
    def call(self, inputs):
        return inputs + 1.0


class Flow(layers.Composite):
    """A composite layer around parts and a function."""

    def __init__(self, flow, *parts, **kwargs):
        super().__init__(**kwargs)
        self._flow = flow
        for index, part in enumerate(parts):
            setattr(self, f"part_{index}", part)

    def flow(self, run, x):
        return self._flow(self, run, x)


def test_a_mixer_of_the_users_own():
    image = keras.Input(MAP.shape[1:])
    layer = Shifted(name="mixer")
    model: Any = keras.Model(image, layer(image))
    randomize(model)
    assert layer.compute_output_shape((None, 6, 5, 8)) == (None, 6, 5, 8)
    assert {weight.path for weight in layer.weights} == {
        f"mixer/{path}"
        for path in (
            "depthwise/kernel",
            "expand/kernel",
            "expand/bias",
            "activation/scale",
            "activation/bias",
            "project/kernel",
            "project/bias",
            "scale/scale",
        )
    }
    weights: Any = {weight.path: to_numpy(weight) for weight in layer.weights}
    x = MAP.astype("float64")
    local = formulas.depthwise_convolution(x + 1, weights["mixer/depthwise/kernel"], 1)
    wide = x @ weights["mixer/expand/kernel"] + weights["mixer/expand/bias"]
    wide = np.maximum(wide, 0) ** 2 * weights["mixer/activation/scale"]
    wide = wide + weights["mixer/activation/bias"]
    wide = wide @ weights["mixer/project/kernel"] + weights["mixer/project/bias"]
    expected = local * weights["mixer/scale/scale"] + wide
    for training in (False, True):
        received = to_numpy(model(MAP, training=training))
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4)
    assert layer_macs(layer, (1, 6, 5, 8)) == 30 * (8 * 9 + 2 * 8 * 16)


def test_counts_of_heads_narrower_than_the_map():
    layer = layers.SelfAttentionMixer(3)  # Two heads, 6 of 8 channels.
    layer.build((1, 6, 5, 8))
    linear = 30 * (8 * 3 * 6 + 6 * 8)
    assert layer_macs(layer, (1, 6, 5, 8)) == linear + 2 * 30 * 30 * 6


def test_its_own_count_goes_before_the_rules():
    class Counted(layers.SeparableConvolutionMixer):
        def count_macs(self, input_shape):
            return 7

    layer = Counted()
    layer.build((1, 6, 5, 8))
    assert layer_macs(layer, (1, 6, 5, 8)) == 7
    assert layer_macs(blocks.ResidualBranch(layer, layers.Affine()), (1, 6, 5, 8)) == 7


def test_a_class_with_another_call_needs_a_rule_of_its_own():
    class Doubled(keras.layers.Dense):
        def call(self, inputs):
            return super().call(super().call(inputs))

    class Renamed(keras.layers.Dense):
        pass

    layer = Flow(lambda self, run, x: run(x, self.part_0), Doubled(8))
    layer.build((1, 6, 5, 8))
    with pytest.raises(TypeError, match="Doubled has matrices of weights"):
        layer_macs(layer, (1, 6, 5, 8))
    renamed = Renamed(4)
    renamed.build((1, 6, 5, 8))
    assert layer_macs(renamed, (1, 6, 5, 8)) == 30 * 8 * 4


def test_the_layer_that_changes_the_shape_of_a_branch_is_named():
    norm = keras.layers.LayerNormalization()
    step = blocks.ResidualBranch(keras.layers.Dense(5), norm)
    with pytest.raises(ValueError, match=r"Dense that makes \(.*5\) of \(.*8\)"):
        step.build((None, 6, 5, 8))


@pytest.mark.parametrize(
    "flow",
    [
        lambda self, run, x: run.add(run.add(x, b := run(x, self.part_0)), b),
        lambda self, run, x: run(
            [run.add(x, b := run(x, self.part_0)), b], keras.layers.Add()
        ),
    ],
)
def test_a_branch_is_not_used_after_its_sum(flow):
    with pytest.raises(ValueError, match="branch after its sum"):
        Flow(flow, keras.layers.Dense(8)).build((None, 6, 5, 8))


def test_no_map_of_another_is_overwritten():
    kept = []

    class Keeping(layers.PoolingMixer):
        def call(self, inputs):
            kept.append(super().call(inputs))
            return kept[-1]

    star, squared = layers.StarReLU("paper"), layers.SquaredReLU()
    ends = (layers.IdentityMixer(), Keeping(), keras.layers.Dense(8))
    for end in ends:
        # Activations of the input itself, and after what may keep its output.
        layer: Any = Flow(
            lambda self, run, x: run.add(x, run(x, self.part_0, self.part_1)),
            end,
            star if end is not ends[1] else squared,
        )
        x = keras.ops.convert_to_tensor(MAP)
        first = to_numpy(layer(x, training=False))
        np.testing.assert_array_equal(to_numpy(x), MAP)
        np.testing.assert_array_equal(to_numpy(layer(x, training=False)), first)
    for one, other in itertools.pairwise(kept):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))
    assert to_numpy(kept[0]).min() < 0


def test_sizes_are_known_before_parts_are_made():
    layer = layers.BatchNormalized(keras.layers.Dense(3, use_bias=False))
    assert layer.compute_output_shape((None, 6, 5, 8)) == (None, 6, 5, 3)
    assert not layer.built


def test_shapes_come_as_lists_from_a_file():
    layer = layers.MetaMixer.self_attention(8, 4)
    layer.build_from_config({"input_shape": [None, 6, 5, 8]})
    assert layer.compute_output_shape([None, 6, 5, 8]) == (None, 6, 5, 8)


def test_a_flow_is_asked_for():
    with pytest.raises(NotImplementedError, match=r"flow\(run, x\).*Composite"):
        layers.Composite().build((None, 6, 5, 8))
