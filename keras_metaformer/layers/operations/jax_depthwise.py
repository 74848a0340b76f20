"""The depthwise convolution as a sum of shifted maps, for XLA on CPUs, in JAX."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Columns of a map that the kernel's gradient adds up in one step: more make the program
# longer, fewer the loop.
_COLUMNS_PER_STEP = 64
# From this width on, a step takes a row of every image at once; below, of one image, so
# that the sums carried from step to step stay small.
_WIDE = 16


def sum_of_shifted_maps(inputs: Any, kernel: Any, strides: int) -> Any:
    """Depthwise convolution, padded by half the kernel on every side.

    XLA has no good grouped convolution on CPUs. The sum over the kernel's positions of
    the shifted map times one weight per channel is a single fused loop there, and so is
    each of its two gradients.

    Seen with: jax 0.10.2.
    Gain: at the four sizes of ConvFormerS18's maps, batch of four, on an AMD EPYC with
    AVX2, 18 to 23 times as fast as Keras' operation, with both gradients 60 to 110
    times (processor time, `benchmarks/depthwise_probe.py`).

    Sums are kept in float32 where the inputs are float16 or bfloat16. The gradient is
    written by hand: `jax.grad` and `jax.vjp` work as always, to first order and in
    reverse mode only (no `jax.jvp`, `jax.jacfwd` or `jax.hessian`).

    Args:
        inputs: float array `(batch, height, width, channels)`.
        kernel: array `(kernel_height, kernel_width, channels, depth_multiplier)`, sizes
            odd, of the inputs' dtype.
        strides: int. Step in both directions, in pixels.

    Returns:
        Array `(batch, height / strides, width / strides, channels * depth_multiplier)`,
        sizes rounded up, of the inputs' dtype.
    """
    *area, channels, multiplier = kernel.shape
    if multiplier > 1:
        inputs = jnp.repeat(inputs, multiplier, axis=-1)
    kernel = kernel.reshape(*area, channels * multiplier)
    return _convolution(inputs, kernel, strides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(inputs, kernel, strides):
    return _sum_of_shifted(inputs, kernel, strides)


def _forward(inputs, kernel, strides):
    return _sum_of_shifted(inputs, kernel, strides), (inputs, kernel)


def _backward(strides, saved, gradient):
    inputs, kernel = saved
    # The gradient to the inputs is the same sum, with the kernel flipped.
    spread = _spread(gradient, inputs.shape, strides)
    inputs_gradient = _sum_of_shifted(spread, kernel[::-1, ::-1], 1)
    kernel_gradient = _kernel_gradient(inputs, gradient, kernel.shape[:2], strides)
    return inputs_gradient, kernel_gradient.astype(kernel.dtype)


_convolution.defvjp(_forward, _backward)


# jit, although models are compiled as a whole: equal blocks are traced once only.
@functools.partial(jax.jit, static_argnums=2)
def _sum_of_shifted(inputs, kernel, strides):
    """`y[b, i, j, c] = sum_uv kernel[u, v, c] padded[b, s i + u, s j + v, c]`."""
    _, height, width, channels = inputs.shape
    rows, columns, _ = kernel.shape
    padded = _pad(inputs, (rows, columns))
    extra = ((0, 0), (0, 0), (0, padded.shape[-1] - channels))
    kernel = jnp.pad(kernel.astype(padded.dtype), extra)
    outputs = jnp.zeros((), padded.dtype)
    for u in range(rows):
        # Row by row, as a sum of all would wait at each step for the one before.
        row = jnp.zeros((), padded.dtype)
        for v in range(columns):
            shifted = padded[:, u : u + height : strides, v : v + width : strides]
            row = row + shifted * kernel[u, v]
        outputs = outputs + row
    return outputs[..., :channels].astype(inputs.dtype)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _kernel_gradient(inputs, gradient, area, strides):
    """`g[u, v, c] = sum_bij padded[b, s i + u, s j + v, c] gradient[b, i, j, c]`.

    A loop over the rows of the gradient: each step adds up one row, or a part of it,
    for all positions of the kernel, while the input rows it needs are in the cache.
    """
    batch, height, width, channels = gradient.shape
    steps_per_row = -(-width // _COLUMNS_PER_STEP)
    columns = -(-width // steps_per_row)
    missing = steps_per_row * columns - width  # filled with zeros
    padded = _pad(inputs, area, missing * strides)
    gradient = gradient.astype(padded.dtype)
    gradient = jnp.pad(gradient, ((0, 0), (0, 0), (0, missing), (0, 0)))
    images = batch if width >= _WIDE else 1

    def add_row(step, total):
        # Unsigned, as signed indices would be checked for being negative.
        step = lax.convert_element_type(step, jnp.uint32)
        step, part = step // steps_per_row, step % steps_per_row
        image, row = (0, step) if images == batch else (step // height, step % height)
        row_total = jnp.zeros((), padded.dtype)
        for j in range(columns):
            column = part * columns + j
            # One slice for each use: XLA computes with shared ones element by element.
            window = lax.dynamic_slice(
                padded,
                _indices(image, row * strides, column * strides),
                (images, *area, channels),
            )
            weight = lax.dynamic_slice(
                gradient, _indices(image, row, column), (images, 1, 1, channels)
            )
            row_total = row_total + window * weight
        return total + row_total

    total = lax.fori_loop(
        0,
        (batch // images) * height * steps_per_row,
        add_row,
        jnp.zeros((images, *area, channels), padded.dtype),
    )
    return total.sum(axis=0)


def _indices(image, row, column):
    return [jnp.asarray(index, jnp.uint32) for index in (image, row, column, 0)]


def _pad(inputs, area, missing_columns=0):
    """Pad by half the kernel, in float32 at least, so that sums lose nothing."""
    above, left = (size // 2 for size in area)
    # A cache holds few pixels whose distance is a multiple of a large power of two
    # (8 at 4 KiB): with some channels more they spread over all of it.
    channels = 8 if inputs.shape[-1] % 128 == 0 else 0
    return jnp.pad(
        inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32)),
        ((0, 0), (above, above), (left, left + missing_columns), (0, channels)),
    )


def _spread(gradient, shape, strides):
    """Put the gradient's pixels where the strides took them, zeros between."""
    if strides == 1:
        return gradient
    rows, columns = (
        (0, size - 1 - (length - 1) * strides, strides - 1)
        for size, length in zip(shape[1:3], gradient.shape[1:3], strict=True)
    )
    zero = jnp.zeros((), gradient.dtype)
    return lax.pad(gradient, zero, ((0, 0, 0), rows, columns, (0, 0, 0)))
