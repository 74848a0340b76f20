"""Attention that was set by hand is the attention that is read."""

import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.layers import MetaMixer, SelfAttentionMixer
from tests.explain import planted
from tests.layer_checks import randomize, to_numpy
from tests.small_models import build_small, metaformer

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
MIXER = "block_0/token_mixing/transform"


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _by_hand():
    """A model of two heads: one attends by the first colour, one to all alike."""
    model = planted.model(SelfAttentionMixer(head_dim=1, num_heads=2), width=3)
    mixer = model.get_layer("block_0").token_mixing.transform
    kernel = np.zeros((3, 6), "float32")
    kernel[0, 0] = kernel[0, 2] = 1.0  # Query and key of the first head.
    kernel[1, 4] = kernel[2, 5] = 1.0  # The values.
    mixer.qkv.set_weights([kernel])
    return model


def test_a_hand_set_attention_is_that_attention():
    found = km.explain.attention_maps(_by_hand(), planted.image())

    colours = np.asarray(planted.FIRST)
    expected = np.stack([_softmax(np.outer(colours, colours)), np.full((4, 4), 0.25)])
    assert list(found.weights) == [MIXER]
    np.testing.assert_allclose(found.weights[MIXER], expected[None], atol=1e-6)
    assert found.grids == {MIXER: (2, 2)}
    np.testing.assert_allclose(
        found.maps(MIXER)[0].ravel(), expected.mean(0).mean(0), atol=1e-6
    )
    asked = km.explain.attention_maps(_by_hand(), planted.image(), query=(0.9, 0.1))
    np.testing.assert_allclose(
        asked.maps(MIXER)[0].ravel(), expected.mean(0)[2], atol=1e-6
    )
    for each in (found, asked):
        assert each.png()[:4] == b"\x89PNG"


@pytest.mark.one_backend
def test_a_meta_mixer_that_is_attention_has_the_same_weights():
    fused = metaformer("self_attention", channel_mixer="none", widths=(32, 32))
    parts = metaformer(
        lambda: MetaMixer.self_attention(32), channel_mixer="none", widths=(32, 32)
    )
    randomize(fused)
    for layer in ("stem", "stage_1_downsampling"):
        parts.get_layer(layer).set_weights(fused.get_layer(layer).get_weights())
    for block in ("stage_0_block_0", "stage_1_block_0"):
        ours, theirs = fused.get_layer(block), parts.get_layer(block)
        theirs.norm.set_weights(ours.norm.get_weights())
        kernel = to_numpy(ours.transform.qkv.kernel)
        for name, third in zip(
            ("query", "key", "value"), np.split(kernel, 3, axis=1), strict=True
        ):
            getattr(theirs.transform, name).set_weights([third])
        theirs.transform.projection.set_weights(
            ours.transform.output_projection.get_weights()
        )
        if ours.residual_scale is not None:
            theirs.residual_scale.set_weights(ours.residual_scale.get_weights())

    found = km.explain.attention_maps(fused, IMAGES, batch_size=2)
    others = km.explain.attention_maps(parts, IMAGES)

    assert list(found.grids.values()) == list(others.grids.values()) == [(8, 8), (4, 4)]
    pairs = zip(found.weights.values(), others.weights.values(), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-5)
        np.testing.assert_allclose(one.sum(-1), 1, atol=1e-5)


@pytest.mark.one_backend
def test_rollout_multiplies_the_blocks_of_a_stage():
    model = metaformer("self_attention", depths=(2, 1), widths=(32, 32))
    randomize(model)
    maps = km.explain.attention_maps(model, IMAGES)

    found = km.explain.attention_rollout(model, IMAGES)

    first, second, third = (each.mean(1) for each in maps.weights.values())
    expected = (second / 2 + np.eye(64) / 2) @ (first / 2 + np.eye(64) / 2)
    assert list(found.weights) == ["stage_0", "stage_1"]
    np.testing.assert_allclose(found.weights["stage_0"], expected, atol=1e-5)
    np.testing.assert_allclose(
        found.weights["stage_1"], third / 2 + np.eye(16) / 2, atol=1e-5
    )
    assert found.maps("stage_1").shape == (3, 4, 4)
    assert found.png()[:4] == b"\x89PNG"
    averaged = km.explain.attention_maps(model, IMAGES, average_heads=True)
    for path, weights in maps.weights.items():
        np.testing.assert_allclose(
            averaged.weights[path], weights.mean(1, keepdims=True), atol=1e-6
        )


@pytest.mark.one_backend
def test_a_class_token_attends_to_the_map():
    model = planted.model("self_attention", width=32, class_token=True)
    randomize(model)

    found = km.explain.attention_maps(model, planted.image())

    assert found.weights[MIXER].shape == (1, 1, 5, 5)
    assert found.grids == {MIXER: (2, 2)}
    np.testing.assert_array_equal(
        found.maps(MIXER)[0].ravel(), found.weights[MIXER][0, 0, 0, 1:]
    )


@pytest.mark.one_backend
def test_models_without_attention_are_refused():
    with pytest.raises(ValueError, match=r"CAFormer.*Received: model='convformer'"):
        km.explain.attention_maps(
            build_small("convformer"), np.zeros((1, 64, 64, 3), "float32")
        )
    assert not km.explain.has_attention(build_small("convformer"))
    model = metaformer(("pooling", "self_attention"))
    assert km.explain.has_attention(model)
    with pytest.raises(ValueError, match=r"\(y, x\) in \[0, 1\]"):
        km.explain.attention_maps(model, IMAGES, query=(3, 4))
