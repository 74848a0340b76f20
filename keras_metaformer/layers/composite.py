"""Layers that are made of other layers, and state how data flows through them once."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

import keras

from keras_metaformer.layers import operations, tracing
from keras_metaformer.layers.configured_layer import ConfiguredLayer, arguments_of
from keras_metaformer.layers.dropout import Dropout
from keras_metaformer.layers.inner_call import call_inner, class_says, is_no_user_class
from keras_metaformer.layers.recomputation import recomputed
from keras_metaformer.layers.stochastic_depth import StochasticDepth
from keras_metaformer.layers.tokens import flatten_tokens, token_count, unflatten_tokens

#: What may be changed on a part after it was made, with the value that a new one has.
_DEFAULTS = {
    "quantization_config": None,
    "lora_rank": None,
    "lora_alpha": None,
    "trainable": True,
}


class LayerWithParts(ConfiguredLayer):
    """A layer that holds other layers, its parts.

    A part is a layer that is an attribute of this one. It takes the name of its
    attribute, so that the paths of all weights are the same in every process and in
    every model of the same kind.

    The config holds the arguments of the constructor, and with `parts` what was changed
    since on the parts that the layer made by itself: their dtype policies, which
    `keras.Model.quantize` sets, LoRA's ranks, and whether they are trained. Parts that
    are arguments carry their own.

    Args:
        parts: what to change on parts, by their names, as `get_config` writes it.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.
    """

    def __init__(self, *, parts: Mapping[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self._changes: dict[str, Any] = {}
        if parts:
            self._change_parts(parts)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, keras.layers.Layer) and not name.startswith("_"):
            value.name = name
            if name in getattr(self, "_changes", {}):
                _change(value, self._changes[name])
        super().__setattr__(name, value)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # Parts that are arguments are in the config of the class that takes them.
        changes = self._changes_of_parts(arguments_of(type(self), LayerWithParts))
        if changes:
            config["parts"] = changes
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        arguments = arguments_of(cls, LayerWithParts)
        return super().from_config(
            {
                name: deserialize_part(value) if name in arguments else value
                for name, value in config.items()
            }
        )

    def _change_parts(self, changes: Mapping[str, Any]) -> None:
        """Changes the parts that are there, and the others as soon as they are made."""
        self._changes = dict(changes)
        for name, change in changes.items():
            if isinstance(getattr(self, name, None), keras.layers.Layer):
                _change(getattr(self, name), change)

    def _changes_of_parts(self, without: Collection[str] = ()) -> dict[str, Any]:
        changes = {
            name: _changes_of(part, self.dtype_policy)
            for name, part in parts_of(self).items()
            if name not in without
        }
        return {name: change for name, change in changes.items() if change}


class Composite(LayerWithParts):
    """A layer made of other layers, which states once how data flows through them.

    A class that derives from it makes its parts, in `__init__` or in `build`, and
    defines `flow(run, x)`. Calls, the building of the parts, output shapes, counts of
    operations (`keras_metaformer.models.complexity`) and the operations of a LiteRT
    file follow from it: each is the same flow with another `run`, whose `x` is a
    tensor, a shape or what else it takes.

    - `run(x, *layers)` puts one layer after another; None among them is left out. `x`
      may be a list, for a layer of several inputs.
    - `run.add(x, branch, scale=None)` is `x + branch`, or `scale(x) + branch` with a
      `ResScale`. The branch may be overwritten: the flow must not use it again.
    - `run.over_tokens(x, *layers)` puts layers that take `(batch, tokens, channels)`,
      such as `TokenLinear`, between maps; a sequence they take as it is.
    - `run.recomputed(x, *layers)` is `run(x, *layers)` of which training keeps `x`
      alone and computes the rest once more for the gradient: with the same random
      numbers, and without updating statistics a second time.

    A flow asks nothing of `x`; what depends on shapes is decided in `build`.

    Every part is named after its attribute. Give parts the layer's dtype policy. The
    config has the constructor's arguments, each kept as the attribute of its name.

    Example:

    >>> import numpy as np
    >>> class GatedDepthwise(Composite):
    ...     def __init__(self, kernel_size=3, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.kernel_size = kernel_size
    ...
    ...     def build(self, input_shape):
    ...         channels, dtype = input_shape[-1], self.dtype_policy
    ...         self.expand = keras.layers.Dense(2 * channels, dtype=dtype)
    ...         self.activation = keras.layers.ReLU(dtype=dtype)
    ...         self.project = keras.layers.Dense(channels, dtype=dtype)
    ...         super().build(input_shape)
    ...
    ...     def flow(self, run, x):
    ...         return run.add(x, run(x, self.expand, self.activation, self.project))
    >>> GatedDepthwise()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor, of the shape that the flow takes.
        training: bool. Passed on to the parts that take it.

    Returns:
        What the flow ends in, in the layer's compute dtype.

    Raises:
        ValueError: when built, if the terms of a sum differ in shape, or the flow uses
            a branch after its sum.
    """

    #: Whether what the layer returns is a map that no one else holds.
    makes_own_output = False

    def flow(self, run: "Run", x: Any) -> Any:
        """How `x` goes through the parts; see the class."""
        raise NotImplementedError(
            f"A Composite defines `flow(run, x)`. Received: {type(self).__name__}"
        )

    def build(self, input_shape: Any) -> None:
        """Builds the parts in the order of the flow; derived classes call it last."""
        self.flow(_Building(self), _plain(input_shape))
        self.makes_own_output = self.flow(_Owning(self), False)

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        return self.flow(_Calling(self, training), inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        if not self.built:  # Parts are not there yet: a copy makes them.
            copy = type(self).from_config(self.get_config())
            copy.build(input_shape)
            return copy.compute_output_shape(input_shape)
        return _tuple(self.flow(Shapes(self), _plain(input_shape)))


def has_flow(layer: Any) -> bool:
    """Whether the layer computes what its flow says, and nothing else."""
    return isinstance(layer, Composite) and type(layer).call is Composite.call


class Run:
    """One way to go through a flow; `Composite` says what each method stands for.

    Args:
        outer: the layer whose flow it is.
    """

    def __init__(self, outer: Composite):
        self.outer = outer

    def step(self, layer: keras.layers.Layer, x: Any) -> Any:
        """What one layer makes of `x`."""
        raise NotImplementedError

    def __call__(self, x: Any, *layers: keras.layers.Layer | None) -> Any:
        for layer in layers:
            if layer is not None:
                x = self.step(layer, x)
        return x

    def recomputed(self, x: Any, *layers: keras.layers.Layer | None) -> Any:
        return self(x, *layers)

    def add(self, x: Any, branch: Any, scale: Any = None) -> Any:
        raise NotImplementedError

    def over_tokens(self, x: Any, *layers: keras.layers.Layer | None) -> Any:
        raise NotImplementedError


# Tensors --------------------------------------------------------------------------

#: Layers that do nothing outside training. By the exact class: one of a user's own
#: that derives from them may drop at inference too.
IDLE_AT_INFERENCE = (keras.layers.Dropout, Dropout, StochasticDepth)


class _Calling(Run):
    """The flow of tensors: a layer's call.

    Within a chain a map that a layer has made is nobody else's, so that the next one
    may overwrite it. The last map of a chain may be overwritten by a sum.
    """

    def __init__(self, outer: Composite, training: bool | None):
        self.outer = outer
        self.training = training
        self.own = None  # The last map that may be overwritten.

    def __call__(self, x, *layers):
        if tracing.is_compiling():
            # The compiler sees by itself what is needed no more.
            return super().__call__(x, *layers)
        first, is_own = x, False
        for layer in layers:
            if layer is None:
                continue
            if class_says(layer, "can_overwrite"):
                x = call_inner(self.outer, layer, x, overwrite=is_own)
                is_own = True
            else:
                x = call_inner(self.outer, layer, x, self.training)
                if type(layer) not in IDLE_AT_INFERENCE:
                    is_own = _makes_its_output(layer)
        if x is not first:
            self.own = x if is_own else None
        return x

    def step(self, layer, x):
        return call_inner(self.outer, layer, x, self.training)

    def recomputed(self, x, *layers):
        if not self.training:
            return self(x, *layers)
        branch = recomputed(lambda x: self(x, *layers), x, layers)
        self.own = None
        return branch

    def add(self, x, branch, scale=None):
        return operations.residual_sum(
            x,
            None if scale is None else scale.scale,
            branch,
            overwrite=branch is self.own,
        )

    def over_tokens(self, x, *layers):
        tokens = self(flatten_tokens(x), *layers)
        maps = unflatten_tokens(tokens, x.shape[1:-1])
        self.own = maps if tokens is self.own else None
        return maps


def _is_linear(layer: Any) -> bool:
    return layer.activation in (None, keras.activations.linear)


def _makes_its_output(layer: Any) -> bool:
    """Whether what a layer returns may be overwritten by whoever called it."""
    if type(layer) in (keras.layers.Dense, keras.layers.Conv2D):
        return _is_linear(layer)
    return class_says(layer, "makes_own_output")


class _Owning(Run):
    """The flow of "no one else holds this map"."""

    def step(self, layer, x):
        if type(layer) in IDLE_AT_INFERENCE:
            return x
        return class_says(layer, "can_overwrite") or _makes_its_output(layer)

    def add(self, x, branch, scale=None):
        return True

    def over_tokens(self, x, *layers):
        return self(x, *layers)


# Shapes ---------------------------------------------------------------------------


class Shapes(Run):
    """The flow of shapes: tuples, and lists of them."""

    def step(self, layer, x):
        return _shape(_output_shape(layer, x, self.outer.compute_dtype))

    def add(self, x, branch, scale=None):
        return _shape(x)

    def over_tokens(self, x, *layers):
        batch, *sizes, channels = x
        tokens = self(_Shape((batch, token_count(sizes), channels)), *layers)
        return _Shape((batch, *sizes, tokens[-1]))


class _Building(Shapes):
    """The flow of shapes that builds the parts on its way, and checks the flow."""

    def __init__(self, outer: Composite):
        super().__init__(outer)
        self.changed: list[tuple[str, Any, Any]] = []
        self.given_up: list[Any] = []

    def step(self, layer, x):
        self._check_use(x)
        if not layer.built:
            _build(layer, x, self.outer.compute_dtype)
        outputs = super().step(layer, x)
        if _tuple(outputs) != _tuple(x):
            self.changed.append((type(layer).__name__, _tuple(x), _tuple(outputs)))
        return outputs

    def add(self, x, branch, scale=None):
        self._check_use(x)
        self._check_use(branch)
        self.given_up.append(branch)
        if scale is not None and not scale.built:
            scale.build(_tuple(x))
        if tuple(x) != tuple(branch):
            changes = ", ".join(
                f"{name} that makes {made} of {given}"
                for name, given, made in self.changed
            )
            raise ValueError(
                "The layer inside a residual step must keep the shape of its input. "
                f"Received: {changes or f'{branch} beside {x}'}"
            )
        return super().add(x, branch, scale)

    def _check_use(self, x: Any) -> None:
        for each in x if isinstance(x, list) else [x]:
            if any(each is other for other in self.given_up):
                raise ValueError(
                    "A flow must not use a branch after its sum, which may overwrite "
                    f"it. Received: layer={type(self.outer).__name__}"
                )


class _Shape(tuple):
    """A shape that is another object than an equal one, as two maps are."""


def _shape(shape: Any) -> Any:
    """One shape, or a list of them, as objects of their own."""
    if isinstance(shape, list) or (shape and isinstance(shape[0], (list, tuple))):
        return [_Shape(each) for each in shape]
    return _Shape(shape)


def _plain(shape: Any) -> Any:
    """The shape that `build` is given; a saved one comes as a list of numbers."""
    is_nested = any(isinstance(size, (list, tuple)) for size in shape)
    return _shape(list(shape) if is_nested else tuple(shape))


def _tuple(shape: Any) -> Any:
    return [tuple(each) for each in shape] if isinstance(shape, list) else tuple(shape)


@functools.cache
def _states_its_shapes(kind: type) -> bool:
    # Keras' layers and ours build for a shape and say what they make of it.
    if not is_no_user_class(kind) and not issubclass(kind, Composite):
        return False
    return kind.compute_output_shape is not keras.layers.Layer.compute_output_shape


def _build(layer: Any, shape: Any, dtype: str) -> None:
    if _states_its_shapes(type(layer)):
        layer.build(_tuple(shape))
    else:  # A user's layer may have nothing but a call.
        layer(_symbolic(shape, dtype))


def _output_shape(layer: Any, shape: Any, dtype: str) -> Any:
    if _states_its_shapes(type(layer)):
        return layer.compute_output_shape(_tuple(shape))
    outputs = layer.compute_output_spec(_symbolic(shape, dtype))
    return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)


def _symbolic(shape: Any, dtype: str) -> Any:
    if isinstance(shape, list):
        return [keras.KerasTensor(tuple(each), dtype) for each in shape]
    return keras.KerasTensor(tuple(shape), dtype)


# Parts ----------------------------------------------------------------------------


def parts_of(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """The layers that are attributes of a layer, by the attributes' names."""
    # On the torch backend a layer is a torch module, which keeps its children apart.
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}
    return {
        name: part
        for name, part in attributes.items()
        if not name.startswith("_") and isinstance(part, keras.layers.Layer)
    }


