"""Checks of arguments, shared by the layers and the builders."""

import numbers


def positive_integer(name: str, value) -> int:
    """`value` as an int, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return int(value)


def pair_of_bools(name: str, value) -> tuple[bool, bool]:
    """One bool for both of two things, or a pair of them.

    Raises:
        ValueError: if a sequence is no pair. The message names the argument.
    """
    if not isinstance(value, (list, tuple)):
        return bool(value), bool(value)
    if len(value) != 2:
        raise ValueError(
            f"`{name}` must be a bool or a pair of bools. Received: {name}={value!r}"
        )
    return bool(value[0]), bool(value[1])


def rate_below_one(name: str, value) -> float:
    """`value` as a float in [0, 1), or a ValueError that names the argument."""
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={value!r}")
    return float(value)


def static_size(layer: str, input_shape) -> tuple[int, int]:
    """Height and width of a `(batch, height, width, channels)` shape.

    Raises:
        ValueError: if either is unknown. Layers with a weight per token need both.
    """
    if len(input_shape) != 4:
        raise ValueError(
            f"`{layer}` takes maps of shape (batch, height, width, channels). "
            f"Received: input_shape={tuple(input_shape)}"
        )
    _, height, width, _ = input_shape
    if height is None or width is None:
        raise ValueError(
            f"`{layer}` has weights for every token, so the image's height and width "
            "must be known: give `input_shape=(height, width, channels)`. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    return height, width
