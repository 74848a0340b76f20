"""Maps as sequences of tokens, and back."""

from keras import ops


def flatten_tokens(maps):
    """`(batch, height, width, channels)` to `(batch, height * width, channels)`."""
    _, height, width, channels = maps.shape
    return ops.reshape(maps, (-1, height * width, channels))


def unflatten_tokens(tokens, grid):
    """The way back of `flatten_tokens`, to maps of height and width `grid`."""
    return ops.reshape(tokens, (-1, *grid, tokens.shape[-1]))
