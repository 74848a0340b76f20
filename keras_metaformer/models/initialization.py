"""How the weights of a model start, as the reference codes start them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_metaformer.layers.initializers import (
    another,
    glorot_uniform,
    lecun_normal,
    near_zero,
    pytorch_bias,
    pytorch_kernel,
    truncated_normal,
)
from keras_metaformer_lite.names import question


def _zeros(fan_in: int) -> Any:
    return "zeros"


@dataclasses.dataclass(frozen=True)
class Initialization:
    """Initializers by the place of a weight, each as Keras takes them.

    Depthwise kernels are none of these: they start as `"metaformer"`'s kernels.

    Attributes:
        kernel: of the linear layers in the blocks, and of the first one of an MLP head.
        bias: of the same layers.
        embedding_kernel: of stem, patch embedding and downsampling.
        embedding_bias: of the same convolutions, made of the inputs that each unit has.
        classifier_kernel: of the classification layer, whose bias starts at zero.
        positions: of learned positions, and of a class token.
    """

    kernel: Any = dataclasses.field(default_factory=truncated_normal)
    bias: Any = "zeros"
    embedding_kernel: Any = dataclasses.field(default_factory=truncated_normal)
    embedding_bias: Callable[[int], Any] = _zeros
    classifier_kernel: Any = dataclasses.field(default_factory=truncated_normal)
    positions: Any = dataclasses.field(default_factory=truncated_normal)

    def of_linear(self) -> dict[str, Any]:
        """Arguments of a linear layer in the blocks."""
        return _both(self.kernel, self.bias)

    def of_embedding(self, kernel_size: int, channels: int) -> dict[str, Any]:
        """Arguments of a convolution between stages, for maps of so many channels."""
        bias = self.embedding_bias(kernel_size**2 * channels)
        return _both(self.embedding_kernel, bias)

    def of_classifier(self) -> dict[str, Any]:
        """Arguments of the classification layer."""
        return _both(self.classifier_kernel, "zeros")


def _both(kernel: Any, bias: Any) -> dict[str, Any]:
    get = keras.initializers.get
    return {
        "kernel_initializer": another(get(kernel)),
        "bias_initializer": another(get(bias)),
    }


INITIALIZATIONS = {
    # sail-sg/metaformer and FFNet.
    "metaformer": Initialization(),
    # sail-sg/poolformer and ResMLP leave their convolutions to PyTorch.
    "poolformer": Initialization(
        embedding_kernel=pytorch_kernel(),
        embedding_bias=pytorch_bias,
        positions="zeros",
    ),
    # timm's MLP-Mixer and gMLP.
    "mlp_mixer": Initialization(
        kernel=glorot_uniform(),
        bias=near_zero(),
        embedding_kernel=lecun_normal(),
        classifier_kernel="zeros",
    ),
    # google-research/vision_transformer leaves MLP-Mixer's linear layers to Flax.
    "flax": Initialization(
        kernel=lecun_normal(),
        embedding_kernel=lecun_normal(),
        classifier_kernel="zeros",
    ),
}


def initialization_of(spec: Any) -> Initialization:
    """An `Initialization` by its name, or the one that is given.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if it is neither.
    """
    if isinstance(spec, Initialization):
        return spec
    if not isinstance(spec, str):
        raise TypeError(
            f"`initialization` must be one of {sorted(INITIALIZATIONS)} or an "
            f"`Initialization`. Received: initialization={spec!r} of type "
            f"{type(spec).__name__}"
        )
    if spec not in INITIALIZATIONS:
        raise ValueError(
            f"Unknown initialization.{question(spec, INITIALIZATIONS)} Expected one of "
            f"{sorted(INITIALIZATIONS)} or an `Initialization`. "
            f"Received: initialization={spec!r}"
        )
    return INITIALIZATIONS[spec]
