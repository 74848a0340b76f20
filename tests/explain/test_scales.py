"""Learned scales through the depth."""

import numpy as np
import pytest

import keras_metaformer as km
from tests.layer_checks import randomize, to_numpy
from tests.small_models import build_small, metaformer

pytestmark = pytest.mark.one_backend


def test_scales_are_the_weights():
    model = metaformer(
        "separable_convolution", residual_scaling=("branch", "layer"), depths=(2, 1)
    )
    randomize(model)

    found = km.explain.learned_scales(model)

    counts = {kind: len(by_path) for kind, by_path in found.values.items()}
    assert counts == {
        "StarReLU scale": 6,
        "StarReLU bias": 6,
        "ResScale": 4,
        "LayerScale": 6,
    }
    block = model.get_layer("stage_0_block_1").channel_mixing
    expected = {
        "ResScale": ("residual_scale", block.residual_scale.scale),
        "LayerScale": ("layer_scale", block.layer_scale.scale),
        "StarReLU bias": ("transform/activation", block.transform.activation.bias),
    }
    for kind, (name, weight) in expected.items():
        values = found.values[kind][f"stage_0_block_1/channel_mixing/{name}"]
        np.testing.assert_array_equal(values, to_numpy(weight))
    arrays = found.arrays()
    assert arrays["LayerScale"].shape == (6, 32)
    assert np.isnan(arrays["LayerScale"][0, 16:]).all()
    assert found.png()[:4] == b"\x89PNG"


def test_what_is_folded_away_is_not_there():
    model = build_small("poolformer")
    assert set(km.explain.learned_scales(model).values) == {"LayerScale"}
    with pytest.raises(ValueError, match=r"km.fold.*Received: model='gmlp'"):
        km.explain.learned_scales(build_small("gmlp"))
    folded = km.explain.learned_scales(km.fold(build_small("convformer")))
    # Separable convolutions keep theirs.
    assert len(folded.values["StarReLU scale"]) == 4
