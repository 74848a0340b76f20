"""`keras-metaformer export`: a model as a file for phones and browsers."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_metaformer_lite.cli.chosen import chosen_model_or_file, chosen_target
from keras_metaformer_lite.cli.loading import check_weights_of, load_described
from keras_metaformer_lite.cli.output import FAILED, USAGE, print_rich, stop


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
        str,
        typer.Option(help="A name of `keras-metaformer list`, or a .keras file."),
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
            help="A text file with one label a line; the model's own if left out."
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

    The file takes pixels 0..255 and has its labels inside. A .keras file says itself
    how its images are prepared, and what its classes are called.

    Examples:

        keras-metaformer export --model ConvFormerS18 --output convformer.tflite

        keras-metaformer export --model mine.keras --output mine.tflite

        keras-metaformer export --output small.tflite --quantize dynamic
    """
    from keras_metaformer_lite.images import ImageError, expand_images

    chosen = chosen_model_or_file(model, ".keras")
    if weights != "random" or isinstance(chosen, Path):
        weights = check_weights_of(chosen, weights, classes)
    for path in (output, report):
        if path is not None:
            chosen_target(path)
    try:
        own_labels = None if labels is None else _read_labels(labels)
        files = expand_images(calibration) if calibration else None
        missing = [str(file) for file in files or () if not file.is_file()]
        if missing:
            raise ImageError(f"Expected images that exist. Received: {missing}")
    except (ImageError, OSError, ValueError) as error:
        stop(error, USAGE)
    if quantize is Quantize.int8 and files is None:
        stop("--quantize int8 needs images to calibrate with: --calibration", USAGE)

    from keras_metaformer.export import ExportError, to_litert

    own = {} if isinstance(chosen, Path) else {"include_preprocessing": True}
    built, description = load_described(chosen, weights, classes, **own)
    transform = description.transform
    normalisation = {}
    if not description.includes_preprocessing:
        normalisation = {"mean": transform.mean, "std": transform.std}
    try:
        pixels = None if files is None else _read_images(files, transform)
    except (ImageError, OSError) as error:
        stop(error, USAGE)
    try:
        result = to_litert(
            built,
            output,
            None if quantize is Quantize.none else quantize.value,
            labels=description.names() if own_labels is None else own_labels,
            **normalisation,
            input_type=input_type.value,
            output=gives.value,
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


def _read_labels(path: Path) -> list[str]:
    # Not splitlines(), which takes a form feed in a label for the end of a line, too.
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _read_images(files: list[Path], transform: Any) -> Any:
    import numpy as np

    from keras_metaformer_lite.images import load_image

    return np.stack([transform(load_image(file), normalise=False) for file in files])
