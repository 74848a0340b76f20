"""Receptive fields of stacks whose theoretical support is known."""

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.layers import SeparableConvolutionMixer
from tests.layer_checks import randomize
from tests.small_models import metaformer

IMAGES = np.random.default_rng(0).normal(size=(3, 96, 80, 3)).astype("float32")


def _support(position, *layers):
    """First and last pixel of a position, by (kernel, stride, padding) of layers."""
    first = last = position
    for kernel, stride, padding in reversed(layers):
        first = first * stride - padding
        last = last * stride - padding + kernel - 1
    return first, last


def test_the_support_is_that_of_theory():
    model = metaformer(
        lambda: SeparableConvolutionMixer(kernel_size=3), input_shape=(96, 80, 3)
    )
    randomize(model)

    found = km.explain.receptive_field(model, IMAGES, batch_size=2)

    stack = ((7, 4, 2), (3, 1, 1), (3, 2, 1), (3, 1, 1))
    top, bottom = _support(96 // 8 // 2, *stack)
    left, right = _support(80 // 8 // 2, *stack)
    assert found.support() == (top, left, bottom, right)
    assert found.layer == "stage_1"
    np.testing.assert_allclose(found.contributions.sum(), 1, rtol=1e-5)
    assert 0 < found.radius(0.5) < found.radius(0.95) <= found.radius(1)
    within = found.radius(1)
    assert abs(found.centre[0] - (top + bottom) / 2) < 4  # half a position
    assert within <= (bottom - top) / 2 + 4
    of_block = km.explain.receptive_field(model, IMAGES, layer=0)
    first = _support(96 // 4 // 2, (7, 4, 2), (3, 1, 1))
    assert (of_block.support()[0], of_block.support()[2]) == first
    assert found.png()[:4] == b"\x89PNG"


@pytest.mark.backend_independent
def test_the_contribution_radius_is_that_of_the_share():
    values = np.zeros((9, 9), "float32")
    values[4, 4] = 0.5
    values[3:6, 3:6] += 0.25 / 9
    values[0, 4] = 0.25
    found = km.explain.ReceptiveField(values, (4.0, 4.0), "stage_1", 1)

    assert found.radius(0.5) == 0
    assert found.radius(0.6) == 1
    assert found.radius(0.75) == 1
    assert found.radius(0.76) == 4
    assert found.radius(1) == 4
    radii, shares = found.shares()
    np.testing.assert_array_equal(radii, range(5))
    np.testing.assert_allclose(shares, [0.5 + 0.25 / 9, 0.75, 0.75, 0.75, 1])
    for share in (0, 1.5):
        with pytest.raises(ValueError, match=r"in \(0, 1\]"):
            found.radius(share)


@pytest.mark.one_backend
def test_attention_sees_the_whole_image_and_other_models_are_compared():
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 5, padding="same", use_bias=False)(image)
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    other = keras.Model(image, outputs)
    attention = metaformer(("pooling", "self_attention"))
    randomize(attention)
    images = IMAGES[:2, :32, :32]

    found = km.explain.receptive_field_comparison(
        {"attention": attention, "convolution": other}, images
    )

    assert found.fields["attention"].support() == (0, 0, 31, 31)
    assert found.fields["convolution"].support() == (14, 14, 18, 18)
    assert found.fields["convolution"].layer == x._keras_history.operation.name
    assert found.png()[:4] == b"\x89PNG"


@pytest.mark.one_backend
def test_wrong_arguments_are_refused():
    model = metaformer()
    images = IMAGES[:1, :32, :32]
    with pytest.raises(ValueError, match=r"maps.*of shape"):
        km.explain.receptive_field(model, images, layer="predictions")
    with pytest.raises(ValueError, match="at least one model"):
        km.explain.receptive_field_comparison({}, images)
    with pytest.raises(ValueError, match=r"names of the models, \['a'\].*'b'"):
        km.explain.receptive_field_comparison({"a": model}, images, {"b": "P2"})
    dead = metaformer()
    dead.get_layer("stem").convolution.kernel.assign(
        np.zeros(dead.get_layer("stem").convolution.kernel.shape)
    )
    with pytest.raises(ValueError, match="does not change with the image"):
        km.explain.receptive_field(dead, images)
