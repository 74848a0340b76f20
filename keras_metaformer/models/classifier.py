"""From the image to the first layer, and from the last map to the model."""

import dataclasses
from typing import Any

import keras

from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.class_token import FirstToken
from keras_metaformer.layers.dropout import Dropout
from keras_metaformer.layers.norms.table import make_norm
from keras_metaformer.models.arguments import ModelArguments
from keras_metaformer.models.initialization import initialization_of
from keras_metaformer.models.pyramid_model import PyramidModel
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import EvaluationTransform

# PyTorch's default, which the official MLP head keeps (its other norms have 1e-6).
_MLP_HEAD_EPSILON = 1e-5


def image_input(
    arguments: ModelArguments,
    images: EvaluationTransform,
    minimum_size: int,
    fixed_size: bool,
) -> tuple[Any, Any]:
    """The symbolic image `(batch, height, width, channels)`, and what is made of it.

    Args:
        arguments: of the model.
        images: what the model is for.
        minimum_size: int. The smallest height and width that make sense, in pixels.
        fixed_size: bool. Whether the model has weights for every token, so that
            height and width must be known even without the top.

    Returns:
        The image, and the normalised one if the model is to normalise, else the same.

    Raises:
        ValueError: if it is no image that the model could take.
    """
    shape, tensor = arguments.input_shape, arguments.input_tensor
    image: Any
    if tensor is not None and keras.backend.is_keras_tensor(tensor):
        image = tensor
        if shape is not None and tuple(image.shape[1:]) != tuple(shape):
            raise ValueError(
                "`input_shape` must agree with `input_tensor`. Received: "
                f"input_shape={shape}, input_tensor.shape={tuple(image.shape)}"
            )
    else:
        if shape is None and tensor is None:
            size = images.resolution if arguments.include_top or fixed_size else None
            shape = (size, size, 3)
        image = keras.layers.Input(shape=shape, tensor=tensor, name="image")
    _check_image(image, minimum_size)
    if not arguments.include_preprocessing:
        return image, image
    if image.shape[-1] != len(images.mean):
        raise ValueError(
            f"`include_preprocessing` needs {len(images.mean)} channels. "
            f"Received: shape={tuple(image.shape)}"
        )
    per_channel: Any = {
        "scale": [1.0 / (255.0 * std) for std in images.std],
        "offset": [-m / s for m, s in zip(images.mean, images.std, strict=True)],
    }
    return image, keras.layers.Rescaling(**per_channel, name="preprocessing")(image)


def _check_image(image: Any, minimum_size: int) -> None:
    if len(image.shape) != 4:
        raise ValueError(
            "The input must have shape (batch, height, width, channels). "
            f"Received: shape={tuple(image.shape)}"
        )
    _, height, width, channels = image.shape
    if channels is None or channels < 1:
        raise ValueError(
            "The input's channels must be known and positive. "
            f"Received: shape={tuple(image.shape)}"
        )
    if height in (1, 3) and channels > 4:
        raise ValueError(
            "Images are channels last: `input_shape` is (height, width, channels). "
            f"Received what looks like channels first: shape={tuple(image.shape)}"
        )
    for size in (height, width):
        if size is not None and size < minimum_size:
            raise ValueError(
                f"The input must be at least {minimum_size} pixels high and wide "
                "for this model's stages. "
                f"Received: shape={tuple(image.shape)}"
            )


def finish(
    arguments: ModelArguments, images: EvaluationTransform, image: Any, features: Any
) -> PyramidModel:
    """Norm, pooling and head, and the model around them.

    Args:
        arguments: of the model.
        images: what the model is for.
        image: its input.
        features: the last map, or a sequence of tokens that begins with a class token.
    """
    norm = make_norm(arguments.output_norm, epsilon=arguments.norm_epsilon)
    norm.name = "output_norm"
    pool = _pooling(arguments, has_class_token=len(features.shape) == 3)
    before = arguments.normalize_before_pooling
    x = features
    for step in (norm, *pool) if before else (*pool, norm):
        x = step(x)
    if arguments.include_top:
        x = _head(arguments, x)
    inputs: Any = image
    if arguments.input_tensor is not None:
        inputs = keras.utils.get_source_inputs(image)
        # Keras warns if a model of `[input]` is called with a bare tensor.
        inputs = inputs[0] if len(inputs) == 1 else inputs
    model = PyramidModel(inputs=inputs, outputs=x, name=arguments.name)
    if image.shape[1] is not None:
        transform = EvaluationTransform(
            image.shape[1], mean=images.mean, std=images.std
        )
        describe_images(model, arguments, transform)
    return model


def _pooling(arguments: ModelArguments, has_class_token: bool) -> list[Any]:
    """The layers that make one vector an image, or none."""
    if has_class_token and arguments.include_top:
        return [FirstToken(name="class_token_output")]
    pooling = "avg" if arguments.include_top else arguments.pooling
    if pooling is None:
        return []
    average, maximum = (
        keras.layers.GlobalAveragePooling2D,
        keras.layers.GlobalMaxPooling2D,
    )
    layers = []
    if has_class_token:
        layers.append(keras.layers.Cropping1D((1, 0), name="tokens_of_the_image"))
        average, maximum = (
            keras.layers.GlobalAveragePooling1D,
            keras.layers.GlobalMaxPooling1D,
        )
    if pooling == "avg":
        return [*layers, average(name="average_pool")]
    return [*layers, maximum(name="max_pool")]


def describe_images(
    model: PyramidModel,
    arguments: ModelArguments,
    transform: EvaluationTransform,
    class_names: str | None = None,
) -> None:
    """Write into a model what it knows of its images.

    A model that is not for square RGB images is left alone, and so is one whose
    `input_tensor` was made of something else.

    Args:
        model: made with these arguments.
        arguments: of the model.
        transform: of its images; its resolution counts where the model takes any.
        class_names: a list of `keras_metaformer_lite.classes`, or None.
    """
    tensor = arguments.input_tensor
    if tensor is not None and (len(model.inputs) != 1 or model.inputs[0] is not tensor):
        return
    shapes = model.input_shape
    height, width = (side or transform.resolution for side in shapes[1:3])
    if height != width or shapes[3] != 3:
        return
    output = "features"
    if arguments.include_top:
        activation = keras.activations.get(arguments.classifier_activation)
        is_linear = activation is keras.activations.linear
        output = "logits" if is_linear else "probabilities"
    model.image_description = ImageDescription(
        dataclasses.replace(transform, resolution=height),
        includes_preprocessing=arguments.include_preprocessing,
        output=output,
        class_names=class_names if arguments.include_top else None,
    )


def _head(arguments: ModelArguments, x: Any) -> Any:
    start = initialization_of(arguments.initialization)
    if arguments.head == "mlp":
        hidden = max(int(arguments.head_ratio * x.shape[-1]), 1)
        x = keras.layers.Dense(hidden, **start.of_linear(), name="head_expand")(x)
        for name, layer in (
            ("head_activation", make_activation(arguments.head_activation)),
            ("head_norm", make_norm(arguments.head_norm, epsilon=_MLP_HEAD_EPSILON)),
        ):
            layer.name = name
            x = layer(x)
    if arguments.head_dropout:
        x = Dropout(arguments.head_dropout, seed=arguments.seed, name="head_dropout")(x)
    return keras.layers.Dense(
        arguments.classes,
        activation=arguments.classifier_activation,
        **start.of_classifier(),
        name="predictions",
    )(x)
