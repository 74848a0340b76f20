"""The builders of MetaFormers: any mixer in any stage."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from keras_metaformer.blocks.downsampling import Downsampling
from keras_metaformer.layers.class_token import ClassToken
from keras_metaformer.layers.initializers import another
from keras_metaformer.layers.norms.table import WITH_EPSILON, make_norm
from keras_metaformer.layers.position_embedding import PositionEmbedding
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer.models.arguments import (
    IMAGES,
    ConstructorArguments,
    ModelArguments,
    ModelOptions,
)
from keras_metaformer.models.block_config import (
    BlockConfig,
    check_stages,
    per_stage,
    why_idle,
)
from keras_metaformer.models.builder import Builder, builder_function
from keras_metaformer.models.classifier import finish, image_input
from keras_metaformer.models.initialization import initialization_of
from keras_metaformer.models.pyramid_model import PyramidModel, StageOutput
from keras_metaformer_lite.images import EvaluationTransform


class _LayerNames(NamedTuple):
    """What layers are called, from which the names of their weights follow."""

    stem: str
    positions: str
    block: str
    stage: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaFormerOptions(ModelOptions, BlockConfig):
    """What a hierarchical MetaFormer of given depths and widths is made of.

    Attributes:
        stem_kernel_size: int. Kernel of the stem's convolution, in pixels.
        stem_strides: int. Stride of the stem, in pixels.
        stem_padding: int. Zeros on every side of the image, in pixels.
        residual_scaling: per stage. `"none"`, `"residual"` (ResScale), `"layer"`
            (LayerScale) or `"branch"` (both); None for ResScale in the later half of
            the stages and none before, as the official class has it.
        downsampling_norm: norm after the stem and before each later downsampling, over
            the channels and without bias; `"identity"` for none.
        downsampling_kernel_size: int. Kernel of the convolutions of stride 2 between
            stages, in pixels.
        downsampling_padding: int. Zeros on every side of their inputs, in pixels.
    """

    residual_scaling: str | Sequence[str] | None = None
    stem_kernel_size: int = 7
    stem_strides: int = 4
    stem_padding: int = 2
    downsampling_norm: Any = "layer_norm"
    downsampling_kernel_size: int = 3
    downsampling_padding: int = 1


@dataclasses.dataclass(frozen=True)
class Stages:
    """The size of a hierarchical model.

    Attributes:
        depths: list of int. Blocks in each stage.
        widths: list of int. Channels of each stage.
    """

    depths: Sequence[int]
    widths: Sequence[int]


@dataclasses.dataclass(frozen=True)
class MetaFormerArguments(ModelArguments, MetaFormerOptions, Stages):
    """The arguments of `MetaFormer`, checked.

    Raises:
        ValueError: if a field is out of range, or a sequence has the wrong length.
    """

    names: ClassVar[_LayerNames] = _LayerNames(
        "stem",
        "stage_{stage}_position_embedding",
        "stage_{stage}_block_{index}",
        "stage_{stage}",
    )
    #: Whether a class token goes through the blocks, and is what the head sees.
    class_token: ClassVar[bool] = False
    depths: Sequence[int] = (2, 2, 6, 2)
    widths: Sequence[int] = (64, 128, 320, 512)
    name: str | None = "metaformer"

    def __post_init__(self) -> None:
        ModelArguments.__post_init__(self)
        check_stages(self.depths, self.widths)
        for name in ("stem_kernel_size", "stem_strides", "downsampling_kernel_size"):
            positive_integer(name, getattr(self, name))
        for name in ("stem_padding", "downsampling_padding"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"`{name}` must not be negative. "
                    f"Received: {name}={getattr(self, name)}"
                )
        if self.residual_scaling is None:
            later = len(self.depths) // 2
            scaling = ("none",) * (len(self.depths) - later) + ("residual",) * later
            object.__setattr__(self, "residual_scaling", scaling)
        _ = self.blocks  # Wrong ones are refused here.

    @functools.cached_property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """What the blocks of each stage are made of."""
        return per_stage(BlockConfig, self, len(self.depths))

    def why_idle(self, name: str, value: Any, default: Any) -> str | None:
        if name in ("downsampling_kernel_size", "downsampling_padding"):
            return None if len(self.depths) > 1 else "one stage is not downsampled"
        if name == "norm_epsilon":
            norms = [block.norm for block in self.blocks]
            norms += [self.downsampling_norm, self.output_norm]
            has_epsilon = any(norm in WITH_EPSILON for norm in _names_in(norms))
            return None if has_epsilon else "none of the norms has one of its name"
        if name in _BLOCK_FIELDS:
            return why_idle(self.blocks, name, value, default)
        return super().why_idle(name, value, default)

    @property
    def total_stride(self) -> int:
        """Pixels of the image for each position of the last stage's map."""
        return self.stem_strides * 2 ** (len(self.depths) - 1)


