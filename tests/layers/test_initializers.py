"""The initial weights."""

import keras
import numpy as np
import pytest

from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers import initializers
from keras_metaformer.layers.initializers import (
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    truncated_normal,
    undrawn,
)


def test_a_cut_far_out_keeps_the_standard_deviation() -> None:
    values = to_numpy(truncated_normal()((400, 500)))
    assert values.dtype == "float32"
    assert 0.08 < np.abs(values).max() < 0.12
    assert abs(values.mean()) < 3e-4
    assert values.std() == pytest.approx(0.02, rel=0.01)


def test_the_limit_is_absolute() -> None:
    values = to_numpy(TruncatedNormal(0.5, seed=1, limit=1.0)((400, 500)))
    assert 0.99 < np.abs(values).max() <= 1.0
    # A normal cut at two standard deviations keeps 0.8796 of its own.
    assert values.std() == pytest.approx(0.5 * 0.8796, rel=0.01)


@pytest.mark.parametrize(
    ("initializer", "shape", "stddev", "largest"),
    [
        # Fans: 4 * 5 * 30 = 600 inputs, 4 * 5 * 90 = 1800 outputs of a convolution.
        (initializers.lecun_normal(), (4, 5, 30, 90), 600**-0.5, 2.2737 * 600**-0.5),
        (initializers.glorot_uniform(), (4, 5, 30, 90), 1200**-0.5, 400**-0.5),
        (initializers.glorot_uniform(), (300, 100), 200**-0.5, (3 / 200) ** 0.5),
        (initializers.pytorch_kernel(), (4, 5, 30, 90), 1800**-0.5, 600**-0.5),
        (initializers.pytorch_bias(25), (50_000,), 0.2 / 3**0.5, 0.2),
        (Uniform(0.5), (50_000,), 0.5 / 3**0.5, 0.5),
    ],
)
def test_scaled_to_the_fans(initializer, shape, stddev, largest) -> None:
    values = to_numpy(initializer(shape))
    assert values.dtype == "float32"
    assert values.std() == pytest.approx(stddev, rel=0.02)
    assert abs(values.mean()) < 0.03 * stddev
    assert np.abs(values).max() <= largest * 1.0001
    assert np.abs(values).max() > 0.99 * largest


def test_near_zero() -> None:
    values = to_numpy(initializers.near_zero()((50_000,)))
    assert values.std() == pytest.approx(1e-6, rel=0.02)


def test_seeds() -> None:
    first, second = (to_numpy(TruncatedNormal(seed=3)((4, 5))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    initializer = truncated_normal()
    assert np.any(to_numpy(initializer((4, 5))) != to_numpy(initializer((4, 5))))
    keras.utils.set_random_seed(7)
    first = to_numpy(initializer((4, 5)))
    keras.utils.set_random_seed(7)
    np.testing.assert_array_equal(first, to_numpy(initializer((4, 5))))


def test_the_same_on_every_backend() -> None:
    values = to_numpy(TruncatedNormal(1.0, seed=0)((3,)))
    np.testing.assert_allclose(values, [1.117622, -1.3871249, -0.4265716], rtol=1e-6)


def test_what_is_loaded_next_is_not_drawn() -> None:
    for initializer in (TruncatedNormal(), VarianceScaling(), Uniform()):
        with undrawn():
            assert not to_numpy(initializer((4, 5))).any()
        assert to_numpy(initializer((4, 5))).all()


@pytest.mark.parametrize(
    "initializer",
    [
        TruncatedNormal(0.1, seed=5, limit=0.15),
        VarianceScaling(0.5, "fan_avg", "uniform", seed=5),
        Uniform(0.3, seed=5),
    ],
)
def test_config(initializer) -> None:
    config = keras.initializers.serialize(initializer)
    copy = keras.initializers.deserialize(config)
    assert type(copy) is type(initializer)
    assert copy.get_config() == initializer.get_config()
    np.testing.assert_array_equal(to_numpy(copy((4, 5))), to_numpy(initializer((4, 5))))
    assert to_numpy(copy((2, 2), dtype="float16")).dtype == "float16"


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`mode` must be .*Received: mode='fan_out'"):
        VarianceScaling(mode="fan_out")
    with pytest.raises(ValueError, match="Received: distribution='normal'"):
        VarianceScaling(distribution="normal")
