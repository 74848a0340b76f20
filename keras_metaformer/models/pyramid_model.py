"""The functional model with named stages that every builder returns."""

import functools
import inspect
import math
from typing import Any

import keras

from keras_metaformer.blocks import Downsampling, PatchMerging
from keras_metaformer.layers import fast_paths, tracing
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.configured_layer import ConfiguredLayer
from keras_metaformer.layers.inner_call import are_plain, call_inner, is_prepared
from keras_metaformer.models.nodes import nodes_of, output_in
from keras_metaformer.models.pixel_range import warn_of_unexpected_pixels
from keras_metaformer_lite.description import ImageDescription

_COMPILE = inspect.signature(keras.Model.compile)
_DESCRIPTION = "_image_description"


@keras.saving.register_keras_serializable(package="keras_metaformer")
class PyramidModel(keras.Model):
    """A functional `keras.Model` whose stages can be asked for by pyramid level.

    Detectors and segmenters of KerasHub and KerasCV take a model with these two
    properties as their backbone. They are read from the graph, so they are there after
    loading a `.keras` file too.
    """

    #: The layers after the input if each follows on the one before, or None.
    _chain: tuple[Any, ...] | None

    def __init__(self, *args, image_description=None, **kwargs):
        super().__init__(*args, **kwargs)
        if isinstance(image_description, dict):  # a config's
            image_description = ImageDescription.from_config(image_description)
        if image_description is None and len(self.outputs) == 1:
            image_description = getattr(self.outputs[0], _DESCRIPTION, None)
        self.image_description = image_description
        # Now, not at the first call: torch.compile cannot look into the lock that a
        # cached property of Python 3.11 has. Past Keras, which keeps track of layers.
        self.__dict__["_chain"] = self._find_chain()
        tracing.in_stateless_scope()  # Once before it is traced, as it says.

    @property
    def image_description(self) -> ImageDescription | None:
        """How the model wants its images, and what it says of them; saved with it."""
        return self.__dict__.get(_DESCRIPTION)

    @image_description.setter
    def image_description(self, description: ImageDescription | None) -> None:
        if description is not None:
            check_description(self, description)
        # Keras' `__setattr__` would keep track of what it takes for a container.
        self.__dict__[_DESCRIPTION] = description

    def get_config(self):
        config = super().get_config()
        if self.image_description is not None:
            config["image_description"] = self.image_description.get_config()
        return config

    def _run_through_graph(self, inputs, *args, **kwargs):
        outputs = super()._run_through_graph(inputs, *args, **kwargs)
        # `clone_model` makes the new model of nothing but its inputs and outputs.
        if self.image_description is not None and isinstance(
            outputs, keras.KerasTensor
        ):
            setattr(outputs, _DESCRIPTION, self.image_description)
        return outputs

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """`{"P2": layer name, ...}`: the layer that ends each stage."""
        return {level: layer.name for level, layer in pyramid_layers(self).items()}

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """`{"P2": symbolic map, ...}` of shape `(batch, height, width, channels)`."""
        return {
            level: output_in(self, layer)
            for level, layer in pyramid_layers(self).items()
        }

    def _clear_losses(self):
        # Keras does so before a call. It asks each of hundreds of layers, and
        # torch.compile would trace that.
        if not (tracing.is_compiling() and are_plain(self._layers)):
            super()._clear_losses()

    def call(self, inputs: Any, training=None, mask=None, **kwargs):
        if mask is None and not kwargs and self._can_walk(inputs):
            # What is not said is inference, as for every layer here.
            return self._walk(inputs, bool(training))
        return super().call(inputs, training=training, mask=mask, **kwargs)

    @functools.wraps(keras.Model.compile)
    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        given = _COMPILE.bind(self, *args, **kwargs).arguments
        self._jit_compile_asked_for = given.get("jit_compile", "auto")

    def get_compile_config(self):
        """As `keras.Model.get_compile_config`, with `jit_compile` as it was given.

        Keras stores what `"auto"` came to on this backend: a model compiled on JAX
        would go through torch.compile when loaded on torch.
        """
        config = super().get_compile_config()
        if config:
            config["jit_compile"] = self._jit_compile_asked_for
        return config

    def compile_from_config(self, config):
        """As `keras.Model.compile_from_config`, which leaves this to own `compile`s."""
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`, with a warning for values of the wrong range."""
        self._warn_of_unexpected_pixels(x)
        return super().predict(x, *args, **kwargs)

    def predict_on_batch(self, x):
        """As `keras.Model.predict_on_batch`, with the warning of `predict`."""
        self._warn_of_unexpected_pixels(x)
        return super().predict_on_batch(x)

    def _warn_of_unexpected_pixels(self, x: Any) -> None:
        # Only RGB images are known to be pixels, and a batch of one input alone.
        if len(getattr(x, "shape", ())) == 4 and x.shape[-1] == 3:
            normalises = any(layer.name == "preprocessing" for layer in self.layers)
            expected = "pixels" if normalises else "normalised"
            warn_of_unexpected_pixels(x, expected, stacklevel=3)

    def export(self, *args, **kwargs):
        """As `keras.Model.export`, in plain operations that every converter knows."""
        with fast_paths.switched(False):
            return super().export(*args, **kwargs)

    def _can_walk(self, inputs: Any) -> bool:
        """Whether Keras' way through the graph, slow on torch, can be cut short."""
        if keras.backend.backend() != "torch" or not fast_paths.enabled():
            return False
        return (
            self._chain is not None
            and keras.ops.is_tensor(inputs)
            and not isinstance(inputs, keras.KerasTensor)
            and len(inputs.shape) == 4
            and keras.backend.standardize_dtype(inputs.dtype) == self.compute_dtype
        )

    def _walk(self, inputs: Any, training: bool) -> Any:
        """The chain's layers one after the other."""
        outputs, chain = inputs, self._chain or ()
        once = (
            not training
            and tracing.may_compile_once(inputs.device)
            and are_plain(chain)
        )
        for layer in chain:
            if (
                once
                and isinstance(layer, Composite)
                and is_prepared(self, layer, outputs)
            ):
                outputs = _infer(layer, outputs)
            else:
                outputs = call_inner(self, layer, outputs, training)
        return outputs

    def _find_chain(self) -> tuple[Any, ...] | None:
        """The layers after the input if each follows on the one before, or None."""
        first, *layers = self.layers
        if not isinstance(first, keras.layers.InputLayer):
            return None
        tensor = first.output
        calls: dict[Any, list[Any]] = {}
        for node in nodes_of(self):
            calls.setdefault(node.operation, []).append(node)
        for layer in layers:
            nodes = calls[layer]
            if len(nodes) != 1 or nodes[0].input_tensors != [tensor]:
                return None
            given = nodes[0].arguments.kwargs
            if any(given.values()) or set(given) - {"training", "mask"}:
                return None
            tensor = nodes[0].outputs[0]
        is_whole = len(self.operations) == len(self.layers)
        # An output in a dict or list stays in it.
        is_bare = isinstance(self.output, keras.KerasTensor)
        return tuple(layers) if is_whole and is_bare and self.output is tensor else None


@tracing.compiled_once
def _infer(layer: Any, inputs: Any) -> Any:
    return call_inner(layer, layer, inputs, training=False)


def pyramid_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """`{"P2": layer, ...}`: what ends each stage of a functional model."""
    levels, stride = {}, 1
    for layer in model.layers:
        if isinstance(layer, (Downsampling, PatchMerging)):
            stride *= layer.strides
        elif isinstance(layer, StageOutput):
            levels[f"P{round(math.log2(stride))}"] = layer
    return levels


def check_description(model: keras.Model, description: ImageDescription) -> None:
    """Raise a `ValueError` where a description is not one of this model's images."""
    if not isinstance(description, ImageDescription):
        raise ValueError(
            "`image_description` must be an ImageDescription, or None. "
            f"Received: image_description={description!r}"
        )
    shapes, size = model.input_shape, description.transform.resolution
    if not isinstance(shapes, tuple) or len(shapes) != 4:
        raise ValueError(
            "Only a model of one image (batch, height, width, channels) has an "
            f"`image_description`. Received: input_shape={shapes}"
        )
    fits = all(
        own in (None, asked)
        for own, asked in zip(shapes[1:], (size, size, 3), strict=True)
    )
    if not fits:
        raise ValueError(
            f"The description is of images {(size, size, 3)}, the model takes others. "
            f"Received: input_shape={shapes}"
        )
    names, outputs = description.names(), model.output_shape
    if names is not None and (not outputs or outputs[-1] != len(names)):
        raise ValueError(
            f"The description names {len(names)} classes, the model has others. "
            f"Received: output_shape={outputs}"
        )


def description_of(model: keras.Model) -> ImageDescription | None:
    """What a model knows of its images, or None where it knows nothing."""
    return getattr(model, "image_description", None)


def described(model: keras.Model, description: ImageDescription) -> PyramidModel:
    """A functional model as one that knows its images.

    Args:
        model: a functional model from one image, of this package or any other.
        description: of its images.

    Returns:
        The model itself where it has a place for the description, else a
        `PyramidModel` of the same layers; what `compile` was told is not kept then.

    Raises:
        TypeError: if the model is not functional.
        ValueError: if the description does not fit the model.
    """
    if not isinstance(model, PyramidModel):
        if not hasattr(model, "operations"):
            raise TypeError(
                "Only a functional model can be saved with an `image_description`. "
                f"Received: model={model!r} of type {type(model).__name__}"
            )
        check_description(model, description)
        model = PyramidModel(model.inputs[0], model.outputs[0], name=model.name)
    model.image_description = description
    return model


@keras.saving.register_keras_serializable(package="keras_metaformer")
class StageOutput(ConfiguredLayer):
    """Marks the end of a stage in the graph and passes the map through.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Returns:
        The inputs.
    """

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape
