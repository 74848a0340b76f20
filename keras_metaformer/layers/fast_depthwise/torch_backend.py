"""Depthwise convolution on torch: its own operation, without copies.

Channels-last maps seen as channels-first tensors in torch's `channels_last` memory
format need no copy, neither before nor after, and torch pads within the operation.
Imported on the torch backend only.
"""

from typing import Any

from torch.nn import functional


def is_fast() -> bool:
    """Whether this is the faster way: always."""
    return True


def depthwise_convolution(inputs: Any, kernel: Any, strides: int) -> Any:
    """Depthwise convolution, padded by half the kernel on every side.

    Args:
        inputs: float tensor `(batch, height, width, channels)`.
        kernel: tensor `(size, size, channels, depth_multiplier)`, size odd, of the
            inputs' dtype.
        strides: int. Step in both directions, in pixels.

    Returns:
        Tensor `(batch, height / strides, width / strides, channels * multiplier)`,
        sizes rounded up, of the inputs' dtype.
    """
    size, _, channels, multiplier = kernel.shape
    outputs = functional.conv2d(
        inputs.permute(0, 3, 1, 2),
        kernel.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, size, size),
        stride=strides,
        padding=size // 2,
        groups=channels,
    )
    return outputs.permute(0, 2, 3, 1)
