"""Computing once more for the gradient what training would otherwise keep."""

from collections.abc import Callable, Iterable
from typing import Any

import keras


def recomputed(
    function: Callable[[Any], Any], x: Any, layers: Iterable[keras.layers.Layer | None]
) -> Any:
    """`function(x)`, of which the gradient keeps `x` alone and computes the rest anew.

    What layers change when they are called, the statistics of batch norms and the
    states of random numbers, is changed once: both computations start from the values
    before, and the new ones are assigned outside.

    Args:
        function: of one tensor.
        x: tensor.
        layers: what the function calls; None among them stands for nothing.

    Returns:
        What `function` returns.

    Raises:
        ValueError: if a layer changes a variable that is no layer's own, such as the
            state of Keras' global random numbers.
    """
    called = [layer for layer in layers if layer is not None]
    states = [
        variable
        for layer in called
        for variable in layer.variables
        if not variable.trainable
    ]
    if not states:
        return keras.remat(function)(x)
    variables = [weight for layer in called for weight in layer.trainable_variables]
    variables += states
    changed: list[Any] = []

    # Values as arguments: a gradient may not reach what a function merely sees.
    def without_changes(x: Any, *values: Any) -> tuple:
        scope = keras.StatelessScope(list(zip(variables, values, strict=True)))
        before = dict(scope.state_mapping)
        with scope:
            outputs = function(x)
        changed[:] = [
            variable
            for variable in states
            if scope.get_current_value(variable) is not before[id(variable)]
        ]
        known = {id(variable) for variable in variables}
        if any(key not in known for key in scope.state_mapping):
            raise ValueError(
                "`gradient_checkpointing` computes a branch twice, and needs layers "
                "that change nothing but their own variables: give random layers a "
                "`keras.random.SeedGenerator` as an attribute. Received: "
                f"{[type(layer).__name__ for layer in called]}"
            )
        return outputs, *(scope.get_current_value(variable) for variable in changed)

    # Copies of what is assigned below, which torch does in place.
    values = [
        variable.value if variable.trainable else keras.ops.copy(variable.value)
        for variable in variables
    ]
    outputs, *updates = keras.remat(without_changes)(x, *values)
    for variable, update in zip(changed, updates, strict=True):
        variable.assign(update)
    return outputs
