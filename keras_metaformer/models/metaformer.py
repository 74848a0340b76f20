"""The hierarchical MetaFormer: any mixer in any stage."""

import os
from collections.abc import Sequence
from typing import Any

from keras_metaformer.blocks.downsampling import Downsampling
from keras_metaformer.layers.norms.table import make_norm
from keras_metaformer.models.arguments import explains_its_arguments
from keras_metaformer.models.block_factory import linear_rates, needs_static_size
from keras_metaformer.models.config import MetaFormerConfig
from keras_metaformer.models.image_model import ImageArguments, dtype_policy
from keras_metaformer.models.pyramid_model import PyramidModel, StageOutput

DEFAULT_SIZE = 224
# Between stages: a 3x3 convolution of stride 2, one pixel of padding on every side.
_DOWNSAMPLING: Any = {"kernel_size": 3, "strides": 2, "padding": 1}


@explains_its_arguments
def MetaFormer(
    depths: Sequence[int],
    widths: Sequence[int],
    mixer: Any = "identity",
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str | None = "metaformer",
    include_preprocessing: bool = False,
    *,
    activation: Any = "star_relu",
    norm: Any = "layer_norm",
    norm_epsilon: float = 1e-6,
    residual_scaling: str | Sequence[str] = "none",
    residual_scale_initial_value: float = 1.0,
    layer_scale_initial_value: float = 1e-5,
    use_bias: bool | Sequence[bool] = False,
    channel_mixer: Any = "mlp",
    mlp_ratio: float | Sequence[float] = 4.0,
    mlp_dropout: float = 0.0,
    stem_kernel_size: int = 7,
    stem_strides: int = 4,
    stem_padding: int = 2,
    downsampling_norm: Any = "layer_norm",
    output_norm: Any = "layer_norm",
    normalize_before_pooling: bool = False,
    head: str = "linear",
    stochastic_depth_rate: float = 0.0,
    head_dropout: float = 0.0,
    gradient_checkpointing: bool | Sequence[bool] = False,
    seed: int | None = None,
    dtype: Any = None,
) -> PyramidModel:
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

    Args:
        depths: list of int. Blocks in each stage.
        widths: list of int. Channels of each stage.
        mixer: per stage. The token mixer: `"identity"`, `"random"`, `"pooling"`,
            `"separable_convolution"`, `"self_attention"`, `"token_mlp"`,
            `"cross_patch_linear"`, `"gated_mlp"`, `"ffnified_attention"`, or a layer of
            yours that keeps the shape `(batch, height, width, channels)`. Settings of a
            mixer are given with the layer: heads of 16 channels, say, with
            `km.layers.SelfAttentionMixer(head_dim=16)`.
        include_top: bool. Whether the classification head is on top.
        weights: None, or the path of a `.weights.h5` file or of a checkpoint in a known
            naming.
        input_tensor: tensor to use as the image, or None.
        input_shape: `(height, width, channels)`, or None for `(224, 224, 3)`; without
            the top `(None, None, 3)` where the mixers allow it.
        pooling: without the top: None for the last map `(batch, height, width,
            channels)`, `"avg"` or `"max"` for `(batch, channels)`.
        classes: int. Width of the classification layer.
        classifier_activation: activation of the classification layer, None for logits.
        name: str. Name of the model.
        include_preprocessing: bool. Whether the model takes pixels 0..255 and
            normalises them itself with ImageNet's mean and standard deviation.
        activation: per stage. `"star_relu"`, `"squared_relu"`, `"relu"`, `"gelu"`,
            `"gelu_tanh"`, the name of any other activation of Keras such as `"silu"`, a
            function or a layer; also used inside separable convolutions.
        norm: per stage. `"layer_norm"` (over channels), `"group_norm"` (over height,
            width and channels), `"batch_norm"`, `"affine"`, `"identity"` or a layer.
        norm_epsilon: float. Added to the variance in all norms but the MLP head's.
        residual_scaling: per stage. `"none"`, `"residual"` (ResScale), `"layer"`
            (LayerScale) or `"branch"` (both).
        residual_scale_initial_value: float. Where ResScale starts.
        layer_scale_initial_value: float. Where LayerScale starts.
        use_bias: bool, per stage. Whether linear layers, convolutions and norms of the
            blocks have biases.
        channel_mixer: per stage. `"mlp"`, `"convnext"`, a layer, or `"none"` for blocks
            without a second step (as gMLP's).
        mlp_ratio: float, per stage. Hidden channels for each channel.
        mlp_dropout: float in [0, 1). Dropout rate inside the channel MLPs.
        stem_kernel_size: int. Kernel of the stem's convolution, in pixels.
        stem_strides: int. Stride of the stem, in pixels.
        stem_padding: int. Zeros on every side of the image, in pixels.
        downsampling_norm: norm after the stem and before each later downsampling, over
            the channels and without bias; `"identity"` for none.
        output_norm: the norm before the head.
        normalize_before_pooling: bool. Whether that norm acts on the map (PoolFormer)
            or on the pooled features (MetaFormer baselines).
        head: `"linear"` or `"mlp"` (linear, squared ReLU, norm, linear).
        stochastic_depth_rate: float in [0, 1). Of the last block; rises linearly.
        head_dropout: float in [0, 1). Dropout rate before the classification layer.
        gradient_checkpointing: per stage. Whether training keeps of each residual step
            of the stage its input alone and computes the rest once more for the
            gradient: less memory for the time of one more forward pass. Not with batch
            norms or dropout in the blocks.
        seed: int, or None for random ones. Of stochastic depth, dropout and random
            matrices.
        dtype: name of a dtype or policy such as `"mixed_bfloat16"`, a
            `keras.DTypePolicy`, or None for Keras' current policy. Of all layers but
            those of yours that have one.

    Returns:
        A functional `keras.Model` with the properties `pyramid_outputs` and
        `pyramid_level_inputs`.

    Raises:
        ValueError: if an argument is out of range, lists differ in length, the input is
            too small for the stages, or a mixer changes the shape.

    Reference:
        - MetaFormer Is Actually What You Need for Vision,
          https://arxiv.org/abs/2111.11418
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """
    config = MetaFormerConfig(
        depths=depths,
        widths=widths,
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
        stem_kernel_size=stem_kernel_size,
        stem_strides=stem_strides,
        stem_padding=stem_padding,
        downsampling_norm=downsampling_norm,
        output_norm=output_norm,
        normalize_before_pooling=normalize_before_pooling,
        head=head,
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
        model = build_metaformer(config, arguments)
    if weights is not None:
        # weights knows the models only through what they are made of, and sits above
        # this floor: hence the import here.
        from keras_metaformer.weights.loading import load_weights_file

        load_weights_file(model, weights)
    return model


def build_metaformer(
    config: MetaFormerConfig,
    arguments: ImageArguments,
    default_size: int = DEFAULT_SIZE,
) -> PyramidModel:
    """The graph of a hierarchical MetaFormer, with fresh weights.

    Args:
        config: what the model is made of.
        arguments: input and head.
        default_size: int. Height and width where no input shape is given, in pixels.

    Returns:
        The model. Layers are named `stem`, `stage_S_downsampling`, `stage_S_block_B`,
        `stage_S` (the stage's end), `output_norm`, `head_*` and `predictions`.
    """
    blocks = [config.block(stage) for stage in range(len(config.depths))]
    image = arguments.image_input(
        default_size,
        config.total_stride,
        needs_static_size([block.token_mixer() for block in blocks]),
    )
    x = arguments.preprocess(image)
    rates = linear_rates(config.stochastic_depth_rate, sum(config.depths))
    position = 0
    for stage, (depth, width) in enumerate(
        zip(config.depths, config.widths, strict=True)
    ):
        x = _downsampling(config, stage, width)(x)
        for index in range(depth):
            name = f"stage_{stage}_block_{index}"
            x = blocks[stage].build(name, rates[position], position)(x)
            position += 1
        x = StageOutput(name=f"stage_{stage}")(x)
    return arguments.finish(
        image,
        x,
        output_norm=config.output_norm,
        norm_epsilon=config.norm_epsilon,
        normalize_before_pooling=config.normalize_before_pooling,
        head=config.head,
        head_dropout=config.head_dropout,
        seed=config.seed,
    )


def _downsampling(config: MetaFormerConfig, stage: int, width: int) -> Downsampling:
    norm = None
    if config.downsampling_norm not in (None, "identity"):
        norm = make_norm(
            config.downsampling_norm, use_bias=False, epsilon=config.norm_epsilon
        )
    if stage == 0:
        return Downsampling(
            width,
            config.stem_kernel_size,
            config.stem_strides,
            config.stem_padding,
            post_norm=norm,
            name="stem",
        )
    return Downsampling(
        width, **_DOWNSAMPLING, pre_norm=norm, name=f"stage_{stage}_downsampling"
    )
