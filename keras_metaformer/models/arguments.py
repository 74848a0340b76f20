"""The arguments that all models share, checked: input, head, dtype, seed.

Each argument of a constructor is a field of a frozen dataclass, where its type, its
default and its text stand once; `builder.py` makes signatures and docstrings of them.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_metaformer.layers.validation import positive_integer, rate_below_one
from keras_metaformer.models.initialization import initialization_of
from keras_metaformer_lite.images import EvaluationTransform

HEADS = ("linear", "mlp")
SCHEDULES = ("linear", "constant")
#: How images come into a model for which nothing else is said.
IMAGES = EvaluationTransform(224)


@dataclasses.dataclass(frozen=True)
class ApplicationArguments:
    """The arguments of `keras.applications`, with the same meaning.

    Attributes:
        include_top: bool. Whether the classification head is on top.
        weights: None, or the path of a `.weights.h5` file or of a checkpoint in a known
            naming.
        input_tensor: tensor to use as the image, or None.
        input_shape: `(height, width, channels)`, channels last; None for the default
            size, or without the top for any size where the mixers allow it.
        pooling: without the top: None for the last map `(batch, height, width,
            channels)`, `"avg"` or `"max"` for `(batch, channels)`.
        classes: int. Width of the classification layer.
        classifier_activation: activation of the classification layer, None for logits.
        name: str. Name of the model.
        include_preprocessing: bool. Whether the model takes pixels 0..255 and
            normalises them itself with ImageNet's mean and standard deviation.
        token_interpolation: bool, or `(height, width)`. Whether token-mixing matrices
            (MLP-Mixer, ResMLP, gMLP, RandFormer) and learned positions are resized for
            another image size; accuracy is not promised. True where the weights are for
            square images, or in a `.keras` file, which knows its size; else the size of
            those images in pixels.
        dtype: name of a dtype or policy such as `"mixed_bfloat16"`, a
            `keras.DTypePolicy`, or None for Keras' current policy. Of all layers but
            those of yours that have one.

    Raises:
        ValueError: if an argument is out of range, or Keras is set to channels first.
    """

    include_top: bool = True
    weights: str | os.PathLike | None = None
    input_tensor: Any = None
    input_shape: Sequence[int | None] | None = None
    pooling: str | None = None
    classes: int = 1000
    classifier_activation: Any = "softmax"
    name: str | None = None
    include_preprocessing: bool = False
    _: dataclasses.KW_ONLY
    token_interpolation: bool | Sequence[int] = False
    dtype: Any = None

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


@dataclasses.dataclass(frozen=True)
class ConstructorArguments(ApplicationArguments):
    """The same of a named model, which has published weights.

    Attributes:
        weights: None (random), a tag of `km.list_weights`, or the path of a
            `.weights.h5` or `.keras` file or of a checkpoint in a known naming.
            Weights asked for are loaded, or an error is raised. A first convolution
            for three channels is adapted to the channels of `input_shape`.
        input_shape: `(height, width, channels)`, channels last; None for the resolution
            of the weights, or without the top for any size where the mixers allow it.
        classes: int. Width of the classification layer. Left alone, ImageNet-21k
            weights bring their own number; asked for and other than the weights',
            everything but that layer is loaded.
        include_preprocessing: bool. Whether the model takes pixels 0..255 and
            normalises them itself; otherwise pass them through `preprocess_input` of
            the family's module.
        source: `"auto"` or `"official"`. The latter forces the authors' original file.
    """

    weights: str | os.PathLike | None = "imagenet"
    _: dataclasses.KW_ONLY
    source: str = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a model is made of outside its blocks.

    Attributes:
        norm_epsilon: float. Added to the variance in all norms but the MLP head's.
        output_norm: the norm before the head, as `norm`.
        normalize_before_pooling: bool. Whether that norm acts on the map (PoolFormer)
            or on the pooled features (MetaFormer baselines).
        head: `"linear"` or `"mlp"` (linear, activation, norm, linear).
        head_ratio: float. Hidden features of the MLP head for each of its inputs.
        head_activation: of the MLP head, by any of the names that `MetaFormer` takes,
            or a layer.
        head_norm: of the MLP head, as `norm`, with PyTorch's default epsilon of 1e-5.
        initialization: how weights start: `"metaformer"` (normal, standard deviation
            0.02), `"poolformer"` (the same but for PyTorch's default in the stem and
            the convolutions between stages; ResMLP too), `"mlp_mixer"` (Glorot's
            uniform kernels, biases near zero, a classifier of zeros; gMLP too),
            `"flax"` (MLP-Mixer as Google's code has it: Lecun's normal kernels, a
            classifier of zeros), or an
            `keras_metaformer.models.initialization.Initialization`.
        stochastic_depth_rate: float in [0, 1). Of the last block.
        stochastic_depth_schedule: `"linear"` for rates that rise from 0 to
            `stochastic_depth_rate` block by block, `"constant"` for the same rate in
            all blocks.
        head_dropout: float in [0, 1). Dropout rate before the classification layer.
        seed: int, or None for random ones. Of stochastic depth, dropout and random
            matrices.

    Raises:
        ValueError: if a field is out of range.
    """

    norm_epsilon: float = 1e-6
    output_norm: Any = "layer_norm"
    normalize_before_pooling: bool = False
    head: str = "linear"
    head_ratio: float = 4.0
    head_activation: Any = "squared_relu"
    head_norm: Any = "layer_norm"
    initialization: Any = "metaformer"
    stochastic_depth_rate: float = 0.0
    stochastic_depth_schedule: str = "linear"
    head_dropout: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("stochastic_depth_rate", "head_dropout"):
            rate_below_one(name, getattr(self, name))
        if isinstance(self.norm_epsilon, (list, tuple)) or not self.norm_epsilon > 0:
            raise ValueError(
                "`norm_epsilon` must be one positive number for all norms. "
                f"Received: norm_epsilon={self.norm_epsilon!r}"
            )
        if self.head not in HEADS:
            raise ValueError(
                f"`head` must be one of {sorted(HEADS)}. Received: head={self.head!r}"
            )
        if not self.head_ratio > 0:
            raise ValueError(
                "`head_ratio` must be positive. "
                f"Received: head_ratio={self.head_ratio!r}"
            )
        initialization_of(self.initialization)
        if self.stochastic_depth_schedule not in SCHEDULES:
            raise ValueError(
                f"`stochastic_depth_schedule` must be one of {sorted(SCHEDULES)}. "
                "Received: stochastic_depth_schedule="
                f"{self.stochastic_depth_schedule!r}"
            )

    def depth_rates(self, blocks: int) -> list[float]:
        """The rate of stochastic depth of each of so many blocks."""
        rate = self.stochastic_depth_rate
        if self.stochastic_depth_schedule == "constant":
            return [rate] * blocks
        return [rate * index / max(blocks - 1, 1) for index in range(blocks)]

    def why_idle(self, name: str, value: Any, default: Any) -> str | None:
        """Why an argument that was asked for acts on nothing; None where it acts.

        Args:
            name: of a field.
            value: of that field, other than the default.
            default: what the field is where nothing is asked for.
        """
        if name in ("head_ratio", "head_activation", "head_norm"):
            return None if self.head == "mlp" else "only `head='mlp'` has one"
        return None


class ModelArguments(ApplicationArguments, ModelOptions):
    """What every builder is called with, whatever its blocks are.

    The base of dataclasses, and none itself: as one it would put the defaults of its
    fields above those that a class of options beside it has for them.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __post_init__(self) -> None:
        ApplicationArguments.__post_init__(self)
        ModelOptions.__post_init__(self)
