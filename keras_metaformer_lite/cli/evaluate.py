"""`keras-metaformer evaluate`: how much does a model get right?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_metaformer_lite.cli.chosen import chosen_classifier
from keras_metaformer_lite.cli.output import (
    FAILED,
    USAGE,
    WEIGHTS,
    line,
    print_json,
    print_rich,
    say,
    stop,
    table,
)
from keras_metaformer_lite.names import counted

_SHOWN = 20


def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder with a folder of images for each class, a .csv or .parquet "
            "file of paths and labels, an .npz file, or tfds:NAME."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A name of `keras-metaformer list`, a .keras or .tflite file, or the "
            "folder of a run."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="Of a model of the list: a tag or a file."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of tfds:NAME, such as validation.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of a batch.")] = 32,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images.")
    ] = None,
    confusions: Annotated[
        Path | None, typer.Option(help="PNG to draw the confusion matrix to.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what a model gets right, exactly.

    Top-1 and top-5, each class, what is taken for what, and the calibration error.
    Every image is counted once, as the model's own description prepares it: in
    training, here, in `classify` and on the device it is the same tensor.

    Examples:

        keras-metaformer evaluate photos/val --model run

        keras-metaformer evaluate photos/val --model flowers.tflite --json

        keras-metaformer evaluate imagenet/val --model CAFormerS18
    """
    chosen = chosen_classifier(model, weights)
    if not data.startswith("tfds:") and not Path(data).exists():
        stop(f"DATA: there is no such folder or file. Received: {data!r}", USAGE)

    import keras_metaformer

    classifier = open_chosen(chosen, weights)
    try:
        found = keras_metaformer.evaluate(
            classifier, data, split=split, batch_size=batch, workers=workers
        )
        if confusions is not None:
            from keras_metaformer.training.pictures import draw_confusions

            draw_confusions(found, confusions)
    except ValueError as error:
        stop(error, USAGE)
    except (ImportError, OSError) as error:
        stop(error, FAILED)
    if json:
        print_json(found.to_dict())
    else:
        _print(found)


def open_chosen(chosen: str, weights: str | None) -> Any:
    """The classifier that `chosen_classifier` named, or the program ends."""
    from keras_metaformer.training.classifiers import open_classifier

    try:
        return open_classifier(chosen, weights)
    except ImportError as error:
        stop(error, FAILED)
    except (OSError, ValueError) as error:
        stop(error, WEIGHTS)


def _print(found: Any) -> None:
    say(counted(found.images, "image"))
    rows = table("", "right", "of all", numbers=("right", "of all"))
    rows.add_row("first answer", f"{found.top1:,}", f"{found.accuracy:.2%}")
    rows.add_row("in five", f"{found.top5:,}", f"{found.top5_accuracy:.2%}")
    print_rich(rows)
    say(
        f"loss {found.loss:.4f}, calibration error {found.calibration_error:.4f} "
        "(15 bins)"
    )
    each = [
        (right / images, int(images - right), name, int(images))
        for name, images, right in zip(
            found.class_names, found.class_images, found.class_top1, strict=True
        )
        if images
    ]
    each.sort(key=lambda row: (row[0], row[2]))
    rows = table("Class", "images", "right", numbers=("images", "right"))
    for share, _, name, images in each[:_SHOWN]:
        rows.add_row(line(name), f"{images:,}", f"{share:.1%}")
    print_rich(rows)
    if len(each) > _SHOWN:
        say(f"and {len(each) - _SHOWN} classes that are right more often (--json: all)")
