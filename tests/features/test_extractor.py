"""Maps of every level, by name."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from tests.golden import features as golden
from tests.layer_checks import randomize
from tests.small_models import FAMILIES, TIED_TO_A_SIZE, build_small, metaformer

TOLERANCE = 2e-5  # of the largest value, as for the logits
IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
LARGER = np.random.default_rng(1).normal(size=(1, 96, 64, 3)).astype("float32")


def _outputs(model, images=IMAGES):
    return model.predict_on_batch(images)


def _close(found, expected):
    assert found.shape == expected.shape
    error = np.abs(found.astype("float64") - expected).max()
    assert error <= TOLERANCE * max(1.0, np.abs(expected).max())


@pytest.mark.one_backend  # The golden logits are computed on each.
@pytest.mark.parametrize("name", golden.MODELS)
def test_features_and_embeddings_equal_timms(name):
    recorded = golden.recorded(name)
    model = golden.seeded_model(name)
    indices = golden.MODELS[name][1]
    if len(model.pyramid_outputs) == len(indices):
        levels = dict(zip(model.pyramid_outputs, indices, strict=True))
    else:
        levels = {f"block_{index}": index for index in indices}
        levels["output_norm"] = "normalised"
    asked_for = [
        int(level.removeprefix("block_")) if level.startswith("block_") else level
        for level in levels
    ]

    found = _outputs(km.feature_extractor(model, asked_for), golden.images())

    assert set(found) == set(levels)
    for level, index in levels.items():
        _close(found[level][..., ::4], recorded[str(index)])
    vectors = km.embeddings(model, golden.images())
    if name != "PoolFormerS12":  # timm normalises that one after pooling.
        _close(vectors[..., ::4], recorded["embedding"])


@pytest.mark.one_backend
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_its_levels_as_maps_and_tokens(family, tmp_path):
    model = build_small(family)
    randomize(model)
    pyramid = keras.Model(model.inputs[0], model.pyramid_outputs)
    expected = _outputs(pyramid)
    before = model.predict_on_batch(IMAGES)

    extractor = km.feature_extractor(model)
    as_tokens = km.feature_extractor(model, tokens=True)

    found = _outputs(extractor)
    assert set(found) == set(model.pyramid_outputs) == set(extractor.pyramid_outputs)
    for level, tokens in _outputs(as_tokens).items():
        _close(found[level], expected[level])
        batch, height, width, channels = expected[level].shape
        assert height == 64 / 2 ** int(level[1])
        np.testing.assert_array_equal(
            tokens, found[level].reshape(batch, height * width, channels)
        )
    variables = {id(variable) for variable in model.weights}
    assert {id(variable) for variable in extractor.weights} < variables
    if family in TIED_TO_A_SIZE:
        assert extractor.input_shape == (None, 64, 64, 3)
    else:
        assert extractor.input_shape == (None, None, None, 3)
        last = max(found)
        stride = 2 ** int(last[1])
        larger = _outputs(extractor, LARGER)[last]
        assert larger.shape[1:3] == (96 // stride, 64 // stride)
    np.testing.assert_array_equal(model.predict_on_batch(IMAGES), before)

    path = tmp_path / "features.keras"
    extractor.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded) is km.features.FeatureExtractor
    assert set(loaded.pyramid_outputs) == set(found)
    for level, features in _outputs(loaded).items():
        np.testing.assert_allclose(features, found[level], atol=1e-6)


def test_levels_are_pyramid_levels_indices_and_names():
    model = metaformer()
    extractor = km.feature_extractor(model, ("P2", 0, -1, "stem", "output_norm"))
    assert set(extractor.output) == {
        "P2",
        "stage_0_block_0",
        "stage_1_block_0",
        "stem",
        "output_norm",
    }
    found = _outputs(extractor, IMAGES)
    np.testing.assert_array_equal(found["P2"], found["stage_0_block_0"])
    assert found["output_norm"].shape == (2, 32)
    # Only maps of the pyramid are a detector's.
    assert set(extractor.pyramid_outputs) == {"P2"}
    assert extractor.pyramid_level_inputs == {"P2": "stage_0"}


def test_what_no_level_needs_is_left_out_unless_asked_for():
    model = metaformer(input_shape=(64, 64, 3))
    pruned = km.feature_extractor(model, ["P2"])
    names = {layer.name for layer in pruned.layers}
    assert names == {"image", "stem", "stage_0_block_0", "stage_0"}
    whole = km.feature_extractor(model, ["P2"], prune=False, norm=True)
    found = _outputs(whole)
    np.testing.assert_allclose(found["predictions"], to_numpy(model(IMAGES)), atol=1e-6)
    assert set(found) == {"P2", "predictions"}


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("family", "kind", "epsilon"),
    [
        ("poolformer", km.layers.ImageNormalization, 1e-5),
        ("ffnet", keras.layers.LayerNormalization, 1e-6),
    ],
)
def test_norms_are_those_of_the_papers(family, kind, epsilon):
    model = build_small(family)
    randomize(model)
    extractor = km.feature_extractor(model, ("P3", "P5"), norm=True)
    norms = [extractor.get_layer(f"{level}_norm") for level in ("P3", "P5")]
    assert [type(norm) for norm in norms] == [kind, kind]
    assert all(norm.epsilon == epsilon and norm.trainable for norm in norms)
    plain = _outputs(km.feature_extractor(model, ("P3", "P5")))
    axes = (1, 2, 3) if family == "poolformer" else -1
    for level, features in _outputs(extractor).items():
        x = plain[level].astype("float64")
        mean, variance = (f(x, axis=axes, keepdims=True) for f in (np.mean, np.var))
        expected = (x - mean) / np.sqrt(variance + epsilon)
        np.testing.assert_allclose(features, expected, atol=2e-4)
    assert extractor.pyramid_level_inputs == {"P3": "P3_norm", "P5": "P5_norm"}
    # One of the user's own, and another by name.
    other = km.feature_extractor(model, ["P3"], norm="batch_norm")
    assert type(other.get_layer("P3_norm")) is keras.layers.BatchNormalization


def _fit(extractor):
    pooled = [
        keras.layers.GlobalAveragePooling2D()(tensor)
        for tensor in extractor.output.values()
    ]
    model = keras.Model(extractor.inputs, keras.layers.Concatenate()(pooled))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(
        IMAGES, np.ones((2, model.output_shape[-1])), epochs=1, batch_size=2, verbose=0
    )


def test_frozen_stages_and_batch_norms_stay_as_they_are(tmp_path):
    model = build_small("ffnet")
    randomize(model)
    extractor = km.feature_extractor(model, ("P2", "P3"), frozen_stages=1)
    path = tmp_path / "features.keras"
    extractor.save(path)
    loaded: Any = keras.saving.load_model(path)
    for frozen in (extractor, loaded):
        before = {weight.path: to_numpy(weight).copy() for weight in frozen.weights}
        _fit(frozen)
        changed = {
            weight.path
            for weight in frozen.weights
            if np.abs(to_numpy(weight) - before[weight.path]).max() > 0
        }
        assert changed
        assert all(path.startswith("stage_1_") for path in changed), changed
        assert not any("norm" in path for path in changed), changed
    # Batch norms alone.
    model = build_small("ffnet")
    km.features.freeze(model)
    names = {weight.path for weight in model.trainable_weights}
    assert any(name.startswith("stem_0") for name in names)
    assert not any("norm" in name for name in names)


@pytest.mark.one_backend
def test_models_that_share_layers_fold_and_run_as_before():
    model = build_small("ffnet")
    randomize(model)
    weights_of_folded = len(km.fold(model).weights)
    extractor = km.feature_extractor(model)
    assert len(km.fold(model).weights) == weights_of_folded
    expected = _outputs(extractor)
    for level, features in _outputs(km.fold(extractor)).items():
        np.testing.assert_allclose(features, expected[level], atol=1e-4)
    again = km.feature_extractor(extractor, ["P3"])  # of what has been moved
    _close(_outputs(again)["P3"], expected["P3"])


def test_errors_say_what_was_expected():
    model = metaformer(input_shape=(64, 64, 3))
    with pytest.raises(TypeError, match="functional model"):
        km.feature_extractor(keras.Sequential())
    for levels in ("P2", 2, (), ["P7"], [2], [-3], [True], ["P2", "P2"]):
        with pytest.raises(ValueError, match=r"Received: level"):
            km.feature_extractor(model, levels)
    with pytest.raises(ValueError, match="maps"):
        km.feature_extractor(model, ["output_norm"], tokens=True)
    with pytest.raises(ValueError, match="at most 2"):
        km.feature_extractor(model, frozen_stages=3)
    with pytest.raises(ValueError, match="weights are shared"):
        km.feature_extractor(model, input_shape=(64, 64, 1))
    tied = metaformer("random", input_shape=(64, 64, 3))
    with pytest.raises(ValueError, match="token_interpolation"):
        km.feature_extractor(tied, input_shape=(96, 96, 3))
    fixed = km.feature_extractor(model, input_shape=(96, 96, 3))
    assert fixed.input_shape == (None, 96, 96, 3)
