"""Values and gradients of a function of tensors, on the backend in use."""

from collections.abc import Callable
from typing import Any

import keras

BACKEND = keras.backend.backend()


def with_gradients(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """`(*tensors, gradient) -> (outputs, the gradient to each tensor)`."""

    def reverse(*arguments: Any) -> tuple[Any, ...]:
        *tensors, gradient = arguments
        if BACKEND == "jax":
            import jax

            outputs, backward = jax.vjp(function, *tensors)
            return outputs, *backward(gradient)
        if BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(tensors)
                outputs = function(*tensors)
            return outputs, *tape.gradient(outputs, tensors, gradient)
        import torch

        tensors = [tensor.clone().requires_grad_() for tensor in tensors]
        outputs = function(*tensors)
        return outputs, *torch.autograd.grad(outputs, tensors, gradient)

    return reverse
