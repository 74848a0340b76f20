"""Shares of active coefficients, counted by hand."""

import math

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.layers import IdentityMixer
from tests.explain import planted
from tests.layer_checks import randomize
from tests.small_models import metaformer

#: Of `planted.KEYS` on the quarters: 2 + 1 + 2 + 2 of 16 are positive.
BY_HAND = 7 / 16


@pytest.mark.parametrize("activation", ["star_relu", "squared_relu", "relu"])
def test_active_coefficients_of_rectifiers_are_counted(activation):
    model = planted.model(activation=activation)
    if activation == "star_relu":  # Of which scale and bias hide the zeros.
        activation = model.get_layer("block_0").channel_mixing.transform.activation
        activation.set_weights([np.float32([2.0]), np.float32([5.0])])

    found = km.explain.sparsity(model, planted.image())

    assert found.layers == ("block_0/channel_mixing/transform/activation",)
    assert found.mixers == ("channel",)
    np.testing.assert_allclose(found.active, [[BY_HAND]], rtol=1e-6)
    folded = km.explain.sparsity(km.fold(model), planted.image())
    np.testing.assert_allclose(folded.active, [[BY_HAND]], rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.01, 0.17, 2.0])
def test_gelu_is_cut_at_the_threshold(threshold):
    model = planted.model(activation="gelu")
    values = 2 * np.stack([planted.FIRST, planted.SECOND], axis=1) @ planted.KEYS
    gelu = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in values.ravel()]

    found = km.explain.sparsity(model, planted.image(), threshold=threshold)

    expected = np.mean(np.abs(gelu) > threshold)
    np.testing.assert_allclose(found.active, [[expected]], rtol=1e-6)


@pytest.mark.one_backend
def test_layers_stand_in_the_order_of_the_model_and_images_by_themselves():
    model = metaformer(("separable_convolution", "self_attention"))
    randomize(model)
    images = np.random.default_rng(0).normal(size=(5, 32, 32, 3)).astype("float32")

    found = km.explain.sparsity(model, images, batch_size=2)

    assert found.layers == (
        "stage_0_block_0/token_mixing/transform/activation",
        "stage_0_block_0/channel_mixing/transform/activation",
        "stage_1_block_0/channel_mixing/transform/activation",
    )
    assert found.mixers == ("token", "channel", "channel")
    assert found.active.shape == (5, 3)
    assert ((found.active > 0) & (found.active < 1)).all()
    one = km.explain.sparsity(model, images[3:4])
    np.testing.assert_allclose(found.active[3:4], one.active, atol=1e-6)
    assert found.png()[:4] == b"\x89PNG"
    assert set(found.arrays()) == {"active", "layers"}


@pytest.mark.one_backend
def test_models_in_models_are_read():
    inner = metaformer(input_shape=(32, 32, 3), include_top=False)
    image = keras.Input((32, 32, 3))
    outer = keras.Model(image, keras.layers.GlobalAveragePooling2D()(inner(image)))

    found = km.explain.sparsity(outer, np.ones((1, 32, 32, 3), "float32"))

    assert found.layers[0] == (
        f"{inner.name}/stage_0_block_0/channel_mixing/transform/activation"
    )


@pytest.mark.one_backend
def test_wrong_arguments_are_refused():
    images = np.zeros((1, 32, 32, 3), "float32")
    with pytest.raises(ValueError, match=r"negative.*threshold=-1"):
        km.explain.sparsity(metaformer(), images, threshold=-1)
    without = metaformer(activation=IdentityMixer)
    with pytest.raises(ValueError, match="blocks have activations"):
        km.explain.sparsity(without, images)
