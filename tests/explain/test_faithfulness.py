"""Curves by which methods are compared, and ROAD's imputation."""

from typing import Any

import keras
import numpy as np
import pytest

from keras_metaformer.explain import faithfulness
from keras_metaformer.explain.faithfulness import imputed

pytestmark = pytest.mark.backend_independent


def pixel_model() -> Any:
    """The probability of class 1 grows with the pixel in row 1, column 2 alone."""
    model: Any = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    kernel = np.zeros((16, 2), "float32")
    kernel[6, 1] = 2.0
    model.layers[-1].set_weights([kernel, np.zeros(2, "float32")])
    return model


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def test_the_right_map_is_better_than_the_wrong_one_by_each_curve():
    image = np.zeros((1, 4, 4, 1), "float32")
    image[0, 1, 2] = 3.0
    right, wrong = np.zeros((2, 1, 4, 4))
    right[0, 1, 2] = 1
    wrong[0] = 1 - right[0]

    found = faithfulness(
        pixel_model(), image, {"right": right, "wrong": wrong}, 1, steps=16
    )

    whole, mean = sigmoid(2 * 3.0), sigmoid(2 * 3.0 / 16)
    deletion = found.curves["deletion"]
    np.testing.assert_allclose(deletion["right"], [whole] + 16 * [mean], rtol=1e-5)
    np.testing.assert_allclose(deletion["wrong"], 16 * [whole] + [mean], rtol=1e-5)
    insertion = found.curves["insertion"]
    np.testing.assert_allclose(insertion["right"], [mean] + 16 * [whole], rtol=1e-5)
    for name, better in (("deletion", -1), ("insertion", 1), ("road", 1)):
        areas = found.areas[name]
        assert better * (areas["right"] - areas["wrong"]) > 0.1, name
    assert found.areas["deletion"]["right"] == pytest.approx(
        (15.5 * mean + 0.5 * whole) / 16, rel=1e-4
    )
    np.testing.assert_allclose(found.shares, np.linspace(0, 1, 17))
    assert found.arrays()["curves"].shape == (3, 2, 17)


def test_what_is_gone_is_made_of_its_neighbours():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:9, :9].astype("float32")
    image = np.stack([rows + 2 * columns, 5 - rows], axis=-1)
    gone = np.zeros((9, 9), bool)
    gone[3:6, 3:6] = True
    gone[0, 0] = True

    class Silent:
        def normal(self, size):
            return np.zeros(size)

    found = imputed(image, gone, Silent())

    # A plane is its own mean of neighbours, all around.
    np.testing.assert_allclose(found[3:6, 3:6], image[3:6, 3:6], atol=1e-5)
    np.testing.assert_array_equal(found[~gone], image[~gone])
    corner = (image[0, 1] / 6 + image[1, 0] / 6 + image[1, 1] / 12) / (5 / 12)
    np.testing.assert_allclose(found[0, 0], corner, rtol=1e-4)
    noisy = imputed(image, gone, rng)
    assert 0 < np.abs(noisy - found).max() < 0.1 * np.ptp(image)
    np.testing.assert_array_equal(imputed(image, np.zeros((9, 9), bool), rng), image)
    nothing = imputed(image, np.ones((9, 9), bool), rng)
    np.testing.assert_allclose(nothing.mean((0, 1)), image.mean((0, 1)), atol=0.1)


def test_errors():
    image = np.zeros((1, 4, 4, 1), "float32")
    with pytest.raises(ValueError, match=r"`curves` must be of .*'area'"):
        faithfulness(pixel_model(), image, {"a": image[..., 0]}, 1, curves=("area",))
    with pytest.raises(ValueError, match=r"Expected maps \(1, 4, 4\).*\(1, 2, 2\)"):
        faithfulness(pixel_model(), image, {"a": np.zeros((1, 2, 2))}, 1)
    with pytest.raises(ValueError, match="at least one method"):
        faithfulness(pixel_model(), image, {}, 1)
