"""The layers inside a model by their places, and which of them are what."""

from collections.abc import Iterator
from typing import Any

import keras

from keras_metaformer.explain.probe import Probe
from keras_metaformer.layers import (
    GELU,
    ClassToken,
    IdentityMixer,
    SquaredReLU,
    StarReLU,
)
from keras_metaformer.layers.composite import parts_of

#: What a layer with an activation calls it.
_NAMES = ("activation", "output_activation")
_CLASSES = (
    GELU,
    SquaredReLU,
    StarReLU,
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)
#: The parts of a block: of `MetaFormerBlock`, and of a bare `ResidualBranch`.
_INSIDE = frozenset(
    ("token_mixing", "channel_mixing", "transform", "residual_scale", "layer_scale")
)
#: Called an activation, and none of a coefficient by itself.
_OTHERS = (IdentityMixer, keras.layers.Softmax)


def parts_by_path(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Every layer of a model, with those inside layers and inside nested models.

    Args:
        model: any model with `layers`.

    Returns:
        The layers by the names and attributes that lead to them, such as
        `"stage_0_block_1/token_mixing/norm"`, in the order of the graph.
    """
    return dict(_parts(model, ""))


def _parts(owner: Any, prefix: str) -> Iterator[tuple[str, keras.layers.Layer]]:
    if isinstance(owner, keras.Model):
        parts = {layer.name: layer for layer in owner.layers}
    else:
        parts = parts_of(owner)
    for name, part in parts.items():
        yield prefix + name, part
        yield from _parts(part, f"{prefix}{name}/")


def is_activation(path: str, layer: keras.layers.Layer) -> bool:
    """Whether a layer makes coefficients, one by one: an activation.

    Args:
        path: of the layer.
        layer: the layer. One of a user's own counts where it has the place of one.
    """
    if isinstance(layer, _OTHERS):
        return False
    if type(layer) is keras.layers.Activation:
        return layer.activation is not keras.activations.linear
    return isinstance(layer, _CLASSES) or path.split("/")[-1] in _NAMES


def mixing_of(path: str) -> str:
    """Which half of a block a layer is in.

    Args:
        path: of the layer.

    Returns:
        `"channel"` or `"token"` (so for gMLP, whose one MLP mixes both), or `""`
        outside of blocks.
    """
    names = path.split("/")
    if "channel_mixing" in names:
        return "channel"
    return "token" if _INSIDE.intersection(names) else ""


def block_of(path: str) -> str:
    """The path of the block that a layer is in: of what holds the halves of a block.

    Args:
        path: of the layer.
    """
    names = path.split("/")
    for place, name in enumerate(names):
        if name in _INSIDE:
            return "/".join(names[:place])
    return path


def is_rectifier(layer: Any) -> bool:
    """Whether an activation is exactly 0 wherever its input is not positive.

    But for what is added behind: StarReLU's bias.

    Args:
        layer: the activation.
    """
    if isinstance(layer, (StarReLU, SquaredReLU)):
        return True
    if isinstance(layer, keras.layers.ReLU):
        return not layer.negative_slope and not layer.threshold
    functions = (keras.activations.relu, keras.activations.relu6)
    return getattr(layer, "activation", None) in functions


def coefficients(layer: Any, inputs: Any, outputs: Any) -> Any:
    """What an activation makes, StarReLU without its scale and bias.

    These are the same for all of a layer: without them what is not active is 0, and a
    folded model, in which they are part of the next layer, has the same coefficients.

    Args:
        layer: the activation.
        inputs: tensor that it takes.
        outputs: tensor that it gives.

    Returns:
        Tensor of the same shape.
    """
    if isinstance(layer, StarReLU):
        return keras.ops.square(keras.ops.relu(inputs))
    return outputs


def size_before_class_token(layer: Any, inputs: Any, outputs: Any) -> Any:
    """A tensor `(batch, height, width)` of zeros, of the map that tokens are made of.

    Args:
        layer: a `ClassToken`.
        inputs: map `(batch, height, width, channels)`.
        outputs: not looked at.
    """
    return keras.ops.zeros_like(inputs[..., 0])


def class_token_of(probe: Probe) -> dict[str, Any]:
    """What to watch to know the map of tokens behind a class token; empty without one.

    Args:
        probe: of the model.
    """
    return dict.fromkeys(probe.of_kind(ClassToken), size_before_class_token)
