"""`keras-metaformer export`: a model as a file for phones and browsers."""

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_metaformer.cli.output import FAILED, USAGE, WEIGHTS, print_rich, stop


class Quantize(StrEnum):
    """Number formats of the weights."""

    none = "none"
    float16 = "float16"
    dynamic = "dynamic"
    int8 = "int8"


class InputType(StrEnum):
    """Types of the pixels."""

    float32 = "float32"
    uint8 = "uint8"


class Output(StrEnum):
    """What the file gives."""

    probabilities = "probabilities"
    logits = "logits"


def export(
    output: Annotated[Path, typer.Option(help="The .tflite file to write.")],
    model: Annotated[
        str, typer.Option(help="A name of `keras-metaformer list`.")
    ] = "CAFormerS18",
    weights: Annotated[
        str | None,
        typer.Option(
            help="A tag of `keras-metaformer weights list`, or a file; the model's "
            "default weights if left out; `random` for none."
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of a weights file, if not 1000.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A text file with one label a line; ImageNet's names if left out."
        ),
    ] = None,
    quantize: Annotated[
        Quantize,
        typer.Option(help="float16 is half the size, dynamic int8 a quarter."),
    ] = Quantize.none,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            help="Images, directories or patterns to calibrate int8 with, and to "
            "compare the file with Keras on."
        ),
    ] = None,
    input_type: Annotated[
        InputType, typer.Option(help="Type of the pixels 0..255.")
    ] = InputType.float32,
    gives: Annotated[
        Output, typer.Option(help="What the file gives.")
    ] = Output.probabilities,
    report: Annotated[
        Path | None, typer.Option(help="Write the report as JSON here.")
    ] = None,
    allow_inexact: Annotated[
        bool, typer.Option(help="Write the file even where it is out of tolerance.")
    ] = False,
) -> None:
    """Export a model to a LiteRT (TFLite) file, and check the file against it.

    The file takes pixels 0..255 and has its labels inside.

    Examples:

        keras-metaformer export --model ConvFormerS18 --output convformer.tflite

        keras-metaformer export --output small.tflite --quantize dynamic
    """
    from keras_metaformer.data.images import ImageError
    from keras_metaformer.export import ExportError, to_litert

    built, transform, default_labels = _build(model, weights, classes)
    try:
        names = default_labels if labels is None else _read_labels(labels)
        pixels = None if not calibration else _read_images(calibration, transform)
    except (ImageError, OSError, ValueError) as error:
        stop(error, USAGE)
    try:
        result = to_litert(
            built,
            output,
            None if quantize is Quantize.none else quantize.value,
            labels=names,
            input_type=input_type.value,
            output=gives.value,
            transform={
                "crop_fraction": transform.crop_fraction,
                "interpolation": transform.interpolation,
                "squash": transform.squash,
            },
            calibration_images=pixels,
            allow_inexact=allow_inexact,
            report_path=report,
            verbose=False,
        )
    except (ExportError, ImportError, OSError) as error:
        stop(error, FAILED)
    except ValueError as error:
        stop(error, USAGE)
    print_rich(result)


def _build(name: str, weights: str | None, classes: int | None) -> Any:
    """The model with its preprocessing, its transform and its labels."""
    from keras_metaformer.data.classes import class_names
    from keras_metaformer.data.images import EvaluationTransform
    from keras_metaformer.models import registry
    from keras_metaformer.weights import catalogue
    from keras_metaformer.weights.transforms import transforms_for

    try:
        variant = registry.get(name)
    except ValueError as error:
        stop(error, USAGE)
    default = catalogue.default_tag(variant.name)
    weights = weights or default
    if weights is None:
        stop(
            f"No weights are published for {variant.name}: give a file with --weights",
            USAGE,
        )
    options = {} if classes is None else {"classes": classes}
    try:
        with warnings.catch_warnings():
            # A classifier that starts at random is nothing to export.
            warnings.filterwarnings("error", message="Loaded the weights .* except")
            model = variant.constructor(
                weights=None if weights == "random" else weights,
                include_preprocessing=True,
                **options,
            )
    except (OSError, ValueError, UserWarning) as error:
        stop(error, WEIGHTS)
    published = weights in catalogue.list_weights(variant.name)
    tag = weights if published else default
    transform = (
        EvaluationTransform(variant.resolution)
        if tag is None
        else transforms_for(variant.name, tag)
    )
    dataset = {1000: "imagenet", 21841: "imagenet21k"}.get(model.output_shape[-1])
    names = None if dataset is None else [name for _, name in class_names(dataset)]
    return model, transform, names


def _read_labels(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _read_images(paths: list[str], transform: Any) -> Any:
    import numpy as np

    from keras_metaformer.data.images import expand_images, load_image

    files = expand_images(paths)
    return np.stack([transform(load_image(file), normalise=False) for file in files])
