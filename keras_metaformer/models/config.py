"""What a hierarchical MetaFormer is made of, as frozen data."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from keras_metaformer.blocks.residual_branch import check_residual_scaling
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer.models.block_factory import BlockConfig


def per_stage(name: str, value: Any, stages: int) -> tuple:
    """`value` once per stage: a list or tuple as it is, anything else repeated.

    Raises:
        ValueError: if a sequence has another length than the number of stages.
    """
    if not isinstance(value, (list, tuple)):
        return (value,) * stages
    if len(value) != stages:
        raise ValueError(
            f"`{name}` must be one value or one for each of the {stages} stages. "
            f"Received: {name}={value!r} of length {len(value)}"
        )
    return tuple(value)


def check_rate(name: str, rate: float) -> float:
    """`rate` as a float in [0, 1), or a ValueError that names the argument."""
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={rate!r}")
    return float(rate)


@dataclasses.dataclass(frozen=True)
class MetaFormerConfig:
    """A hierarchical MetaFormer: its stages and what they share.

    Fields named in the singular after `widths` take one value for all stages or a
    sequence with one per stage; `MetaFormer` documents each.

    Raises:
        ValueError: if a field is out of range, or a sequence has the wrong length.
    """

    #: Decided by a variant's name; the other fields may be overridden by keyword.
    fixed_fields: ClassVar[tuple[str, ...]] = ("depths", "widths")

    depths: Sequence[int]
    widths: Sequence[int]
    mixer: Any = "identity"
    activation: Any = "star_relu"
    norm: Any = "layer_norm"
    norm_epsilon: float = 1e-6
    residual_scaling: Any = "none"
    residual_scale_initial_value: float = 1.0
    layer_scale_initial_value: float = 1e-5
    use_bias: Any = False
    channel_mixer: Any = "mlp"
    mlp_ratio: Any = 4.0
    mlp_dropout: float = 0.0
    stem_kernel_size: int = 7
    stem_strides: int = 4
    stem_padding: int = 2
    downsampling_norm: Any = "layer_norm"
    output_norm: Any = "layer_norm"
    normalize_before_pooling: bool = False
    head: str = "linear"
    stochastic_depth_rate: float = 0.0
    head_dropout: float = 0.0
    gradient_checkpointing: Any = False
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("depths", "widths"):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or not values:
                raise ValueError(
                    f"`{name}` must be a sequence with one integer per stage. "
                    f"Received: {name}={values!r}"
                )
            checked = tuple(positive_integer(name, value) for value in values)
            object.__setattr__(self, name, checked)
        if len(self.depths) != len(self.widths):
            raise ValueError(
                "`depths` and `widths` must have one entry per stage each. "
                f"Received: depths={self.depths}, widths={self.widths}"
            )
        for name in _PER_STAGE:
            value = per_stage(name, getattr(self, name), len(self.depths))
            object.__setattr__(self, name, value)
        for value in self.residual_scaling:
            check_residual_scaling(value)
        for name in ("stem_kernel_size", "stem_strides"):
            positive_integer(name, getattr(self, name))
        if self.stem_padding < 0:
            raise ValueError(
                "`stem_padding` must not be negative. "
                f"Received: stem_padding={self.stem_padding}"
            )
        for name in ("stochastic_depth_rate", "head_dropout", "mlp_dropout"):
            object.__setattr__(self, name, check_rate(name, getattr(self, name)))
        if self.head not in HEADS:
            raise ValueError(
                f"`head` must be one of {sorted(HEADS)}. Received: head={self.head!r}"
            )

    @property
    def total_stride(self) -> int:
        """Pixels of the image for each position of the last stage's map."""
        return self.stem_strides * 2 ** (len(self.depths) - 1)

    def block(self, stage: int) -> BlockConfig:
        """What the blocks of a stage are made of."""
        return BlockConfig(
            **{name: getattr(self, name)[stage] for name in _PER_STAGE},
            norm_epsilon=self.norm_epsilon,
            residual_scale_initial_value=self.residual_scale_initial_value,
            layer_scale_initial_value=self.layer_scale_initial_value,
            mlp_dropout=self.mlp_dropout,
            seed=self.seed,
        )


HEADS = ("linear", "mlp")
_PER_STAGE = (
    "mixer",
    "activation",
    "norm",
    "residual_scaling",
    "use_bias",
    "channel_mixer",
    "mlp_ratio",
    "gradient_checkpointing",
)


def pyramid_level(stride: int) -> str:
    """`"P2"` for a map with one position per 4 pixels, `"P3"` for 8 and so on."""
    return f"P{round(math.log2(stride))}"
