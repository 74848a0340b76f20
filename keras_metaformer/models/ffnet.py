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
from keras_metaformer.blocks.patch_merging import MERGING_KERNEL_SIZE
from keras_metaformer.layers import (
    BatchNormalized,
    ConvNeXtChannelMixer,
    DepthwiseConvolution,
    SqueezeExcitation,
)
from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.initializers import another, truncated_normal
from keras_metaformer.layers.mixers.table import (
    TOKEN_MIXERS,
    make_token_mixer,
    settings_of,
)
from keras_metaformer.layers.norms.table import make_norm
from keras_metaformer.layers.validation import odd_integer, pair_of_odd_integers
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
from keras_metaformer.models.builder import Builder, builder_function
from keras_metaformer.models.classifier import finish, image_input
from keras_metaformer.models.initialization import initialization_of
from keras_metaformer.models.metaformer import Stages
from keras_metaformer.models.pyramid_model import PyramidModel, StageOutput
from keras_metaformer_lite.images import EvaluationTransform

# As published.
_IMAGES = EvaluationTransform(256)
_STEM: Any = {"kernel_size": 3, "strides": 2, "padding": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FFNetBlockConfig:
    """What the blocks of one stage of an FFNet are made of.

    Attributes:
        mixer: per stage. The token mixer, by any of the names that `MetaFormer` takes,
            or a layer that keeps the shape `(batch, height, width, channels)`.
        norm: per stage. Before the token mixer, by any of the names that `MetaFormer`
            takes, or a layer. FFNified attention has a batch norm inside.
        token_kernel_size: int, or a pair of them for keys and values, per stage. Of
            FFNified attention, in pixels. Pairs stand in a list with one for each
            stage. None for 7 in the later half of the stages and 3 before.
        channel_kernel_size: int, per stage. Of the channel mixer, in pixels.
        mlp_ratio: int, per stage. Hidden channels for each channel.
        activation: per stage. Of the mixers, by any of the names that `MetaFormer`
            takes, or a layer.
        layer_scale_initial_value: float, per stage. Where LayerScale starts; None for
            none.
        squeeze_excitation: bool, per stage. Whether every other block weights its
            channels.
        branches: bool, per stage. Whether depthwise convolutions are trained as two
            branches, which `km.fold` makes one of; None, as published, for those from 7
            pixels on.
        gradient_checkpointing: bool, per stage. Whether training keeps of each residual
            step of the stage its input alone and computes the rest once more for the
            gradient: less memory for the time of one more forward pass, and the same
            results.

    Raises:
        ValueError: if a kernel size is not a positive odd integer, or a pair of them.
    """

    mixer: Any = "ffnified_attention"
    norm: Any = "identity"
    token_kernel_size: int | Sequence[int | Sequence[int]] | None = None
    channel_kernel_size: int | Sequence[int] = 7
    mlp_ratio: int | Sequence[int] = 3
    activation: Any = "gelu"
    layer_scale_initial_value: float | Sequence[float | None] | None = None
    squeeze_excitation: bool | Sequence[bool] = False
    branches: bool | Sequence[bool | None] | None = None
    gradient_checkpointing: bool | Sequence[bool] = False

    def __post_init__(self) -> None:
        stage: Any = self  # Of one stage: no field is a sequence of more.
        pair_of_odd_integers("token_kernel_size", stage.token_kernel_size)
        odd_integer("channel_kernel_size", stage.channel_kernel_size)

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

        def seed(purpose: int) -> int | None:
            return derived_seed(options.seed, position, purpose)

        def residual(
            transform: keras.layers.Layer, norm: Any, purpose: int
        ) -> ResidualBranch:
            scale = stage.layer_scale_initial_value
            return ResidualBranch(
                transform,
                make_norm(norm, epsilon=options.norm_epsilon),
                residual_scaling="none" if scale is None else "layer",
                layer_scale_initial_value=1e-6 if scale is None else scale,
                stochastic_depth_rate=depth_rate,
                seed=seed(purpose),
                gradient_checkpointing=stage.gradient_checkpointing,
            )

        start = initialization_of(options.initialization).of_linear()
        channel_mixer = ConvNeXtChannelMixer(
            stage.channel_kernel_size,
            stage.mlp_ratio,
            stage.activation,
            branches=stage.branches,
            **start,
        )
        token_mixer = self.token_mixer(seed=seed(2), **start)
        # The official model puts it into every other block.
        squeezes = stage.squeeze_excitation and index % 2 == 0
        return MetaFormerBlock(
            residual(token_mixer, self.norm, 0),
            residual(channel_mixer, "identity", 1),
            between=SqueezeExcitation() if squeezes else None,
            name=name,
        )

    def token_mixer(self, **settings: Any) -> keras.layers.Layer:
        """A fresh token mixer; one that is named takes what it can use."""
        return make_token_mixer(self.mixer, **vars(self), **settings)


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
        if self.token_kernel_size is None:
            later = (len(self.depths) + 1) // 2
            sizes = (3,) * (len(self.depths) - later) + (7,) * later
            object.__setattr__(self, "token_kernel_size", sizes)
        _ = self.blocks  # Wrong ones are refused here.

    @functools.cached_property
    def blocks(self) -> tuple[FFNetBlockConfig, ...]:
        """What the blocks of each stage are made of."""
        return per_stage(FFNetBlockConfig, self, len(self.depths))

    def why_idle(self, name: str, value: Any, default: Any) -> str | None:
        if name != "token_kernel_size":
            return super().why_idle(name, value, default)
        takes = [name in settings_of(x.mixer, TOKEN_MIXERS) for x in self.blocks]
        return None if any(takes) else f"no stage has it with mixer={self.mixer!r}"


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
    fixed_size = any(
        getattr(block.token_mixer(), "needs_static_size", False)
        for block in arguments.blocks
    )
    image, x = image_input(arguments, images, 2 ** (len(depths) + 1), fixed_size)
    x = _stem_convolution(arguments, arguments.stem_width, "stem_0")(x)
    activation = make_activation("gelu")
    activation.name = "stem_activation"
    x = _stem_convolution(arguments, widths[0], "stem_1")(activation(x))
    rates = arguments.depth_rates(sum(depths))
    position = 0
    for stage, depth in enumerate(depths):
        if stage:
            x = _merging(arguments, stage)(x)
        for index in range(depth):
            name = f"stage_{stage}_block_{index}"
            block = arguments.blocks[stage].build(
                name, index, position, rates[position], arguments
            )
            x = block(x)
            position += 1
        x = StageOutput(name=f"stage_{stage}")(x)
    return finish(arguments, images, image, x)


def _merging(arguments: FFNetArguments, stage: int) -> PatchMerging:
    multiplier = arguments.widths[stage] // arguments.widths[stage - 1]
    depthwise = None  # FFNet's own, with branches.
    if arguments.blocks[stage].branches is False:
        depthwise = BatchNormalized(
            DepthwiseConvolution(
                MERGING_KERNEL_SIZE,
                2,
                multiplier,
                kernel_initializer=truncated_normal(),
            )
        )
    return PatchMerging(
        multiplier, depthwise=depthwise, name=f"stage_{stage}_downsampling"
    )


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


@builder_function(FFNetArguments)
def FFNet(arguments: FFNetArguments) -> PyramidModel:
    """An FFNet of any depths, widths, kernels and token mixers.

    An image goes through a stem of two convolutions and stages of `MetaFormerBlock`s
    whose token mixer is FFNified attention and whose channel mixer is ConvNeXt's; patch
    merging halves the map between two stages. Arguments marked *per stage* take one
    value, or a list with one for each stage.

    Example:

    >>> model = FFNet(
    ...     depths=(1, 1), widths=(16, 32),
    ...     mixer=("ffnified_attention", "self_attention"),
    ...     norm=("identity", "layer_norm"),
    ...     input_shape=(32, 32, 3), classes=10,
    ... )
    >>> model.output_shape
    (None, 10)

    Returns:
        A functional `keras.Model` with the properties `pyramid_outputs` and
        `pyramid_level_inputs`.

    Raises:
        TypeError: for an unknown keyword.
        ValueError: if an argument is out of range, lists differ in length, a width is
            no multiple of the one before, the input is too small for the stages, or a
            mixer changes the shape.

    Reference:
        - MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021
    """
    return build_ffnet(arguments, _IMAGES)
