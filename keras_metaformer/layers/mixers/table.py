"""The mixers by name, of tokens and of channels.

What a block is made of comes here as settings by name: the fields of
`keras_metaformer.models.block_config.BlockConfig`, and a `seed`.
"""

from collections.abc import Mapping
from typing import Any

import keras

from keras_metaformer.layers.factories import make_layer
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


class NamedMixer:
    """The factory behind a mixer's name: a layer, and the settings that act on it.

    Args:
        layer: the class of the layer.
        *settings: those that are the layer's arguments of the same names.
        **renamed: for an argument of the layer, the setting that it is.
    """

    def __init__(
        self, layer: type[keras.layers.Layer], *settings: str, **renamed: str
    ) -> None:
        self.layer = layer
        self.arguments = {name: name for name in settings} | renamed

    def __call__(self, dtype: Any = None, **settings: Any) -> keras.layers.Layer:
        given = {
            argument: settings[name]
            for argument, name in self.arguments.items()
            # None stands for what the layer has by itself.
            if settings.get(name) is not None
        }
        return self.layer(dtype=dtype, **given)


_START = ("kernel_initializer", "bias_initializer")
_MLP = ("activation", "use_bias", "seed", *_START)
#: What a builder hands to the mixers with a use for it.
SETTINGS = ("activation", "use_bias", "mlp_ratio", "mlp_dropout")

TOKEN_MIXERS = {
    "identity": NamedMixer(IdentityMixer),
    "random": NamedMixer(RandomMixer, "seed"),
    "pooling": NamedMixer(PoolingMixer),
    "convolution": NamedMixer(ConvolutionMixer, "use_bias", *_START),
    "depthwise_separable": NamedMixer(DepthwiseSeparableMixer, "use_bias", *_START),
    "separable_convolution": NamedMixer(
        SeparableConvolutionMixer, "activation", "use_bias", *_START
    ),
    "self_attention": NamedMixer(SelfAttentionMixer, "use_bias", *_START),
    "token_mlp": NamedMixer(TokenMLP, *_MLP, dropout="mlp_dropout"),
    "cross_patch_linear": NamedMixer(CrossPatchLinear, "use_bias", *_START),
    "gated_mlp": NamedMixer(GatedMLP, *_MLP, ratio="mlp_ratio", dropout="mlp_dropout"),
    # The last two are settings of FFNets alone.
    "ffnified_attention": NamedMixer(
        FFNifiedAttention,
        "activation",
        "use_bias",
        "kernel_initializer",
        "branches",
        kernel_size="token_kernel_size",
    ),
}
CHANNEL_MIXERS = {
    "mlp": NamedMixer(ChannelMLP, *_MLP, ratio="mlp_ratio", dropout="mlp_dropout"),
    "convnext": NamedMixer(
        ConvNeXtChannelMixer, *_MLP, ratio="mlp_ratio", dropout="mlp_dropout"
    ),
}


def settings_of(spec: Any, named: Mapping[str, NamedMixer]) -> frozenset[str]:
    """The settings that act on a mixer: on a layer of a user's own, none."""
    mixer = named.get(spec) if isinstance(spec, str) else None
    return frozenset(mixer.arguments.values() if mixer else ())


def make_token_mixer(
    spec: Any, dtype: Any = None, **settings: Any
) -> keras.layers.Layer:
    """A fresh token mixer; see `make_layer` for what `spec` may be."""
    return make_layer("mixer", spec, TOKEN_MIXERS, dtype, **settings)


def make_channel_mixer(
    spec: Any, dtype: Any = None, **settings: Any
) -> keras.layers.Layer:
    """A fresh channel mixer; see `make_layer` for what `spec` may be."""
    return make_layer("channel mixer", spec, CHANNEL_MIXERS, dtype, **settings)
