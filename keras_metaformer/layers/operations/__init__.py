"""The operations of the layers, in the form that is fast on the backend in use.

Each function here is what a layer calls. A backend's module (`tensorflow_backend.py`,
`jax_backend.py`, `torch_backend.py`) holds its faster forms, as functions of the same
names. A form may be one for some dtypes, devices or compilers: where it is not for
what is asked, it returns None, as if the module had no such function. Then, and where
`fast_paths` are off, Keras' own operations are taken; the two agree to rounding. A
function here that returns None in turn says so: what it stands for is a Keras layer,
which its caller calls instead.
"""

import importlib
import importlib.util
from typing import Any

import keras
from keras import ops

from keras_metaformer.layers import fast_paths, tracing


def _backend_module() -> Any:
    """The module of the backend in use, or None for one that has none, as OpenVINO."""
    name = f"{__name__}.{keras.backend.backend()}_backend"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


# On import, as torch.compile would see it in the call of a layer.
_BACKEND = _backend_module()


def _fast(name: str, inputs: Any, *arguments: Any) -> Any:
    """What the backend's form of an operation gives, or None where it has none here."""
    if not fast_paths.enabled() or isinstance(inputs, keras.KerasTensor):
        return None
    form = getattr(_BACKEND, name, None)
    return None if form is None else form(inputs, *arguments)


def star_relu(inputs: Any, scale: Any, bias: Any, overwrite: bool = False) -> Any:
    """`scale * relu(inputs) ** 2 + bias`, for whose gradient one map is kept.

    Differentiated step by step it keeps the rectified map, its square and a mask.

    Args:
        inputs: float tensor of any shape.
        scale: variable `(1,)`.
        bias: variable `(1,)`.
        overwrite: bool. Whether the inputs' memory may be used for the outputs.

    Returns:
        Tensor of the inputs' shape and dtype.
    """
    scale, bias = _like(inputs, scale, bias)
    outputs = _fast("star_relu", inputs, scale, bias, overwrite)
    if outputs is None:
        return scale * ops.square(ops.relu(inputs)) + bias
    return outputs


def squared_relu(inputs: Any, overwrite: bool = False) -> Any:
    """`relu(inputs) ** 2`.

    Args:
        inputs: float tensor of any shape.
        overwrite: bool. Whether the inputs' memory may be used for the outputs.

    Returns:
        Tensor of the inputs' shape and dtype.
    """
    outputs = _fast("squared_relu", inputs, overwrite)
    return ops.square(ops.relu(inputs)) if outputs is None else outputs


def gelu(inputs: Any, approximate: bool) -> Any:
    """The Gaussian error linear unit.

    Args:
        inputs: float tensor of any shape.
        approximate: bool. Whether by the hyperbolic tangent.

    Returns:
        Tensor of the inputs' shape and dtype.
    """
    outputs = _fast("gelu", inputs, approximate)
    if outputs is None:
        return keras.activations.gelu(inputs, approximate=approximate)
    return outputs


def residual_sum(inputs: Any, scale: Any, branch: Any, overwrite: bool = False) -> Any:
    """`scale * inputs + branch` in one operation.

    Args:
        inputs: float tensor `(..., channels)`.
        scale: variable `(channels,)`, or None for 1.
        branch: tensor of the inputs' shape and dtype.
        overwrite: bool. Whether the branch's memory may be used for the sum.

    Returns:
        Tensor of the same shape and dtype.
    """
    (scale,) = _like(inputs, scale)
    outputs = _fast("residual_sum", inputs, scale, branch, overwrite)
    if outputs is None:
        return (inputs if scale is None else inputs * scale) + branch
    return outputs


def attention(query: Any, key: Any, value: Any) -> Any:
    """`softmax(query key^T / sqrt(depth)) value` for each head.

    Args:
        query: float tensor `(batch, tokens, heads, depth)`.
        key: tensor of the same shape.
        value: tensor of the same shape.

    Returns:
        Tensor of the same shape.
    """
    outputs = _fast("attention", query, key, value)
    return ops.dot_product_attention(query, key, value) if outputs is None else outputs


def average_pool(inputs: Any, size: int) -> Any:
    """Means over windows of `size` x `size` pixels; what lies outside is not counted.

    Args:
        inputs: float tensor `(batch, height, width, channels)`, or `(batch, tokens,
            channels)`, which has windows of `size` tokens.
        size: odd int. In pixels.

    Returns:
        Tensor of the inputs' shape.
    """
    if len(inputs.shape) == 3:
        # A map of height 1: what lies above and below is not counted.
        return ops.squeeze(average_pool(ops.expand_dims(inputs, 1), size), 1)
    outputs = _fast("average_pool", inputs, size)
    if outputs is None:
        return ops.average_pool(inputs, size, strides=1, padding="same")
    return outputs


