"""Attributions of pixels: of a linear model they are its weights."""

from typing import Any

import keras
import numpy as np
import pytest

from keras_metaformer.explain import (
    Probe,
    integrated_gradients,
    occlusion,
    smooth_grad,
)
from tests.layer_checks import randomize, to_numpy
from tests.small_models import metaformer

IMAGES = np.random.default_rng(0).normal(size=(3, 6, 8, 2)).astype("float32")


def linear() -> tuple[Any, np.ndarray]:
    """A linear model, and its weights for class 1 as an image."""
    model = keras.Sequential(
        [keras.Input((6, 8, 2)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    randomize(model)
    return model, to_numpy(model.layers[-1].kernel)[:, 1].reshape(6, 8, 2)


def test_of_a_linear_model_they_are_its_weights():
    model, weights = linear()
    probe = Probe(model)

    noisy = smooth_grad(probe, IMAGES, 1, samples=3, batch_size=2)
    np.testing.assert_allclose(
        noisy.values, np.broadcast_to(weights, IMAGES.shape), rtol=1e-5, atol=1e-7
    )

    shares = integrated_gradients(probe, IMAGES, 1, baseline=0.5, steps=4)
    expected = weights * (IMAGES - 0.5)
    np.testing.assert_allclose(shares.values, expected, rtol=1e-4, atol=1e-6)
    assert (shares.gaps < 1e-5).all()

    single = occlusion(probe, IMAGES, 1, patch=1, stride=1, baseline=0.0)
    np.testing.assert_allclose(
        single.values[..., 0], (weights * IMAGES).sum(-1), rtol=1e-4, atol=1e-5
    )


def test_occlusion_is_the_mean_over_the_patches_that_cover_a_pixel():
    model, weights = linear()
    lost = (weights * IMAGES).sum(-1)
    found = occlusion(model, IMAGES, 1, patch=4, stride=2, baseline=0.0)
    # The corner is covered by one patch, its neighbour's neighbour by two.
    corner = lost[:, :4, :4].sum(axis=(1, 2))
    np.testing.assert_allclose(found.values[:, 0, 0, 0], corner, atol=1e-5)
    next_one = lost[:, :4, 2:6].sum(axis=(1, 2))
    np.testing.assert_allclose(
        found.values[:, 0, 2, 0], (corner + next_one) / 2, atol=1e-5
    )


def test_integrated_gradients_add_up_to_the_difference_of_the_scores():
    model = metaformer()
    randomize(model)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("float32")
    few = integrated_gradients(model, images, 2, steps=2)
    many = integrated_gradients(model, images, 2, steps=64)
    probe = Probe(model)
    nothing = np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)
    scores = [probe.observe(np.array(each), {})["output"] for each in (images, nothing)]
    difference = (scores[0] - scores[1])[:, 2]
    np.testing.assert_allclose(
        many.values.sum(axis=(1, 2, 3)), difference, rtol=0.02, atol=0.01
    )
    np.testing.assert_allclose(many.scores, scores[0][:, 2], rtol=1e-4)
    assert many.gaps.max() < few.gaps.max()


def test_noise_is_of_the_seed_and_none_is_the_gradient():
    model = metaformer()
    randomize(model)
    images = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype("float32")
    probe = Probe(model)
    plain = smooth_grad(probe, images, 0, samples=1, noise=0.0)
    gradients = probe.differentiate(images, lambda outputs, watched: outputs[:, 0])
    np.testing.assert_allclose(plain.values, gradients.gradients, atol=1e-6)
    one, same, other = (
        smooth_grad(probe, images, 0, samples=2, seed=seed).values for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_errors():
    model, _ = linear()
    for function, arguments, message in (
        (integrated_gradients, {"steps": 0}, "`steps`"),
        (integrated_gradients, {"baseline": np.zeros(5)}, r"`baseline` must .*\(5,\)"),
        (smooth_grad, {"noise": -1.0}, "`noise` must not be negative.*noise=-1"),
        (smooth_grad, {"samples": 0}, "`samples`"),
        (occlusion, {"patch": 7}, r"`patch` must fit.*patch=7"),
        (occlusion, {"patch": 2, "stride": 3}, r"stride=3"),
    ):
        with pytest.raises(ValueError, match=message):
            function(model, IMAGES, 1, **arguments)
