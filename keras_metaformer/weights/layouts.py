"""Axes of weights in PyTorch's order and in Keras'.

Which transposition applies follows from the class of the layer that owns the weight,
never from its name or rank.
"""

import keras
import numpy as np

from keras_metaformer.layers import (
    DepthwiseConvolution,
    PositionEmbedding,
    TokenLinear,
)
from keras_metaformer.weights.structure import WeightSlot


def from_pytorch(slot: WeightSlot, array: np.ndarray) -> np.ndarray | None:
    """A PyTorch tensor in the order of axes of our weight.

    Sizes are not checked; None where there is no such order for the tensor's axes.
    """
    if isinstance(slot.layer, PositionEmbedding):
        # (1, channels, height, width), or (1, tokens, channels)
        if array.shape[:1] != (1,):
            return None
        return np.moveaxis(array[0], 0, -1) if array.ndim == 4 else array[0]
    if not slot.path.endswith("/kernel"):
        return _without_unit_axes(array, slot)
    match slot.layer:
        case keras.layers.Dense() | TokenLinear():
            # (out, in), or (out, in, 1, 1) where the source convolves.
            if array.ndim == 4 and array.shape[2:] == (1, 1):
                array = array[:, :, 0, 0]
            return array.T
        case DepthwiseConvolution():
            # (channels * multiplier, 1, k, k) -> (k, k, channels, multiplier), and
            # (channels * multiplier, 1, k) -> (k, channels, multiplier)
            multiplier = slot.layer.depth_multiplier
            if (
                array.ndim != len(slot.variable.shape)
                or array.shape[1] != 1
                or array.shape[0] % multiplier
            ):
                return None
            split = array.reshape(-1, multiplier, *array.shape[2:])
            return np.moveaxis(split, (0, 1), (-2, -1))
        case keras.layers.Conv2D():
            return array.transpose(2, 3, 1, 0) if array.ndim == 4 else None
        case _:
            return array


def with_input_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The kernel of the first convolution for images of other than three channels.

    For one channel the three kernels are summed: a grey image gives what its copy in
    red, green and blue gave. For any other number they are repeated in turn and scaled
    by `3 / channels`, so that the sum over the inputs keeps its size. These are the
    rules of timm's `in_chans`.

    Args:
        kernel: `(height, width, 3, filters)`.
        channels: of the model's images.

    Returns:
        Kernel `(height, width, channels, filters)`, float32 where `kernel` is shorter.
    """
    kernel = kernel.astype(np.promote_types(kernel.dtype, "float32"))
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = kernel[:, :, np.arange(channels) % kernel.shape[2]]
    return repeated * np.asarray(kernel.shape[2] / channels, kernel.dtype)


def to_pytorch(
    slot: WeightSlot, array: np.ndarray, as_convolution: bool = False
) -> np.ndarray:
    """Our weight in PyTorch's order of axes; the way back of `from_pytorch`."""
    if isinstance(slot.layer, PositionEmbedding):
        return (np.moveaxis(array, -1, 0) if array.ndim == 3 else array)[None]
    if not slot.path.endswith("/kernel"):
        return array
    match slot.layer:
        case keras.layers.Dense() | TokenLinear():
            array = array.T
            return array[:, :, None, None] if as_convolution else array
        case DepthwiseConvolution():
            size = array.shape[:-2]
            return np.moveaxis(array, (-2, -1), (0, 1)).reshape(-1, 1, *size)
        case keras.layers.Conv2D():
            return array.transpose(3, 2, 0, 1)
        case _:
            return array


def _without_unit_axes(array: np.ndarray, slot: WeightSlot) -> np.ndarray:
    """Per-channel weights that a source keeps as (1, 1, C) or (C, 1, 1), as (C,)."""
    shape = tuple(slot.variable.shape)
    if array.ndim > len(shape) and array.squeeze().shape == shape:
        return array.squeeze()
    return array
