"""Functions by the class of a layer: the form in which a layer's facts are said."""

from collections.abc import Callable
from typing import Any

#: Attributes by which a class computes something else than those it derives from.
_COMPUTATIONS = ("call", "flow")


class LayerRules:
    """A function for each class of layers, such as the count of its operations.

    Example:

    >>> import keras
    >>> rules = LayerRules()
    >>> @rules.register(keras.layers.ReLU)
    ... def _(layer, shape):
    ...     return 0
    >>> rules.of(keras.layers.ReLU())(None, (1, 8))
    0
    """

    def __init__(self) -> None:
        self._rules: dict[type, Callable[..., Any]] = {}

    def register(self, *classes: type) -> Callable[[Any], Any]:
        """A decorator that makes a function the rule of these classes.

        Raises:
            ValueError: if a class has a rule.
        """

        def keep(rule: Callable[..., Any]) -> Callable[..., Any]:
            for kind in classes:
                if kind in self._rules:
                    raise ValueError(
                        f"Expected a class without a rule. Received: {kind}"
                    )
                self._rules[kind] = rule
            return rule

        return keep

    def of(self, layer: Any) -> Callable[..., Any] | None:
        """The rule of a layer's class, or None.

        It is also that of a class that derives from it, as long as that does not define
        another `call` or `flow`.
        """
        for kind in type(layer).__mro__:
            if kind in self._rules:
                return self._rules[kind]
            if any(name in vars(kind) for name in _COMPUTATIONS):
                return None
        return None
