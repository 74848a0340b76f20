"""The FFNet builder."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer import layers
from keras_metaformer.arrays import to_numpy
from keras_metaformer.models import families
from keras_metaformer.models.ffnet import FFNET
from tests.backend_gradients import gradients
from tests.layer_checks import randomize
from tests.small_models import build

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
SMALL: Any = {
    "depths": (2, 1),
    "widths": (8, 16),
    "stem_width": 4,
    "token_kernel_size": 3,
    "channel_kernel_size": 3,
    "input_shape": (32, 32, 3),
    "classes": 5,
}


def _build(fields=None, **arguments) -> Any:
    return build(FFNET, **{**SMALL, **(fields or {}), **arguments})


def _outputs(model):
    return to_numpy(model(IMAGES, training=False))


def test_stages():
    model = _build()
    assert model.pyramid_level_inputs == {"P2": "stage_0", "P3": "stage_1"}
    shapes = {level: maps.shape for level, maps in model.pyramid_outputs.items()}
    assert shapes == {"P2": (None, 8, 8, 8), "P3": (None, 4, 4, 16)}
    names = [layer.name for layer in model.layers]
    assert names[:3] == ["image", "stem_0", "stem_activation"]
    assert "stage_1_downsampling" in names and "stage_0_downsampling" not in names


def test_kernels_and_layer_scale_go_where_they_belong():
    model = _build({"token_kernel_size": (3, 7), "layer_scale_initial_value": 0.5})
    first = model.get_layer("stage_0_block_0")
    last = model.get_layer("stage_1_block_0")
    assert isinstance(
        first.token_mixing.transform.interaction, layers.DepthwiseConvolution
    )
    assert isinstance(
        last.token_mixing.transform.interaction, layers.ReparameterizableDepthwise
    )
    for branch in (first.token_mixing, last.channel_mixing):
        np.testing.assert_array_equal(to_numpy(branch.layer_scale.scale), 0.5)
    assert _build().get_layer("stage_0_block_0").token_mixing.layer_scale is None
    zero = _build({"layer_scale_initial_value": 0.0}).get_layer("stage_0_block_0")
    np.testing.assert_array_equal(to_numpy(zero.token_mixing.layer_scale.scale), 0)


def test_squeeze_excitation_stands_in_every_other_block_of_its_stages():
    model = _build({"depths": (3, 2), "squeeze_excitation": (True, False)})
    between = {
        layer.name: layer.between for layer in model.layers if "_block_" in layer.name
    }
    with_squeeze = [name for name, layer in between.items() if layer is not None]
    assert with_squeeze == ["stage_0_block_0", "stage_0_block_2"]
    assert isinstance(between["stage_0_block_0"], layers.SqueezeExcitation)


def test_squeeze_excitation_matters_trains_and_serialises(tmp_path):
    model = _build({"squeeze_excitation": True}, classifier_activation=None)
    plain = _build(classifier_activation=None)
    randomize(model)
    squeeze = [weight for weight in model.weights if "/between/" in weight.path]
    assert len(squeeze) == 8  # one of the first stage's two blocks, one of the second's
    found = gradients(model, IMAGES)
    for weight in squeeze:
        assert np.abs(found[weight.path]).max() > 1e-6, weight.path

    ours = [weight for weight in model.weights if "/between/" not in weight.path]
    plain.set_weights([to_numpy(weight) for weight in ours])
    assert np.abs(_outputs(model) - _outputs(plain)).max() > 1e-3

    path = tmp_path / "model.keras"
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    np.testing.assert_array_equal(_outputs(loaded), _outputs(model))

    before = [to_numpy(weight) for weight in squeeze]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(IMAGES, np.ones((2, 5)), verbose=0)
    for old, weight in zip(before, squeeze, strict=True):
        assert not np.array_equal(old, to_numpy(weight)), weight.path


def test_batch_norms_learn_their_statistics_in_training_only():
    model = _build()
    randomize(model)

    def statistics():
        return [to_numpy(w) for w in model.weights if w.name.startswith("moving_")]

    before = statistics()
    answers = model.predict(IMAGES, verbose=0)
    # Of one shape, for which the model is compiled once.
    first_twice = model.predict(IMAGES[[0, 0]], verbose=0)
    np.testing.assert_allclose(first_twice, answers[[0, 0]], atol=1e-5)
    for old, new in zip(before, statistics(), strict=True):
        np.testing.assert_array_equal(old, new)
    # Two in the stem, one in each of the three queries of either mixer, three in the
    # patch merging, one at the end: each has two statistics.
    assert len(before) == 2 * (2 + 3 * 2 + 3 + 1)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    model.fit(IMAGES, np.array([1, 2]), verbose=0)
    for old, new in zip(before, statistics(), strict=True):
        assert not np.array_equal(old, new)


@pytest.mark.one_backend
def test_every_weight_has_a_gradient():
    model = _build({"layer_scale_initial_value": 0.5}, classifier_activation=None)
    randomize(model)
    found = gradients(model, IMAGES)
    assert len(found) == len(model.trainable_weights)
    dead = [path for path, value in found.items() if not np.abs(value).max() > 1e-6]
    assert not dead


def test_seeds_differ_between_the_branches():
    model = _build({"stochastic_depth_rate": 0.2, "seed": 3})
    again = _build({"stochastic_depth_rate": 0.2, "seed": 3})

    def branches(model):
        blocks = [layer for layer in model.layers if "_block_" in layer.name]
        return [
            (branch.stochastic_depth_rate, branch.seed)
            for block in blocks
            for branch in (block.token_mixing, block.channel_mixing)
        ]

    np.testing.assert_allclose(
        [rate for rate, _ in branches(model)], [0, 0, 0.1, 0.1, 0.2, 0.2]
    )
    assert len({seed for _, seed in branches(model)}) == 6
    assert branches(model) == branches(again)


@pytest.mark.one_backend
def test_maps_of_open_size():
    model = _build(input_shape=None, include_top=False)
    assert model.input_shape == (None, None, None, 3)
    assert model(np.ones((1, 45, 37, 3), "float32")).shape == (1, 6, 5, 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (1,)}, "Received: depths=(1,), widths=(8, 16)"),
        ({"depths": (1, 0)}, "Received: depths=0"),
        ({"widths": (8, 12)}, "Received: widths=(8, 12)"),
        ({"token_kernel_size": (3, 7, 7)}, "token_kernel_size"),
        ({"token_kernel_size": 4}, "Received: kernel_size=4"),
        ({"channel_kernel_size": 0}, "Received: kernel_size=0"),
        ({"mlp_ratio": 2.5}, "Received: ratio=2.5"),
        ({"stem_width": 0}, "Received: filters=0"),
        ({"stochastic_depth_rate": -0.1}, "Received: stochastic_depth_rate=-0.1"),
        ({"activation": "squish"}, "Unknown activation"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError) as error:
        _build(fields)
    assert message in str(error.value)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="at least 32 pixels"):
        km.FFNet1(weights=None, input_shape=(31, 64, 3))


@pytest.mark.backend_independent
def test_sizes_are_those_of_the_paper():
    variants = [families.get(f"FFNet{n}") for n in (1, 2, 3, 4)]
    arguments: Any = [FFNET.arguments(**variant.arguments) for variant in variants]

    def field(name):
        return [getattr(each, name) for each in arguments]

    assert field("depths") == [
        (2, 2, 8, 2),
        (3, 3, 15, 3),
        (4, 4, 22, 5),
        (4, 4, 27, 3),
    ]
    assert [widths[0] for widths in field("widths")] == [80, 88, 96, 128]
    assert field("channel_kernel_size") == [3, 7, 7, 7]
    assert field("layer_scale_initial_value") == [None, None, 1e-6, 1e-6]
    assert set(field("token_kernel_size")) == {(3, 3, 7, 7)}
    assert set(field("mlp_ratio")) == {3}
