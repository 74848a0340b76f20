"""A small model of every family for the demo's digits."""

from collections.abc import Callable
from typing import Any

import keras

from keras_metaformer.layers.mixers.separable_convolution_mixer import (
    SeparableConvolutionMixer,
)
from keras_metaformer.models.arguments import IMAGES
from keras_metaformer.models.ffnet import FFNetArguments, build_ffnet
from keras_metaformer.models.metaformer import IsotropicMetaFormer, MetaFormer

CLASSES = 10
IMAGE_SIZE = 32


def build_model(seed: int = 0, family: str = "caformer") -> keras.Model:
    """A small model for 32x32 digits, untrained.

    Hierarchical families have three stages, of 16x16, 8x8 and 4x4 tokens (FFNet: 8x8,
    4x4 and 2x2); the isotropic ones 8x8 tokens, each of which is a pixel of the digits'
    originals. All else is as in the family: its mixers, norms, activations and scales.
    The model takes pixels from 0 to 255 and gives ten probabilities.

    Args:
        seed: of the random matrices.
        family: a key of `FAMILIES`.

    Raises:
        ValueError: if there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(
            f"`family` must be one of {list(FAMILIES)}. Received: family={family!r}"
        )
    _, build = FAMILIES[family]
    return build(
        name=f"digits_{family}",
        seed=seed,
        input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
        classes=CLASSES,
        include_preprocessing=True,
    )


def _small_convolution() -> keras.layers.Layer:
    return SeparableConvolutionMixer(kernel_size=3)


def _hierarchical(mixer: Any, **fields: Any) -> Callable[..., keras.Model]:
    # As in the baselines, the later blocks scale their residual branches.
    fields = {"residual_scaling": ("none", "none", "residual")} | fields

    def build(**arguments: Any) -> keras.Model:
        return MetaFormer(
            depths=(1, 1, 2),
            widths=(32, 64, 128),
            mixer=mixer,
            stem_kernel_size=3,
            stem_strides=2,
            stem_padding=1,
            **fields,
            **arguments,
        )

    return build


def _isotropic(
    mixer: str, width: int = 96, **fields: Any
) -> Callable[..., keras.Model]:
    def build(**arguments: Any) -> keras.Model:
        return IsotropicMetaFormer(
            depth=4, width=width, patch_size=4, mixer=mixer, **fields, **arguments
        )

    return build


def _ffnet(seed: int, **arguments: Any) -> keras.Model:
    ffnet = FFNetArguments(
        depths=(1, 1, 2),
        widths=(32, 64, 128),
        stem_width=32,
        token_kernel_size=3,
        channel_kernel_size=3,
        seed=seed,
        **arguments,
    )
    return build_ffnet(ffnet, IMAGES)


#: By the demo's name: what it is called in text, and what builds it.
FAMILIES: dict[str, tuple[str, Callable[..., keras.Model]]] = {
    "identityformer": ("IdentityFormer", _hierarchical("identity", norm="group_norm")),
    "randformer": (
        "RandFormer",
        _hierarchical(("identity", "identity", "random"), norm="group_norm"),
    ),
    "poolformer": (
        "PoolFormer",
        _hierarchical(
            "pooling",
            activation="gelu",
            norm="group_norm",
            residual_scaling="layer",
            # From the family's own 1e-5 so short a training gets nowhere near one.
            layer_scale_initial_value=0.3,
            use_bias=True,
            downsampling_norm="identity",
            output_norm="group_norm",
            normalize_before_pooling=True,
        ),
    ),
    "poolformerv2": ("PoolFormerV2", _hierarchical("pooling", norm="group_norm")),
    "convformer": ("ConvFormer", _hierarchical(_small_convolution)),
    "caformer": (
        "CAFormer",
        _hierarchical((_small_convolution, _small_convolution, "self_attention")),
    ),
    "mlpmixer": ("MLP-Mixer", _isotropic("token_mlp", activation="gelu_tanh")),
    "resmlp": (
        "ResMLP",
        _isotropic(
            "cross_patch_linear",
            # Without norms it learns slowly; more channels make up for it.
            width=192,
            norm="affine",
            output_norm="affine",
            residual_scaling="layer",
            layer_scale_initial_value=1.0,
        ),
    ),
    "gmlp": ("gMLP", _isotropic("gated_mlp", channel_mixer="none")),
    "ffnet": ("FFNet", _ffnet),
}
