"""Augmentation: the recorded steps of timm, and what is random about it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_metaformer_lite.data.augmentation import (
    Augmentation,
    Mixing,
    jitter_colors,
    random_crop_box,
    random_erasing_box,
)
from keras_metaformer_lite.data.random_augment import (
    OPERATIONS,
    RandAugment,
    rand_augment_operation,
)
from keras_metaformer_lite.images import EvaluationTransform

pytestmark = pytest.mark.backend_independent

_FOLDER = Path(__file__).parents[1] / "golden" / "training"
FACTS = json.loads((_FOLDER / "augmentation.json").read_text("utf-8"))
ARRAYS = dict(np.load(_FOLDER / "augmentation.npz"))


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "case",
    FACTS["rand_augment"]["cases"],
    ids=lambda case: f"{case['operation']}-{case['image']}",
)
def test_operations_equal_the_recorded_ones(case):
    image = ARRAYS[f"rand_augment/image{case['image']}"]
    place = f"image{case['image']}/{case['operation']}/{case['magnitude']}"
    expected = ARRAYS[f"rand_augment/{place}"].astype(int)

    found = rand_augment_operation(
        case["operation"],
        image,
        *case["arguments"],
        fill=FACTS["rand_augment"]["fill"],
        interpolation="bilinear",
    )

    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.abs(expected - image.astype(int)).max() > 1  # It does something.


def test_all_operations_are_recorded_and_in_the_order_of_the_reference():
    assert list(OPERATIONS) == FACTS["rand_augment"]["operations"]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0.0, 9.0, 10.0])
def test_every_operation_takes_its_own_arguments(name, magnitude):
    """At the largest magnitude no bits are left to posterizing."""
    make = OPERATIONS[name].argument
    arguments = () if make is None else (make(magnitude, _random()),)
    image = Image.fromarray(ARRAYS["rand_augment/image0"])

    result = rand_augment_operation(name, image, *arguments)

    assert (result.size, result.mode) == (image.size, "RGB")
    if magnitude == 9.0:
        recorded = [
            case["arguments"]
            for case in FACTS["rand_augment"]["cases"]
            if case["operation"] == name
        ]
        assert list(np.abs(arguments)) in (
            [list(np.abs(each)) for each in recorded]
            # The factor of an enhancement goes either way from 1.
            + [[2 - value for value in each] for each in recorded]
        )


def test_a_policy_is_drawn_anew_for_each_image():
    policy = RandAugment.from_name("rand-m9-mstd0.5-inc1")
    assert (policy.magnitude, policy.magnitude_std) == (9.0, 0.5)
    assert (policy.layers, policy.probability) == (2, 0.5)
    image = Image.fromarray(ARRAYS["rand_augment/image0"])
    results = [np.asarray(policy(image, _random(seed))) for seed in range(40)]
    again = [np.asarray(policy(image, _random(seed))) for seed in range(40)]

    assert np.array_equal(results, again)
    # Two operations, each with a probability of a half: a quarter stays as it is.
    same = sum(np.array_equal(result, np.asarray(image)) for result in results)
    assert 3 <= same <= 20
    assert len({result.tobytes() for result in results}) > 15


@pytest.mark.parametrize(
    "name",
    ["rand-m9", "rand-m9-inc0", "augmix-m9-inc1", "rand-q1-inc1", "rand-m11-inc1"],
)
def test_other_policies_are_refused(name):
    with pytest.raises(ValueError, match="Received: "):
        RandAugment.from_name(name)


def test_an_unknown_operation_or_argument_is_refused():
    image = ARRAYS["rand_augment/image0"]
    with pytest.raises(ValueError, match=r"one of AutoContrast.*Received: name='Blur'"):
        rand_augment_operation("Blur", image)
    with pytest.raises(ValueError, match=r"Rotate takes 1 argument.*Received"):
        rand_augment_operation("Rotate", image)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_equals_the_recorded_batch(kind):
    facts, images = FACTS[kind], ARRAYS[f"{kind}/images"]
    mixing = Mixing(facts["lambda drawn"])
    if kind == "cutmix":
        box = facts["box (top, bottom, left, right)"]
        mixing = Mixing.of_box(tuple(box), *images.shape[1:3])

    mixed = mixing.images(images, images[::-1])
    targets = mixing.targets(
        np.array(facts["labels"]), facts["classes"], facts["label_smoothing"]
    )

    np.testing.assert_allclose(mixed, ARRAYS[f"{kind}/mixed_images"], atol=1e-6)
    np.testing.assert_allclose(targets, ARRAYS[f"{kind}/targets"], atol=1e-7)
    assert targets.dtype == "float32"


def test_bytes_are_mixed_to_the_nearest_level():
    images = _random().integers(0, 256, (4, 5, 6, 3)).astype("uint8")
    mixed = Mixing(0.3).images(images, images[::-1])
    expected = 0.3 * images + 0.7 * images[::-1]
    assert mixed.dtype == "uint8"
    assert np.abs(mixed - expected).max() <= 0.5 + 1e-4


def test_one_factor_a_batch_of_mixup_or_cutmix():
    augmentation = Augmentation()
    drawn = [augmentation.draw_mixing(24, 32, _random(seed)) for seed in range(300)]
    boxes = [mixing.box for mixing in drawn if mixing.box is not None]
    assert 100 < len(boxes) < 200
    for mixing in drawn:
        assert 0 <= mixing.factor <= 1
        if mixing.box is not None:
            top, bottom, left, right = mixing.box
            assert 0 <= top <= bottom <= 24
            assert 0 <= left <= right <= 32
            area = (bottom - top) * (right - left)
            assert mixing.factor == pytest.approx(1 - area / (24 * 32))
    # Beta(0.8, 0.8) has mean 1/2 and variance 1/(4 * 2.6).
    factors = [mixing.factor for mixing in drawn if mixing.box is None]
    assert np.mean(factors) == pytest.approx(0.5, abs=0.1)
    assert np.var(factors) == pytest.approx(1 / 10.4, rel=0.3)


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"cutmix": 0.0}, {"mixup"}),
        ({"mixup": 0.0}, {"cutmix"}),
        ({"mixup": 0.0, "cutmix": 0.0}, {"none"}),
        ({"mix_probability": 0.0}, {"none"}),
        ({"mix_probability": 0.5}, {"none", "mixup", "cutmix"}),
    ],
)
def test_mixing_that_is_off(fields, kinds):
    augmentation = Augmentation(**fields)
    drawn = [augmentation.draw_mixing(16, 16, _random(seed)) for seed in range(60)]
    found = {
        "cutmix" if each.box is not None else "none" if each.factor == 1 else "mixup"
        for each in drawn
    }
    assert found == kinds
    assert augmentation.mixes is (kinds != {"none"})


def test_random_crops_have_the_area_and_the_aspect_asked_for():
    boxes = np.array(
        [
            random_crop_box(500, 375, (0.08, 1.0), (3 / 4, 4 / 3), _random(seed))
            for seed in range(400)
        ]
    )
    left, top, right, bottom = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= 500).all()
    assert (bottom <= 375).all()
    width, height = right - left, bottom - top
    part = width * height / (500 * 375)
    assert part.min() < 0.15
    assert part.max() > 0.85
    # What does not fit is drawn again, so that large areas are rarer.
    assert 0.4 < part.mean() < 0.54
    assert (np.abs(np.log(width / height)) < np.log(4 / 3) + 0.02).all()


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1), (3, 2)])
def test_random_crops_of_strips_are_central(width, height):
    left, top, right, bottom = random_crop_box(
        width, height, (0.9, 1.0), (3 / 4, 4 / 3), _random()
    )
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs((left + right) - width) <= 1
    assert abs((top + bottom) - height) <= 1


def test_erased_rectangles_are_normal_noise():
    augmentation = Augmentation(random_erasing=1.0)
    for seed in range(30):
        image = np.full((64, 48, 3), 7.0, "float32")
        augmentation.erase(image, _random(seed))
        erased = image != 7.0
        assert 0.01 < erased.mean() < 0.36
    box = random_erasing_box(64, 48, _random(seed))
    assert box is not None
    big = np.zeros((600, 600, 3), "float32")
    augmentation.erase(big, _random(3), np.array([100, 110, 120]), np.array([1, 2, 3]))
    noise = big[big[..., 0] != 0]
    np.testing.assert_allclose(noise.mean(0), [100, 110, 120], atol=0.2)
    np.testing.assert_allclose(noise.std(0), [1, 2, 3], rtol=0.1)
    untouched = np.zeros((64, 48, 3), "float32")
    Augmentation(random_erasing=0.0).erase(untouched, _random())
    assert not untouched.any()


def test_a_quarter_of_the_images_is_erased():
    augmentation, count = Augmentation(), 0
    for seed in range(200):
        image = np.zeros((16, 16, 3), "float32")
        augmentation.erase(image, _random(seed))
        count += image.any()
    assert 30 < count < 72


def test_colour_jitter_only_without_rand_augment():
    image = Image.fromarray(ARRAYS["rand_augment/image0"])
    changed = np.asarray(jitter_colors(image, 0.4, _random(1)))
    assert not np.array_equal(changed, np.asarray(image))
    transform = EvaluationTransform(40)
    plain: dict = {"crop_scale": None, "horizontal_flip": 0.0, "random_erasing": 0.0}
    same = Augmentation(rand_augment="rand-m9-n0-inc1", **plain)
    jittered = Augmentation(rand_augment=None, **plain)
    expected = transform(image, normalise=False)
    assert np.array_equal(same.apply(image, transform, _random()), expected)
    assert not np.array_equal(jittered.apply(image, transform, _random()), expected)


def test_no_augmentation_is_evaluation():
    image = Image.fromarray(ARRAYS["rand_augment/image0"])
    transform = EvaluationTransform(32, 0.9, "bilinear")
    found = np.asarray(Augmentation.none().apply(image, transform, _random()))
    assert np.array_equal(found, transform(image, normalise=False))


def test_flips_half_of_the_images():
    image = Image.fromarray(ARRAYS["rand_augment/image0"])
    transform = EvaluationTransform(40)
    flips = Augmentation(
        crop_scale=None, rand_augment=None, color_jitter=0.0, horizontal_flip=0.5
    )
    straight = transform(image, normalise=False)
    found = [np.asarray(flips.apply(image, transform, _random(i))) for i in range(60)]
    flipped = [np.array_equal(each, straight[:, ::-1]) for each in found]
    assert 15 < sum(flipped) < 45
    others = [each for each, is_flip in zip(found, flipped, strict=True) if not is_flip]
    assert all(np.array_equal(each, straight) for each in others)


def test_config_round_trip():
    augmentation = Augmentation(crop_scale=(0.2, 0.9), rand_augment=None, mixup=0.2)
    config = json.loads(json.dumps(augmentation.get_config()))
    assert Augmentation.from_config(config) == augmentation
    config = json.loads(json.dumps(Augmentation.none().get_config()))
    assert Augmentation.from_config(config) == Augmentation.none()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_scale", (0.5, 1.5)),
        ("crop_ratio", (2.0, 1.0)),
        ("horizontal_flip", 1.5),
        ("interpolation", "sinc"),
        ("rand_augment", "rand-m9"),
        ("color_jitter", -0.1),
        ("random_erasing", -0.1),
        ("mixup", -1.0),
        ("label_smoothing", 1.0),
    ],
)
def test_arguments_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"Received: {field}="):
        Augmentation(**{field: value})
