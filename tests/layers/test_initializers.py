"""The initial weights."""

import keras
import numpy as np
import pytest

from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers.initializers import TruncatedNormal, truncated_normal


def test_distribution() -> None:
    values = to_numpy(TruncatedNormal(0.5, seed=1)((400, 500)))
    assert values.dtype == "float32"
    assert np.abs(values).max() <= 1.0
    assert np.abs(values).max() > 0.99
    assert abs(values.mean()) < 0.005
    # A normal cut at two standard deviations keeps 0.8796 of its own.
    assert values.std() == pytest.approx(0.5 * 0.8796, rel=0.01)


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


def test_config() -> None:
    config = keras.initializers.serialize(TruncatedNormal(0.1, seed=5))
    copy = keras.initializers.deserialize(config)
    assert isinstance(copy, TruncatedNormal)
    assert (copy.stddev, copy.seed) == (0.1, 5)
    assert to_numpy(copy((2,), dtype="float16")).dtype == "float16"
