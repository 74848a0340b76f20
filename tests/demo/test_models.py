from typing import Any

import keras
import numpy as np
import pytest

from keras_metaformer import layers
from keras_metaformer.blocks import ResidualBranch
from keras_metaformer.cli.demo import Family
from keras_metaformer.data.digits import load_digits
from keras_metaformer.demo.models import FAMILIES, build_model
from keras_metaformer.demo.training import train

LAST_MIXERS = {
    "identityformer": layers.IdentityMixer,
    "randformer": layers.RandomMixer,
    "poolformer": layers.PoolingMixer,
    "poolformerv2": layers.PoolingMixer,
    "convformer": layers.SeparableConvolutionMixer,
    "caformer": layers.SelfAttentionMixer,
    "mlpmixer": layers.TokenMLP,
    "resmlp": layers.CrossPatchLinear,
    "gmlp": layers.GatedMLP,
    "ffnet": layers.FFNifiedAttention,
}


@pytest.mark.backend_independent
def test_the_command_knows_every_family():
    assert set(Family) == set(FAMILIES) == set(LAST_MIXERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_small_model_for_the_digits(family):
    model: Any = build_model(0, family)
    assert model.name == f"digits_{family}"
    assert model.input_shape == (None, 32, 32, 3)
    assert 300_000 < model.count_params() < 1_300_000
    block = [layer for layer in model.layers if "block_" in layer.name][-1]
    step = block if isinstance(block, ResidualBranch) else block.token_mixing
    assert type(step.transform) is LAST_MIXERS[family]

    images = load_digits().test_images[:4].astype("float32")
    answers = np.asarray(model.predict_on_batch(images))
    np.testing.assert_allclose(answers.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.backend_independent
def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match=r"one of.*'gmlp'.*Received: family='vit'"):
        build_model(family="vit")


@pytest.mark.large
@pytest.mark.backend_independent  # The recipe is the same on all: once is enough.
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_the_digits(family):
    keras.utils.set_random_seed(0)
    history = train(build_model(0, family), load_digits(), epochs=16)
    assert history["val_accuracy"][-1] >= 0.95
