"""Operations that some backends compute faster than through Keras' own.

Each function here is what a layer calls; it takes the form of the backend in use where
there is one and `fast_paths` are enabled, and else Keras' own operations. The two agree
to rounding. The backends' modules are imported on their backend only.
"""

from typing import Any

import keras
from keras import ops

from keras_metaformer.layers import fast_paths

_MODULE = fast_paths.backend_module(__name__)


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
    fast = _of_backend("star_relu", inputs)
    if fast is not None:
        return fast(inputs, scale, bias, overwrite)
    return scale * ops.square(ops.relu(inputs)) + bias


def squared_relu(inputs: Any, overwrite: bool = False) -> Any:
    """`relu(inputs) ** 2`.

    Args:
        inputs: float tensor of any shape.
        overwrite: bool. Whether the inputs' memory may be used for the outputs.

    Returns:
        Tensor of the inputs' shape and dtype.
    """
    fast = _of_backend("squared_relu", inputs)
    if fast is not None:
        return fast(inputs, overwrite)
    return ops.square(ops.relu(inputs))


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
    fast = _of_backend("residual_sum", inputs)
    if fast is not None:
        return fast(inputs, scale, branch, overwrite)
    return (inputs if scale is None else inputs * scale) + branch


def attention(query: Any, key: Any, value: Any) -> Any:
    """`softmax(query key^T / sqrt(depth)) value` for each head.

    Args:
        query: float tensor `(batch, tokens, heads, depth)`.
        key: tensor of the same shape.
        value: tensor of the same shape.

    Returns:
        Tensor of the same shape.
    """
    fast = _of_backend("attention", query)
    if fast is not None:
        return fast(query, key, value)
    return ops.dot_product_attention(query, key, value)


def average_pool(inputs: Any, size: int) -> Any:
    """Means over windows of `size` x `size` pixels; what lies outside is not counted.

    Args:
        inputs: float tensor `(batch, height, width, channels)`.
        size: odd int. In pixels.

    Returns:
        Tensor of the inputs' shape.
    """
    fast = _of_backend("average_pool", inputs)
    if fast is not None:
        return fast(inputs, size)
    return ops.average_pool(inputs, size, strides=1, padding="same")


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
        None where Keras' own layer is to be used.
    """
    fast = _of_backend("convolution", inputs)
    if fast is None:
        return None
    kernel, bias = _like(inputs, kernel, bias)
    return fast(inputs, kernel, bias, strides, padding)


def image_norm(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    """The fused norm of each image over height, width and channels, if there is one.

    Args:
        inputs: float tensor `(batch, height, width, channels)`.
        scale: variable `(channels,)`, or None.
        bias: variable `(channels,)`, or None.
        epsilon: float. Added to the variance.

    Returns:
        Tensor of the inputs' shape and dtype, or None where Keras' own layer is to be
        used.
    """
    return _norm("image_norm", inputs, scale, bias, epsilon)


def layer_norm(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    """The fused norm of each position over its channels, if there is one.

    Args:
        inputs: float tensor `(..., channels)`.
        scale: variable `(channels,)`, or None.
        bias: variable `(channels,)`, or None.
        epsilon: float. Added to the variance.

    Returns:
        Tensor of the inputs' shape and dtype, or None where Keras' own layer is to be
        used.
    """
    return _norm("layer_norm", inputs, scale, bias, epsilon)


def _norm(name: str, inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    fast = _of_backend(name, inputs)
    return None if fast is None else fast(inputs, *_like(inputs, scale, bias), epsilon)


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
    fast = _of_backend("dense", inputs)
    if fast is not None:
        return fast(inputs, kernel, bias)
    outputs = ops.matmul(inputs, kernel)
    return outputs if bias is None else outputs + bias


def once(outputs: Any) -> Any:
    """The outputs of a dense layer, whose gradient is computed once for all its uses.

    Args:
        outputs: float tensor of any shape.

    Returns:
        The same.
    """
    fast = _of_backend("once", outputs)
    return outputs if fast is None else fast(outputs)


def star_relu_then_dense(
    inputs: Any, scale: Any, bias: Any, kernel: Any, dense_bias: Any
) -> Any:
    """`star_relu(inputs) kernel + dense_bias` for inference, if there is a fused one.

    Args:
        inputs: float tensor `(..., channels)`.
        scale: variable `(1,)`.
        bias: variable `(1,)`.
        kernel: variable `(channels, units)`.
        dense_bias: variable `(units,)`, or None.

    Returns:
        Tensor `(..., units)` of the inputs' dtype, or None where the two are to be
        computed one after the other.
    """
    fast = _of_backend("star_relu_then_dense", inputs)
    if fast is None:
        return None
    return fast(inputs, *_like(inputs, scale, bias, kernel, dense_bias))


def _like(inputs: Any, *weights: Any) -> list[Any]:
    """The weights as tensors of the inputs' dtype; None stays None."""
    return [_tensor(weight, inputs.dtype) for weight in weights]


def _tensor(weight: Any, dtype: Any) -> Any:
    if isinstance(weight, keras.Variable):
        weight = weight.value  # In the compute dtype, where Keras casts by itself.
    if weight is None or weight.dtype == dtype:
        return weight
    return ops.convert_to_tensor(weight, dtype)


def _of_backend(name: str, inputs: Any) -> Any:
    """The backend's function of this name, or None where Keras' own is to be used."""
    if not fast_paths.enabled() or isinstance(inputs, keras.KerasTensor):
        return None
    return getattr(_MODULE, name, None)
