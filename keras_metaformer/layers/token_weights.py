"""The base of layers with a weight for every token of a map."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_metaformer.layers.configured_layer import ConfiguredLayer

_ADAPT: contextvars.ContextVar[Callable[..., np.ndarray] | None] = (
    contextvars.ContextVar("keras_metaformer_adapt_tokens", default=None)
)


@dataclasses.dataclass(frozen=True)
class OverTokens:
    """Which axes of a weight run over the tokens of a map.

    Attributes:
        inputs: `(height, width)` of the map that is summed over, or None if none is.
        outputs: `(height, width)` of the map that the weight gives, or None.
        outputs_first: whether the axis of the outputs comes before that of the inputs.
        is_map: whether the first two axes are the map itself: learned positions.
    """

    inputs: tuple[int, ...] | None = None
    outputs: tuple[int, ...] | None = None
    outputs_first: bool = False
    is_map: bool = False


class TokenWeights(ConfiguredLayer):
    """A layer whose weights are tied to the size of the maps, and may be resized.

    What is loaded from a file of Keras within `adapted_tokens` is adapted first.
    """

    #: Tells a builder to ask for a known height and width even without the top.
    needs_static_size = True

    def over_tokens(self, variable: Any) -> OverTokens:
        """How one of the layer's own weights runs over the tokens: here not at all."""
        return OverTokens()

    def load_own_variables(self, store):
        adapt = _ADAPT.get()
        if adapt is not None:
            weights = zip(store.keys(), self.weights, strict=False)
            store = {
                key: adapt(self, weight, np.asarray(store[key]))
                for key, weight in weights
            }
        super().load_own_variables(store)


@contextlib.contextmanager
def adapted_tokens(adapt: Callable[..., np.ndarray]) -> Iterator[None]:
    """Within it `TokenWeights` adapt what Keras loads into them from a file.

    Args:
        adapt: `(layer, variable, array) -> array`, from the weight in the file to that
            of the layer.
    """
    token = _ADAPT.set(adapt)
    try:
        yield
    finally:
        _ADAPT.reset(token)
