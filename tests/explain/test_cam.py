"""Class activation maps find what was planted."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_metaformer as km
from keras_metaformer.explain import CAM, Probe, Region, Similarity, grad_cam
from keras_metaformer.explain.cam import METHODS, as_map
from keras_metaformer.explain.heat_maps import resized
from tests.explain import quadrants
from tests.layer_checks import randomize, to_numpy
from tests.small_models import FAMILIES, build_small, metaformer, opposites

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
#: One of each kind of graph, for CI.
REPRESENTATIVES = ("resmlp", "poolformerv2")
#: Where a family is not taught by 512 pictures of 128 pixels: the hybrids do not learn
#: the task from these, nor does gMLP's matrix over all tokens to go by the place alone;
#: FFNet has the size it is made for, at which its kernels do not cover the map shown.
TRAINING: dict[str, dict[str, int]] = {
    "gmlp": {"number": 2048, "epochs": 6},
    "poolformer_hybrids": {"number": 2048, "epochs": 6},
    "ffnet": {"size": 256},
}
#: What does not find the place in 95 % of the pictures, as was measured
#: (`docs/explain.md`): maps of both signs, masked images, attention over the whole map.
NOT_ALWAYS: dict[str, tuple[str, ...]] = {
    "mlp_mixer": ("layer_cam",),
    "gmlp": ("grad_cam_plus_plus", "layer_cam", "score_cam", "eigen_cam"),
    "ffnet": ("grad_cam_plus_plus", "layer_cam"),
    "poolformer_hybrids": tuple(METHODS),
}
if keras.backend.backend() == "jax":
    # From the same seed training ends in other weights there; the images that Score-CAM
    # masks are none of those that they have learnt from.
    NOT_ALWAYS |= {"caformer": ("score_cam",), "poolformerv2": ("score_cam",)}


def pointing_games(family: str) -> dict[str, float]:
    """How often the largest value is in the right quadrant, by the method.

    Among squares of all classes, or among grey ones where a method has no class of its
    own, or runs the model on what is left of the image.
    """
    training = {"epochs": 8, **TRAINING.get(family, {})}
    probe = Probe(quadrants.trained(family, **training))
    size = training.get("size", quadrants.SIZE)
    found = {}
    for method in METHODS:
        alone = method in ("score_cam", "eigen_cam")
        # Other pictures than those by which the default layers were chosen.
        draw, seed = (
            (quadrants.pictures, 1009) if alone else (quadrants.colourful, 1008)
        )
        images, classes, places = draw(40, seed, size)
        maps = grad_cam(probe, images, list(classes), method=method, batch_size=40)
        found[method] = float((quadrants.quadrants_of(maps.maps) == places).mean())
    return found


@pytest.mark.one_backend  # Gradients are compared on each.
@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_the_deciding_quadrant_is_found(family):
    check_pointing_games(family)


@pytest.mark.large
@pytest.mark.one_backend  # As above.
@pytest.mark.parametrize("family", FAMILIES)
def test_the_deciding_quadrant_is_found_in_every_family(family):
    check_pointing_games(family)


def check_pointing_games(family: str) -> None:
    found = pointing_games(family)
    known = NOT_ALWAYS.get(family, ())
    sure = {method: share for method, share in found.items() if method not in known}
    assert min(sure.values(), default=1) >= 0.95, found
    # Chance is a quarter.
    assert max(found.values()) >= 0.7, found


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("family", "layer"),
    [
        ("convformer", "stage_3"),
        ("caformer", "stage_3"),
        ("ffnet", "stage_2"),
        ("mlp_mixer", "block_0"),
    ],
)
def test_the_default_layer_is_the_last_that_keeps_evidence_in_its_place(family, layer):
    model = build_small(family)
    assert CAM(model).layer == layer
    assert CAM(km.fold(model)).layer == layer


def convolutional() -> Any:
    """A convolution, the mean of its map, and a linear classifier."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="map"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, name="classes"),
        ]
    )
    randomize(model)
    return model


def test_each_method_is_its_formula():
    model = convolutional()
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    values = Probe(model).observe(images, {"map": None})["map"].astype("float64")
    weights = to_numpy(model.layers[-1].kernel)[:, 1].astype("float64") / 64
    expected = {
        "grad_cam": (values * weights).sum(-1),
        "layer_cam": (values * np.maximum(weights, 0)).sum(-1),
    }
    # The paper's alphas, with the second and third power of the gradient.
    sums = values.sum(axis=(1, 2))
    alphas = weights**2 / (2 * weights**2 + sums * weights**3)
    both = 64 * alphas * np.maximum(weights, 0)
    expected["grad_cam_plus_plus"] = (values * both[:, np.newaxis, np.newaxis]).sum(-1)
    for method, maps in expected.items():
        found = grad_cam(model, images, 1, method=method, layer="map")
        np.testing.assert_allclose(
            found.coarse, np.maximum(maps, 0), rtol=1e-3, atol=1e-6
        )
        largest = found.maps.max(axis=(1, 2))
        np.testing.assert_allclose(largest, 1, rtol=1e-6)
        assert found.labels == ("class 1", "class 1")


