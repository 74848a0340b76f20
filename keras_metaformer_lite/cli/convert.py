"""`keras-metaformer convert`: weights from one file format and naming to another."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_metaformer_lite.cli.chosen import chosen_model, chosen_target
from keras_metaformer_lite.cli.output import FAILED, USAGE, WEIGHTS, say, stop
from keras_metaformer_lite.weights import catalogue
from keras_metaformer_lite.weights.suffixes import STATE_DICT_SUFFIXES, SUFFIXES


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A model of this library (.keras), its weights (.weights.h5), or a "
            "checkpoint in a known naming (.safetensors, .npz, .pth, .pt, .pth.tar).",
        ),
    ],
    target: Annotated[
        Path, typer.Argument(help="Ends in .safetensors, .npz or .weights.h5.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of `keras-metaformer list`. Needed unless SOURCE is .keras."
        ),
    ] = None,
    naming: Annotated[
        str | None,
        typer.Option(
            help="Keys of .safetensors and .npz: official (if left out), timm, or a "
            "source such as sail-sg/poolformer."
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=1, help="Classes that SOURCE must have; else any number."),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option(
            help="Build the model as for these published weights: their classes, image "
            "size and activation."
        ),
    ] = None,
) -> None:
    """Convert weights, bit for bit.

    TARGET is written whole or not at all. With --naming timm, timm loads it; with
    official, the authors' own code.

    Examples:

        keras-metaformer convert mine.keras mine.safetensors --naming timm

        keras-metaformer convert caformer_s18.pth caformer_s18.weights.h5 --model
        CAFormerS18
    """
    if not target.name.endswith(SUFFIXES):
        stop(f"TARGET must end in one of {', '.join(SUFFIXES)}: {target}", USAGE)
    sources = {checkpoint.naming for checkpoint in catalogue.all_checkpoints()}
    namings = ["official", *sorted(sources)]
    if naming is not None and not target.name.endswith(STATE_DICT_SUFFIXES):
        endings = ", ".join(STATE_DICT_SUFFIXES)
        stop(f"--naming is for the keys of {endings}, not for {target.name}", USAGE)
    if naming is not None and naming not in namings:
        stop(f"--naming must be one of {', '.join(namings)}: {naming}", USAGE)
    if not source.is_file():
        stop(f"There is no such file: {source}", USAGE)
    chosen_target(target)
    filled = _model_with_weights(source, model, classes, tag)
    from keras_metaformer.weights.saving import save_weights_file

    try:
        save_weights_file(filled, target, naming or "official")
    except (OSError, ValueError) as error:
        stop(error, FAILED)
    say(f"Wrote {target}: {filled.count_params():,} parameters")


def _model_with_weights(
    source: Path, name: str | None, classes: int | None, tag: str | None
) -> Any:
    """The model of a file, or the program ends."""
    if source.suffix == ".keras":
        if (name, classes, tag) != (None, None, None):
            stop(
                "A .keras file says itself what its model is: leave out --model, "
                "--classes and --tag",
                USAGE,
            )
        return _saved_model(source)
    if name is None:
        stop("--model is needed: the file does not say what model it is of", USAGE)
    listed = chosen_model(name)
    try:
        row = None if tag is None else catalogue.find(listed.name, tag)
    except ValueError as error:
        stop(error, USAGE)
    return _loaded_model(source, listed.name, classes, row)


def _saved_model(source: Path) -> Any:
    import keras

    try:
        # Custom objects of others, and code in the file, are refused (safe mode).
        return keras.saving.load_model(source, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file raises almost anything
        stop(f"{source} cannot be loaded: {error}", WEIGHTS)


def _loaded_model(
    source: Path, name: str, classes: int | None, row: catalogue.Checkpoint | None
) -> Any:
    import keras_metaformer
    from keras_metaformer.layers.initializers import undrawn
    from keras_metaformer.weights.loading import classes_in, load_weights_file

    constructor = getattr(keras_metaformer, name)
    options: dict[str, Any] = {"weights": None}
    if row is not None:
        options["input_shape"] = (row.resolution, row.resolution, 3)
        options["classes"] = row.classes
        if row.activation is not None:
            options["activation"] = row.activation
    if classes is not None:
        options["classes"] = classes
    try:
        with undrawn():
            model = constructor(**options)
            width = classes_in(model, source)
            if width is not None and width != model.output_shape[-1]:
                if classes is not None:
                    raise ValueError(f"it has {width} classes, not {classes}")
                model = constructor(**{**options, "classes": width})
        load_weights_file(model, source)
    except (OSError, ValueError, KeyError) as error:
        stop(f"{source} does not fit {name}: {error}", WEIGHTS)
    return model
