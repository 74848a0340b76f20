"""Token-mixing matrices and learned positions for another image size."""

import math
from collections.abc import Callable

import numpy as np


def resize_token_weight(
    array: np.ndarray,
    input_grids: tuple[tuple[int, int], tuple[int, int]] | None,
    output_grids: tuple[tuple[int, int], tuple[int, int]] | None,
) -> np.ndarray:
    """A kernel or bias of `TokenLinear` for maps of another height and width.

    Axes that run over the tokens of a map are resized as that map, bilinearly with
    aligned corners. What an output token takes from all input tokens together stays the
    same, so that a constant map still gives what it gave.

    Args:
        array: kernel `(input tokens, output tokens)` or bias `(output tokens,)`.
        input_grids: `(height, width)` of the map before and after, or None where the
            input's tokens are no map.
        output_grids: likewise for the output's tokens.

    Returns:
        Array for the new maps, of the dtype of `array`.
    """
    resized = array.astype("float64")
    if output_grids is not None:
        resized = resized @ _on_map(_resample, *output_grids).T
    if input_grids is not None and array.ndim == 2:
        resized = _on_map(_distribute, *input_grids) @ resized
    return resized.astype(array.dtype)


def resize_positions(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Learned positions for maps of another height and width, bilinearly.

    Args:
        array: `(height, width, channels)`.
        size: `(height, width)` of the new maps.

    Returns:
        Array `(*size, channels)`, of the dtype of `array`.
    """
    rows, columns = (
        _resample(before, after)
        for before, after in zip(array.shape[:2], size, strict=True)
    )
    resized = np.einsum("ih,jw,hwc->ijc", rows, columns, array.astype("float64"))
    return resized.astype(array.dtype)


def map_of_tokens(tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """`(height, width)` of the map that an image becomes; None if there is none.

    Args:
        tokens: of the whole map.
        image_size: `(height, width)` in pixels; of a square, the size does not count.
    """
    height, width = image_size
    side = math.isqrt(tokens)
    if height == width:
        return (side, side) if side * side == tokens else None
    for stride in range(1, max(image_size) + 1):
        # Patches leave the rest of an image away, padded strides count it.
        for rows, columns in (
            (height // stride, width // stride),
            (-(-height // stride), -(-width // stride)),
        ):
            if rows * columns == tokens:
                return rows, columns
    return None


def _on_map(
    line: Callable[[int, int], np.ndarray],
    before: tuple[int, int],
    after: tuple[int, int],
) -> np.ndarray:
    """Matrix `(new tokens, old tokens)`: `line` along the height and the width."""
    return np.kron(line(before[0], after[0]), line(before[1], after[1]))


def _distribute(before: int, after: int) -> np.ndarray:
    """Matrix `(after, before)` that hands each old weight on to its new neighbours.

    Its columns sum to 1: a sum over all inputs stays what it was.
    """
    if after < before:
        return _resample(after, before).T
    matrix = _resample(before, after)
    return matrix / matrix.sum(axis=0)


def _resample(before: int, after: int) -> np.ndarray:
    """Matrix `(after, before)` of linear resizing of one axis; its rows sum to 1."""
    middle = np.array([(before - 1) / 2])
    positions = np.linspace(0.0, before - 1.0, after) if after > 1 else middle
    left = np.minimum(positions.astype(int), max(before - 2, 0))
    share = positions - left
    matrix = np.zeros((after, before))
    rows = np.arange(after)
    matrix[rows, left] = 1.0 - share
    matrix[rows, np.minimum(left + 1, before - 1)] += share
    return matrix
