"""Families of models: their tables of sizes, their constructors, and all by name."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any, Generic

import keras

from keras_metaformer.models.builder import (
    Builder,
    P,
    describe,
    dtype_policy,
    refuse_idle,
    signature_of,
)
from keras_metaformer.models.classifier import describe_images
from keras_metaformer.models.keywords import bind, check_keywords
from keras_metaformer.models.pyramid_model import PyramidModel
from keras_metaformer_lite.classes import dataset_of
from keras_metaformer_lite.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EvaluationTransform,
)
from keras_metaformer_lite.names import find_model_name
from keras_metaformer_lite.weights import catalogue


@dataclasses.dataclass(frozen=True)
class Family(Generic[P]):
    """What the sizes of a family share.

    Attributes:
        module: name of the module in `keras_metaformer.applications`.
        title: first part of the constructors' names, such as `"ConvFormer"`.
        summary: what the architecture is, one sentence for the docstrings.
        reference: the paper and the official code, for the docstrings.
        builder: makes the models.
        sizes: for each size, such as `"S18"`, the builder's arguments that make it.
        defaults: arguments of the builder that all sizes share.
        mean: of the pixels 0..1 that the published weights expect, per channel.
        std: likewise the standard deviation.
    """

    module: str
    title: str
    summary: str
    reference: str
    builder: Builder[P]
    sizes: dict[str, dict[str, Any]]
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class Variant:
    """One named model: what its constructor is called and what it costs.

    Attributes:
        name: the constructor's name, such as `"ConvFormerS18"`.
        family: the module in `keras_metaformer.applications`, such as `"convformer"`.
        builder: makes the model.
        arguments: of the builder, those that make it this model.
        parameters: weights of the 1000-class model, frozen ones included.
        macs: multiply-accumulate operations for one image of `resolution`; norms,
            activations and pooling are not counted.
        resolution: height and width of the default input, in pixels.
        constructor: the function that users call.
    """

    name: str
    family: str
    builder: Builder
    arguments: dict[str, Any]
    parameters: int
    macs: int
    resolution: int
    constructor: Callable[..., keras.Model]


_VARIANTS: dict[str, Variant] = {}


def names() -> list[str]:
    """All constructors' names, in the order of their definition."""
    return list(_VARIANTS)


def get(name: str) -> Variant:
    """The variant of that name, upper and lower case and underscores ignored.

    Raises:
        ValueError: if there is none; the message offers the nearest names.
    """
    return _VARIANTS[find_model_name(name, _VARIANTS)]


def define_variant(
    family: Family[P], size: str, parameters: int, macs: int, resolution: int = 224
) -> Callable[P, PyramidModel]:
    """Make, document and register the constructor of one size of a family.

    Args:
        family: what the sizes share.
        size: a key of `family.sizes`, the rest of the constructor's name.
        parameters: weights of the 1000-class model, frozen ones included.
        macs: multiply-accumulate operations for one image, as `count_macs` counts.
        resolution: height and width of the default input, in pixels.

    Returns:
        The constructor, with a signature and a docstring of its own.

    Raises:
        TypeError: if the table has an argument that the builder has not.
        ValueError: if the name is taken.
    """
    title, builder = f"{family.title}{size}", family.builder
    by_default = catalogue.default_of(catalogue.named(title))
    unpublished = EvaluationTransform(resolution, mean=family.mean, std=family.std)
    if title in _VARIANTS:
        raise ValueError(f"There is a model of that name. Received: {title!r}")
    made_of = {**family.defaults, **family.sizes[size]}
    check_keywords(title, made_of, inspect.signature(builder.arguments).parameters)
    defaults = {
        "weights": by_default.tag if by_default else None,
        "name": snake_case(title),
        **made_of,
    }
    signature = signature_of(builder.constructor_arguments, **defaults)

    def constructor(*args: Any, **kwargs: Any) -> PyramidModel:
        given = bind(title, signature, args, kwargs)
        # Weights sit above this floor, and know it through `get` only.
        from keras_metaformer.weights import loading

        source = given.pop("source", "auto")
        weights = given.get("weights", defaults["weights"])
        pretrained = loading.resolve(title, weights, source)
        row = pretrained.checkpoint
        wanted: dict[str, Any] = {}
        if row:
            wanted["classes"] = row.classes
            if row.activation:
                wanted["activation"] = row.activation
        arguments = builder.arguments(**{**defaults, **wanted, **given})
        refuse_idle(arguments, given, signature)
        images = row.transform if row else unpublished

        def make() -> PyramidModel:
            with dtype_policy(arguments.dtype):
                return builder.build(arguments, images)

        model = pretrained.build(make, arguments.token_interpolation)
        # Of weights that are not published, the nearest to be known is how the
        # published ones are evaluated.
        evaluated = row or by_default
        if evaluated:
            is_whole = row and row.classes == arguments.classes
            names = dataset_of(evaluated.classes) if is_whole else None
            describe_images(model, arguments, evaluated.transform, names)
        return model

    constructor.__name__ = constructor.__qualname__ = title
    constructor.__module__ = f"keras_metaformer.applications.{family.module}"
    text = f"""{title}: {family.summary}

{parameters / 1e6:.1f} million parameters, {macs / 1e9:.1f} billion
multiply-accumulate operations at {resolution} x {resolution} pixels.

Returns:
    A functional `keras.Model` from float images `(batch, height, width, channels)`
    to float `(batch, classes)`, with `pyramid_outputs` and `pyramid_level_inputs`.

Raises:
    TypeError: for an unknown keyword.
    ValueError: if an argument is out of range, the tag is unknown, or weights do
        not fit.

Reference:
    {family.reference}
"""
    describe(constructor, signature, builder.constructor_arguments, text)
    _VARIANTS[title] = Variant(
        name=title,
        family=family.module,
        builder=builder,
        arguments=made_of,
        parameters=parameters,
        macs=macs,
        resolution=resolution,
        constructor=constructor,
    )
    return constructor


def snake_case(name: str) -> str:
    """`"ConvFormerS18"` to `"convformer_s18"`, `"FFNet1"` to `"ffnet_1"`.

    `"MetaFormerPPPAS12"` becomes `"metaformer_pppa_s12"`.
    """
    name = re.sub(r"^MetaFormer(?=.)", "MetaFormer_", name)
    return re.sub(r"(?:Ti|(?<!ML)[A-Z])?\d+$", r"_\g<0>", name).lower()
