"""Operations for JAX, where XLA fuses what it can: what is kept for gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


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
