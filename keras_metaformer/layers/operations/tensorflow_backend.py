"""Operations for TensorFlow: what is kept for gradients, and what its graphs fuse."""

import functools
import logging
import os
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from keras_metaformer.layers.operations import tensorflow_depthwise
from keras_metaformer_lite.processor import ONE_DNN_VARIABLE, gains_from_one_dnn


def star_relu(inputs: Any, scale: Any, bias: Any, overwrite: bool) -> Any:
    """StarReLU that keeps the rectified map for the gradient, and nothing else."""
    del overwrite  # TensorFlow sees by itself what is needed no more.
    # Values, as a function with its own gradient may not read variables.
    scale, bias = (tf.convert_to_tensor(weight) for weight in (scale, bias))
    return _star_relu(inputs, scale, bias)


@tf.custom_gradient
def _star_relu(inputs, scale, bias):
    rectified = tf.nn.relu(inputs)
    # In float32 at least, as Keras sums float16 and bfloat16.
    accumulated = tf.float64 if inputs.dtype == tf.float64 else tf.float32

    def backward(gradient):
        product = gradient * rectified
        scale_gradient = tf.reduce_sum(tf.cast(product * rectified, accumulated))
        bias_gradient = tf.reduce_sum(tf.cast(gradient, accumulated))
        return (
            product * (2 * scale),
            tf.reshape(tf.cast(scale_gradient, scale.dtype), (1,)),
            tf.reshape(tf.cast(bias_gradient, bias.dtype), (1,)),
        )

    return tf.square(rectified) * scale + bias, backward


def dense(inputs: Any, kernel: Any, bias: Any) -> Any:
    """The matrix product of the positions, which have one axis for it; else None.

    Keras' product of more axes works out its shapes anew at each call, and the graph's
    optimizer adds the bias within the product of rows alone. Without oneDNN that
    gains nothing.

    Seen with: tensorflow 2.21.0.
    Gain: on the maps of ConvFormerS18, one thread with AVX-512, 3 to 6 % of a layer's
    processor time. With oneDNN off, on an AMD EPYC held down to AVX2, whole models took
    0.99 to 1.12 of the time without.
    """
    if not _has_one_dnn():
        return None
    rows = tf.linalg.matmul(_as_rows(inputs, kernel), kernel)
    if bias is not None:
        rows = tf.nn.bias_add(rows, bias)  # Within the product, in graphs on CPUs.
    return _as_maps(rows, inputs)


def attention(query: Any, key: Any, value: Any) -> Any:
    """Keras' attention, with the queries scaled instead of the larger products."""
    scaled = query * query.shape[-1] ** -0.5
    products = tf.einsum("BTNH,BSNH->BNTS", scaled, key)
    # In float32 at least, as Keras' own.
    accumulated = tf.float64 if query.dtype == tf.float64 else tf.float32
    weights = tf.nn.softmax(tf.cast(products, accumulated))
    return tf.einsum("BNTS,BSNH->BTNH", tf.cast(weights, query.dtype), value)


def depthwise_convolution(inputs: Any, kernel: Any, strides: int) -> Any:
    """The sum of shifted maps, where XLA compiles for CPUs; else None.

    (Keras' `jit_compile="auto"` does not use XLA on machines without a GPU or TPU.)
    """
    if _compiler_for_cpus() != "xla":
        return None
    return tensorflow_depthwise.sum_of_shifted_maps(inputs, kernel, strides)


def _as_rows(maps: Any, kernel: Any) -> Any:
    return tf.reshape(maps, (-1, kernel.shape[0]))


def _as_maps(rows: Any, like: Any) -> Any:
    """The rows with the axes of other maps before the last."""
    sizes = like.shape[1:-1]
    # Of a map without pixels, -1 would not tell the batch.
    if sizes.is_fully_defined() and all(sizes):
        maps = tf.reshape(rows, (-1, *sizes, rows.shape[-1]))
        # Whoever takes the map may ask for the batch: KerasHub's choice of boxes does.
        maps.set_shape((*like.shape[:-1], rows.shape[-1]))
        return maps
    shape = tf.concat([tf.shape(like)[:-1], rows.shape[-1:]], axis=0)
    return tf.ensure_shape(tf.reshape(rows, shape), (*like.shape[:-1], rows.shape[-1]))


