"""The depthwise convolution as a sum of shifted maps, for XLA on CPUs, in TensorFlow.

The formulas, and why they are as they are, are those of `jax_depthwise.py`.
"""

from typing import Any

import tensorflow as tf

_COLUMNS_PER_STEP = 64
_WIDE = 16


def sum_of_shifted_maps(inputs: Any, kernel: Any, strides: int) -> Any:
    """Depthwise convolution, padded by half the kernel on every side.

    TensorFlow's own operation is fast in graphs and eagerly; XLA compiles it to its
    grouped convolution.

    Seen with: tensorflow 2.21.0.
    Gain: as in JAX, whose compiler it is.

    Sums are kept in float32 where the inputs are float16 or bfloat16. Differentiable
    once, in reverse mode.

    Args:
        inputs: float tensor `(batch, height, width, channels)`; only the channels need
            be known.
        kernel: tensor `(kernel_height, kernel_width, channels, depth_multiplier)`,
            sizes odd, of the inputs' dtype.
        strides: int. Step in both directions, in pixels.

    Returns:
        Tensor `(batch, height / strides, width / strides, channels * multiplier)`,
        sizes rounded up, of the inputs' dtype.
    """
    *area, channels, multiplier = kernel.shape
    if multiplier > 1:
        inputs = tf.repeat(inputs, multiplier, axis=-1)
    kernel = tf.reshape(kernel, (*area, channels * multiplier))

    @tf.custom_gradient
    def convolution(inputs, kernel):
        def backward(gradient):
            spread = _spread(gradient, inputs, strides)
            flipped = kernel[::-1, ::-1]
            return (
                _sum_of_shifted(spread, flipped, 1),
                tf.cast(
                    _kernel_gradient(inputs, gradient, area, strides), kernel.dtype
                ),
            )

        return _sum_of_shifted(inputs, kernel, strides), backward

    return convolution(inputs, kernel)


def _sum_of_shifted(inputs, kernel, strides):
    """`y[b, i, j, c] = sum_uv kernel[u, v, c] padded[b, s i + u, s j + v, c]`."""
    _, height, width, _ = _shape(inputs)
    rows, columns, channels = kernel.shape
    padded = _pad(inputs, (rows, columns))
    extra = ((0, 0), (0, 0), (0, padded.shape[-1] - channels))
    kernel = tf.pad(tf.cast(kernel, padded.dtype), extra)
    outputs: Any = tf.zeros((), padded.dtype)
    for u in range(rows):
        row: Any = tf.zeros((), padded.dtype)
        for v in range(columns):
            shifted = padded[:, u : u + height : strides, v : v + width : strides]
            row = row + shifted * kernel[u, v]
        outputs = outputs + row
    return tf.cast(outputs[..., :channels], inputs.dtype)


def _kernel_gradient(inputs, gradient, area, strides):
    """`g[u, v, c] = sum_bij padded[b, s i + u, s j + v, c] gradient[b, i, j, c]`.

    A loop over the rows of the gradient: each step adds up one row, or a part of it,
    for all positions of the kernel, while the input rows it needs are in the cache.
    """
    batch, height, width, channels = _shape(gradient)
    if not isinstance(width, int):  # The sum over a row cannot be written out.
        return _plain_kernel_gradient(inputs, gradient, area, strides)
    steps_per_row = -(-width // _COLUMNS_PER_STEP)
    columns = -(-width // steps_per_row)
    missing = steps_per_row * columns - width  # filled with zeros
    padded = _pad(inputs, area, missing * strides)
    gradient = tf.cast(gradient, padded.dtype)
    gradient = tf.pad(gradient, ((0, 0), (0, 0), (0, missing), (0, 0)))
    at_once = width >= _WIDE
    images, loops = (batch, 1) if at_once else (1, batch)

    def add_row(step, total):
        row, part = step // steps_per_row, step % steps_per_row
        image, row = (0, row) if at_once else (row // height, row % height)
        row_total = tf.zeros((), padded.dtype)
        for j in range(columns):
            column = part * columns + j
            # One slice for each use: XLA computes with shared ones element by element.
            window = tf.slice(
                padded,
                (image, row * strides, column * strides, 0),
                (images, *area, channels),
            )
            weight = tf.slice(
                gradient, (image, row, column, 0), (images, 1, 1, channels)
            )
            row_total = row_total + window * weight
        return step + 1, total + row_total

    steps = loops * height * steps_per_row
    total = tf.zeros((images, *area, channels), padded.dtype)
    _, total = tf.while_loop(lambda step, _: step < steps, add_row, (0, total))
    return tf.reduce_sum(total, axis=0)


def _plain_kernel_gradient(inputs, gradient, area, strides):
    padded = _pad(inputs, area)
    gradient = tf.nn.depthwise_conv2d_backprop_filter(
        padded,
        (*area, padded.shape[-1], 1),
        tf.pad(
            tf.cast(gradient, padded.dtype),
            ((0, 0), (0, 0), (0, 0), (0, padded.shape[-1] - gradient.shape[-1])),
        ),
        (1, strides, strides, 1),
        "VALID",
    )
    return gradient[:, :, : inputs.shape[-1], 0]


def _shape(tensor):
    """Its sizes: ints where they are known, scalar tensors where not."""
    dynamic = tf.shape(tensor)
    return [
        dynamic[axis] if size is None else size
        for axis, size in enumerate(tensor.shape)
    ]


def _pad(inputs, area, missing_columns=0):
    """Pad by half the kernel, in float32 at least, so that sums lose nothing."""
    above, left = (size // 2 for size in area)
    # See jax_depthwise.py.
    channels = 8 if inputs.shape[-1] % 128 == 0 else 0
    if inputs.dtype in (tf.float16, tf.bfloat16):
        inputs = tf.cast(inputs, tf.float32)
    return tf.pad(
        inputs, ((0, 0), (above, above), (left, left + missing_columns), (0, channels))
    )


def _spread(gradient, inputs, strides):
    """Put the gradient's pixels where the strides took them, zeros between."""
    if strides == 1:
        return gradient
    batch, rows, columns, channels = _shape(gradient)
    _, height, width, _ = _shape(inputs)
    # Each pixel becomes the corner of a square of zeros.
    spread = gradient[:, :, None, :, None]
    square = (0, strides - 1)
    spread = tf.pad(spread, ((0, 0), (0, 0), square, (0, 0), square, (0, 0)))
    spread = tf.reshape(spread, (batch, rows * strides, columns * strides, channels))
    return spread[:, :height, :width]