def deserialize_part(serialized: Any) -> Any:
    """A part from the config of its owner, not built yet; what is no part stays so.

    The owner builds it: only there does it get the path of its weights.
    """
    if not isinstance(serialized, Mapping) or "class_name" not in serialized:
        return serialized
    return keras.saving.deserialize_keras_object(
        {key: value for key, value in serialized.items() if key != "build_config"}
    )


def _changes_of(part: Any, policy: keras.DTypePolicy) -> dict[str, Any]:
    """How a part differs from what its owner makes, as plain data."""
    changes: dict[str, Any] = {}
    if part.dtype_policy != policy:
        changes["dtype"] = keras.saving.serialize_keras_object(part.dtype_policy)
    for name, default in _DEFAULTS.items():
        value = getattr(part, name, default)
        if value != default:
            changes[name] = keras.saving.serialize_keras_object(value)
    if isinstance(part, LayerWithParts):
        nested = part._changes_of_parts()
        if nested:
            changes["parts"] = nested
    return changes


def _change(part: Any, changes: Mapping[str, Any]) -> None:
    """The way back of `_changes_of`, for a part that is not built."""
    for name, value in changes.items():
        if name == "parts":
            part._change_parts(value)
        elif name == "dtype":
            part.dtype_policy = keras.saving.deserialize_keras_object(value)
        else:
            setattr(part, name, keras.saving.deserialize_keras_object(value))
