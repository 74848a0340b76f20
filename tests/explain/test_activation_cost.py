"""Operations of activations, and their moments for a standard normal input."""

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.models.complexity import count_macs
from tests.small_models import FAMILIES, build_small, metaformer


@pytest.mark.backend_independent
def test_units_are_counted_by_hand():
    model = metaformer(("separable_convolution", "pooling"), head="mlp")

    cost = km.explain.activation_cost(model)

    assert cost.units == {
        "stage_0_block_0/token_mixing/transform/activation": 8 * 8 * 2 * 16,
        "stage_0_block_0/channel_mixing/transform/activation": 8 * 8 * 4 * 16,
        "stage_1_block_0/channel_mixing/transform/activation": 4 * 4 * 4 * 32,
        "head_activation": 4 * 32,
    }
    assert set(cost.kinds.values()) == {"StarReLU", "SquaredReLU"}
    total = sum(cost.units.values())
    flops = [row["flops"] for row in cost.rows()]
    assert flops == [1 * total, 2 * total, 4 * total, 14 * total]
    assert cost.flops() == 4 * (total - 128) + 2 * 128
    assert cost.macs == count_macs(model)
    assert cost.share("GELU") == 14 * total / (14 * total + 2 * cost.macs)
    assert cost.png()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="Received: 'tanh'"):
        cost.flops("tanh")


@pytest.mark.backend_independent
def test_the_papers_reduction():
    cost = km.explain.activation_cost(km.ConvFormerS18(weights=None))
    # StarReLU has 71 % fewer operations than GELU.
    assert round(1 - cost.flops("StarReLU") / cost.flops("GELU"), 2) == 0.71
    assert cost.flops("StarReLU") == 4 * sum(cost.units.values())
    assert 0 < cost.share("ReLU") < cost.share("GELU") < 0.05


@pytest.mark.backend_independent
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_counted(family):
    model = build_small(family)
    cost = km.explain.activation_cost(model)
    known = {"StarReLU", "SquaredReLU", "GELU", "ReLU"}
    assert set(cost.kinds.values()) <= known
    image = keras.Input((64, 64, 3))
    outer = keras.Model(image, model(image))
    nested = km.explain.activation_cost(outer)
    assert (nested.units, nested.macs) == (cost.units, cost.macs)


@pytest.mark.backend_independent
def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="known image sizes"):
        km.explain.activation_cost(metaformer(input_shape=(None, None, 3)))
    image = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="with activations"):
        km.explain.activation_cost(keras.Model(image, keras.layers.Dense(2)(image)))


def test_star_relu_normalises_a_standard_normal():
    found = km.explain.activation_moments(200_000)

    exact = {
        "ReLU": (1 / np.sqrt(2 * np.pi), 0.5 - 1 / (2 * np.pi)),
        "SquaredReLU": (0.5, 1.25),
        "StarReLU": (0.0, 1.0),
        "GELU": (1 / (2 * np.sqrt(np.pi)), None),
    }
    for place, name in enumerate(found.activations):
        mean, variance = exact[name]
        assert abs(found.expected_means[place] - mean) < 1e-5
        if variance is not None:
            assert abs(found.expected_variances[place] - variance) < 1e-5
    np.testing.assert_allclose(found.means, found.expected_means, atol=0.02)
    np.testing.assert_allclose(found.variances, found.expected_variances, atol=0.03)
    assert found.png()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="samples"):
        km.explain.activation_moments(0)
