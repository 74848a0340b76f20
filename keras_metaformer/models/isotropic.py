"""The isotropic MetaFormer: patches, then equal blocks."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from keras_metaformer.blocks.downsampling import Downsampling
from keras_metaformer.blocks.residual_branch import check_residual_scaling
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer.models.arguments import explains_its_arguments
from keras_metaformer.models.block_factory import (
    BlockConfig,
    linear_rates,
    needs_static_size,
)
from keras_metaformer.models.config import check_rate
from keras_metaformer.models.image_model import ImageArguments, dtype_policy
from keras_metaformer.models.pyramid_model import PyramidModel, StageOutput

DEFAULT_SIZE = 224


@dataclasses.dataclass(frozen=True)
class IsotropicConfig:
    """An isotropic MetaFormer; `IsotropicMetaFormer` documents each field.

    Raises:
        ValueError: if a field is out of range.
    """

    #: Decided by a variant's name; the other fields may be overridden by keyword.
    fixed_fields: ClassVar[tuple[str, ...]] = ("depth", "width", "patch_size")

    depth: int
    width: int
    patch_size: int
    mixer: Any = "self_attention"
    activation: Any = "gelu"
    norm: Any = "layer_norm"
    norm_epsilon: float = 1e-6
    residual_scaling: str = "none"
    residual_scale_initial_value: float = 1.0
    layer_scale_initial_value: float = 1e-5
    use_bias: bool = True
    channel_mixer: Any = "mlp"
    mlp_ratio: float = 4.0
    mlp_dropout: float = 0.0
    output_norm: Any = "layer_norm"
    stochastic_depth_rate: float = 0.0
    head_dropout: float = 0.0
    gradient_checkpointing: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("depth", "width", "patch_size"):
            positive_integer(name, getattr(self, name))
        check_residual_scaling(self.residual_scaling)
        for name in ("stochastic_depth_rate", "head_dropout", "mlp_dropout"):
            object.__setattr__(self, name, check_rate(name, getattr(self, name)))

    def block(self) -> BlockConfig:
        """What every block is made of."""
        fields = dataclasses.fields(BlockConfig)
        return BlockConfig(
            **{field.name: getattr(self, field.name) for field in fields}
        )


@explains_its_arguments
def IsotropicMetaFormer(
    depth: int,
    width: int,
    patch_size: int,
    mixer: Any = "self_attention",
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str | None = "isotropic_metaformer",
    include_preprocessing: bool = False,
    *,
    activation: Any = "gelu",
    norm: Any = "layer_norm",
    norm_epsilon: float = 1e-6,
    residual_scaling: str = "none",
    residual_scale_initial_value: float = 1.0,
    layer_scale_initial_value: float = 1e-5,
    use_bias: bool = True,
    channel_mixer: Any = "mlp",
    mlp_ratio: float = 4.0,
    mlp_dropout: float = 0.0,
    output_norm: Any = "layer_norm",
    stochastic_depth_rate: float = 0.0,
    head_dropout: float = 0.0,
    gradient_checkpointing: bool = False,
    seed: int | None = None,
    dtype: Any = None,
) -> PyramidModel:
    """An isotropic MetaFormer: patch embedding, equal blocks, norm, pooling, head.

    MLP-Mixer, ResMLP and gMLP are such models; with self-attention it is a vision
    transformer without class token and positions.

    Example:

    >>> model = IsotropicMetaFormer(
    ...     2, 32, 8, mixer="token_mlp", input_shape=(32, 32, 3), classes=10
    ... )
    >>> model.output_shape
    (None, 10)

    Args:
        depth: int. Number of blocks.
        width: int. Channels.
        patch_size: int. Height and width of a patch, in pixels.
        mixer: the token mixer, by any of the names that `MetaFormer` takes, or a layer.
        include_top: bool. Whether the classification head is on top.
        weights: None, or the path of a `.weights.h5` file or of a checkpoint in a known
            naming.
        input_tensor: tensor to use as the image, or None.
        input_shape: `(height, width, channels)`, or None for `(224, 224, 3)`; without
            the top `(None, None, 3)` where the mixer allows it.
        pooling: without the top: None for the map `(batch, height, width, channels)`,
            `"avg"` or `"max"` for `(batch, channels)`.
        classes: int. Width of the classification layer.
        classifier_activation: activation of the classification layer, None for logits.
        name: str. Name of the model.
        include_preprocessing: bool. Whether the model takes pixels 0..255 and
            normalises them itself with ImageNet's mean and standard deviation.
        activation: as in `MetaFormer`, like all that follow; one for all blocks.
        norm: as in `MetaFormer`.
        norm_epsilon: as in `MetaFormer`.
        residual_scaling: as in `MetaFormer`.
        residual_scale_initial_value: as in `MetaFormer`.
        layer_scale_initial_value: as in `MetaFormer`.
        use_bias: as in `MetaFormer`.
        channel_mixer: as in `MetaFormer`.
        mlp_ratio: as in `MetaFormer`.
        mlp_dropout: as in `MetaFormer`.
        output_norm: as in `MetaFormer`.
        stochastic_depth_rate: as in `MetaFormer`.
        head_dropout: as in `MetaFormer`.
        gradient_checkpointing: as in `MetaFormer`.
        seed: as in `MetaFormer`.
        dtype: as in `MetaFormer`.

    Returns:
        A functional `keras.Model` with the properties `pyramid_outputs` and
        `pyramid_level_inputs`.

    Raises:
        TypeError: for an unknown keyword.
        ValueError: if an argument is out of range.

    Reference:
        - MLP-Mixer: An all-MLP Architecture for Vision,
          https://arxiv.org/abs/2105.01601
    """
    config = IsotropicConfig(
        depth=depth,
        width=width,
        patch_size=patch_size,
        mixer=mixer,
        activation=activation,
        norm=norm,
        norm_epsilon=norm_epsilon,
        residual_scaling=residual_scaling,
        residual_scale_initial_value=residual_scale_initial_value,
        layer_scale_initial_value=layer_scale_initial_value,
        use_bias=use_bias,
        channel_mixer=channel_mixer,
        mlp_ratio=mlp_ratio,
        mlp_dropout=mlp_dropout,
        output_norm=output_norm,
        stochastic_depth_rate=stochastic_depth_rate,
        head_dropout=head_dropout,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    arguments = ImageArguments(
        include_top=include_top,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        include_preprocessing=include_preprocessing,
    )
    with dtype_policy(dtype):
        model = build_isotropic(config, arguments)
    if weights is not None:
        # Weights sit above this floor; see `MetaFormer`.
        from keras_metaformer.weights.loading import load_weights_file

        load_weights_file(model, weights)
    return model


def build_isotropic(
    config: IsotropicConfig,
    arguments: ImageArguments,
    default_size: int = DEFAULT_SIZE,
) -> PyramidModel:
    """The graph of an isotropic MetaFormer, with fresh weights.

    Args:
        config: what the model is made of.
        arguments: input and head.
        default_size: int. Height and width where no input shape is given, in pixels.

    Returns:
        The model. Layers are named `patch_embedding`, `block_B`, `blocks` (their end),
        `output_norm` and `predictions`.
    """
    block = config.block()
    image = arguments.image_input(
        default_size, config.patch_size, needs_static_size([block.token_mixer()])
    )
    x = arguments.preprocess(image)
    x = Downsampling(
        config.width, config.patch_size, config.patch_size, name="patch_embedding"
    )(x)
    rates = linear_rates(config.stochastic_depth_rate, config.depth)
    for index, rate in enumerate(rates):
        x = block.build(f"block_{index}", rate, index)(x)
    x = StageOutput(name="blocks")(x)
    return arguments.finish(
        image,
        x,
        output_norm=config.output_norm,
        norm_epsilon=config.norm_epsilon,
        normalize_before_pooling=True,
        head="linear",
        head_dropout=config.head_dropout,
        seed=config.seed,
    )
