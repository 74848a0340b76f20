"""Exact folding: the same function in fewer operations."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.blocks import (
    ChannelMLP,
    Downsampling,
    MetaFormerBlock,
    PatchMerging,
    ResidualBranch,
)
from keras_metaformer.layers import (
    Affine,
    BatchNormalized,
    BatchNormalizedSkip,
    ConvNeXtChannelMixer,
    DepthwiseConvolution,
    Dropout,
    FFNifiedAttention,
    IdentityMixer,
    MetaMixer,
    ReparameterizableDepthwise,
    SelfAttentionMixer,
    SquaredReLU,
    StarReLU,
)
from keras_metaformer.layers.composite import IDLE_AT_INFERENCE, Run, has_flow
from keras_metaformer.layers.inner_call import is_no_user_class
from keras_metaformer.models.nodes import nodes_of

LINEAR = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    DepthwiseConvolution,
)


class LayerCopyError(TypeError):
    """A layer, of a class that is not Keras' or this library's, cannot be copied."""


def fold(model: keras.Model) -> keras.Model:
    """A model that computes the same with fewer operations, for inference.

    Merged are batch norms into the linear layer beside them, the branches of a
    `ReparameterizableDepthwise` into one convolution, the identity beside a linear
    layer into its kernel, LayerScale into the linear layer before it, and StarReLU's
    scale and bias in a channel MLP and ResMLP's affine layer before one into the linear
    layer behind them. The merged weights are computed in float64. What has nothing to
    merge is copied.

    The result saves, loads and trains as any Keras model; batch norms are gone, so that
    training continues as with frozen statistics. Models inside the model are folded
    too; classes of layers that are not this library's are copied.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.FFNet1(weights=None, input_shape=(64, 64, 3))
    >>> merged = fold(model)
    >>> merged.count_params() < model.count_params()
    True

    Args:
        model: a functional or sequential model, which stays as it is.

    Returns:
        A new model of the same class, name, inputs and outputs.

    Raises:
        TypeError: if `model` is neither a functional nor a sequential Keras model.
        ValueError: if it is not built, and so has no weights, or if layers of it are
            quantized.
        LayerCopyError: if a layer of another's class cannot be made from its config.

    Reference:
        - RepVGG: Making VGG-style ConvNets Great Again, https://arxiv.org/abs/2101.03697
    """
    if not is_graph(model):
        raise TypeError(
            "`fold` takes a functional or sequential Keras model. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    if not model.built:
        raise ValueError(
            "`fold` takes a model with weights: build it, or call it on an image. "
            f"Received: model={model.name!r}"
        )
    check_not_quantized(model, "fold it")
    replaced = _fold_norms_before_pooling(model)

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer  # An operation such as the sum of two tensors.
        if layer.name in replaced:
            return replaced[layer.name]
        if isinstance(layer, keras.layers.InputLayer):
            return type(layer).from_config(layer.get_config())
        if is_graph(layer):
            return fold(layer)
        if any(node.arguments.kwargs.get("training") for node in layer._inbound_nodes):
            return _copy(layer, _input_shape(layer))
        return fold_layer(layer, _input_shape(layer))

    if isinstance(model, keras.Sequential):
        return keras.models.clone_model(model, clone_function=clone)
    return keras.models.clone_model(
        model, clone_function=clone, call_function=_call_with_known_arguments
    )


def check_not_quantized(model: keras.Model, action: str) -> None:
    """Raise a ValueError for a model that `quantize` has changed.

    Its layers round their inputs too, each by the largest of them: neither merged
    weights nor another format compute quite the same.

    Args:
        model: any model.
        action: what is to be done with the model, for the message.
    """
    for layer in model._flatten_layers(include_self=False):
        if layer.quantization_mode is not None:
            raise ValueError(
                "A model that `quantize` has changed rounds what goes into its layers, "
                f"which nothing else does in the same way: {action} before. "
                f"Received: layer={layer.path!r} in {layer.quantization_mode}"
            )


def is_graph(model: Any) -> bool:
    """Whether a model is a graph of layers: functional or sequential."""
    return isinstance(model, keras.Sequential) or (
        isinstance(model, keras.Model) and hasattr(model, "operations")
    )


def _call_with_known_arguments(layer: Any, *args: Any, **kwargs: Any) -> Any:
    # What replaces a batch norm takes neither `mask` nor `training`.
    known = inspect.signature(layer.call).parameters
    return layer(
        *args,
        **{
            name: value
            for name, value in kwargs.items()
            if name in known or name not in ("mask", "training")
        },
    )


def _input_shape(layer: keras.layers.Layer) -> Any:
    return keras.tree.map_structure(lambda tensor: tensor.shape, layer.input)


_Rule = Callable[[Any, Any], keras.layers.Layer]
# By the exact class: a subclass may compute something else.
_RULES: dict[type, _Rule] = {}


def _rule_for(*classes: type) -> Callable[[_Rule], _Rule]:
    def register(rule: _Rule) -> _Rule:
        _RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def fold_layer(layer: keras.layers.Layer, input_shape: Any) -> keras.layers.Layer:
    """A built layer that computes what `layer` does outside training.

    Layers without a rule of their own are copied.
    """
    return _RULES.get(type(layer), _copy)(layer, input_shape)


def _fold_part(layer: Any, name: str, input_shape: Any) -> Any:
    """A part of a layer, folded, or None where the layer has none of this name."""
    part = getattr(layer, name)
    if part is None:
        return None
    with keras.name_scope(layer.name):  # The paths of weights begin with the layer's.
        return fold_layer(part, input_shape)


def _copy(layer: keras.layers.Layer, input_shape: Any) -> keras.layers.Layer:
    try:
        copy = type(layer).from_config(layer.get_config())
        if layer.weights:
            if not copy.built:
                # As a saved layer is built: some are built for more than one shape.
                copy.build_from_config(
                    layer.get_build_config() or {"input_shape": input_shape}
                )
            copy.set_weights(layer.get_weights())
    except Exception as error:  # Another's code raises anything.
        if not _holds_anothers(layer):
            raise
        raise LayerCopyError(
            "Folding copies a layer through its config, which failed: "
            f"{type(error).__name__}: {error}. "
            f"Received: layer={layer.name!r} of type {type(layer).__name__}"
        ) from error
    return copy


def _holds_anothers(layer: keras.layers.Layer) -> bool:
    """Whether a layer, or one inside it, is not Keras' or this library's."""
    return any(
        not is_no_user_class(type(each))
        for each in layer._flatten_layers(include_self=True)
    )


@_rule_for(BatchNormalized)
def _fold_batch_normalized(
    layer: BatchNormalized, input_shape: Any
) -> keras.layers.Layer:
    scale, offset = scale_and_offset(layer.norm)
    kernel = _scaled(layer.linear, _kernel(layer), scale)
    return _linear(layer.linear, layer.name, input_shape, kernel, offset)


@_rule_for(BatchNormalizedSkip)
def _fold_batch_normalized_skip(
    layer: BatchNormalizedSkip, input_shape: Any
) -> keras.layers.Layer:
    scale, offset = scale_and_offset(layer.norm)
    kernel = _kernel(layer)
    return _linear(
        layer.linear,
        layer.name,
        input_shape,
        scale[:, None] * kernel + np.eye(len(kernel)),
        offset @ kernel,
    )


@_rule_for(ReparameterizableDepthwise)
def _fold_reparameterizable_depthwise(
    layer: ReparameterizableDepthwise, input_shape: Any
) -> keras.layers.Layer:
    kernel, bias = 0.0, 0.0
    for branch in (layer.large, layer.small):
        scale, offset = scale_and_offset(branch.norm)
        part = _scaled(branch.linear, _kernel(branch), scale)
        border = (layer.kernel_size - len(part)) // 2
        sides = ((border, border),) * (part.ndim - 2)
        kernel = kernel + np.pad(part, (*sides, (0, 0), (0, 0)))
        bias = bias + offset
    return _linear(layer.large.linear, layer.name, input_shape, kernel, bias)


@_rule_for(MetaMixer, FFNifiedAttention, ConvNeXtChannelMixer)
def _fold_meta_mixer(layer: MetaMixer, input_shape: Any) -> keras.layers.Layer:
    if getattr(layer, "drop", None) is not None:  # A plain MetaMixer has none.
        return _copy(layer, input_shape)
    parts: dict[str, keras.layers.Layer | None] = {}

    def fold_part(name: str, shape: Any) -> Any:
        part = getattr(layer, name)
        if part is None:
            return None
        parts[name] = _fold_part(layer, name, shape)
        return part.compute_output_shape(shape)

    shape = fold_part("query", input_shape)
    key = fold_part("key", input_shape)
    shape = fold_part("interaction", shape if key is None else [shape, key])
    shape = fold_part("activation", shape)
    value = fold_part("value", input_shape)
    shape = fold_part("aggregation", shape if value is None else [shape, value])
    fold_part("projection", shape)
    # The config of a subclass makes its parts anew; here they are given.
    folded = MetaMixer(**{**keras.layers.Layer.get_config(layer), **parts})
    folded.build(input_shape)
    return folded


@_rule_for(PatchMerging)
def _fold_patch_merging(layer: PatchMerging, input_shape: Any) -> keras.layers.Layer:
    merged_shape = layer.depthwise.compute_output_shape(input_shape)
    return _with_parts(
        layer,
        input_shape,
        depthwise=_fold_part(layer, "depthwise", input_shape),
        projection=_fold_part(layer, "projection", merged_shape),
    )


@_rule_for(Downsampling)
def _fold_downsampling(layer: Downsampling, input_shape: Any) -> keras.layers.Layer:
    norm: Any = layer.post_norm
    if not _is_batch_norm_over_channels(norm):
        return _copy(layer, input_shape)
    scale, offset = scale_and_offset(norm)
    kernel = _scaled(layer.convolution, _array(layer.convolution.kernel), scale)
    if layer.use_bias:
        offset = offset + scale * _array(layer.convolution.bias)
    folded = _with_parts(
        layer,
        input_shape,
        pre_norm=_fold_part(layer, "pre_norm", input_shape),
        post_norm=None,
        use_bias=True,
    )
    folded.convolution.set_weights([kernel, offset])
    return folded


@_rule_for(ChannelMLP)
def _fold_channel_mlp(layer: ChannelMLP, input_shape: Any) -> keras.layers.Layer:
    activation = layer.activation
    if type(activation) is not StarReLU or layer.drop is not None:
        return _copy(layer, input_shape)
    if layer.compute_dtype == "float16":  # A square without its scale may overflow.
        return _copy(layer, input_shape)
    folded = _with_parts(
        layer,
        input_shape,
        activation=SquaredReLU(name=activation.name, dtype=activation.dtype_policy),
        use_bias=(layer.expand.use_bias, True),
    )
    folded.expand.set_weights(layer.expand.get_weights())
    kernel = _array(layer.project.kernel)
    bias = _array(activation.bias) * kernel.sum(axis=0)
    if layer.project.use_bias:
        bias = bias + _array(layer.project.bias)
    folded.project.set_weights([_array(activation.scale) * kernel, bias])
    return folded


@_rule_for(ResidualBranch)
def _fold_residual_branch(
    layer: ResidualBranch, input_shape: Any
) -> keras.layers.Layer:
    transform = _fold_part(layer, "transform", input_shape)
    norm = _fold_part(layer, "norm", input_shape)
    first = _first_linear(transform)
    if type(norm) is Affine and first is not None:
        norm = _fold_affine(norm, first) or norm
    scaling = layer.residual_scaling
    last = _last_linear(transform)
    if layer.layer_scale is not None and last is not None:
        scale = _array(layer.layer_scale.scale)
        last.kernel.assign(_scaled(last, _array(last.kernel), scale))
        if last.use_bias:
            last.bias.assign(scale * _array(last.bias))
        scaling = {"layer": "none", "branch": "residual"}[scaling]
    folded = _with_parts(
        layer,
        input_shape,
        transform=transform,
        norm=norm,
        residual_scaling=scaling,
    )
    for name in ("residual_scale", "layer_scale"):
        if getattr(folded, name) is not None:
            getattr(folded, name).set_weights(getattr(layer, name).get_weights())
    return folded


@_rule_for(MetaFormerBlock)
def _fold_metaformer_block(
    layer: MetaFormerBlock, input_shape: Any
) -> keras.layers.Layer:
    return _with_parts(
        layer,
        input_shape,
        token_mixing=_fold_part(layer, "token_mixing", input_shape),
        channel_mixing=_fold_part(layer, "channel_mixing", input_shape),
        between=_fold_part(layer, "between", input_shape),
    )


def _with_parts(layer: Any, input_shape: Any, **parts: Any) -> Any:
    """A layer as `layer`, with these arguments instead of its own; built."""
    other = type(layer)(**{**layer.get_config(), **parts})
    other.build(input_shape)
    return other


def _fold_norms_before_pooling(model: Any) -> dict[str, keras.layers.Layer]:
    """Replacements, by name, that move batch norms into the linear layer after them.

    Between the two there may be an average over positions, which a scale per channel
    passes, and nothing else may use what lies between.
    """
    replaced: dict[str, keras.layers.Layer] = {}
    for norm in model.layers:
        if not _is_batch_norm_over_channels(norm):
            continue
        linear = _linear_after(norm, model)
        if linear is None:
            continue
        scale, offset = scale_and_offset(norm)
        kernel = _array(linear.kernel)
        bias = offset @ kernel
        if linear.use_bias:
            bias = bias + _array(linear.bias)
        replaced[norm.name] = IdentityMixer(name=norm.name, dtype=norm.dtype_policy)
        replaced[linear.name] = _linear(
            linear, linear.name, linear.input.shape, scale[:, None] * kernel, bias
        )
    return replaced


def _linear_after(norm: Any, model: Any) -> Any:
    """The linear layer that alone makes use of a norm's output, or None."""
    # Layers may be in other models too: what counts are the calls of this one.
    nodes = nodes_of(model)
    results = {id(tensor) for tensor in model.outputs}
    layer = norm
    while True:
        calls = [node for node in nodes if node.operation is layer]
        if len(calls) != 1 or calls[0].arguments.kwargs.get("training"):
            return None
        (output,) = calls[0].outputs
        if id(output) in results:
            return None
        users = [
            node.operation
            for node in nodes
            if any(tensor is output for tensor in node.input_tensors)
        ]
        if len(users) != 1:
            return None
        layer = users[0]
        if type(layer) is keras.layers.Dense:
            calls = [node for node in nodes if node.operation is layer]
            return layer if len(calls) == 1 else None
        if type(layer) not in (
            keras.layers.GlobalAveragePooling2D,
            keras.layers.Dropout,
            Dropout,
        ):
            return None