def _names_in(specs: list[Any]) -> list[str]:
    return [spec for spec in specs if isinstance(spec, str)]


_BLOCK_FIELDS = frozenset(field.name for field in dataclasses.fields(BlockConfig))


@dataclasses.dataclass(frozen=True)
class _MetaFormerConstructorArguments(MetaFormerOptions, ConstructorArguments):
    mixer: Any = dataclasses.field(default="identity", kw_only=True)


def build_metaformer(
    arguments: MetaFormerArguments, images: EvaluationTransform
) -> PyramidModel:
    """The graph of a hierarchical MetaFormer, with fresh weights.

    Args:
        arguments: what the model is made of.
        images: what it is for where the arguments do not say it.

    Returns:
        The model. Layers are named `stem`, `stage_S_downsampling`,
        `stage_S_position_embedding`, `stage_S_block_B`, `stage_S` (the stage's end),
        `output_norm`, `head_*` and `predictions`.
    """
    blocks = arguments.blocks
    # Weights for every token tie the model to one size.
    fixed_size = any(
        block.position_embedding
        or getattr(block.token_mixer(), "needs_static_size", False)
        for block in blocks
    )
    image, x = image_input(arguments, images, arguments.total_stride, fixed_size)
    rates = arguments.depth_rates(sum(arguments.depths))
    start = initialization_of(arguments.initialization)
    position = 0
    for stage, depth in enumerate(arguments.depths):
        x = _downsampling(arguments, stage, x.shape[-1])(x)
        if arguments.class_token:
            x = ClassToken(another(start.positions), name="class_token")(x)
        if blocks[stage].position_embedding:
            x = PositionEmbedding(
                another(start.positions),
                name=arguments.names.positions.format(stage=stage),
            )(x)
        for index in range(depth):
            name = arguments.names.block.format(stage=stage, index=index)
            block = blocks[stage].build(name, position, rates[position], arguments)
            if arguments.class_token:
                _check_takes_a_class_token(block)
            x = block(x)
            position += 1
        if not arguments.class_token:  # With one there is no map.
            x = StageOutput(name=arguments.names.stage.format(stage=stage))(x)
    return finish(arguments, images, image, x)


def _check_takes_a_class_token(block: Any) -> None:
    for layer in block._flatten_layers():
        if getattr(layer, "mixes_neighbours", False):
            raise ValueError(
                "A class token has no place on the map, so that nothing in the blocks "
                "may mix neighbours: give a mixer that takes tokens in any order, such "
                "as 'self_attention', or leave `class_token` away. "
                f"Received: class_token=True, with {type(layer).__name__} in a block"
            )


def _downsampling(
    arguments: MetaFormerArguments, stage: int, channels: int
) -> Downsampling:
    width, norm = arguments.widths[stage], None
    if arguments.downsampling_norm not in (None, "identity"):
        norm = make_norm(
            arguments.downsampling_norm, use_bias=False, epsilon=arguments.norm_epsilon
        )
    start = initialization_of(arguments.initialization)
    if stage == 0:
        return Downsampling(
            width,
            arguments.stem_kernel_size,
            arguments.stem_strides,
            arguments.stem_padding,
            post_norm=norm,
            **start.of_embedding(arguments.stem_kernel_size, channels),
            name=arguments.names.stem,
        )
    return Downsampling(
        width,
        arguments.downsampling_kernel_size,
        2,
        arguments.downsampling_padding,
        pre_norm=norm,
        **start.of_embedding(arguments.downsampling_kernel_size, channels),
        name=f"stage_{stage}_downsampling",
    )


METAFORMER = Builder(
    build_metaformer, MetaFormerArguments, _MetaFormerConstructorArguments
)


@builder_function(MetaFormerArguments)
def MetaFormer(arguments: MetaFormerArguments) -> PyramidModel:
    """A hierarchical MetaFormer of any depths, widths and mixers.

    An image goes through a stem and stages of `MetaFormerBlock`s; between two stages a
    strided convolution halves the map. Every ablation of the MetaFormer papers is one
    argument. Arguments marked *per stage* take one value, or a list with one for each
    stage.

    Wherever a layer is asked for, give a name, a layer class, a factory without
    arguments, or a layer (copied for each use through its config).

    Example:

    >>> model = MetaFormer(
    ...     depths=(1, 1), widths=(16, 32), mixer=("pooling", "self_attention"),
    ...     input_shape=(32, 32, 3), classes=10,
    ... )
    >>> model.output_shape
    (None, 10)

    Returns:
        A functional `keras.Model` with the properties `pyramid_outputs` and
        `pyramid_level_inputs`.

    Raises:
        TypeError: for an unknown keyword.
        ValueError: if an argument is out of range, lists differ in length, the input is
            too small for the stages, or a mixer changes the shape.

    Reference:
        - MetaFormer Is Actually What You Need for Vision,
          https://arxiv.org/abs/2111.11418
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """
    return build_metaformer(arguments, IMAGES)


