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


@pytest.mark.one_backend
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


@pytest.mark.one_backend
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
        ({"token_kernel_size": 4}, "Received: token_kernel_size=4"),
        ({"token_kernel_size": ((3, 5, 7), 3)}, "token_kernel_size=(3, 5, 7)"),
        ({"token_kernel_size": 1, "branches": True}, "odd and at least 3"),
        ({"channel_kernel_size": 0}, "Received: channel_kernel_size=0"),
        ({"mixer": "attention"}, "Unknown mixer"),
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


@pytest.mark.one_backend
def test_a_mixer_for_each_stage_and_keys_and_values_apart(tmp_path):
    model = km.FFNet(
        depths=(1, 1, 1),
        widths=(8, 16, 32),
        stem_width=4,
        mixer=("ffnified_attention", layers.PoolingMixer(5), "self_attention"),
        norm=("identity", "identity", "layer_norm"),
        token_kernel_size=((3, 5), 3, 3),
        channel_kernel_size=3,
        mlp_ratio=(2, 3, 4),
        input_shape=(45, 37, 3),
        classes=5,
    )
    steps = [model.get_layer(f"stage_{stage}_block_0") for stage in range(3)]
    first, second, third = (step.token_mixing.transform for step in steps)
    assert first.interaction.kernel_size == 3 and first.aggregation.kernel_size == 5
    assert isinstance(second, layers.PoolingMixer) and second.pool_size == 5
    assert isinstance(third, layers.SelfAttentionMixer)
    assert isinstance(steps[2].token_mixing.norm, keras.layers.LayerNormalization)
    assert [step.channel_mixing.transform.ratio for step in steps] == [2, 3, 4]
    images = np.random.default_rng(1).normal(size=(2, 45, 37, 3)).astype("float32")
    randomize(model)
    expected = to_numpy(model(images, training=False))
    assert expected.shape == (2, 5)
    np.testing.assert_allclose(to_numpy(km.fold(model)(images)), expected, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(images, training=False)), expected)


@pytest.mark.parametrize("branches", [False, True, None])
def test_branches_or_none(branches):
    model = _build(
        {"token_kernel_size": (3, 7), "channel_kernel_size": 7, "branches": branches}
    )
    names = [type(layer).__name__ for layer in model._flatten_layers()]
    branched = names.count("ReparameterizableDepthwise")
    # Two blocks, then one: two convolutions in each token mixer, one beside, one
    # between the stages. As published those of 3 pixels have no branches.
    assert branched == {False: 0, True: 10, None: 6}[branches]
    randomize(model)
    folded = km.fold(model)
    assert "ReparameterizableDepthwise" not in [
        type(layer).__name__ for layer in folded._flatten_layers()
    ]
    np.testing.assert_allclose(_outputs(folded), _outputs(model), atol=2e-5)


@pytest.mark.one_backend
def test_gradient_checkpointing_trains_alike():
    results = []
    for again in (False, (True, False)):
        keras.utils.set_random_seed(3)
        model = _build({"gradient_checkpointing": again}, classifier_activation=None)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        for _ in range(2):
            model.train_on_batch(IMAGES, np.ones((2, 5), "float32"))
        flags = [
            model.get_layer(f"stage_{stage}_block_0").token_mixing for stage in range(2)
        ]
        assert [step.gradient_checkpointing for step in flags] == [bool(again), False]
        results.append([to_numpy(weight.value) for weight in model.weights])
    for leaner, plain in zip(*results, strict=True):
        np.testing.assert_allclose(leaner, plain, rtol=1e-4, atol=2e-5)


def test_kernel_sizes_without_a_mixer_that_has_them_are_refused():
    with pytest.raises(ValueError, match="would change nothing"):
        km.FFNet((1, 1), (8, 16), mixer="pooling", token_kernel_size=5)


def test_kernels_by_default_are_small_in_the_earlier_half_of_the_stages():
    make: Any = FFNET.arguments
    sizes = [make((1,) * n, (8,) * n).token_kernel_size for n in (1, 3, 4)]
    assert sizes == [(7,), (3, 7, 7), (3, 3, 7, 7)]


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
