"""Checks of arguments, shared by the layers and the builders."""

import numbers


def positive_integer(name: str, value) -> int:
    """`value` as an int, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return int(value)


def whole_number(name: str, value) -> int:
    """`value` as an int of at least 0, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(
            f"`{name}` must be an integer of at least 0. Received: {name}={value!r}"
        )
    return int(value)


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