def test_score_cam_weights_channels_by_what_is_left_of_the_score():
    model = convolutional()
    image = np.random.default_rng(2).normal(size=(1, 8, 8, 3)).astype("float32")
    probe = Probe(model)
    values = probe.observe(image, {"map": None})["map"][0].astype("float64")
    scores = []
    for channel in np.moveaxis(values, -1, 0):
        mask = (channel - channel.min()) / np.ptp(channel)
        masked = mask[..., np.newaxis] * image[0]
        masked += (1 - mask[..., np.newaxis]) * image[0].mean(axis=(0, 1))
        outputs = probe.observe(masked[np.newaxis].astype("float32"), {})["output"]
        scores.append(outputs[0, 2])
    weights = np.exp(scores) / np.exp(scores).sum()

    found = grad_cam(probe, image, 2, method="score_cam", layer="map")

    np.testing.assert_allclose(found.coarse[0], (values * weights).sum(-1), rtol=1e-4)
    fewer = grad_cam(probe, image, 2, method="score_cam", layer="map", channels=1)
    one = values[..., values.std(axis=(0, 1)).argmax()]
    np.testing.assert_allclose(fewer.coarse[0], one, rtol=1e-4, atol=1e-6)


def test_eigen_cam_has_the_sign_by_which_few_places_are_bright(monkeypatch):
    probe = Probe(convolutional())
    values = np.full((1, 8, 8, 4), 1.0)
    values[0, 2, 5] += (-3, 2, 0, 1)
    values += np.random.default_rng(3).normal(0, 0.01, values.shape)
    cam = CAM(probe, "eigen_cam", "map")
    monkeypatch.setattr(cam, "activations", lambda batch: values)

    found = cam(np.ones((1, 8, 8, 3), "float32"), 0)

    assert np.unravel_index(found.maps[0].argmax(), (8, 8)) == (2, 5)
    assert np.median(found.maps) < 0.05


