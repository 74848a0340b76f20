"""How a layer calls the layers inside it.

`layer(inputs)` does about 0.1 ms of bookkeeping: it converts and casts arguments, looks
for masks, opens scopes. Traced once and compiled, as on TensorFlow and JAX, that is
nothing. On torch, where each call runs it anew, it took a fifth of an inference of
ConvFormerS18, and what it does is done already: by the call of the outer layer.
"""

import inspect
from typing import Any

import keras

from keras_metaformer.layers import fast_paths, operations
from keras_metaformer.layers.tracing import constant

#: Keras' layers whose `call` needs nothing of what `__call__` prepares.
_STOCK = (
    keras.layers.BatchNormalization,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.LayerNormalization,
    keras.layers.ReLU,
    keras.layers.Softmax,
)

#: Keras' layers that run what a user gave them, which is no part of theirs.
_RUN_CODE_OF_USERS = (keras.layers.Lambda, keras.layers.TorchModuleWrapper)
#: None and Keras' activation functions, the usual ones first.
_ACTIVATIONS = (
    None,
    keras.activations.linear,
    *(each for each in vars(keras.activations).values() if inspect.isfunction(each)),
)

_ON_TORCH = keras.backend.backend() == "torch"
_HOOKS_OF_ALL_LAYERS: tuple[dict[int, Any], ...] = ()
if _ON_TORCH:
    from torch.nn.modules import module

    _HOOKS_OF_ALL_LAYERS = (
        module._global_forward_hooks,
        module._global_forward_pre_hooks,
        module._global_backward_hooks,
        module._global_backward_pre_hooks,
    )


def call_inner(
    outer: keras.layers.Layer,
    layer: keras.layers.Layer,
    inputs: Any,
    training: bool | None = None,
    **arguments: Any,
) -> Any:
    """`layer(inputs)`, from within the `call` of another layer.

    Args:
        outer: the layer whose `call` this is.
        layer: the layer to call.
        inputs: tensor or list of tensors, of the outer layer's compute dtype.
        training: bool, or None where the outer layer does not know it.
        **arguments: further ones for `layer.call`.

    Returns:
        What `layer(inputs, training=training, **arguments)` returns; layers without a
        `training` argument are not given one.
    """
    kind: Any = type(layer)
    takes_training = _takes_training(kind)
    if training is not None and takes_training:
        arguments["training"] = training
    if _ON_TORCH and _has_hooks(layer):
        # A hook may keep what goes in and what comes out: neither is overwritten.
        arguments.pop("overwrite", None)
        return keras.tree.map_structure(keras.ops.copy, layer(inputs, **arguments))
    if not fast_paths.enabled() or not is_prepared(outer, layer, inputs):
        return layer(inputs, **arguments)
    if kind is keras.layers.LayerNormalization:
        outputs = _fast_layer_norm(layer, inputs)
        if outputs is not None:
            return outputs
    if kind is keras.layers.Dense:
        return _dense(layer, inputs)
    if not _ON_TORCH:
        return layer(inputs, **arguments)
    if training is None and takes_training:
        return layer(inputs, **arguments)  # Keras knows whether this is training.
    return layer.call(inputs, **arguments)


def class_says(layer: Any, attribute: str) -> bool:
    """Whether a layer's class has this attribute, and it is true.

    `makes_own_output`: what the layer returns is a map that it made, and that no one
    else holds: whoever called it may overwrite it. `can_overwrite`: its call takes
    `overwrite=True`, by which it may do so with its input.

    A user's subclass says nothing: it may keep what it returns, or take nothing more.
    """
    return _is_known(type(layer)) and getattr(layer, attribute, False)


def is_prepared(outer: Any, layer: Any, inputs: Any) -> bool:
    """Whether `layer.call(inputs)` is all that is left to do."""
    if not _is_known(type(layer)) or not layer.built:
        return False
    policy = layer.dtype_policy
    if policy is not outer.dtype_policy and policy != outer.dtype_policy:
        return False
    # The outer layer's call has set up casting, if any, for such layers.
    compute_dtype, casts = _dtypes(type(policy), policy.name)
    if casts and not layer.autocast:
        return False
    for tensor in inputs if isinstance(inputs, list) else (inputs,):
        if (
            isinstance(tensor, keras.KerasTensor)
            or _name(tensor.dtype) != compute_dtype
        ):
            return False
    return layer.activity_regularizer is None and layer._remat_mode is None


def are_plain(layers: Any) -> bool:
    """Whether calls of these layers, and of all inside, do nothing but give outputs.

    None has a hook, adds a loss or runs code of a user's. `torch.compile` can then
    trace them without a break.
    """
    if any(_HOOKS_OF_ALL_LAYERS):
        return False
    layers = [*layers]
    while layers:
        layer = layers.pop()
        if layer._losses or layer.activity_regularizer is not None:
            return False
        if (_ON_TORCH and _has_hooks_of_its_own(layer)) or "call" in vars(layer):
            return False
        if not _runs_known_code(type(layer)):
            return False
        if _calls_activation(type(layer)) and layer.activation not in _ACTIVATIONS:
            return False
        layers += layer._layers
    return True


def is_no_user_class(kind: Any) -> bool:
    """Whether a class is Keras' or of this package."""
    return kind.__module__.split(".")[0] in ("keras", "keras_metaformer")


@constant
def _dtypes(kind: Any, name: str) -> tuple[str | None, bool]:
    """The compute dtype of a policy, and whether weights are cast to it.

    None stands for policies that ask for more, such as quantization.
    """
    if kind is not keras.DTypePolicy:
        return None, True
    policy = keras.DTypePolicy(name)
    return policy.compute_dtype, policy.compute_dtype != policy.variable_dtype


def _has_hooks(layer: Any) -> bool:
    """Whether torch is to call something else before or after the layer."""
    return _has_hooks_of_its_own(layer) or any(_HOOKS_OF_ALL_LAYERS)


def _has_hooks_of_its_own(layer: Any) -> bool:
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )


def _fast_layer_norm(layer: Any, inputs: Any) -> Any:
    """The backend's fused norm over the channels, or None."""
    if layer.rms_scaling or layer.axis not in (-1, [-1], [len(inputs.shape) - 1]):
        return None
    return operations.layer_norm(inputs, layer.gamma, layer.beta, layer.epsilon)


def _dense(layer: Any, inputs: Any) -> Any:
    outputs = operations.gradient_barrier(
        operations.dense(inputs, layer.kernel, layer.bias)
    )
    if layer.activation in (None, keras.activations.linear):
        return outputs
    return layer.activation(outputs)


@constant
def _name(dtype: Any) -> str:
    return keras.backend.standardize_dtype(dtype)


@constant
def _is_known(kind: Any) -> bool:
    # By the exact class: a subclass of a user may count on Keras' bookkeeping.
    return kind in _STOCK or kind.__module__.split(".")[0] == "keras_metaformer"


@constant
def _runs_known_code(kind: Any) -> bool:
    """Whether layers of this class run code of Keras' or ours, and of their parts."""
    return not issubclass(kind, _RUN_CODE_OF_USERS) and is_no_user_class(kind)


@constant
def _calls_activation(kind: Any) -> bool:
    """Whether layers of this class call a function. Those of ours are parts instead."""
    arguments = inspect.signature(kind.__init__).parameters
    return kind.__module__.split(".")[0] == "keras" and "activation" in arguments


@constant
def _takes_training(kind: Any) -> bool:
    return "training" in inspect.signature(kind.call).parameters
