"""What layers give, and gradients by it, on each backend."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_metaformer as km
from keras_metaformer.explain import Probe, derivatives
from tests.layer_checks import randomize, to_numpy
from tests.small_models import build_small, every_family, metaformer

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def first_logit(outputs, watched):
    return outputs[:, 0]


def convolutional(activation: Any = "softmax") -> Any:
    """Its gradient by its map is known: the classifier's weights over the places."""
    return keras.Sequential(
        [
            keras.Input((8, 6, 3)),
            keras.layers.Conv2D(4, 3, strides=2, padding="same", name="convolution"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation=activation, name="classes"),
        ]
    )


@every_family
def test_it_is_the_model_in_parts(family):
    model = build_small(family)
    randomize(model)
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype("float32")
    levels = km.feature_extractor(model)
    expected = levels.predict_on_batch(images)

    found = Probe(model).observe(images, dict.fromkeys(expected))

    np.testing.assert_allclose(
        softmax(found["output"]), model.predict_on_batch(images), atol=2e-5
    )
    for level, features in expected.items():
        path = Probe(model).find(level)
        np.testing.assert_allclose(found[path], features, rtol=1e-4, atol=1e-4)


def test_parts_of_blocks_are_watched_with_their_inputs():
    model = metaformer("self_attention")
    randomize(model)
    probe = Probe(model)
    block = "stage_1_block_0/channel_mixing"

    found = probe.observe(
        IMAGES,
        {
            f"{block}/norm": lambda layer, inputs, outputs: ops.stack(
                [inputs, outputs], axis=1
            ),
            "stage_1_block_0": None,
            f"{block}/transform": None,
        },
    )

    before, after = np.moveaxis(found[f"{block}/norm"], 1, 0)
    norm: Any = probe.layers[f"{block}/norm"]
    np.testing.assert_allclose(
        to_numpy(norm(ops.convert_to_tensor(before))), after, atol=1e-5
    )
    scale: Any = model.get_layer("stage_1_block_0")
    scale = to_numpy(scale.channel_mixing.residual_scale.scale)
    np.testing.assert_allclose(
        found["stage_1_block_0"],
        before * scale + found[f"{block}/transform"],
        rtol=1e-4,
        atol=1e-4,
    )


def test_layers_are_found_by_level_index_end_and_identity():
    model = metaformer()
    probe = Probe(model)
    assert probe.find("P3") == probe.find("stage_1") == "stage_1"
    assert probe.find(-1) == probe.find("stage_1_block_0") == "stage_1_block_0"
    assert probe.find(model.get_layer("stem")) == "stem"
    end = "stage_1_block_0/token_mixing/norm"
    assert probe.find("stage_1_block_0/token_mixing/norm") == end
    assert list(probe.of_kind(km.layers.PoolingMixer)) == [
        f"stage_{stage}_block_0/token_mixing/transform" for stage in (0, 1)
    ]
    assert probe.last_map() == "stage_1"
    with pytest.raises(ValueError, match=r"there is none.*Received: layer='P7'"):
        probe.find("P7")
    with pytest.raises(ValueError, match=r"there are 4.*Received: layer='norm'"):
        probe.find("norm")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_the_gradient_by_a_map_is_the_known_one_of_the_logit(activation):
    model = convolutional(activation)
    randomize(model)
    images = np.random.default_rng(2).normal(size=(3, 8, 6, 3)).astype("float32")

    found = Probe(model).differentiate(
        images, first_logit, at="convolution", batch_size=2
    )

    kernel = to_numpy(model.layers[-1].kernel)
    expected = np.broadcast_to(kernel[:, 0] / 12, (3, 4, 3, 4))
    np.testing.assert_allclose(found.gradients, expected, rtol=1e-5)
    linear = found.values.mean(axis=(1, 2)) @ kernel
    bias = to_numpy(model.layers[-1].bias)
    np.testing.assert_allclose(found.scores, (linear + bias)[:, 0], rtol=1e-4)
    assert model.layers[-1].activation is keras.activations.get(activation)


