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


def odd_integer(name: str, value) -> int:
    """`value` as a positive odd int, or a ValueError that names the argument."""
    if positive_integer(name, value) % 2 == 0:
        raise ValueError(
            f"`{name}` must be odd, so that the padding is the same on every side. "
            f"Received: {name}={value}"
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


def pair_of_odd_integers(name: str, value) -> tuple[int, int]:
    """One positive odd int for both of two things, or a pair of them.

    Raises:
        ValueError: if a sequence is no pair, or a value is no such int.
    """
    values = value if isinstance(value, (list, tuple)) else (value, value)
    if len(values) != 2:
        raise ValueError(
            f"`{name}` must be an integer or a pair of them. Received: {name}={value!r}"
        )
    return odd_integer(name, values[0]), odd_integer(name, values[1])


def map_or_sequence(layer: str, input_shape) -> tuple[int | None, ...]:
    """The sizes between batch and channels: `(height, width)`, or `(tokens,)`.

    Raises:
        ValueError: if the shape is neither a map's nor a sequence's.
    """
    if len(input_shape) not in (3, 4):
        raise ValueError(
            f"`{layer}` takes maps of shape (batch, height, width, channels), or "
            "sequences of shape (batch, tokens, channels). "
            f"Received: input_shape={tuple(input_shape)}"
        )
    return tuple(input_shape[1:-1])


def static_size(layer: str, input_shape) -> tuple[int, ...]:
    """Height and width of a map's shape, or the tokens of a sequence's, as a tuple.

    Raises:
        ValueError: if a size is unknown. Layers with a weight per token need all.
    """
    sizes = map_or_sequence(layer, input_shape)
    known = tuple(size for size in sizes if size is not None)
    if len(known) == len(sizes):
        return known
    what, how = "image's height and width", "(height, width, channels)"
    if len(sizes) == 1:
        what, how = "number of tokens", "(tokens, channels)"
    raise ValueError(
        f"`{layer}` has weights for every token, so the {what} must be known: give "
        f"`input_shape={how}`. Received: input_shape={tuple(input_shape)}"
    )
