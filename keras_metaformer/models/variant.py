"""From one line of a family's table to a constructor like `keras.applications`'."""

import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from keras_metaformer.models import registry
from keras_metaformer.models.arguments import check_keywords
from keras_metaformer.models.image_model import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageArguments,
    dtype_policy,
)
from keras_metaformer.models.pyramid_model import PyramidModel
from keras_metaformer_lite.classes import dataset_of
from keras_metaformer_lite.weights.catalogue import default_tag, find


class _DefaultClasses(int):
    """1000 that was not asked for: a checkpoint may bring its own number."""


DEFAULT_CLASSES = _DefaultClasses(1000)


class Constructor(Protocol):
    """The signature that every model constructor has, for editors."""

    __name__: str

    def __call__(
        self,
        include_top: bool = True,
        weights: str | os.PathLike | None = "imagenet",
        input_tensor: Any = None,
        input_shape: Sequence[int | None] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Any = "softmax",
        name: str | None = None,
        include_preprocessing: bool = False,
        *,
        source: str = "auto",
        token_interpolation: bool | Sequence[int] = False,
        dtype: Any = None,
        # Fields of the configs: each family takes those of its own.
        mixer: Any = ...,
        activation: Any = ...,
        norm: Any = ...,
        norm_epsilon: float = ...,
        residual_scaling: str | Sequence[str] = ...,
        residual_scale_initial_value: float = ...,
        layer_scale_initial_value: float | None = ...,
        use_bias: bool | Sequence[bool] = ...,
        channel_mixer: Any = ...,
        mlp_ratio: float | Sequence[float] = ...,
        mlp_dropout: float = ...,
        stem_kernel_size: int = ...,
        stem_strides: int = ...,
        stem_padding: int = ...,
        stem_width: int = ...,
        downsampling_norm: Any = ...,
        output_norm: Any = ...,
        normalize_before_pooling: bool = ...,
        head: str = ...,
        token_kernel_size: int | Sequence[int] = ...,
        channel_kernel_size: int | Sequence[int] = ...,
        squeeze_excitation: bool | Sequence[bool] = ...,
        stochastic_depth_rate: float = 0.0,
        head_dropout: float = 0.0,
        gradient_checkpointing: bool | Sequence[bool] = ...,
        seed: int | None = None,
    ) -> PyramidModel: ...


@dataclasses.dataclass(frozen=True)
class Family:
    """What the sizes of a family share.

    Attributes:
        module: name of the module in `keras_metaformer.applications`.
        title: first part of the constructors' names, such as `"ConvFormer"`.
        summary: what the architecture is, one sentence for the docstrings.
        reference: the paper and the official code, for the docstrings.
        config_class: the frozen dataclass of the builder.
        build: `(config, ImageArguments, default_size) -> model`.
        sizes: for each size, such as `"S18"`, the fields of the config that make it.
        defaults: fields of the config that all sizes share.
        mean: of the pixels 0..1 that the published weights expect, per channel.
        std: likewise the standard deviation.
    """

    module: str
    title: str
    summary: str
    reference: str
    config_class: type
    build: Callable[[Any, ImageArguments, int], PyramidModel]
    sizes: dict[str, dict[str, Any]]
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def define_variant(
    family: Family, size: str, parameters: int, macs: int, resolution: int = 224
) -> Constructor:
    """Make, document and register the constructor of one size of a family.

    Args:
        family: what the sizes share.
        size: a key of `family.sizes`, the rest of the constructor's name.
        parameters: weights of the 1000-class model, frozen ones included.
        macs: multiply-accumulate operations for one image, as `count_macs` counts.
        resolution: height and width of the default input, in pixels.

    Returns:
        The constructor, with a signature and a docstring of its own.
    """
    constructor_name = f"{family.title}{size}"
    default_name = snake_case(constructor_name)
    default_weights = default_tag(constructor_name)
    published = find(constructor_name, default_weights) if default_weights else None
    config = family.config_class(**{**family.defaults, **family.sizes[size]})
    options = [
        field
        for field in dataclasses.fields(config)
        if field.name not in config.fixed_fields
    ]

    def constructor(*args: Any, **kwargs: Any) -> PyramidModel:
        check_keywords(constructor_name, kwargs, signature.parameters)
        bound = signature.bind(*args, **kwargs)
        asked_for = set(bound.arguments)
        bound.apply_defaults()
        given = bound.arguments
        weights, source = given.pop("weights"), given.pop("source")
        token_interpolation = given.pop("token_interpolation")
        dtype = given.pop("dtype")
        changes = {field.name: given.pop(field.name) for field in options}
        # Weights sit above this floor, and know it through the registry only.
        from keras_metaformer.weights import loading

        pretrained = loading.resolve(constructor_name, weights, source)
        activation = pretrained.preferred("activation", None)
        if activation is not None and "activation" not in asked_for:
            changes["activation"] = activation
        if given["classes"] is DEFAULT_CLASSES:
            given["classes"] = pretrained.preferred("classes", int(DEFAULT_CLASSES))
        arguments = ImageArguments(
            **given,
            mean=pretrained.preferred("mean", family.mean),
            std=pretrained.preferred("std", family.std),
        )
        made_of = dataclasses.replace(config, **changes)
        size = pretrained.preferred("resolution", resolution)

        def make() -> PyramidModel:
            with dtype_policy(dtype):
                return family.build(made_of, arguments, size)

        model = pretrained.build(make, token_interpolation)
        # Of weights that are not published, the nearest to be known is how the
        # published ones are evaluated.
        row = pretrained.checkpoint or published
        if row is not None:
            is_whole = pretrained.checkpoint and row.classes == arguments.classes
            names = dataset_of(row.classes) if is_whole else None
            arguments.describe(model, row.transform, names)
        return model

    signature = _signature(config, options, default_name, default_weights)
    constructor.__signature__ = signature  # type: ignore[attr-defined]
    constructor.__name__ = constructor.__qualname__ = constructor_name
    constructor.__module__ = f"keras_metaformer.applications.{family.module}"
    constructor.__doc__ = _docstring(
        family, constructor_name, config, parameters, macs, resolution
    )
    registry.register(
        registry.Variant(
            name=constructor_name,
            family=family.module,
            config=config,
            parameters=parameters,
            macs=macs,
            resolution=resolution,
            constructor=constructor,
        )
    )
    return constructor


