"""What the models of every family must be able to do."""

import keras
import numpy as np
import pytest

from keras_metaformer.models.complexity import count_macs
from keras_metaformer.weights.structure import weight_slots
from tests.backend_gradients import gradients
from tests.layer_checks import randomize, to_numpy
from tests.small_models import (
    FAMILIES,
    TIED_TO_A_SIZE,
    build_small,
    every_family,
    metaformer,
)

IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
#: Weights whose gradient is zero by the formula. A norm's bias is the same at every
#: position, which pooling minus identity takes to zero. What token mixing adds to all
#: channels alike is taken away by the layer norms that follow.
ZERO_GRADIENTS = {
    "poolformer": "token_mixing/norm/beta",
    "poolformer_hybrids": (  # The stages that pool.
        "stage_0_block_0/token_mixing/norm/beta",
        "stage_1_block_0/token_mixing/norm/beta",
    ),
    "mlp_mixer": "token_mixing/transform/project/bias",
}


# Which layers a loss reaches is in the model; mixers have gradients on each backend.
@pytest.mark.one_backend
@pytest.mark.parametrize("family", FAMILIES)
def test_every_trainable_weight_gets_a_gradient(family):
    # 96 pixels: at 32 the last map would be one pixel, where mixing has no say.
    images = np.random.default_rng(1).normal(size=(2, 96, 96, 3)).astype("float32")
    model = build_small(family, (96, 96, 3), classifier_activation=None)
    randomize(model)
    found = gradients(model, images)
    assert len(found) == len(model.trainable_weights) > 10

    for path, slot in weight_slots(model).items():
        if not slot.variable.trainable:
            assert slot.variable.path not in found
            continue
        gradient = found[slot.variable.path]
        assert np.isfinite(gradient).all(), path
        largest = np.abs(gradient).max()
        if path.endswith(ZERO_GRADIENTS.get(family, "never")):
            assert largest < 1e-3, path
        else:
            assert largest > 1e-4, path


def test_random_matrices_are_frozen_and_all_else_is_trained():
    model = build_small("randformer", classifier_activation=None)
    randomize(model)
    matrices = [w for w in model.weights if w.name == "random_matrix"]
    assert [tuple(matrix.shape) for matrix in matrices] == [(16, 16), (4, 4)]
    assert not any(matrix.trainable for matrix in matrices)
    before = {weight.path: to_numpy(weight) for weight in model.weights}
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = model.fit(IMAGES, np.array([1, 4]), epochs=2, verbose=0)

    assert np.isfinite(history.history["loss"]).all()
    unchanged = {
        weight.path
        for weight in model.weights
        if np.array_equal(to_numpy(weight), before[weight.path])
    }
    assert unchanged == {matrix.path for matrix in matrices}


@pytest.mark.parametrize(
    "policy",
    # As layers they are all run in both on each backend.
    [pytest.param("mixed_float16", marks=pytest.mark.one_backend), "mixed_bfloat16"],
)
@every_family
def test_mixed_precision_is_finite_and_near_float32(family, policy):
    exact = build_small(family, classifier_activation=None)
    randomize(exact)
    keras.config.set_dtype_policy(policy)
    try:
        model = build_small(family, classifier_activation=None)
    finally:
        keras.config.set_dtype_policy("float32")
    model.set_weights(exact.get_weights())

    # Large inputs: what overflows shows.
    images = 4.0 * IMAGES
    outputs = model(images, training=False)

    compute_dtype = keras.DTypePolicy(policy).compute_dtype
    assert keras.backend.standardize_dtype(outputs.dtype) == compute_dtype
    assert all(weight.dtype == "float32" for weight in model.weights)
    values = to_numpy(keras.ops.cast(outputs, "float32"))
    assert np.isfinite(values).all()
    expected = to_numpy(exact(images, training=False))
    assert np.abs(values - expected).max() <= 0.1 * np.abs(expected).max()


@every_family
def test_the_saved_file_is_the_model(family, tmp_path):
    model = build_small(family, classifier_activation=None, include_preprocessing=True)
    randomize(model)
    path = tmp_path / "model.keras"
    model.save(path)

    loaded = keras.saving.load_model(path)

    assert type(loaded) is type(model)
    assert loaded.name == model.name
    assert list(weight_slots(loaded)) == list(weight_slots(model))
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
        assert ours.trainable == theirs.trainable
    np.testing.assert_array_equal(
        to_numpy(model(IMAGES * 50, training=False)),
        to_numpy(loaded(IMAGES * 50, training=False)),
    )
    assert loaded.pyramid_level_inputs == model.pyramid_level_inputs
    assert [tuple(output.shape) for output in loaded.pyramid_outputs.values()] == [
        tuple(output.shape) for output in model.pyramid_outputs.values()
    ]
    assert count_macs(loaded) == count_macs(model)


# One family of each builder.
@pytest.mark.parametrize("family", ["caformer", "mlp_mixer", "ffnet"])
def test_stochastic_depth_and_dropout_are_seeded(family):
    def train(seed):
        keras.utils.set_random_seed(1)
        model = build_small(
            family,
            classifier_activation=None,
            fields={
                "seed": seed,
                "stochastic_depth_rate": 0.5,
                "head_dropout": 0.5,
            },
        )
        randomize(model)
        return to_numpy(model(IMAGES, training=True))

    np.testing.assert_array_equal(train(5), train(5))
    assert (train(5) != train(6)).any()


def test_blocks_of_one_model_have_different_random_matrices():
    def matrices():
        model = metaformer("random", depths=(2, 1), seed=5)
        return [to_numpy(w) for w in model.weights if w.name == "random_matrix"]

    first, second, _ = matrices()
    assert first.shape == second.shape
    assert (first != second).any()
    np.testing.assert_array_equal(first, matrices()[0])


@pytest.mark.one_backend
@every_family
def test_without_the_top_sizes_are_free_unless_tied(family):
    model = build_small(family, None, include_top=False, pooling="avg")
    if family in TIED_TO_A_SIZE:
        assert None not in model.input_shape[1:]
        return
    assert model.input_shape == (None, None, None, 3)
    images = np.random.default_rng(2).normal(size=(1, 97, 65, 3)).astype("float32")
    outputs = to_numpy(model(images, training=False))
    assert outputs.shape == (1, model.output_shape[-1])
    assert np.isfinite(outputs).all()


@pytest.mark.one_backend
@every_family
def test_pyramid_as_a_detector_takes_it(family):
    backbone = build_small(family, include_top=False)
    outputs = backbone.pyramid_outputs
    assert list(backbone.pyramid_level_inputs) == list(outputs)
    for level, tensor in outputs.items():
        stride = 2 ** int(level[1:])
        assert tuple(tensor.shape[1:3]) == (64 // stride, 64 // stride)
    detector = keras.Model(backbone.inputs, outputs)
    maps = detector(IMAGES, training=False)
    assert {level: tuple(value.shape[1:]) for level, value in maps.items()} == {
        level: tuple(value.shape[1:]) for level, value in outputs.items()
    }


def test_pyramid_of_a_hierarchical_model_names_its_stages():
    model = build_small("caformer")
    assert model.pyramid_level_inputs == {
        "P2": "stage_0",
        "P3": "stage_1",
        "P4": "stage_2",
        "P5": "stage_3",
    }
    # Used inside another model, and called again, it is still a backbone.
    image = keras.Input((64, 64, 3))
    outer = keras.Model(image, model(image))
    model(IMAGES)
    assert outer.output_shape == (None, 7)
    assert list(model.pyramid_outputs) == ["P2", "P3", "P4", "P5"]
