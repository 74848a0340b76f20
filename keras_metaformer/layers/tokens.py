"""Maps as sequences of tokens, and back."""

import functools
import operator

from keras import ops


def token_count(sizes):
    """The number of tokens of a map of size `(height, width)`, or of a sequence."""
    return functools.reduce(operator.mul, sizes)


def flatten_tokens(maps):
    """`(batch, height, width, channels)` to `(batch, height * width, channels)`.

    A sequence `(batch, tokens, channels)` stays as it is.
    """
    if len(maps.shape) == 3:
        return maps
    _, *sizes, channels = maps.shape
    return ops.reshape(maps, (-1, token_count(sizes), channels))


def unflatten_tokens(tokens, sizes):
    """The way back of `flatten_tokens`: to `(height, width)`, or to `(tokens,)`."""
    if len(sizes) == 1:
        return tokens
    return ops.reshape(tokens, (-1, *sizes, tokens.shape[-1]))


def grid_of(sizes):
    """`(height, width)` of a map; None for the tokens of a sequence, which is none."""
    return tuple(sizes) if len(sizes) == 2 else None