def snake_case(name: str) -> str:
    """`"ConvFormerS18"` to `"convformer_s18"`, `"FFNet1"` to `"ffnet_1"`."""
    return re.sub(r"(?:Ti|[SMBL])?\d+$", r"_\g<0>", name).lower()


def _signature(
    config: Any,
    options: list[dataclasses.Field],
    default_name: str,
    default_weights: str | None,
) -> inspect.Signature:
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    keyword = inspect.Parameter.KEYWORD_ONLY
    positional = {
        "include_top": True,
        "weights": default_weights,
        "input_tensor": None,
        "input_shape": None,
        "pooling": None,
        "classes": DEFAULT_CLASSES,
        "classifier_activation": "softmax",
        "name": default_name,
        "include_preprocessing": False,
    }
    parameters = [
        inspect.Parameter(name, either, default=value)
        for name, value in positional.items()
    ]
    parameters.append(inspect.Parameter("source", keyword, default="auto"))
    parameters.append(inspect.Parameter("token_interpolation", keyword, default=False))
    parameters.append(inspect.Parameter("dtype", keyword, default=None))
    parameters.extend(
        inspect.Parameter(field.name, keyword, default=getattr(config, field.name))
        for field in options
    )
    return inspect.Signature(parameters, return_annotation=PyramidModel)


def _docstring(
    family: Family,
    name: str,
    config: Any,
    parameters: int,
    macs: int,
    resolution: int,
) -> str:
    return f"""{name}: {family.summary}

    {parameters / 1e6:.1f} million parameters, {macs / 1e9:.1f} billion
    multiply-accumulate operations at {resolution} x {resolution} pixels.

    Args:
        include_top: bool. Whether the classification head is on top.
        weights: None (random), a tag of `km.list_weights({name!r})`, or the path of a
            `.weights.h5` or `.keras` file or of a checkpoint in a known naming.
            Weights asked for are loaded, or an error is raised. A first convolution
            for three channels is adapted to the channels of `input_shape`.
        input_tensor: tensor to use as the image, or None.
        input_shape: `(height, width, channels)`; None for the resolution of the
            weights. Channels last.
        pooling: without the top: None for the last map `(batch, height, width,
            channels)`, `"avg"` or `"max"` for `(batch, channels)`.
        classes: int. Width of the classification layer. Left alone, ImageNet-21k
            weights bring their own number; asked for and other than the weights',
            everything but that layer is loaded.
        classifier_activation: activation of the classification layer, None for logits.
        name: str. Name of the model.
        include_preprocessing: bool. Whether the model takes pixels 0..255 and
            normalises them itself; otherwise pass them through `preprocess_input` of
            `keras_metaformer.applications.{family.module}`.
        source: `"auto"` or `"official"`. The latter forces the authors' original file.
        token_interpolation: bool, or `(height, width)`. Whether token-mixing matrices
            (MLP-Mixer, ResMLP, gMLP) are resized for another image size; accuracy is
            not promised. True where the weights are for square images, else the size
            of those images in pixels.
        dtype: name of a dtype or policy such as `"mixed_bfloat16"`, a
            `keras.DTypePolicy`, or None for Keras' current policy. Of all layers but
            those of yours that have one.
        stochastic_depth_rate: float in [0, 1). Of the last block; rises linearly.
        head_dropout: float in [0, 1). Dropout rate before the classification layer.
        seed: int, or None for random ones. Of the random layers.
        **overrides: any other field of `{type(config).__name__}`, as its builder
            documents it, for ablations.

    Returns:
        A functional `keras.Model` from float images `(batch, height, width, channels)`
        to float `(batch, classes)`, with `pyramid_outputs` and `pyramid_level_inputs`.

    Raises:
        ValueError: if an argument is out of range, the tag is unknown, or weights do
            not fit.

    Reference:
        {family.reference}
    """
