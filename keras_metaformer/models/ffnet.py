"""FFNet: pure convolutions in MetaMixer's frame."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from keras_metaformer.blocks import (
    Downsampling,
    MetaFormerBlock,
    PatchMerging,
    ResidualBranch,
)
from keras_metaformer.layers import (
    ConvNeXtChannelMixer,
    FFNifiedAttention,
    SqueezeExcitation,
)
from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.norms.table import make_norm
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer.models.block_factory import linear_rates
from keras_metaformer.models.config import check_rate, per_stage
from keras_metaformer.models.image_model import ImageArguments
from keras_metaformer.models.pyramid_model import PyramidModel, StageOutput

DEFAULT_SIZE = 256
# PyTorch's default, in all of FFNet's batch norms.
_NORM_EPSILON = 1e-5
_STEM: Any = {"kernel_size": 3, "strides": 2, "padding": 1}


@dataclasses.dataclass(frozen=True)
class FFNetConfig:
    """An FFNet: its stages and what they share.

    Attributes:
        depths: blocks in each stage.
        widths: channels of each stage, each a multiple of the one before.
        stem_width: channels between the stem's two convolutions.
        token_kernel_size: per stage, of FFNified attention, in pixels.
        channel_kernel_size: per stage, of the channel mixer, in pixels.
        mlp_ratio: per stage, hidden channels for each channel.
        activation: per stage, of the mixers.
        layer_scale_initial_value: where LayerScale starts, or None for none.
        squeeze_excitation: per stage, whether every other block weights its channels.
        stochastic_depth_rate: of the last block; rises linearly.
        head_dropout: before the classification layer.
        seed: of stochastic depth and dropout.

    Raises:
        ValueError: if a field is out of range, or a sequence has the wrong length.
    """

    #: Decided by a variant's name; the other fields may be overridden by keyword.
    fixed_fields: ClassVar[tuple[str, ...]] = ("depths", "widths")

    depths: Sequence[int]
    widths: Sequence[int]
    stem_width: int = 64
    token_kernel_size: Any = (3, 3, 7, 7)
    channel_kernel_size: Any = 7
    mlp_ratio: Any = 3
    activation: Any = "gelu"
    layer_scale_initial_value: float | None = None
    squeeze_excitation: Any = False
    stochastic_depth_rate: float = 0.0
    head_dropout: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ValueError(
                "`depths` and `widths` must have one entry per stage each. "
                f"Received: depths={self.depths}, widths={self.widths}"
            )
        for name in ("depths", "widths"):
            for value in getattr(self, name):
                positive_integer(name, value)
        for before, after in zip(self.widths, self.widths[1:], strict=False):
            if after % before:
                raise ValueError(
                    "Each of `widths` must be a multiple of the one before, because "
                    "patch merging multiplies channels. "
                    f"Received: widths={self.widths}"
                )
        for name in (
            "token_kernel_size",
            "channel_kernel_size",
            "mlp_ratio",
            "activation",
            "squeeze_excitation",
        ):
            value = per_stage(name, getattr(self, name), len(self.depths))
            object.__setattr__(self, name, value)
        for name in ("stochastic_depth_rate", "head_dropout"):
            object.__setattr__(self, name, check_rate(name, getattr(self, name)))


def build_ffnet(
    config: FFNetConfig, arguments: ImageArguments, default_size: int = DEFAULT_SIZE
) -> PyramidModel:
    """The graph of an FFNet, with fresh weights.

    Args:
        config: what the model is made of.
        arguments: input and head.
        default_size: int. Height and width where no input shape is given, in pixels.

    Returns:
        The model. Layers are named `stem_0`, `stem_1`, `stage_S_downsampling`,
        `stage_S_block_B`, `stage_S_squeeze_B`, `stage_S` (the stage's end),
        `output_norm` and `predictions`.
    """
    image = arguments.image_input(default_size, 2 ** (len(config.depths) + 1), False)
    x = arguments.preprocess(image)
    x = _stem_convolution(config.stem_width, "stem_0")(x)
    activation = make_activation("gelu")
    activation.name = "stem_activation"
    x = _stem_convolution(config.widths[0], "stem_1")(activation(x))
    rates = linear_rates(config.stochastic_depth_rate, sum(config.depths))
    position = 0
    for stage, depth in enumerate(config.depths):
        if stage:
            multiplier = config.widths[stage] // config.widths[stage - 1]
            x = PatchMerging(multiplier, name=f"stage_{stage}_downsampling")(x)
        for index in range(depth):
            x = _block(config, stage, index, rates[position], position)(x)
            position += 1
        x = StageOutput(name=f"stage_{stage}")(x)
    return arguments.finish(
        image,
        x,
        output_norm="batch_norm",
        norm_epsilon=_NORM_EPSILON,
        normalize_before_pooling=True,
        head="linear",
        head_dropout=config.head_dropout,
        seed=config.seed,
    )


def _stem_convolution(filters: int, name: str) -> Downsampling:
    return Downsampling(
        filters,
        **_STEM,
        post_norm=make_norm("batch_norm", epsilon=_NORM_EPSILON),
        use_bias=False,
        name=name,
    )


def _block(
    config: FFNetConfig, stage: int, index: int, rate: float, position: int
) -> MetaFormerBlock:
    activation = config.activation[stage]

    def residual(transform: keras.layers.Layer, purpose: int) -> ResidualBranch:
        scale = config.layer_scale_initial_value
        return ResidualBranch(
            transform,
            make_norm("identity"),
            residual_scaling="none" if scale is None else "layer",
            layer_scale_initial_value=1e-6 if scale is None else scale,
            stochastic_depth_rate=rate,
            seed=(
                None
                if config.seed is None
                else hash((config.seed, position, purpose)) % 2**31
            ),
        )

    return MetaFormerBlock(
        residual(FFNifiedAttention(config.token_kernel_size[stage], activation), 0),
        residual(
            ConvNeXtChannelMixer(
                config.channel_kernel_size[stage],
                config.mlp_ratio[stage],
                activation,
            ),
            1,
        ),
        between=(
            SqueezeExcitation()
            # The official model puts it into every other block.
            if config.squeeze_excitation[stage] and index % 2 == 0
            else None
        ),
        name=f"stage_{stage}_block_{index}",
    )