def depthwise_convolution(
    inputs: Any, kernel: Any, strides: int, dilation_rate: int = 1
) -> Any:
    """Depthwise convolution, padded by half the kernel on every side.

    On CPUs JAX, and TensorFlow under XLA, add up shifted maps, with gradients of their
    own (to first order, in reverse mode).

    Args:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.
        kernel: float tensor `(kernel_height, kernel_width, channels, depth_multiplier)`
            or `(size, channels, depth_multiplier)`, sizes odd.
        strides: int. Step in all directions, in pixels or tokens.
        dilation_rate: int. Distance of the taps, in pixels; 1 unless `strides` is.

    Returns:
        Tensor `(batch, height / strides, width / strides, channels * multiplier)` or
        `(batch, tokens / strides, channels * multiplier)`, sizes rounded up, of the
        inputs' dtype.
    """
    kernel = ops.convert_to_tensor(kernel, inputs.dtype)
    if len(inputs.shape) == 3:  # A map of height 1, whose rows the fast forms sum up.
        maps, kernel = (
            ops.expand_dims(x, axis) for x, axis in ((inputs, 1), (kernel, 0))
        )
        return ops.squeeze(
            depthwise_convolution(maps, kernel, strides, dilation_rate), 1
        )
    if dilation_rate > 1:
        return ops.depthwise_conv(
            inputs, kernel, padding="same", dilation_rate=dilation_rate
        )
    outputs = _fast("depthwise_convolution", inputs, kernel, strides)
    if outputs is not None:
        return outputs
    if strides == 1:  # "same" is then symmetric, and the backends are fast at it.
        return ops.depthwise_conv(inputs, kernel, padding="same")
    rows, columns = ((size // 2, size // 2) for size in kernel.shape[:2])
    padded = ops.pad(inputs, ((0, 0), rows, columns, (0, 0)))
    return ops.depthwise_conv(padded, kernel, strides=strides, padding="valid")


def convolution(inputs: Any, kernel: Any, bias: Any, strides: int, padding: int) -> Any:
    """Convolution that pads by itself, if there is one that is faster.

    Args:
        inputs: float tensor `(batch, height, width, channels)`.
        kernel: variable `(size, size, channels, filters)`.
        bias: variable `(filters,)`, or None.
        strides: int. Step in both directions, in pixels.
        padding: int. Zeros on every side, in pixels.

    Returns:
        Tensor `(batch, output_height, output_width, filters)` of the inputs' dtype, or
        None.
    """
    return _fast("convolution", inputs, *_like(inputs, kernel, bias), strides, padding)


def image_norm(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    """The fused norm of each image over height, width and channels, if there is one.

    Args:
        inputs: float tensor `(batch, height, width, channels)`.
        scale: variable `(channels,)`, or None.
        bias: variable `(channels,)`, or None.
        epsilon: float. Added to the variance.

    Returns:
        Tensor of the inputs' shape and dtype, or None.
    """
    return _fast("image_norm", inputs, *_like(inputs, scale, bias), epsilon)


def layer_norm(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    """The fused norm of each position over its channels, if there is one.

    Args:
        inputs: float tensor `(..., channels)`.
        scale: variable `(channels,)`, or None.
        bias: variable `(channels,)`, or None.
        epsilon: float. Added to the variance.

    Returns:
        Tensor of the inputs' shape and dtype, or None.
    """
    return _fast("layer_norm", inputs, *_like(inputs, scale, bias), epsilon)


def dense(inputs: Any, kernel: Any, bias: Any) -> Any:
    """`inputs kernel + bias`.

    Args:
        inputs: float tensor `(..., channels)`.
        kernel: variable `(channels, units)`.
        bias: variable `(units,)`, or None.

    Returns:
        Tensor `(..., units)` of the inputs' dtype.
    """
    kernel, bias = _like(inputs, kernel, bias)
    outputs = _fast("dense", inputs, kernel, bias)
    if outputs is not None:
        return outputs
    outputs = ops.matmul(inputs, kernel)
    return outputs if bias is None else outputs + bias


def gradient_barrier(outputs: Any) -> Any:
    """A dense layer's outputs, whose gradient is computed once for all of its uses.

    Args:
        outputs: float tensor of any shape.

    Returns:
        The same.
    """
    behind = _fast("gradient_barrier", outputs)
    return outputs if behind is None else behind


def _like(inputs: Any, *weights: Any) -> list[Any]:
    """The weights as tensors of the inputs' dtype; None stays None."""
    dtype, tensors = inputs.dtype, []
    for weight in weights:
        if isinstance(weight, keras.Variable):
            # In the compute dtype, where Keras casts by itself.
            weight = tracing.value_of(weight)
        if weight is not None and weight.dtype != dtype:
            weight = ops.convert_to_tensor(weight, dtype)
        tensors.append(weight)
    return tensors
