"""The builder of FFNets."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

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
from keras_metaformer.layers.initializers import another
from keras_metaformer.layers.norms.table import make_norm
from keras_metaformer.models.arguments import (
    ConstructorArguments,
    ModelArguments,
    ModelOptions,
)
from keras_metaformer.models.block_config import (
    check_stages,
    derived_seed,
    per_stage,
)
from keras_metaformer.models.builder import Builder
from keras_metaformer.models.classifier import finish, image_input
from keras_metaformer.models.initialization import initialization_of
from keras_metaformer.models.metaformer import Stages
from keras_metaformer.models.pyramid_model import PyramidModel, StageOutput
from keras_metaformer_lite.images import EvaluationTransform

_STEM: Any = {"kernel_size": 3, "strides": 2, "padding": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FFNetBlockConfig:
    """What the blocks of one stage of an FFNet are made of.

    Attributes:
        token_kernel_size: int, per stage. Of FFNified attention, in pixels.
        channel_kernel_size: int, per stage. Of the channel mixer, in pixels.
        mlp_ratio: int, per stage. Hidden channels for each channel.
        activation: per stage. Of the mixers, by any of the names that `MetaFormer`
            takes, or a layer.
        layer_scale_initial_value: float, per stage. Where LayerScale starts; None for
            none.
        squeeze_excitation: bool, per stage. Whether every other block weights its
            channels.
    """

    token_kernel_size: int | Sequence[int] = (3, 3, 7, 7)
    channel_kernel_size: int | Sequence[int] = 7
    mlp_ratio: int | Sequence[int] = 3
    activation: Any = "gelu"
    layer_scale_initial_value: float | Sequence[float | None] | None = None
    squeeze_excitation: bool | Sequence[bool] = False

    def build(
        self,
        name: str,
        index: int,
        position: int,
        depth_rate: float,
        options: ModelOptions,
    ) -> MetaFormerBlock:
        """A fresh block.

        Args:
            name: of the block.
            index: of the block in its stage.
            position: of the block in the model, from which its seeds follow.
            depth_rate: of its stochastic depth.
            options: what the whole model shares.
        """
        stage: Any = self  # Of one stage: no field is a sequence here.

        def residual(transform: keras.layers.Layer, purpose: int) -> ResidualBranch:
            scale = stage.layer_scale_initial_value
            return ResidualBranch(
                transform,
                make_norm("identity"),
                residual_scaling="none" if scale is None else "layer",
                layer_scale_initial_value=1e-6 if scale is None else scale,
                stochastic_depth_rate=depth_rate,
                seed=derived_seed(options.seed, position, purpose),
            )

        start = initialization_of(options.initialization).of_linear()
        channel_mixer = ConvNeXtChannelMixer(
            stage.channel_kernel_size, stage.mlp_ratio, stage.activation, **start
        )
        token_mixer = FFNifiedAttention(
            stage.token_kernel_size,
            stage.activation,
            kernel_initializer=start["kernel_initializer"],
        )
        # The official model puts it into every other block.
        squeezes = stage.squeeze_excitation and index % 2 == 0
        return MetaFormerBlock(
            residual(token_mixer, 0),
            residual(channel_mixer, 1),
            between=SqueezeExcitation() if squeezes else None,
            name=name,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FFNetOptions(ModelOptions, FFNetBlockConfig):
    """What an FFNet of given depths and widths is made of.

    Attributes:
        stem_width: int. Channels between the stem's two convolutions.
    """

    stem_width: int = 64
    # PyTorch's default, in all of FFNet's batch norms.
    norm_epsilon: float = 1e-5
    output_norm: Any = "batch_norm"
    normalize_before_pooling: bool = True


@dataclasses.dataclass(frozen=True)
class FFNetArguments(ModelArguments, FFNetOptions, Stages):
    """The arguments of the builder of FFNets, checked.

    Raises:
        ValueError: if a field is out of range, or a sequence has the wrong length.
    """

    name: str | None = "ffnet"

    def __post_init__(self) -> None:
        ModelArguments.__post_init__(self)
        check_stages(self.depths, self.widths)
        for before, after in zip(self.widths, self.widths[1:], strict=False):
            if after % before:
                raise ValueError(
                    "Each of `widths` must be a multiple of the one before, because "
                    "patch merging multiplies channels. "
                    f"Received: widths={self.widths}"
                )
        _ = self.blocks  # Wrong ones are refused here.

    @functools.cached_property
    def blocks(self) -> tuple[FFNetBlockConfig, ...]:
        """What the blocks of each stage are made of."""
        return per_stage(FFNetBlockConfig, self, len(self.depths))


@dataclasses.dataclass(frozen=True)
class _FFNetConstructorArguments(FFNetOptions, ConstructorArguments):
    pass


def build_ffnet(arguments: FFNetArguments, images: EvaluationTransform) -> PyramidModel:
    """The graph of an FFNet, with fresh weights.

    Args:
        arguments: what the model is made of.
        images: what it is for where the arguments do not say it.

    Returns:
        The model. Layers are named `stem_0`, `stem_1`, `stage_S_downsampling`,
        `stage_S_block_B`, `stage_S_squeeze_B`, `stage_S` (the stage's end),
        `output_norm` and `predictions`.
    """
    depths, widths = arguments.depths, arguments.widths
    image, x = image_input(arguments, images, 2 ** (len(depths) + 1), False)
    x = _stem_convolution(arguments, arguments.stem_width, "stem_0")(x)
    activation = make_activation("gelu")
    activation.name = "stem_activation"
    x = _stem_convolution(arguments, widths[0], "stem_1")(activation(x))
    rates = arguments.depth_rates(sum(depths))
    position = 0
    for stage, depth in enumerate(depths):
        if stage:
            multiplier = widths[stage] // widths[stage - 1]
            x = PatchMerging(multiplier, name=f"stage_{stage}_downsampling")(x)
        for index in range(depth):
            name = f"stage_{stage}_block_{index}"
            block = arguments.blocks[stage].build(
                name, index, position, rates[position], arguments
            )
            x = block(x)
            position += 1
        x = StageOutput(name=f"stage_{stage}")(x)
    return finish(arguments, images, image, x)


def _stem_convolution(
    arguments: FFNetArguments, filters: int, name: str
) -> Downsampling:
    start = initialization_of(arguments.initialization)
    return Downsampling(
        filters,
        **_STEM,
        kernel_initializer=another(start.embedding_kernel),
        post_norm=make_norm("batch_norm", epsilon=arguments.norm_epsilon),
        use_bias=False,
        name=name,
    )


FFNET = Builder(build_ffnet, FFNetArguments, _FFNetConstructorArguments)