@every_family
def test_gradients_by_images_are_slopes(family):
    """Along a direction, against the difference of two scores."""
    model = build_small(family)
    randomize(model)
    rng = np.random.default_rng(3)
    images = rng.normal(size=(2, 64, 64, 3)).astype("float32")
    probe = Probe(model)

    found = probe.differentiate(images, first_logit)

    np.testing.assert_array_equal(found.values, images)
    direction = (
        found.gradients
        / np.sqrt((found.gradients**2).sum(axis=(1, 2, 3)))[
            :, np.newaxis, np.newaxis, np.newaxis
        ]
    )
    step = 0.05
    slopes = (
        probe.scores(images + step * direction, first_logit)
        - probe.scores(images - step * direction, first_logit)
    ) / (2 * step)
    expected = (found.gradients * direction).sum(axis=(1, 2, 3))
    assert (expected > 1e-3).all()
    np.testing.assert_allclose(slopes, expected, rtol=0.03)


def wrapped(backbone: Any) -> Any:
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.RandomFlip(seed=1),
            keras.layers.Rescaling(1 / 127.5, -1.0),
            backbone,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )


def test_models_in_models_with_augmentation():
    backbone = metaformer(include_top=False, classes=1000, name="backbone")
    model = wrapped(backbone)
    randomize(model)
    pixels = np.random.default_rng(4).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    nodes = len(backbone.layers[-1]._inbound_nodes)
    weights = [np.array(to_numpy(each)) for each in model.variables]

    probe = Probe(model)
    found = probe.observe(pixels, {"P3": None, 0: None})
    derivative = probe.differentiate(pixels, first_logit, at="P3")

    assert set(found) == {"output", "backbone/stage_1", "backbone/stage_0_block_0"}
    np.testing.assert_allclose(
        softmax(found["output"]), model.predict_on_batch(pixels), atol=1e-5
    )
    np.testing.assert_allclose(derivative.values, found["backbone/stage_1"], atol=1e-5)
    assert np.abs(derivative.gradients).max() > 0
    assert len(backbone.layers[-1]._inbound_nodes) == nodes
    for variable, before in zip(model.variables, weights, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), before)


def test_headless_folded_and_in_half_precision():
    model = metaformer("separable_convolution", include_top=False, classes=1000)
    randomize(model)
    exact = Probe(model).observe(IMAGES, {"P3": None})
    folded = Probe(km.fold(model)).observe(IMAGES, {"P3": None})
    np.testing.assert_allclose(folded["output"], exact["output"], atol=1e-3)

    half = metaformer(
        "separable_convolution",
        include_top=False,
        classes=1000,
        dtype="mixed_bfloat16",
    )
    half.set_weights(model.get_weights())
    rough = Probe(half).observe(IMAGES, {"P3": None})
    assert rough["output"].dtype == "float32"
    error = np.abs(rough["output"] - exact["output"]).max()
    assert 0 < error < 0.1 * np.abs(exact["output"]).max()
    gradients = Probe(half).differentiate(
        IMAGES, lambda outputs, watched: ops.mean(outputs[..., 0], axis=(1, 2)), at="P2"
    )
    assert np.isfinite(gradients.gradients).all()
    assert np.abs(gradients.gradients).max() > 0


def test_a_score_of_what_is_watched_and_of_data():
    model = metaformer()
    randomize(model)
    probe = Probe(model)
    factors = np.arange(3, dtype="float32") + 1

    def score(outputs, watched, factor):
        return ops.mean(watched["stem"], axis=(1, 2, 3)) * factor

    found = probe.differentiate(
        IMAGES, score, watch={"stem": None}, data=(factors,), batch_size=2
    )

    np.testing.assert_allclose(
        found.scores, found.watched["stem"].mean(axis=(1, 2, 3)) * factors, rtol=1e-4
    )
    again = probe.scores(
        IMAGES, score, watch={"stem": None}, data=(factors,), batch_size=2
    )
    assert again.dtype == "float32"
    np.testing.assert_allclose(again, found.scores, rtol=1e-5)
    alone = probe.differentiate(
        IMAGES[2:], score, watch={"stem": None}, data=(factors[:1],)
    )
    np.testing.assert_allclose(found.gradients[2:], 3 * alone.gradients, atol=1e-7)
    # A score that depends on nothing.
    nothing = probe.differentiate(
        IMAGES,
        lambda outputs, watched: ops.sum(watched["stem"], axis=(1, 2, 3)),
        watch={"stem": None},
        at="stage_1",
    )
    assert not nothing.gradients.any()


def of_inputs(layer, inputs, outputs):
    return ops.mean(inputs, axis=(1, 2))


