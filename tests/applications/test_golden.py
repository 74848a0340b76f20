"""Every constructor against the answers of the reference implementation."""

import gc
import math
from decimal import Decimal
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.models import families
from keras_metaformer.models.complexity import count_macs
from keras_metaformer_lite.weights import catalogue
from tests.golden import cases

TOLERANCE = 2e-5  # of the largest logit, from the golden README
_BUFFERS = ("moving_mean", "moving_variance")


def _known(case: dict[str, Any]) -> bool:
    return hasattr(km, case["constructor"])


def _naming(case: dict[str, Any]) -> str:
    """The naming of a case's keys: timm's own models of the baselines carry sail's."""
    family = families.get(case["constructor"]).family
    baselines = ("poolformerv2", "convformer", "caformer")
    if case["source"] == "timm" and family in baselines:
        return "sail-sg/metaformer"
    return case["source"]


def _quick_cases() -> set[str]:
    """The smallest of each family in each naming, and those of 384 pixels."""
    quick, smallest = set(), {}
    for case in filter(_known, cases.all_cases()):
        if (case["height"], case["width"]) == (384, 384):
            quick.add(case["id"])
            continue
        key = (_naming(case), families.get(case["constructor"]).family)
        best = smallest.get(key)
        if best is None or case["parameters"] < best["parameters"]:
            smallest[key] = case
    return quick | {case["id"] for case in smallest.values()}


def _parametrise() -> list:
    """On each backend one case of a family, on one the other namings and sizes too."""
    quick, seen, found = _quick_cases(), set(), []
    for case in sorted(
        filter(_known, cases.all_cases()), key=lambda case: case["parameters"]
    ):
        family = families.get(case["constructor"]).family
        if case["id"] not in quick:
            marks: Any = pytest.mark.large
        elif family in seen:
            marks = pytest.mark.one_backend
        else:
            marks = ()
            seen.add(family)
        found.append(pytest.param(case, id=case["id"], marks=marks))
    return found


@pytest.fixture
def _release():
    yield
    keras.backend.clear_session()
    gc.collect()


def _build(case: dict[str, Any], **kwargs: Any) -> keras.Model:
    return getattr(km, case["constructor"])(
        weights=None,
        classifier_activation=None,
        input_shape=(case["height"], case["width"], 3),
        **case["constructor_kwargs"],
        **kwargs,
    )


def _parameters(model: keras.Model) -> int:
    """Weights as the references count them: frozen ones too, buffers not."""
    return sum(
        int(np.prod(weight.shape))
        for weight in model.weights
        if weight.name not in _BUFFERS
    )


@pytest.mark.parametrize("case", _parametrise())
def test_logits_equal_the_references(case, _release):
    model = _build(case)
    assert _parameters(model) == case["parameters"]

    naming = km.port_weights(model, cases.state_dict(case))
    outputs = to_numpy(model(cases.images(case), training=False))

    expected = cases.logits(case)
    assert naming == _naming(case)
    assert outputs.shape == expected.shape == (case["batch"], model.output_shape[-1])
    assert np.std(expected) > 0.2  # a constant answer would agree by chance
    error = np.abs(outputs.astype("float64") - expected).max()
    assert error <= TOLERANCE * max(1.0, np.abs(expected).max())


@pytest.mark.backend_independent
def test_all_constructors_of_the_index_are_covered():
    constructors = {case["constructor"] for case in cases.all_cases()}
    missing = {name for name in constructors if not hasattr(km, name)}
    assert missing == set(cases.MISSING_CONSTRUCTORS), (
        "Update MISSING_CONSTRUCTORS in tests/golden/cases.py"
    )
    assert len(cases.all_cases()) == 67


@pytest.mark.backend_independent
def test_the_quick_cases_span_families_and_sizes():
    quick = _quick_cases()
    seen = {
        families.get(case["constructor"]).family
        for case in cases.all_cases()
        if case["id"] in quick
    }
    assert seen == {families.get(name).family for name in families.names()}
    assert {
        "sail-sg-metaformer.convformer_s18_384.384x384.s1",
        "sail-sg-metaformer.caformer_s18_384.384x384.s1",
    } <= quick


@pytest.mark.backend_independent
@pytest.mark.parametrize("name", families.names())
def test_registered_parameters_equal_the_index(name):
    indexed = {
        case["parameters"]
        for case in cases.all_cases()
        if case["constructor"] == name and "classes" not in case["constructor_kwargs"]
    }
    if indexed:
        assert indexed == {families.get(name).parameters}
    else:  # Not in the index: then the count is taken from the model itself.
        model = families.get(name).constructor(weights=None)
        assert _parameters(model) == families.get(name).parameters


def _smallest_of_its_family(name: str) -> bool:
    variant = families.get(name)
    family = [families.get(other) for other in families.names()]
    return variant.parameters == min(
        other.parameters for other in family if other.family == variant.family
    )


def _operations_of_norms(model) -> int:
    """As fvcore counts them: five for each number that a norm takes."""
    tokens = math.prod(model.get_layer("output_norm").input.shape[1:-1])
    return 5 * sum(
        tokens * layer.gamma.shape[0]
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.LayerNormalization)
    )


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if _smallest_of_its_family(name) else pytest.mark.large
        )
        for name in families.names()
    ],
)
def test_operations_are_as_registered_and_published(name, _release):
    variant = families.get(name)
    resolutions = {variant.resolution} | {
        checkpoint.resolution for checkpoint in catalogue.for_constructor(name)
    }
    for resolution in sorted(resolutions):
        model = variant.constructor(
            weights=None, input_shape=(resolution, resolution, 3)
        )
        macs = count_macs(model)
        if resolution == variant.resolution:
            assert macs == variant.macs
        if variant.family == "ffnet":  # Published are the merged models.
            macs = count_macs(km.fold(model))
        if variant.family in ("mlp_mixer", "gmlp"):  # timm's figures are fvcore's.
            macs += _operations_of_norms(model)
        for checkpoint in catalogue.for_constructor(name):
            if checkpoint.resolution == resolution and checkpoint.macs_billions:
                published = Decimal(str(checkpoint.macs_billions))
                unit = Decimal(1).scaleb(int(published.as_tuple().exponent))
                if published >= 100:  # Given as a whole number.
                    unit = Decimal(1)
                assert abs(Decimal(macs) / 10**9 - published) <= unit, checkpoint.tag
