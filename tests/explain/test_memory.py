"""Keys that were planted are found where they answer."""

import numpy as np
import pytest

import keras_metaformer as km
from tests.explain import planted
from tests.layer_checks import randomize
from tests.small_models import build_small, metaformer

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")


def test_a_planted_key_is_found_where_it_answers():
    model = planted.model()
    activation = model.get_layer("block_0").channel_mixing.transform.activation
    activation.set_weights([np.float32([3.0]), np.float32([-1.0])])

    found = km.explain.memory(model, planted.image(), keys=2)

    # Squares of twice the colours, where these are positive.
    np.testing.assert_array_equal(found.keys, [[0, 2]])
    np.testing.assert_allclose(
        found.maps, [[[[4, 0], [36, 0]], [[0, 0], [16, 16]]]], rtol=1e-5
    )
    np.testing.assert_allclose(found.means, [[10, 4, 8, 2]], rtol=1e-5)
    assert found.layer == "block_0/channel_mixing/transform/activation"
    folded = km.explain.memory(km.fold(model), planted.image(), keys=2)
    np.testing.assert_allclose(folded.maps, found.maps, rtol=1e-5)
    assert found.png()[:4] == b"\x89PNG"


@pytest.mark.one_backend
def test_one_key_is_shown_on_every_image():
    model = metaformer()
    randomize(model)

    found = km.explain.memory(
        model, IMAGES, block=0, keys=[5, 0], batch_size=2, titles=["a", "b", "c"]
    )
    active = km.explain.memory(model, IMAGES, block="stage_0_block_0", keys=64)

    np.testing.assert_array_equal(found.keys, [[5, 0]] * 3)
    assert found.maps.shape == (3, 2, 8, 8)
    for image in range(3):
        place = list(active.keys[image]).index(5)
        np.testing.assert_allclose(
            found.maps[image, 0], active.maps[image, place], rtol=1e-4, atol=1e-6
        )
    means = np.take_along_axis(active.means, active.keys, axis=1)
    assert (np.diff(means, axis=1) <= 0).all()
    np.testing.assert_allclose(active.maps.mean((2, 3)), means, rtol=1e-4, atol=1e-6)
    assert found.png()[:4] == b"\x89PNG"


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("mixer", "path"),
    [
        ("token", "stage_3_block_0/token_mixing/transform/activation"),
        ("channel", "stage_3_block_0/channel_mixing/transform/activation"),
    ],
)
def test_both_mixers_of_an_ffnet_are_memories(mixer, path):
    model = build_small("ffnet")
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")

    found = km.explain.memory(model, images, mixer=mixer)

    assert found.layer == path
    assert found.maps.shape == (1, 5, 2, 2)


@pytest.mark.one_backend
def test_a_class_token_has_no_place_on_the_map():
    model = planted.model("self_attention", class_token=True, width=32)
    found = km.explain.memory(model, planted.image())
    assert found.maps.shape == (1, 5, 2, 2)
    assert found.means.shape == (1, 64)


@pytest.mark.backend_independent
def test_keys_that_classes_share_are_counted():
    means = np.float32([[9, 8, 0, 1], [9, 0, 8, 0], [7, 8, 0, 0], [5, 0, 9, 1]])
    found = km.explain.Memory(
        maps=np.zeros((4, 1, 2, 2), "float32"),
        keys=np.zeros((4, 1), "int64"),
        means=means,
        layer="block_0",
        images=np.zeros((4, 8, 8, 3), "uint8"),
    )

    shared = found.shared_by([0, 1, 0, 1], class_names=["cat", "dog"], most=2)

    # Of cats the keys 0 and 1, of dogs 0 and 2.
    np.testing.assert_array_equal(shared.counts, [2, 1, 1, 0])
    np.testing.assert_allclose(shared.means, [[8, 8, 0, 0.5], [7, 0, 8.5, 0.5]])
    assert shared.classes == ("cat", "dog")
    assert shared.png()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="4 classes, one for each image"):
        found.shared_by([0, 1])
    with pytest.raises(ValueError, match=r"at most the number of keys, 4.*most=5"):
        found.shared_by([0, 1, 0, 1], most=5)


@pytest.mark.one_backend
def test_wrong_arguments_are_refused():
    model = metaformer(("self_attention", "separable_convolution"))
    with pytest.raises(ValueError, match=r"'channel' or 'token'.*'both'"):
        km.explain.memory(model, IMAGES, mixer="both")
    with pytest.raises(ValueError, match=r"are: \['stage_1_block_0'\].*block=0"):
        km.explain.memory(model, IMAGES, block=0, mixer="token")
    with pytest.raises(ValueError, match=r"128 keys\. Received: keys=129"):
        km.explain.memory(model, IMAGES, keys=129)
    with pytest.raises(ValueError, match=r"some of 0 to 127.*keys=\[128\]"):
        km.explain.memory(model, IMAGES, keys=[128])
    with pytest.raises(ValueError, match="`titles` must be 3"):
        km.explain.memory(model, IMAGES, titles=["a"])
    mixer = metaformer("token_mlp")
    with pytest.raises(ValueError, match="see `token_matrices`"):
        km.explain.memory(mixer, IMAGES, mixer="token")