def stem_score(outputs, watched):
    return ops.sum(watched["stem"], axis=-1)


def test_what_is_watched_together_is_compiled_once_on_jax(monkeypatch):
    model = metaformer()
    randomize(model)
    made, forward = [], derivatives.forward

    def counted(*arguments):
        made.append(forward(*arguments))
        return made[-1]

    # Two functions of one layer, among them its outputs.
    watches = [{}, {"stage_0": None}, {"stage_0": of_inputs}, {"stem": of_inputs}]
    separate = [Probe(model).observe(IMAGES, watch) for watch in watches]
    monkeypatch.setattr(derivatives, "forward", counted)
    probe = Probe(model)
    with (
        probe.watching_together(*watches[:2]),
        probe.watching_together(*watches[2:]),
    ):
        together = [probe.observe(IMAGES, watch) for watch in reversed(watches)][::-1]
        scores = probe.scores(IMAGES, stem_score, watch={"stem": of_inputs})

    for one, other in zip(separate, together, strict=True):
        assert one.keys() == other.keys()
        for path, values in one.items():
            np.testing.assert_allclose(other[path], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores, separate[3]["stem"].sum(axis=-1), rtol=1e-5)
    on_jax = keras.backend.backend() == "jax"
    assert len(made) == (1 if on_jax else len(watches))
    # Something else, and what is watched behind the block, is watched alone.
    with probe.watching_together(*watches):
        probe.observe(IMAGES, {"stage_1": None})
        assert len(made) == (2 if on_jax else 5)
    probe.observe(IMAGES, {})
    assert len(made) == (3 if on_jax else 5)
    nowhere = pytest.raises(ValueError, match="layer='nowhere'")
    with nowhere, probe.watching_together({"nowhere": None}):
        pass


def test_a_layer_that_is_named_twice():
    model = metaformer()
    function = {model.get_layer("stage_0"): of_inputs, "stage_0": None}
    found = Probe(model).observe(IMAGES, function)
    np.testing.assert_array_equal(
        found["stage_0"], Probe(model).observe(IMAGES, {"stage_0": None})["stage_0"]
    )


def test_few_images_are_not_compiled_for_anew():
    model = metaformer()
    probe: Any = Probe(model)
    forward, sizes = probe._run, []

    def counted(images, *arguments):
        sizes.append(len(images))
        return forward(images, *arguments)

    probe._run = counted
    for number, batch_size in ((3, 8), (1, 8), (20, 8), (48, 8), (9, 4)):
        images = np.repeat(IMAGES[:1], number, axis=0)
        outputs = probe.scores(images, first_logit, batch_size=batch_size)
        assert outputs.shape == (number,)
        np.testing.assert_allclose(outputs, outputs[0], rtol=1e-5)
    if keras.backend.backend() == "jax":
        # 1 is padded to 3, 20 run as 3 at a time, and for 48 it is worth a program.
        assert sizes == [3, 8]


@pytest.mark.parametrize("numbers", [(1, 3, 2), (3, 1), (2, 3)])
def test_any_number_of_images_after_any_other(numbers):
    model = metaformer()
    randomize(model)
    expected = Probe(model).observe(IMAGES, {})["output"]
    probe = Probe(model)
    for number in numbers:
        found = probe.observe(IMAGES[:number], {}, batch_size=2)["output"]
        np.testing.assert_allclose(found, expected[:number], rtol=1e-4, atol=1e-6)


def test_errors():
    with pytest.raises(TypeError, match=r"functional model.*Received: model="):
        Probe(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match=r"model of images.*input_shape=\(None, 4\)"):
        Probe(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    two = keras.Model([first, second], keras.layers.Add()([first, second]))
    with pytest.raises(ValueError, match=r"one image.*with 2 inputs"):
        Probe(two)
    shared = keras.layers.Conv2D(3, 1, name="twice")
    twice = keras.Model(first, shared(shared(first)))
    with pytest.raises(ValueError, match=r"more than once.*layer='twice'"):
        Probe(twice).find("twice")
    probe = Probe(metaformer())
    for wrong in (IMAGES[:, :16], IMAGES[0], IMAGES[:0]):
        with pytest.raises(ValueError, match=r"Expected images.*Received: images of"):
            probe.observe(wrong, {})
    with pytest.raises(ValueError, match="batch_size"):
        probe.observe(IMAGES, {}, batch_size=0)
