"""Self-attention step by step, with its weights."""

import keras
import numpy as np
import pytest

from keras_metaformer.layers import SelfAttentionMixer
from tests.layer_checks import randomize, to_numpy


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 8), (2, 7, 8)])
def test_the_explicit_path_equals_the_fused_one(shape, dtype):
    layer = SelfAttentionMixer(4, use_bias=True, num_heads=3, dtype=dtype)
    layer.build(shape)
    randomize(layer)
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    tensor = keras.ops.convert_to_tensor(inputs, layer.compute_dtype)

    outputs, weights = layer.with_weights(tensor)

    tolerance = 1e-5 if dtype == "float32" else 0.06
    fused = to_numpy(layer(inputs)).astype("float32")
    np.testing.assert_allclose(
        to_numpy(outputs).astype("float32"), fused, atol=tolerance
    )
    tokens = int(np.prod(shape[1:-1]))
    assert tuple(weights.shape) == (2, 3, tokens, tokens)
    sums = to_numpy(weights).astype("float32").sum(-1)
    np.testing.assert_allclose(sums, 1, atol=tolerance)
