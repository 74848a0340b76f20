"""What the blocks of a stage are made of."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import keras

from keras_metaformer.blocks import MetaFormerBlock, ResidualBranch
from keras_metaformer.blocks.residual_branch import (
    RESIDUAL_SCALINGS,
    check_residual_scaling,
)
from keras_metaformer.layers.mixers.table import (
    CHANNEL_MIXERS,
    SETTINGS,
    TOKEN_MIXERS,
    make_channel_mixer,
    make_token_mixer,
    settings_of,
)
from keras_metaformer.layers.norms.table import BIASED, make_norm
from keras_metaformer.layers.validation import positive_integer, rate_below_one
from keras_metaformer.models.arguments import ModelOptions
from keras_metaformer.models.initialization import initialization_of

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """What the blocks of one stage are made of.

    The builders take each field for all stages at once, or as a list or tuple with one
    value for each stage; `per_stage` parts such fields.

    Attributes:
        mixer: per stage. The token mixer: `"identity"`, `"random"`, `"pooling"`,
            `"convolution"`, `"depthwise_separable"`, `"separable_convolution"`,
            `"self_attention"`, `"token_mlp"`, `"cross_patch_linear"`, `"gated_mlp"`,
            `"ffnified_attention"`, or a layer of yours that keeps the shape `(batch,
            height, width, channels)`. Settings of a mixer are given with the layer:
            heads of 16 channels, say, with
            `km.layers.SelfAttentionMixer(head_dim=16)`.
        activation: per stage. `"star_relu"`, `"squared_relu"`, `"relu"`, `"gelu"`,
            `"gelu_tanh"`, the name of any other activation of Keras such as `"silu"`, a
            function or a layer; also used inside separable convolutions.
        norm: per stage. `"layer_norm"` (over channels), `"group_norm"` (over height,
            width and channels), `"batch_norm"`, `"affine"`, `"identity"` or a layer.
        residual_scaling: per stage. `"none"`, `"residual"` (ResScale), `"layer"`
            (LayerScale) or `"branch"` (both).
        residual_scale_initial_value: float, per stage. Where ResScale starts.
        layer_scale_initial_value: float, per stage. Where LayerScale starts.
        use_bias: bool, per stage. Whether linear layers, convolutions and norms of the
            blocks have biases.
        channel_mixer: per stage. `"mlp"`, `"convnext"`, a layer, or `"none"` for blocks
            without a second step (as gMLP's).
        mlp_ratio: float, per stage. Hidden channels for each channel, in the channel
            mixers and `"gated_mlp"`; None for what their papers have: 4 in `"mlp"`, 3
            in `"convnext"`, 6 in `"gated_mlp"`.
        mlp_dropout: float in [0, 1), per stage. Dropout rate inside the channel mixers
            and the token mixers that are MLPs.
        gradient_checkpointing: bool, per stage. Whether training keeps of each residual
            step of the stage its input alone and computes the rest once more for the
            gradient: less memory for the time of one more forward pass, and the same
            results, with batch norms and dropout too.
        position_embedding: bool, per stage. Whether a learned vector is added to each
            position before the blocks of the stage, as before self-attention in
            PoolFormer's hybrids and vision transformers. It ties the model to one size.

    Raises:
        ValueError: if a field is out of range.
    """

    mixer: Any = "identity"
    _: dataclasses.KW_ONLY
    activation: Any = "star_relu"
    norm: Any = "layer_norm"
    residual_scaling: str | Sequence[str] | None = "none"
    residual_scale_initial_value: float | Sequence[float] = 1.0
    layer_scale_initial_value: float | Sequence[float] = 1e-5
    use_bias: bool | Sequence[bool] = False
    channel_mixer: Any = "mlp"
    mlp_ratio: float | Sequence[float | None] | None = None
    mlp_dropout: float | Sequence[float] = 0.0
    gradient_checkpointing: bool | Sequence[bool] = False
    position_embedding: bool | Sequence[bool] = False

    def __post_init__(self) -> None:
        check_residual_scaling(self.residual_scaling)
        rate_below_one("mlp_dropout", self.mlp_dropout)

    def build(
        self, name: str, position: int, depth_rate: float, options: ModelOptions
    ) -> keras.layers.Layer:
        """A fresh block.

        Args:
            name: of the block.
            position: of the block in the model, from which its seeds follow.
            depth_rate: of its stochastic depth.
            options: what the whole model shares.

        Returns:
            `MetaFormerBlock`, or the bare token-mixing `ResidualBranch` where there is
            no channel mixer.
        """
        stage: Any = self  # Of one stage: no field is a sequence here.

        def seed(purpose: int) -> int | None:
            return derived_seed(options.seed, position, purpose)

        def residual(
            transform: keras.layers.Layer, purpose: int, **kwargs: Any
        ) -> ResidualBranch:
            return ResidualBranch(
                transform,
                make_norm(stage.norm, stage.use_bias, epsilon=options.norm_epsilon),
                residual_scaling=stage.residual_scaling,
                residual_scale_initial_value=stage.residual_scale_initial_value,
                layer_scale_initial_value=stage.layer_scale_initial_value,
                stochastic_depth_rate=depth_rate,
                seed=seed(purpose),
                gradient_checkpointing=stage.gradient_checkpointing,
                **kwargs,
            )

        # A mixer that is named takes of these and of the fields what it can use.
        start = initialization_of(options.initialization).of_linear()
        mixer = self.token_mixer(seed=seed(0), **start)
        if self.channel_mixer in (None, "none"):
            return residual(mixer, 2, name=name)
        channel_mixer = make_channel_mixer(
            self.channel_mixer, seed=seed(1), **start, **vars(self)
        )
        return MetaFormerBlock(
            residual(mixer, 2), residual(channel_mixer, 3), name=name
        )

    def token_mixer(self, **settings: Any) -> keras.layers.Layer:
        """A fresh token mixer.

        Args:
            **settings: beside the fields.
        """
        return make_token_mixer(self.mixer, **settings, **vars(self))

    def takes(self, name: str) -> bool:
        """Whether a field acts on the blocks as the other fields have them."""
        scaling: Any = self.residual_scaling
        if name == "residual_scale_initial_value":
            return RESIDUAL_SCALINGS[scaling][0]
        if name == "layer_scale_initial_value":
            return RESIDUAL_SCALINGS[scaling][1]
        if name not in SETTINGS:
            return True
        if name == "use_bias" and isinstance(self.norm, str) and self.norm in BIASED:
            return True
        return name in settings_of(self.mixer, TOKEN_MIXERS) or (
            name in settings_of(self.channel_mixer, CHANNEL_MIXERS)
        )


def per_stage(
    config_class: type[Config], source: Any, stages: int
) -> tuple[Config, ...]:
    """The config of each stage, from an object with fields for all of them.

    Args:
        config_class: dataclass of one stage, as `BlockConfig`.
        source: has the fields of `config_class`; a list or tuple holds one value for
            each stage, anything else is the value of all.
        stages: int. Their number.

    Raises:
        ValueError: if a sequence has another length than the number of stages.
    """
    values: dict[str, Sequence] = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        name, value = field.name, getattr(source, field.name)
        if not isinstance(value, (list, tuple)):
            value = (value,) * stages
        elif len(value) != stages:
            raise ValueError(
                f"`{name}` must be one value or one for each of the {stages} stages. "
                f"Received: {name}={value!r} of length {len(value)}"
            )
        values[name] = value
    return tuple(
        config_class(**{name: value[stage] for name, value in values.items()})
        for stage in range(stages)
    )


def check_stages(depths: Any, widths: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`depths` and `widths` as tuples with a positive integer for each stage.

    Raises:
        ValueError: if they are not.
    """
    checked = []
    for name, values in (("depths", depths), ("widths", widths)):
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(
                f"`{name}` must be a sequence with one integer per stage. "
                f"Received: {name}={values!r}"
            )
        checked.append(tuple(positive_integer(name, value) for value in values))
    if len(depths) != len(widths):
        raise ValueError(
            "`depths` and `widths` must have one entry per stage each. "
            f"Received: depths={tuple(depths)}, widths={tuple(widths)}"
        )
    return checked[0], checked[1]


def why_idle(
    blocks: Sequence[BlockConfig], name: str, value: Any, default: Any
) -> str | None:
    """Why a field that was asked for acts on no block; None where it acts.

    A value for all stages has to act on one, a value of its own on its stage.

    Args:
        blocks: what the blocks of each stage are made of.
        name: of a field of `BlockConfig`.
        value: of the field, for all stages or a sequence of one for each.
        default: of the field where nothing is asked for.
    """
    takes = [block.takes(name) for block in blocks]
    if not isinstance(value, (list, tuple)):
        idle = [] if any(takes) else list(range(len(blocks)))
    else:
        usual = default
        if not isinstance(default, (list, tuple)):
            usual = [default] * len(blocks)
        idle = [
            stage
            for stage, acts in enumerate(takes)
            if not acts and value[stage] != usual[stage]
        ]
    if not idle:
        return None
    block = blocks[idle[0]]
    if name not in SETTINGS:
        return (
            f"there is no such scale with residual_scaling={block.residual_scaling!r}"
        )
    return (
        f"neither mixer={block.mixer!r} nor channel_mixer={block.channel_mixer!r} "
        "takes such a setting; a layer of your own has it from you"
    )


def derived_seed(seed: int | None, position: int, purpose: int) -> int | None:
    """A seed for each random layer of a block, all derived from the one given."""
    return None if seed is None else hash((seed, position, purpose)) % 2**31