@dataclasses.dataclass(frozen=True)
class IsotropicOptions(ModelOptions, BlockConfig):
    """What an isotropic MetaFormer of a given size is made of.

    Attributes:
        class_token: bool. Whether a learned token goes through the blocks beside those
            of the image, and the head sees it alone, instead of their mean. Such a
            model has no map: without the top it gives the tokens `(batch, 1 + tokens,
            channels)`, the class token first, or `pooling` of the others, and
            `pyramid_outputs` is empty. Not with mixers of neighbours.
    """

    mixer: Any = "self_attention"
    _: dataclasses.KW_ONLY
    activation: Any = "gelu"
    use_bias: bool | Sequence[bool] = True
    normalize_before_pooling: bool = True
    class_token: bool = False


@dataclasses.dataclass(frozen=True)
class _Patches:
    """The size of an isotropic model.

    Attributes:
        depth: int. Number of blocks.
        width: int. Channels.
        patch_size: int. Height and width of a patch, in pixels.
    """

    depth: int
    width: int
    patch_size: int


@dataclasses.dataclass(frozen=True)
class IsotropicArguments(ModelArguments, IsotropicOptions, _Patches):
    """The arguments of `IsotropicMetaFormer`, checked.

    Raises:
        ValueError: if a field is out of range.
    """

    name: str | None = "isotropic_metaformer"

    def __post_init__(self) -> None:
        for name in ("depth", "width", "patch_size"):
            positive_integer(name, getattr(self, name))
        self.one_stage()

    def why_idle(self, name: str, value: Any, default: Any) -> str | None:
        return self.one_stage().why_idle(name, value, default)

    def one_stage(self) -> MetaFormerArguments:
        """The same as a hierarchical model of one stage, whose stem makes patches."""
        shared = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(IsotropicArguments)
            if field.name not in ("depth", "width", "patch_size", "class_token")
        }
        one_stage = _OneStageWithClassToken if self.class_token else _OneStage
        return one_stage(
            depths=(self.depth,),
            widths=(self.width,),
            stem_kernel_size=self.patch_size,
            stem_strides=self.patch_size,
            stem_padding=0,
            downsampling_norm="identity",
            **shared,
        )


class _OneStage(MetaFormerArguments):
    names = _LayerNames(
        "patch_embedding", "position_embedding", "block_{index}", "blocks"
    )


class _OneStageWithClassToken(_OneStage):
    class_token = True


@dataclasses.dataclass(frozen=True)
class _IsotropicConstructorArguments(IsotropicOptions, ConstructorArguments):
    mixer: Any = dataclasses.field(default="self_attention", kw_only=True)


def build_isotropic(
    arguments: IsotropicArguments, images: EvaluationTransform
) -> PyramidModel:
    """The graph of an isotropic MetaFormer, with fresh weights.

    Args:
        arguments: what the model is made of.
        images: what it is for where the arguments do not say it.

    Returns:
        The model. Layers are named `patch_embedding`, `class_token`,
        `position_embedding`, `block_B`, `blocks` (their end), `output_norm` and
        `predictions`.
    """
    return build_metaformer(arguments.one_stage(), images)


ISOTROPIC = Builder(build_isotropic, IsotropicArguments, _IsotropicConstructorArguments)


@builder_function(IsotropicArguments)
def IsotropicMetaFormer(arguments: IsotropicArguments) -> PyramidModel:
    """An isotropic MetaFormer: patch embedding, equal blocks, norm, pooling, head.

    MLP-Mixer, ResMLP and gMLP are such models; with self-attention, learned positions
    and a class token it is a vision transformer: ViT-S/16 is `IsotropicMetaFormer(12,
    384, 16, mixer=km.layers.SelfAttentionMixer(head_dim=64, use_bias=True),
    position_embedding=True, class_token=True)`. Its blocks are one stage.

    Example:

    >>> model = IsotropicMetaFormer(
    ...     2, 32, 8, mixer="token_mlp", input_shape=(32, 32, 3), classes=10
    ... )
    >>> model.output_shape
    (None, 10)

    Returns:
        A functional `keras.Model` with the properties `pyramid_outputs` and
        `pyramid_level_inputs`.

    Raises:
        TypeError: for an unknown keyword.
        ValueError: if an argument is out of range.

    Reference:
        - MLP-Mixer: An all-MLP Architecture for Vision,
          https://arxiv.org/abs/2105.01601
        - An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
    """
    return build_isotropic(arguments, IMAGES)
