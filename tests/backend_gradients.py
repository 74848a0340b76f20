"""Gradients of a model's trainable weights, on whichever backend runs."""

from typing import Any

import keras
import numpy as np


def gradients(model: keras.Model, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Of `sum(outputs * fixed random numbers)`, by the path of the variable."""
    shape = tuple(model(inputs, training=False).shape)
    factors = np.random.default_rng(1).normal(size=shape).astype("float32")
    variables: list[Any] = model.trainable_variables
    backend = keras.backend.backend()
    values: list[Any]
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs, training=False) * factors)
        values = tape.gradient(loss, [variable.value for variable in variables])
    elif backend == "jax":
        import jax

        frozen = [variable.value for variable in model.non_trainable_variables]

        def jax_loss(trainable):
            outputs = model.stateless_call(trainable, frozen, inputs, training=False)[0]
            return (outputs * factors).sum()

        values = jax.grad(jax_loss)([variable.value for variable in variables])
    else:
        import torch

        model.zero_grad()
        outputs: Any = model(inputs, training=False)
        loss = (outputs * torch.from_numpy(factors).to(outputs.device)).sum()
        loss.backward()
        values = [variable.value.grad for variable in variables]
    missing = [
        variable.path
        for variable, value in zip(variables, values, strict=True)
        if value is None
    ]
    assert not missing, f"No gradient at all: {missing}"
    return {
        variable.path: np.asarray(keras.ops.convert_to_numpy(value))
        for variable, value in zip(variables, values, strict=True)
    }
