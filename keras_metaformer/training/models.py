"""The model that a run starts from, and the forms in which it is trained and saved."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metaformer.models import families
from keras_metaformer.models.pyramid_model import (
    PyramidModel,
    described,
    description_of,
)
from keras_metaformer.training.recipe import Recipe
from keras_metaformer.training.start import build_model
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import EvaluationTransform
from keras_metaformer_lite.weights import catalogue


def start_model(
    source: str | os.PathLike | keras.Model,
    recipe: Recipe,
    class_names: Sequence[str],
    *,
    weights: str | os.PathLike | None,
    dtype: str,
    seed: int,
) -> PyramidModel:
    """The classifier that a run begins with.

    Args:
        source: a constructor's name, a `.keras` file, or a functional model.
        recipe: says the size of the images, what becomes of the head, and the rates of
            stochastic depth and dropout, which a saved model brings itself.
        class_names: of the data.
        weights: tag or file for a constructor; None for weights drawn at random.
        dtype: a policy, `"float32"` or `"mixed_bfloat16"`.
        seed: of the weights that are drawn and of the random layers.

    Returns:
        A model from images to probabilities, with a description of its images.

    Raises:
        ValueError: if the model is no classifier, or does not fit the recipe.
        OSError: if weights or file cannot be had.
    """
    keras.utils.set_random_seed(seed)
    if isinstance(source, str) and not source.endswith(".keras"):
        model = _constructed(source, recipe, class_names, weights, dtype, seed)
    else:
        model = _loaded(source, recipe, class_names, dtype)
    description = description_of(model)
    assert description is not None
    transform = description.transform
    if recipe.crop_fraction is not None:
        transform = dataclasses.replace(transform, crop_fraction=recipe.crop_fraction)
    return described(
        model,
        dataclasses.replace(
            description, transform=transform, class_names=tuple(class_names)
        ),
    )


def _constructed(
    name: str,
    recipe: Recipe,
    class_names: Sequence[str],
    weights: str | os.PathLike | None,
    dtype: str,
    seed: int,
) -> Any:
    variant = families.get(name)
    size = recipe.image_size
    if size is None:
        published = weights in catalogue.list_weights(variant.name)
        size = (
            catalogue.find(variant.name, str(weights)).resolution
            if published
            else variant.resolution
        )
    started = dataclasses.replace(
        recipe,
        model=variant.name,
        image_size=size,
        weights=None if weights is None else os.fspath(weights),
        head=recipe.head if weights is not None else "new",
    )
    with warnings.catch_warnings():
        if recipe.head == "new":
            warnings.filterwarnings("ignore", message="Loaded the weights .* except")
        return build_model(
            started,
            len(class_names),
            include_preprocessing=True,
            dtype=dtype,
            seed=seed,
        )


def _loaded(
    source: Any, recipe: Recipe, class_names: Sequence[str], dtype: str
) -> PyramidModel:
    model: Any = source
    if not isinstance(source, keras.Model):
        if not Path(source).is_file():
            raise FileNotFoundError(
                f"Expected a `.keras` file; there is none. Received: {str(source)!r}"
            )
        model = keras.saving.load_model(source, compile=False)
    if not hasattr(model, "operations") or len(model.outputs) != 1:
        raise ValueError(
            "Expected a functional model with one output. "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or len(model.output_shape) != 2:
        raise ValueError(
            "Expected a classifier from one image (batch, height, width, 3) to (batch, "
            f"classes). Received: a model from {shape} to {model.output_shape}"
        )
    size = recipe.image_size or shape[1]
    if size is None:
        raise ValueError(
            "The model takes images of any size: give `image_size`. "
            f"Received: input_shape={shape}"
        )
    model = rebuilt(model, dtype=dtype, size=size)
    description = description_of(model) or ImageDescription(EvaluationTransform(size))
    names = tuple(class_names)
    if recipe.head != "keep" and description.names() != names:
        model = _with_new_head(model, len(names))
    elif model.output_shape[-1] != len(names):
        raise ValueError(
            f"The data has {len(names)} classes: give `head='new'` for a classifier of "
            f"as many. Received: model={model.name!r}, which has "
            f"{model.output_shape[-1]} classes"
        )
    description = dataclasses.replace(
        description,
        transform=dataclasses.replace(description.transform, resolution=size),
        class_names=None,
        output="probabilities",
    )
    return described(model, description)


def _with_new_head(model: keras.Model, classes: int) -> keras.Model:
    head = classifier_layer(model)
    config = {**head.get_config(), "units": classes, "activation": "softmax"}
    outputs = keras.layers.Dense.from_config(config)(head.input)
    return PyramidModel(model.inputs[0], outputs, name=model.name)


def classifier_layer(model: keras.Model) -> Any:
    """The dense layer that gives the classes' logits.

    Raises:
        ValueError: if the model does not end in one, with or without a softmax.
    """
    last: Any = model.outputs[0]._keras_history.operation
    if isinstance(last, (keras.layers.Softmax, keras.layers.Activation)):
        before: Any = last.input
        last = before._keras_history.operation
    if not isinstance(last, keras.layers.Dense):
        raise ValueError(
            "Expected a classifier that ends in a Dense layer, with or without a "
            f"softmax. Received: a model that ends in {type(last).__name__}"
        )
    return last


@contextlib.contextmanager
def giving_logits(model: keras.Model) -> Iterator[keras.Model]:
    """A model of the same layers that gives logits, for as long as the block lasts.

    The loss is computed of logits, which half precision and underflow do not hurt.
    """
    last: Any = model.outputs[0]._keras_history.operation
    softmax = keras.activations.softmax
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and last.activation is softmax
    ):
        yield PyramidModel(model.inputs[0], last.input, name=model.name)
        return
    before = getattr(last, "activation", None)
    if before not in (softmax, keras.activations.linear):
        raise ValueError(
            "Expected a classifier that gives probabilities by softmax, or logits. "
            f"Received: a model that ends in {last.name!r} with {before}"
        )
    last.activation = keras.activations.linear
    try:
        yield model
    finally:
        last.activation = softmax


def freeze_all_but_classifier(model: keras.Model) -> None:
    """Leaves the classifier alone to be trained; batch norms are in inference mode."""
    head = classifier_layer(model)
    for layer in model.layers:
        layer.trainable = layer is head


def save_deployed(model: keras.Model, path: Path) -> None:
    """Write a model as others use it: float32, with its softmax, all trainable.

    Written under another name, then put in place.
    """
    from keras_metaformer_lite.weights.disk import replacement

    last: Any = model.outputs[0]._keras_history.operation
    trainable = [layer.trainable for layer in model.layers]
    before = getattr(last, "activation", None)
    if before is keras.activations.linear:
        last.activation = keras.activations.softmax
    model.trainable = True
    for layer in model.layers:
        # On TensorFlow what is set on a model does not reach its layers.
        layer.trainable = True
    try:
        deployed = rebuilt(model, dtype="float32", copy=True)
    finally:
        if before is keras.activations.linear:
            last.activation = before
        for layer, own in zip(model.layers, trainable, strict=True):
            layer.trainable = own
    with replacement(path, ".keras") as temporary:
        deployed.save(temporary)


def rebuilt(
    model: keras.Model,
    *,
    dtype: str | None = None,
    size: int | None = None,
    copy: bool = False,
) -> Any:
    """The same model in another precision or for another size of images.

    Args:
        model: a functional model whose layers are registered with Keras.
        dtype: the policy of all layers, or None for their own.
        size: height and width of the images, or None for what it is.
        copy: bool. Whether a copy is wanted where nothing is to be changed.

    Raises:
        ValueError: if the weights depend on the size of the images.
    """
    config: Any = keras.saving.serialize_keras_object(model)
    # What it was trained with is no part of it.
    config.pop("compile_config", None)
    changed = _edited(config, dtype, size)
    if changed == config and not copy:
        return model
    # The weights are copied: those that the copy would draw cost time alone.
    result: Any = keras.saving.deserialize_keras_object(changed)
    own, other = list(model.weights), list(result.weights)
    shapes = [[tuple(weight.shape) for weight in weights] for weights in (own, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "The model has weights for each place of its image, so it cannot take "
            f"images of another size. Received: image_size={size} for a model of "
            f"{model.input_shape[1:3]}"
        )
    for target, weight in zip(other, own, strict=True):
        target.assign(weight)
    return result


def _edited(value: Any, dtype: str | None, size: int | None) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy" and dtype is not None:
            return {**value, "config": {**value["config"], "name": dtype}}
        edited = {key: _edited(each, dtype, size) for key, each in value.items()}
        if size is not None and edited.get("class_name") == "InputLayer":
            batch, _, _, channels = edited["config"]["batch_shape"]
            edited["config"]["batch_shape"] = (batch, size, size, channels)
        if size is not None and isinstance(edited.get("image_description"), dict):
            edited["image_description"]["transform"]["resolution"] = size
        return edited
    if isinstance(value, (list, tuple)):
        return type(value)(_edited(each, dtype, size) for each in value)
    return value


def default_policy(dtype: str | None) -> str:
    """The dtype policy of `--dtype`: `"float32"`, `"bfloat16"`, or what is best here.

    bfloat16 where the device multiplies in it: NVIDIA GPUs from Ampere on, and TPUs.

    Raises:
        ValueError: if it is neither.
    """
    names = {
        "float32": "float32",
        "bfloat16": "mixed_bfloat16",
        "mixed_bfloat16": "mixed_bfloat16",
    }
    if dtype is None:
        return "mixed_bfloat16" if _multiplies_in_bfloat16() else "float32"
    if dtype not in names:
        raise ValueError(
            f"`dtype` must be 'float32' or 'bfloat16', or None for what the device "
            f"does best. Received: dtype={dtype!r}"
        )
    return names[dtype]


def _multiplies_in_bfloat16() -> bool:
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform == "gpu":
            capability = str(getattr(device, "compute_capability", "0"))
            return float(capability) >= 8
        return device.platform == "tpu"
    import tensorflow as tf

    found: Any = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(each) for each in found]
    return bool(details) and all(
        each.get("compute_capability", (0, 0)) >= (8, 0) for each in details
    )


def device_name() -> str:
    """What the model is trained on, in words."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
        return f"the CPU with {torch.get_num_threads()} threads"
    if backend == "jax":
        import jax

        return f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    import tensorflow as tf

    found: Any = tf.config.list_physical_devices("GPU")
    return ", ".join(each.name for each in found) or "the CPU"


def softmax(logits: Any) -> np.ndarray:
    """Logits `(batch, classes)` as float32 probabilities."""
    logits = np.asarray(logits, "float32")
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