def _fold_affine(norm: Affine, linear: Any) -> IdentityMixer | None:
    """What is left of the scale and offset before a dense layer, which takes them.

    None where it cannot: an offset needs a bias. The scales of norms with statistics
    stay where they are: the backends' fused norms need one, and torch's is slower
    without.
    """
    kernel = _array(linear.kernel)
    offset = _array(norm.offset) if norm.use_bias else np.zeros(len(kernel))
    if linear.use_bias:
        linear.bias.assign(_array(linear.bias) + offset @ kernel)
    elif offset.any():
        return None
    linear.kernel.assign(_array(norm.scale)[:, None] * kernel)
    return IdentityMixer(name=norm.name, dtype=norm.dtype_policy)


def _first_linear(transform: keras.layers.Layer) -> Any:
    """The dense layer that alone takes a mixer's input, or None."""
    if type(transform) is SelfAttentionMixer:
        return transform.qkv
    ends = _ends(transform)
    layer = ends.first if ends is not None and ends.uses_of_input == 1 else None
    return layer if type(layer) is keras.layers.Dense else None


def _last_linear(transform: keras.layers.Layer) -> Any:
    """The linear layer that a mixer ends in, or None."""
    if type(transform) is SelfAttentionMixer:
        last: Any = transform.output_projection
    else:
        ends = _ends(transform)
        last = None if ends is None else ends.last
    is_linear = type(last) in LINEAR and _activation(last) is keras.activations.linear
    return last if is_linear else None


def _ends(layer: Any) -> "_Ends | None":
    """Where a layer begins and ends, as its flow says, or None where there is none."""
    if not has_flow(layer):
        return None
    ends = _Ends(layer)
    result = layer.flow(ends, ends.input)
    once = [each for each in ends.made_by if ends.steps.count(each) == 1]
    ends.first = ends.first if ends.steps.count(ends.first) == 1 else None
    ends.last = next((each for each in once if ends.made_by[each] is result), None)
    return ends


class _Ends(Run):
    """The flow of "which layer made this"."""

    def __init__(self, outer: Any):
        super().__init__(outer)
        self.input = object()
        self.uses_of_input = 0
        self.first: Any = None
        self.last: Any = None
        self.steps: list[Any] = []
        self.made_by: dict[Any, object] = {}

    def step(self, layer, x):
        if type(layer) in IDLE_AT_INFERENCE:
            return x
        if self._use(x):
            self.first = layer
        self.steps.append(layer)
        self.made_by[layer] = object()
        return self.made_by[layer]

    def add(self, x, branch, scale=None):
        self._use([x, branch])
        return object()

    def over_tokens(self, x, *layers):
        return self(x, *layers)

    def _use(self, x: Any) -> int:
        values = x if isinstance(x, list) else [x]
        uses = sum(each is self.input for each in values)
        self.uses_of_input += uses
        return uses


