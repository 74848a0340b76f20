"""What all image classifiers share: input, preprocessing, head, argument checks.

The behaviour is that of `keras.applications`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from keras_metaformer.layers.activations.squared_relu import SquaredReLU
from keras_metaformer.layers.dropout import Dropout
from keras_metaformer.layers.initializers import truncated_normal
from keras_metaformer.layers.norms.table import make_norm
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer.models.pyramid_model import PyramidModel
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import EvaluationTransform

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MLP_HEAD_RATIO = 4
# PyTorch's default, which the official MLP head keeps (its other norms have 1e-6).
_MLP_HEAD_EPSILON = 1e-5


@contextmanager
def dtype_policy(dtype: Any) -> Iterator[None]:
    """Gives the layers that are made inside a `with` block a dtype policy.

    Keras holds its policy for each thread apart, so that others see nothing of it.

    Args:
        dtype: name such as `"mixed_bfloat16"`, a `keras.DTypePolicy`, or None for what
            is set already.

    Raises:
        ValueError: if it is neither.
    """
    if dtype is None:
        yield
        return
    try:
        policy = keras.dtype_policies.get(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`dtype` must be the name of a dtype or of a policy, such as 'float16' or "
            f"'mixed_bfloat16', or a `keras.DTypePolicy`. Received: dtype={dtype!r}"
        ) from error
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@dataclasses.dataclass(frozen=True)
class ImageArguments:
    """The arguments of a `keras.applications` constructor, checked.

    Raises:
        ValueError: if an argument is out of range, or Keras is set to channels first.
    """

    include_top: bool = True
    input_tensor: Any = None
    input_shape: Sequence[int | None] | None = None
    pooling: str | None = None
    classes: int = 1000
    classifier_activation: Any = "softmax"
    name: str | None = None
    include_preprocessing: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if keras.config.image_data_format() != "channels_last":
            raise ValueError(
                "Images are channels last here: call "
                "keras.config.set_image_data_format('channels_last'). Received: "
                f"image_data_format={keras.config.image_data_format()!r}"
            )
        if self.include_top:
            positive_integer("classes", self.classes)
        if self.pooling not in (None, "avg", "max"):
            raise ValueError(
                "`pooling` must be None, 'avg' or 'max'. "
                f"Received: pooling={self.pooling!r}"
            )
        shape = self.input_shape
        if shape is not None and (
            not isinstance(shape, (list, tuple)) or len(shape) != 3
        ):
            raise ValueError(
                "`input_shape` must be (height, width, channels), channels last. "
                f"Received: input_shape={shape!r}"
            )

    def image_input(self, default_size: int, minimum_size: int, fixed_size: bool):
        """The symbolic image `(batch, height, width, channels)`.

        Args:
            default_size: int. Height and width where nothing is asked for, in pixels.
            minimum_size: int. The smallest height and width that make sense, in pixels.
            fixed_size: bool. Whether the model has weights for every token, so that
                height and width must be known even without the top.
        """
        shape = self.input_shape
        if self.input_tensor is not None and keras.backend.is_keras_tensor(
            self.input_tensor
        ):
            image = self.input_tensor
            if shape is not None and tuple(image.shape[1:]) != tuple(shape):
                raise ValueError(
                    "`input_shape` must agree with `input_tensor`. Received: "
                    f"input_shape={shape}, input_tensor.shape={tuple(image.shape)}"
                )
        else:
            if shape is None and self.input_tensor is None:
                size = default_size if self.include_top or fixed_size else None
                shape = (size, size, 3)
            image = keras.layers.Input(
                shape=shape, tensor=self.input_tensor, name="image"
            )
        self._check_image(image, minimum_size)
        return image

    def _check_image(self, image, minimum_size: int) -> None:
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
        if self.include_preprocessing and channels != len(self.mean):
            raise ValueError(
                f"`include_preprocessing` needs {len(self.mean)} channels. "
                f"Received: shape={tuple(image.shape)}"
            )

    def preprocess(self, image):
        """Pixels 0..255 to normalised values, if asked for."""
        if not self.include_preprocessing:
            return image
        per_channel: Any = {
            "scale": [1.0 / (255.0 * std) for std in self.std],
            "offset": [-m / s for m, s in zip(self.mean, self.std, strict=True)],
        }
        return keras.layers.Rescaling(**per_channel, name="preprocessing")(image)

    def finish(
        self,
        image,
        features,
        output_norm: Any,
        norm_epsilon: float,
        normalize_before_pooling: bool,
        head: str,
        head_dropout: float,
        seed: int | None,
    ) -> PyramidModel:
        """Norm, pooling and head on the last map, and the model around them."""
        norm = make_norm(output_norm, epsilon=norm_epsilon)
        norm.name = "output_norm"
        pooling = "avg" if self.include_top else self.pooling
        pool = None
        if pooling == "avg":
            pool = keras.layers.GlobalAveragePooling2D(name="average_pool")
        elif pooling == "max":
            pool = keras.layers.GlobalMaxPooling2D(name="max_pool")
        steps = (norm, pool) if normalize_before_pooling else (pool, norm)
        x = features
        for step in steps:
            x = x if step is None else step(x)
        if self.include_top:
            x = self._head(x, head, head_dropout, seed)
        inputs: Any = image
        if self.input_tensor is not None:
            inputs = keras.utils.get_source_inputs(image)
            # Keras warns if a model of `[input]` is called with a bare tensor.
            inputs = inputs[0] if len(inputs) == 1 else inputs
        model = PyramidModel(inputs=inputs, outputs=x, name=self.name)
        if image.shape[1] is not None:
            normalisation: Any = {"mean": self.mean, "std": self.std}
            self.describe(model, EvaluationTransform(image.shape[1], **normalisation))
        return model

    def describe(
        self,
        model: PyramidModel,
        transform: EvaluationTransform,
        class_names: str | None = None,
    ) -> None:
        """Write into a model what it knows of its images.

        A model that is not for square RGB images is left alone, and so is one whose
        `input_tensor` was made of something else.

        Args:
            model: made with these arguments.
            transform: of its images; its resolution counts where the model takes any.
            class_names: a list of `keras_metaformer_lite.classes`, or None.
        """
        if self.input_tensor is not None and (
            len(model.inputs) != 1 or model.inputs[0] is not self.input_tensor
        ):
            return
        shapes = model.input_shape
        height, width = (side or transform.resolution for side in shapes[1:3])
        if height != width or shapes[3] != 3:
            return
        output = "features"
        if self.include_top:
            activation = keras.activations.get(self.classifier_activation)
            is_linear = activation is keras.activations.linear
            output = "logits" if is_linear else "probabilities"
        model.image_description = ImageDescription(
            dataclasses.replace(transform, resolution=height),
            includes_preprocessing=self.include_preprocessing,
            output=output,
            class_names=class_names if self.include_top else None,
        )

    def _head(self, x, head: str, dropout: float, seed: int | None):
        if head == "mlp":
            x = keras.layers.Dense(
                _MLP_HEAD_RATIO * x.shape[-1],
                kernel_initializer=truncated_normal(),
                name="head_expand",
            )(x)
            x = SquaredReLU(name="head_activation")(x)
            x = keras.layers.LayerNormalization(
                epsilon=_MLP_HEAD_EPSILON, name="head_norm"
            )(x)
        if dropout:
            x = Dropout(dropout, seed=seed, name="head_dropout")(x)
        return keras.layers.Dense(
            self.classes,
            activation=self.classifier_activation,
            kernel_initializer=truncated_normal(),
            name="predictions",
        )(x)
