"""Runs functions of a model, and differentiates them, on each backend."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

#: `compute(tensors, shift)` gives a dict of tensors, among them `"scores"` `(batch,)`
#: and `"values"`, which is what `shift` gave of what is differentiated by.
Compute = Callable[[Sequence[Any], Callable[[Any], Any]], dict[str, Any]]
Run = Callable[[Sequence[Any]], dict[str, Any]]


def forward(model: keras.Model, compute: Callable[[Sequence[Any]], Any]) -> Run:
    """A function of tensors that calls layers of a model, without gradients.

    Args:
        model: whose variables it uses.
        compute: function of tensors that gives a dict of tensors. Compiled on JAX.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def pure(values, tensors):
            with _scope(model, values):
                return compute(tensors)

        compiled = jax.jit(pure, compiler_options=_compiler_options())
        return lambda tensors: compiled(_values(model), list(tensors))
    if backend == "torch":
        import torch

        def without_graph(tensors: Sequence[Any]) -> Any:
            with torch.no_grad():
                return compute(tensors)

        return without_graph
    return compute


def backward(model: keras.Model, compute: Compute) -> Run:
    """A function of tensors that differentiates the sum of the scores.

    Args:
        model: whose variables it uses.
        compute: what gives the scores.

    Returns:
        A function that gives what `compute` gives, with `"gradients"`, the derivatives
        of the sum of the scores by the values.

    Raises:
        RuntimeError: if the backend does not differentiate.
    """
    makers = {"jax": _on_jax, "tensorflow": _on_tensorflow, "torch": _on_torch}
    backend = keras.backend.backend()
    if backend not in makers:
        raise RuntimeError(
            "Gradients need TensorFlow, JAX or PyTorch: set KERAS_BACKEND. "
            f"Received: backend={backend!r}"
        )
    return makers[backend](model, compute)


def _values(model: keras.Model) -> list[Any]:
    return [variable.value for variable in model.variables]


def _scope(model: keras.Model, values: Sequence[Any]) -> Any:
    """Has the model's variables these values, inside a `with` block."""
    pairs: Any = list(zip(model.variables, values, strict=True))
    return keras.StatelessScope(state_mapping=pairs)


def _compiler_options() -> dict[str, Any] | None:
    """For programs of JAX that are run a few times: compiled fast, on CPUs.

    Seen with: jax 0.10.2.
    Gain: of the 49 s that the programs of a report of CAFormerS18 compile on a busy
    machine, 24; they run as fast.
    """
    import jax

    is_cpu = jax.default_backend() == "cpu"
    return {"xla_backend_optimization_level": 0} if is_cpu else None


def _on_jax(model: keras.Model, compute: Compute) -> Run:
    import jax

    def found(shift, values, tensors):
        with _scope(model, values):
            results = compute(tensors, lambda value: value + shift)
        return results["scores"].sum(), results

    def shape_of_the_value(values, tensors):
        with _scope(model, values):
            return compute(tensors, lambda value: value)["values"]

    differentiated = jax.jit(
        jax.value_and_grad(found, has_aux=True), compiler_options=_compiler_options()
    )

    def run(tensors: Sequence[Any]) -> dict[str, Any]:
        values, tensors = _values(model), list(tensors)
        value = jax.eval_shape(shape_of_the_value, values, tensors)
        zeros = jax.numpy.zeros(value.shape, value.dtype)
        (_, results), gradients = differentiated(zeros, values, tensors)
        return {**results, "gradients": gradients}

    return run


def _on_tensorflow(model: keras.Model, compute: Compute) -> Run:
    import tensorflow as tf

    def run(tensors: Sequence[Any]) -> dict[str, Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:

            def shift(value):
                tape.watch(value)
                return value

            results = compute(tensors, shift)
            total = tf.reduce_sum(results["scores"])
        gradients: Any = tape.gradient(
            total, results["values"], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return {**results, "gradients": gradients}

    return run


def _on_torch(model: keras.Model, compute: Compute) -> Run:
    import torch

    def run(tensors: Sequence[Any]) -> dict[str, Any]:
        with torch.enable_grad():
            # What lies before the value is not differentiated, and not kept.
            results = compute(tensors, lambda value: value.detach().requires_grad_())
            total = results["scores"].sum()
        value = results["values"]
        if total.requires_grad:
            (gradients,) = torch.autograd.grad(total, value, allow_unused=True)
        else:
            gradients = None
        if gradients is None:  # The score does not depend on it.
            gradients = ops.zeros_like(value)
        return {**results, "gradients": gradients}

    return run
