"""Groups of parameters that share weight decay and learning rate, by timm's rules."""

import dataclasses
import fnmatch
import re
from collections.abc import Sequence
from typing import Any

#: Layers of the package's models that count as one step of depth each.
_BLOCK = re.compile(r"^(?:stage_\d+_)?block_\d+$")


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Parameters that an optimizer treats alike.

    Attributes:
        weight_decay: of the group; 0 for those without, which LAMB gives no trust
            ratio either.
        rate_scale: what the learning rate is multiplied by.
        paths: of the variables, in the optimizer's order.
        parameters: numbers in them altogether.
    """

    weight_decay: float
    rate_scale: float
    paths: tuple[str, ...]
    parameters: int


def has_weight_decay(
    path: str, shape: Sequence[int], also_decayed: Sequence[str] = ()
) -> bool:
    """Whether timm decays a parameter: not those of one dimension, nor biases.

    Args:
        path: of the variable.
        shape: of the variable.
        also_decayed: patterns of paths that are decayed all the same, as of
            `fnmatch`; for what has one dimension here and more in its source.
    """
    if any(fnmatch.fnmatchcase(path, pattern) for pattern in also_decayed):
        return True
    return len(shape) > 1 and path.rsplit("/", 1)[-1] != "bias"


def rate_scales(paths: Sequence[str], layer_decay: float | None) -> list[float]:
    """Layer-wise learning-rate decay: what each parameter's rate is multiplied by.

    `layer_decay ** (depth of the last layer - depth)`: the stem has depth 0, the first
    block 1, and what comes after the last block one more than that. Downsampling goes
    with the block after it. In a model without this package's blocks, every layer that
    stands at its top counts as one.

    Args:
        paths: of the variables in the order of the model's layers, such as
            `"stage_0_block_1/token_mixing/norm/gamma"`.
        layer_decay: in (0, 1], or None for none.
    """
    if layer_decay is None or layer_decay == 1:
        return [1.0] * len(paths)
    tops = _top_layers(paths)
    layers = list(dict.fromkeys(tops))
    blocks = [layer for layer in layers if _BLOCK.match(layer)]
    depths: dict[str, int] = {}
    if blocks:
        seen = 0
        for layer in layers:
            if layer in blocks:
                seen += 1
                depths[layer] = seen
            elif seen == 0:
                depths[layer] = 0
            else:
                depths[layer] = seen + 1
        top = len(blocks) + 1
    else:
        depths = {layer: number for number, layer in enumerate(layers)}
        top = len(layers) - 1
    return [layer_decay ** (top - depths[layer]) for layer in tops]


def _top_layers(paths: Sequence[str]) -> list[str]:
    """The first part of each path that is not the same in all, a model's name."""
    parts = [path.split("/") for path in paths]
    while all(len(each) > 2 for each in parts) and len({p[0] for p in parts}) == 1:
        parts = [each[1:] for each in parts]
    return [each[0] for each in parts]


def parameter_groups(
    variables: Sequence[Any],
    weight_decay: float,
    layer_decay: float | None = None,
    also_decayed: Sequence[str] = (),
) -> list[ParameterGroup]:
    """Groups of `variables` as an optimizer of this package makes them when built."""
    paths = [variable.path for variable in variables]
    members: dict[tuple[float, float], list[int]] = {}
    for index, (variable, scale) in enumerate(
        zip(variables, rate_scales(paths, layer_decay), strict=True)
    ):
        decayed = has_weight_decay(paths[index], variable.shape, also_decayed)
        decay = weight_decay if decayed else 0.0
        members.setdefault((decay, scale), []).append(index)
    return [
        ParameterGroup(
            weight_decay=decay,
            rate_scale=scale,
            paths=tuple(paths[index] for index in indices),
            parameters=sum(_size(variables[index].shape) for index in indices),
        )
        for (decay, scale), indices in sorted(members.items(), reverse=True)
    ]


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= int(length)
    return size
