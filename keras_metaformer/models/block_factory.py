"""The blocks of all builders, from frozen data to layers."""

import dataclasses
from typing import Any

import keras

from keras_metaformer.blocks import MetaFormerBlock, ResidualBranch
from keras_metaformer.layers.factories import make_layer
from keras_metaformer.layers.mixers.table import CHANNEL_MIXERS, make_mixer
from keras_metaformer.layers.norms.table import make_norm


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """What one block is made of; `MetaFormer` documents each field."""

    mixer: Any
    channel_mixer: Any
    activation: Any
    norm: Any
    norm_epsilon: float
    use_bias: bool
    residual_scaling: str
    residual_scale_initial_value: float
    layer_scale_initial_value: float
    mlp_ratio: float
    mlp_dropout: float
    gradient_checkpointing: bool
    seed: int | None

    def build(self, name: str, rate: float, position: int) -> keras.layers.Layer:
        """A fresh block.

        Args:
            name: of the block.
            rate: of its stochastic depth.
            position: of the block in the model, from which its seeds follow.

        Returns:
            `MetaFormerBlock`, or the bare token-mixing `ResidualBranch` where there is
            no channel mixer.
        """
        mixer, channel_mixer = (
            self.token_mixer(position),
            self._channel_mixer(position),
        )
        if channel_mixer is None:
            return self._residual(mixer, rate, self._seed(position, 2), name=name)
        return MetaFormerBlock(
            self._residual(mixer, rate, self._seed(position, 2)),
            self._residual(channel_mixer, rate, self._seed(position, 3)),
            name=name,
        )

    def token_mixer(self, position: int = 0) -> keras.layers.Layer:
        """A fresh token mixer."""
        return make_mixer(
            self.mixer,
            activation=self.activation,
            use_bias=self.use_bias,
            seed=self._seed(position, 0),
        )

    def _channel_mixer(self, position: int) -> keras.layers.Layer | None:
        if self.channel_mixer in (None, "none"):
            return None
        return make_layer(
            "channel mixer",
            self.channel_mixer,
            CHANNEL_MIXERS,
            ratio=self.mlp_ratio,
            activation=self.activation,
            use_bias=self.use_bias,
            dropout=self.mlp_dropout,
            seed=self._seed(position, 1),
        )

    def _residual(
        self,
        transform: keras.layers.Layer,
        rate: float,
        seed: int | None,
        name: str | None = None,
    ) -> ResidualBranch:
        return ResidualBranch(
            transform,
            make_norm(self.norm, self.use_bias, epsilon=self.norm_epsilon),
            residual_scaling=self.residual_scaling,
            residual_scale_initial_value=self.residual_scale_initial_value,
            layer_scale_initial_value=self.layer_scale_initial_value,
            stochastic_depth_rate=rate,
            seed=seed,
            gradient_checkpointing=self.gradient_checkpointing,
            name=name,
        )

    def _seed(self, position: int, purpose: int) -> int | None:
        """A seed for each random layer, all derived from the one that was given."""
        if self.seed is None:
            return None
        return hash((self.seed, position, purpose)) % 2**31


def linear_rates(rate: float, blocks: int) -> list[float]:
    """Stochastic depth of each block, rising linearly from 0 to `rate`."""
    return [rate * index / max(blocks - 1, 1) for index in range(blocks)]


def needs_static_size(mixers: list[keras.layers.Layer]) -> bool:
    """Whether a mixer has weights for every token, so ties the model to one size."""
    return any(getattr(mixer, "needs_static_size", False) for mixer in mixers)
