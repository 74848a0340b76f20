"""The model that a training starts from."""

from typing import Any

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.data import class_names
from keras_metaformer.models import families
from keras_metaformer.training.recipe import Recipe

#: The classification layer of every model.
CLASSIFIER = "predictions"


def build_model(recipe: Recipe, classes: int = 1000, **arguments: Any) -> keras.Model:
    """The model of a recipe: weights, head, size of images, stochastic depth, freezing.

    Args:
        recipe: of `load_recipe`, with a model.
        classes: number of classes of the data.
        **arguments: further arguments of the model's constructor.

    Returns:
        The model, with `trainable` set as `recipe.freeze` says.

    Raises:
        ValueError: if the recipe has no model, its weights do not fit, or the head is
            to be remapped to another number of classes than 1000.
    """
    if recipe.model is None:
        raise ValueError(
            f"The recipe {recipe.name!r} is for any model: give `load_recipe` the name "
            "of one. Received: model=None"
        )
    constructor = families.get(recipe.model).constructor
    options: dict[str, Any] = {**recipe.model_arguments(), **arguments}
    if recipe.image_size is not None:
        options.setdefault("input_shape", (recipe.image_size, recipe.image_size, 3))
    if recipe.head == "imagenet21k_to_1k":
        if classes != 1000:
            raise ValueError(
                "The head of ImageNet-21K can be remapped to the 1000 classes of "
                f"ImageNet-1K. Received: classes={classes}"
            )
        model = constructor(weights=None, classes=classes, **options)
        pretrained = constructor(weights=recipe.weights, **options)
        remap_classifier(pretrained, model)
    else:
        model = constructor(weights=recipe.weights, classes=classes, **options)
        if recipe.head == "new" and recipe.weights is not None:
            _draw_anew(model.get_layer(CLASSIFIER))
    if recipe.freeze == "backbone":
        freeze_backbone(model)
    return model


def freeze_backbone(model: keras.Model) -> None:
    """Leaves only the classification layer trainable.

    Batch norms of the rest are then those of evaluation, in training too.
    """
    for layer in model.layers:
        layer.trainable = layer.name == CLASSIFIER


def _draw_anew(layer: Any) -> None:
    for variable, initializer in (
        (layer.kernel, layer.kernel_initializer),
        (layer.bias, layer.bias_initializer),
    ):
        variable.assign(initializer(variable.shape, variable.dtype))


def remap_classifier(source: keras.Model, target: keras.Model) -> None:
    """Give a model of ImageNet-1K the weights of one of ImageNet-21K, head included.

    Args:
        source: model of 21841 or 21843 classes.
        target: the same model with 1000 classes.

    Raises:
        ValueError: if the models differ in more than their number of classes.
    """
    kernel, bias = (np.asarray(w) for w in source.get_layer(CLASSIFIER).get_weights())
    remapped = iter(remap_imagenet21k_head(kernel, bias))
    own = {id(variable) for variable in source.get_layer(CLASSIFIER).weights}
    values = [
        next(remapped) if id(weight) in own else to_numpy(weight)
        for weight in source.weights
    ]
    shapes = [tuple(weight.shape) for weight in target.weights]
    if shapes != [value.shape for value in values]:
        raise ValueError(
            "Both must be the same model, but for 21841 and 1000 classes. Received: "
            f"{source.name!r} of {len(source.weights)} weights and {target.name!r} of "
            f"{len(shapes)}"
        )
    target.set_weights(values)


def remap_imagenet21k_head(
    kernel: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The classifier of ImageNet-21K as one of the 1000 classes of ImageNet-1K.

    Each of the 1000 takes what the class of the same WordNet identifier has. One,
    number 850, is none of ImageNet-21K and takes the mean of all.

    Args:
        kernel: `(features, 21841)`, or 21843 classes in Google's order.
        bias: `(classes,)`.

    Returns:
        Kernel `(features, 1000)` and bias `(1000,)`, in the dtypes of the arguments.

    Raises:
        ValueError: if the arrays are of another number of classes.

    Reference:
        - `misc/process_21k_ckpt_before_1k_finetuning.py` of sail-sg/metaformer
    """
    datasets = {21841: "imagenet21k", 21843: "imagenet21k_google"}
    classes = kernel.shape[-1]
    if classes not in datasets or kernel.ndim != 2 or bias.shape != (classes,):
        raise ValueError(
            "`kernel` must be of shape (features, 21841) and `bias` (21841,), or with "
            f"21843 classes. Received: shapes {kernel.shape} and {bias.shape}"
        )
    position = {
        identifier: index
        for index, (identifier, _) in enumerate(class_names(datasets[classes]))
    }
    wanted = [position.get(identifier) for identifier, _ in class_names("imagenet")]
    known = [index for index, place in enumerate(wanted) if place is not None]
    places = [place for place in wanted if place is not None]
    remapped = []
    for array in (kernel, bias):
        new = np.repeat(array.mean(axis=-1, keepdims=True, dtype="float64"), 1000, -1)
        new = new.astype(array.dtype)
        new[..., known] = array[..., places]
        remapped.append(new)
    return remapped[0], remapped[1]