def layer_norm(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    """The layer norm in the form that graphs fuse on CPUs with oneDNN; else None.

    TensorFlow's graph optimizer puts oneDNN's layer norm in the place of exactly these
    operations: a batch norm whose channels are the positions, then a scale and a bias.
    Where oneDNN is off they would be run as they stand.

    Seen with: tensorflow 2.21.0.
    Gain: on large maps four times as fast as single operations; ConvFormerS18, batch of
    four, on an AMD EPYC with AVX2, from 551 to 499 ms of processor time. With oneDNN
    off, on the same processor, the form took it from 650 to 746 ms.
    """
    if inputs.dtype != tf.float32 or scale is None:
        return None
    if not _has_one_dnn_norm() or _compiler_for_cpus() != "graph":
        return None
    if bias is None:
        bias = _hidden_zeros(inputs.shape[-1])
    return _layer_norm(inputs, scale, bias, epsilon)


def image_norm(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    """The norm of each image in fewer passes than Keras', or None but for float32."""
    if inputs.dtype != tf.float32:
        return None
    axes = (1, 2, 3)
    centred = inputs - tf.reduce_mean(inputs, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axes, keepdims=True)
    factor = tf.math.rsqrt(variance + epsilon)
    outputs = centred * (factor if scale is None else factor * scale)
    return outputs if bias is None else outputs + bias


@functools.cache
def _has_one_dnn() -> bool:
    """Whether this process' graphs run oneDNN's operations.

    TensorFlow decides once in a process: by the processor, unless the environment
    variable `TF_ENABLE_ONEDNN_OPTS` says otherwise. It tells in a private module: a
    version without it is one without oneDNN. Where it is off although nobody asked for
    that, and would help, the log says so once.
    """
    try:
        from tensorflow.python.util import _pywrap_util_port

        enabled = bool(_pywrap_util_port.IsMklEnabled())
    except (ImportError, AttributeError):
        return False
    asked_for = ONE_DNN_VARIABLE in os.environ
    if not (enabled or asked_for) and gains_from_one_dnn():
        logging.getLogger(__name__).warning(
            "TensorFlow has left oneDNN off on this processor, where these models are "
            "faster with it: set %s=1 before TensorFlow is imported, or %s=0 if that "
            "is as you want it",
            ONE_DNN_VARIABLE,
            ONE_DNN_VARIABLE,
        )
    return enabled


@functools.cache
def _has_one_dnn_norm() -> bool:
    """Whether oneDNN is on, and has the layer norm, which some builds leave out."""
    try:
        from tensorflow.python.framework import kernels

        registered = kernels.get_registered_kernels_for_op("_MklLayerNorm").kernel
    except (ImportError, AttributeError):
        return False
    return bool(registered) and _has_one_dnn()


def _compiler_for_cpus() -> str | None:
    """What compiles the function being traced: `"graph"` (TensorFlow's own) or `"xla"`.

    None where nothing is traced, or where there are other devices than CPUs.
    """
    if tf.executing_eagerly():
        return None
    devices = tf.config.list_logical_devices()
    if any(device.device_type != "CPU" for device in devices):
        return None
    graph = tf.compat.v1.get_default_graph()
    return "xla" if control_flow_util.GraphOrParentsInXlaContext(graph) else "graph"


def _layer_norm(inputs, scale, bias, epsilon):
    @tf.custom_gradient
    def norm(inputs, scale, bias):
        channels = inputs.shape[-1]
        # Recognised are two or three axes of sizes that are not known beforehand.
        zero = tf.cast(_hidden_zeros(1)[0], tf.int32)
        any_number = zero - 1
        rows = tf.reshape(
            inputs, tf.stack([tf.shape(inputs)[0] + zero, any_number, channels])
        )
        shape = tf.shape(rows)
        positions = shape[0] * shape[1]
        normalized = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(rows, tf.stack([1, positions, channels, 1])),
            scale=tf.fill([positions], 1.0),
            offset=tf.fill([positions], 0.0),
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=epsilon,
            data_format="NCHW",
            is_training=True,
        ).y
        outputs = tf.reshape(normalized, shape) * scale + bias
        return _as_maps(outputs, inputs), backward

    def backward(gradient):
        # The statistics are computed anew: kept ones would prevent the fusion.
        mean = tf.reduce_mean(inputs, axis=-1, keepdims=True)
        centred = inputs - mean
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        inverse = tf.math.rsqrt(variance + epsilon)
        normalized = centred * inverse
        scaled = gradient * scale
        along = tf.reduce_mean(scaled * normalized, axis=-1, keepdims=True)
        across = tf.reduce_mean(scaled, axis=-1, keepdims=True)
        positions = tuple(range(len(inputs.shape) - 1))
        return (
            (scaled - across - normalized * along) * inverse,
            tf.reduce_sum(gradient * normalized, axis=positions),
            tf.reduce_sum(gradient, axis=positions),
        )

    return norm(inputs, scale, bias)


def _hidden_zeros(channels: int) -> Any:
    """Zeros that the optimizer takes for numbers it does not know, and so keeps.

    Seen through, a bias of zeros or an axis of known size would go, and with it the
    form that becomes oneDNN's norm.

    Seen with: tensorflow 2.21.0, which copies constants of up to 128 numbers.
    Gain: that of `layer_norm`, which has no form without.
    """
    return _long_zeros(max(channels, 256))[:channels]


@functools.cache
def _long_zeros(size: int) -> Any:
    with tf.init_scope():
        return tf.zeros(size)