def test_targets_are_indices_names_functions_and_the_answer():
    model = metaformer(classifier_activation=None)
    randomize(model)
    probe = Probe(model)
    answers = probe.observe(IMAGES, {})["output"].argmax(axis=1)

    def second_logit(outputs):
        return outputs[:, 1]

    own = grad_cam(probe, IMAGES)
    given = grad_cam(probe, IMAGES, list(answers))
    np.testing.assert_array_equal(own.coarse, given.coarse)
    assert own.labels == tuple(f"class {answer}" for answer in answers)
    np.testing.assert_array_equal(
        grad_cam(probe, IMAGES, second_logit).coarse, grad_cam(probe, IMAGES, 1).coarse
    )
    names = ("ant", "bee", "cat", "dog", "elk")
    description = model.image_description
    model.image_description = type(description)(
        description.transform, output="logits", class_names=names
    )
    named = grad_cam(probe, IMAGES, ["bee", 1])
    assert named.labels == ("bee", "bee")
    for wrong, message in (
        ("bees", r"Did you mean 'bee'.*target='bees'"),
        (5, r"classes 0 to 4.*target=5"),
        (["ant"] * 3, r"one for each of 2 images"),
        (lambda outputs: outputs, r"one score an image.*\(2, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            grad_cam(probe, IMAGES, wrong)


def test_models_without_classes_are_asked_for_likeness_and_regions():
    model = metaformer(include_top=False, classes=1000)
    randomize(model)
    probe = Probe(model)
    with pytest.raises(ValueError, match=r"Only a classifier.*Similarity"):
        grad_cam(probe, IMAGES)

    same = probe.observe(IMAGES[:1], {})["output"].mean(axis=(1, 2))
    of_an_image = grad_cam(probe, IMAGES, Similarity(IMAGES[:1]))
    of_a_vector = grad_cam(probe, IMAGES, Similarity(same[0]))
    np.testing.assert_allclose(of_an_image.coarse, of_a_vector.coarse, atol=1e-6)
    assert of_an_image.coarse[1].max() > 0

    corner = np.zeros((32, 32), bool)
    corner[:8, :8] = True
    box = grad_cam(probe, IMAGES, Region((0, 0, 8, 8), channel=3), layer="stage_1")
    mask = grad_cam(probe, IMAGES, Region(corner, channel=3), layer="stage_1")
    np.testing.assert_array_equal(box.coarse, mask.coarse)
    for wrong in ((0, 0, 40, 8), np.zeros((32, 32)), np.ones((3, 3))):
        with pytest.raises(ValueError, match=r"Expected a "):
            grad_cam(probe, IMAGES, Region(wrong))


def test_a_region_of_a_segmenter_is_seen_where_it_is():
    image: Any = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="map")(image)
    model = keras.Model(image, keras.layers.Conv2D(2, 1, name="classes")(x))
    randomize(model)
    images = np.random.default_rng(4).normal(size=(1, 16, 16, 3)).astype("float32")

    found = grad_cam(
        model, images, Region((8, 0, 16, 8), channel=1), method="layer_cam", layer="map"
    )

    inside = found.coarse[:, 8:, :8].sum()
    assert inside > 0.9 * found.coarse.sum() > 0


def test_tokens_are_maps():
    tokens = np.arange(2 * 13 * 3, dtype="float32").reshape(2, 13, 3)
    found = as_map(tokens, (48, 64), "blocks")
    assert found.shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(found[0, 0, 0], tokens[0, 1])
    with pytest.raises(ValueError, match=r"gives a map.*layer='head'"):
        as_map(tokens[:, 0], (48, 64), "head")
    transformer = km.IsotropicMetaFormer(
        2, 32, 8, class_token=True, input_shape=(32, 32, 3), classes=5
    )
    randomize(transformer)
    found = grad_cam(transformer, IMAGES, layer="block_0")
    assert found.coarse.shape == (2, 4, 4)
    assert found.coarse.max() > 0


def test_maps_are_stretched_linearly():
    coarse = np.array([[[0.0, 1.0], [0.0, 1.0]]])
    found = resized(coarse, (4, 8))
    assert found.shape == (1, 4, 8)
    expected = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    np.testing.assert_allclose(found[0], np.tile(expected, (4, 1)), atol=1e-6)
    np.testing.assert_allclose(resized(np.ones((1, 1, 1)), (3, 3)), 1)


def test_errors():
    model = metaformer()
    with pytest.raises(ValueError, match=r"`method` must be one of grad_cam, .*'gcam'"):
        CAM(model, "gcam")
    with pytest.raises(ValueError, match="`channels`"):
        CAM(model, "score_cam", channels=0)
    with pytest.raises(ValueError, match=r"gives a map.*layer='output_norm'"):
        grad_cam(model, IMAGES, layer="output_norm")
    uint8 = [np.zeros((40, 50, 3), "uint8")]
    assert grad_cam(model, uint8, 0).maps.shape == (1, 32, 32)
    model.image_description = None
    with pytest.raises(ValueError, match=r"no `image_description`"):
        grad_cam(model, uint8, 0)
    with pytest.raises(ValueError, match="at least one image"):
        grad_cam(metaformer(), [], 0)


#: What a map may depend on, beside family and method.
PRECISIONS, BATCHES, FOLDED = ("float32", "mixed_bfloat16"), (1, 8), (False, True)


@pytest.mark.one_backend
@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_every_precision_folded_and_not_at_any_size_and_batch(method, dtype):
    for form in itertools.product((64, 96), BATCHES, FOLDED):
        check_form("convformer", method, dtype, *form)


@pytest.mark.large
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_method_in_many_forms(family):
    for number, method in enumerate(METHODS, FAMILIES.index(family)):
        for form in opposites(number, PRECISIONS, (224, 256), BATCHES, FOLDED):
            check_form(family, method, *form)


def check_form(
    family: str, method: str, dtype: str, size: int, batch: int, folded: bool
) -> None:
    model = build_small(family, (size, size, 3), dtype=dtype)
    randomize(model)
    if folded:
        model = km.fold(model)
    images = np.random.default_rng(batch).normal(size=(batch, size, size, 3))
    found = grad_cam(model, images.astype("float32"), 3, method=method)
    assert found.maps.shape == (batch, size, size)
    assert np.isfinite(found.coarse).all()
    # Of random weights nothing may speak for a class: the map is 0 then.
    largest = found.maps.max(axis=(1, 2))
    coarse = found.coarse.max(axis=(1, 2))
    assert (largest <= 1).all() and ((largest > 0) == (coarse > 0)).all()


def test_a_function_of_outputs_may_use_any_operation():
    model = metaformer()
    randomize(model)

    def contrast(outputs):
        return outputs[:, 0] - ops.logsumexp(outputs[:, 1:], axis=-1)

    assert grad_cam(model, IMAGES, contrast).labels == ("contrast", "contrast")