def _activation(layer: Any) -> Any:
    return getattr(layer, "activation", keras.activations.linear)


def _is_batch_norm_over_channels(norm: Any) -> bool:
    if type(norm) is not keras.layers.BatchNormalization:
        return False
    return norm.axis in (-1, norm.input_spec.ndim - 1)


def scale_and_offset(
    norm: keras.layers.BatchNormalization,
) -> tuple[np.ndarray, np.ndarray]:
    """A batch norm outside training as `(scale, offset)` per channel, float64."""
    scale = 1.0 / np.sqrt(_array(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * _array(norm.gamma)
    offset = -scale * _array(norm.moving_mean)
    if norm.center:
        offset = offset + _array(norm.beta)
    return scale, offset


def _array(variable: Any) -> np.ndarray:
    return to_numpy(variable).astype("float64")


def _kernel(layer: Any) -> np.ndarray:
    return _array(layer.linear.kernel)


def _scaled(linear: Any, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A kernel whose output channels are scaled."""
    if isinstance(linear, DepthwiseConvolution):
        return kernel * scale.reshape(-1, linear.depth_multiplier)
    return kernel * scale


def _linear(
    like: Any, name: str, input_shape: Any, kernel: np.ndarray, bias: np.ndarray
) -> keras.layers.Layer:
    """A layer as `like`, with this name, a bias and these weights."""
    config = {**like.get_config(), "name": name, "use_bias": True}
    layer = type(like).from_config(config)
    layer.build(input_shape)
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    return layer
