"""The mixers by name, of tokens and of channels."""

from typing import Any

import keras

from keras_metaformer.layers.factories import LayerFactory, make_layer
from keras_metaformer.layers.mixers.channel_mlp import ChannelMLP
from keras_metaformer.layers.mixers.convnext_channel_mixer import ConvNeXtChannelMixer
from keras_metaformer.layers.mixers.convolution_mixer import ConvolutionMixer
from keras_metaformer.layers.mixers.cross_patch_linear import CrossPatchLinear
from keras_metaformer.layers.mixers.depthwise_separable_mixer import (
    DepthwiseSeparableMixer,
)
from keras_metaformer.layers.mixers.ffnified_attention import FFNifiedAttention
from keras_metaformer.layers.mixers.gated_mlp import GatedMLP
from keras_metaformer.layers.mixers.identity_mixer import IdentityMixer
from keras_metaformer.layers.mixers.pooling_mixer import PoolingMixer
from keras_metaformer.layers.mixers.random_mixer import RandomMixer
from keras_metaformer.layers.mixers.self_attention_mixer import SelfAttentionMixer
from keras_metaformer.layers.mixers.separable_convolution_mixer import (
    SeparableConvolutionMixer,
)
from keras_metaformer.layers.mixers.token_mlp import TokenMLP

# Each factory takes the stage's `activation`, `use_bias` and `seed`, and hands on what
# its mixer has a use for.
MIXERS: dict[str, LayerFactory] = {
    "identity": lambda dtype, **_: IdentityMixer(dtype=dtype),
    "random": lambda dtype, seed, **_: RandomMixer(seed=seed, dtype=dtype),
    "pooling": lambda dtype, **_: PoolingMixer(dtype=dtype),
    "convolution": lambda dtype, use_bias, **_: ConvolutionMixer(
        use_bias=use_bias, dtype=dtype
    ),
    "depthwise_separable": lambda dtype, use_bias, **_: DepthwiseSeparableMixer(
        use_bias=use_bias, dtype=dtype
    ),
    "separable_convolution": lambda dtype, activation, use_bias, **_: (
        SeparableConvolutionMixer(activation=activation, use_bias=use_bias, dtype=dtype)
    ),
    "self_attention": lambda dtype, use_bias, **_: SelfAttentionMixer(
        use_bias=use_bias, dtype=dtype
    ),
    "token_mlp": lambda dtype, activation, **_: TokenMLP(
        activation=activation, dtype=dtype
    ),
    "cross_patch_linear": lambda dtype, **_: CrossPatchLinear(dtype=dtype),
    "gated_mlp": lambda dtype, activation, **_: GatedMLP(
        activation=activation, dtype=dtype
    ),
    "ffnified_attention": lambda dtype, activation, **_: FFNifiedAttention(
        activation=activation, dtype=dtype
    ),
}

CHANNEL_MIXERS: dict[str, LayerFactory] = {
    "mlp": ChannelMLP,
    "convnext": lambda dtype, ratio, activation, **_: ConvNeXtChannelMixer(
        # The layer refuses a fraction; 4.0, the default of an MLP, is none.
        ratio=int(ratio) if ratio == int(ratio) else ratio,
        activation=activation,
        dtype=dtype,
    ),
}


def make_mixer(
    spec: Any,
    activation: Any = "star_relu",
    use_bias: bool = False,
    seed: int | None = None,
    dtype: Any = None,
) -> keras.layers.Layer:
    """A fresh token mixer; see `make_layer` for what `spec` may be."""
    return make_layer(
        "mixer",
        spec,
        MIXERS,
        dtype,
        activation=activation,
        use_bias=use_bias,
        seed=seed,
    )
