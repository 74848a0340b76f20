"""Operations for TensorFlow: what is kept for gradients."""

from typing import Any

import tensorflow as tf


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
