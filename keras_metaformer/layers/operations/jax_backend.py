"""Operations for JAX: what XLA keeps for gradients, and what it is bad at on CPUs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from keras_metaformer.layers.operations import jax_depthwise


def star_relu(inputs: Any, scale: Any, bias: Any, overwrite: bool) -> Any:
    """StarReLU that keeps its input for the gradient, and computes the rest anew."""
    del overwrite  # XLA sees by itself what is needed no more.
    return _star_relu(inputs, scale, bias)


# A checkpoint, not a gradient written by hand: derivatives of any order and mode work.
# Within jit (Keras' training step) nothing would undo the recomputation.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _star_relu(inputs, scale, bias):
    # In float32 at least, which costs nothing within the fused loop: the gradients of
    # the scale and bias are sums over the whole map.
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)
    rectified = jax.nn.relu(inputs).astype(dtype)
    outputs = scale.astype(dtype) * jnp.square(rectified) + bias.astype(dtype)
    return outputs.astype(inputs.dtype)


def depthwise_convolution(inputs: Any, kernel: Any, strides: int) -> Any:
    """The sum of shifted maps, on CPUs; else None."""
    if not _on_cpus():
        return None
    return jax_depthwise.sum_of_shifted_maps(inputs, kernel, strides)


def gradient_barrier(outputs: Any) -> Any:
    """The outputs, whose gradient is put into memory, on a single CPU; else None.

    For the gradients of a dense layer XLA's CPU compiler computes the gradient of the
    outputs, with all that leads to it, anew for each: in a transposed order, and at the
    end of a stage through all of its blocks.

    Seen with: jax 0.10.2.
    Gain: a training step of ConvFormerS18, batch of eight, from 2.2 to 1.6 s.
    """
    if not _on_cpus() or jax.device_count() > 1:
        return None
    return jax.custom_derivatives.linear_call(
        lambda _, outputs: outputs,
        lambda _, gradient: _in_memory(gradient),
        (),
        outputs,
    )


def _in_memory(array):
    """The array, behind something that XLA neither sees through nor fuses.

    (`lax.optimization_barrier` is removed before fusion on CPUs.) A loop puts the first
    row's first number where it was. How often it runs depends on that number, as far as
    XLA can see; it is once, or never for one that is not finite.
    """
    steps = (array[(0,) * array.ndim] < jnp.inf).astype(jnp.int32)

    def rewrite(state):
        step, array = state
        position = (step, *(0,) * (array.ndim - 1))
        number = lax.dynamic_slice(array, position, (1,) * array.ndim)
        return step + 1, lax.dynamic_update_slice(array, number, position)

    return lax.while_loop(
        lambda state: state[0] < steps, rewrite, (jnp.int32(0), array)
    )[1]


def _on_cpus() -> bool:
    return jax.default_backend() == "cpu"
