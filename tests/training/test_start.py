"""The model that a recipe's training starts from."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.data import class_names
from keras_metaformer.models import families
from keras_metaformer.training.start import remap_classifier
from tests.small_models import build_small

#: Rows of ImageNet-21K that the first classes of ImageNet-1K take, of the map in
#: sail-sg/metaformer misc/in21k_to_1k_class_map.json.
PUBLISHED_ROWS = [359, 368, 460, 475, 486, 492, 496, 514, 516, 525, 547, 548]


@pytest.mark.backend_independent
@pytest.mark.parametrize("dataset", ["imagenet21k", "imagenet21k_google"])
def test_the_head_is_remapped_by_class_and_850_is_the_mean(dataset):
    names = class_names(dataset)
    kernel = np.arange(2 * len(names), dtype="float32").reshape(2, -1)
    bias = np.arange(len(names), dtype="float32")
    new_kernel, new_bias = km.training.remap_imagenet21k_head(kernel, bias)
    assert new_kernel.shape == (2, 1000)
    assert new_bias.shape == (1000,)
    assert new_kernel.dtype == new_bias.dtype == "float32"
    for index, (identifier, _) in enumerate(class_names("imagenet")):
        if index == 850:
            assert new_bias[index] == pytest.approx(bias.mean(dtype="float64"))
            continue
        row = int(new_bias[index])
        assert names[row][0] == identifier
        np.testing.assert_array_equal(new_kernel[:, index], kernel[:, row])
    if dataset == "imagenet21k":
        assert new_bias[: len(PUBLISHED_ROWS)].tolist() == PUBLISHED_ROWS


@pytest.mark.backend_independent
def test_a_head_of_other_classes_is_not_remapped():
    with pytest.raises(ValueError, match=r"Received: shapes \(2, 1000\) and \(1000,\)"):
        km.training.remap_imagenet21k_head(np.zeros((2, 1000)), np.zeros(1000))


def test_a_model_of_1000_classes_takes_the_weights_of_one_of_21841():
    source = build_small("identityformer", classes=21841)
    target = build_small("identityformer", classes=1000)
    remap_classifier(source, target)
    head = target.get_layer("predictions")
    kernel, bias = source.get_layer("predictions").get_weights()
    expected = km.training.remap_imagenet21k_head(kernel, bias)
    for got, wanted in zip(head.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    rest = len(source.weights) - 2
    for got, wanted in zip(
        target.get_weights()[:rest], source.get_weights()[:rest], strict=True
    ):
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises(ValueError, match="must be the same model"):
        remap_classifier(source, build_small("caformer", classes=1000))


@pytest.fixture
def small_constructor(monkeypatch) -> list[dict[str, Any]]:
    """CAFormerS18 is a small one; what it is called with is recorded."""
    calls: list[dict[str, Any]] = []

    def constructor(weights, classes=21841, stochastic_depth_rate=0.0, **arguments):
        calls.append({"weights": weights, "classes": classes, **arguments})
        arguments.pop("head_dropout")
        keras.utils.set_random_seed(len(calls))
        return build_small("caformer", classes=classes, **arguments)

    variant = families.get("CAFormerS18")
    changed = dataclasses.replace(variant, constructor=constructor)
    monkeypatch.setitem(families._VARIANTS, "CAFormerS18", changed)
    return calls


@pytest.mark.one_backend
def test_a_recipe_says_what_its_model_starts_from(small_constructor):
    recipe = km.training.load_recipe(
        "caformer-s18-384", overrides={"image_size": 64, "head_dropout": 0.25}
    )
    model = km.training.build_model(recipe, classes=5)
    assert model.output_shape == (None, 5)
    assert small_constructor == [
        {
            "weights": "imagenet",
            "classes": 5,
            "input_shape": (64, 64, 3),
            "head_dropout": 0.25,
        }
    ]
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.one_backend
def test_a_linear_probe_trains_a_new_classifier_alone(small_constructor):
    recipe = km.training.load_recipe("linear-probe", "CAFormerS18")
    model = km.training.build_model(recipe, classes=7, input_shape=(64, 64, 3))
    paths = [variable.path for variable in model.trainable_variables]
    assert paths == ["predictions/kernel", "predictions/bias"]
    keras.utils.set_random_seed(1)
    drawn_once = build_small("caformer", classes=7).get_layer("predictions").kernel
    assert not np.array_equal(model.get_layer("predictions").kernel, drawn_once)


@pytest.mark.one_backend
def test_from_imagenet21k_the_head_is_remapped(small_constructor):
    recipe = km.training.load_recipe(
        "caformer-s18-21k-1k", overrides={"image_size": 64}
    )
    model = km.training.build_model(recipe)
    assert [call["weights"] for call in small_constructor] == [None, "imagenet21k"]
    keras.utils.set_random_seed(2)
    source = build_small("caformer", classes=21841)
    bias = source.get_layer("predictions").get_weights()[0]
    np.testing.assert_array_equal(
        model.get_layer("predictions").get_weights()[0][:, 0], bias[:, 359]
    )
    with pytest.raises(ValueError, match="classes=5"):
        km.training.build_model(recipe, classes=5)


@pytest.mark.backend_independent
def test_a_recipe_for_any_model_needs_one():
    with pytest.raises(ValueError, match="'finetune' is for any model"):
        km.training.build_model(km.training.load_recipe("finetune"))
