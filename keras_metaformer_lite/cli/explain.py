"""`keras-metaformer explain` and `compare`: what do models see in these images?"""

import importlib.util
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_metaformer_lite.cli.chosen import chosen_classifier, chosen_target
from keras_metaformer_lite.cli.evaluate import open_chosen
from keras_metaformer_lite.cli.output import (
    FAILED,
    USAGE,
    complain,
    print_json,
    say,
    stop,
)

_MODEL = (
    "A name of `keras-metaformer list`, a .keras file, or the folder of a training run."
)


def explain(
    images: Annotated[
        list[str], typer.Argument(help="Image files, directories or glob patterns.")
    ],
    model: Annotated[str, typer.Option(help=_MODEL)],
    html: Annotated[Path, typer.Option(help="The page to write.")],
    weights: Annotated[
        str | None,
        typer.Option(help="Of a model of the list: a tag or a file."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a page that shows what a model sees in images.

    For each image the five best classes and where the first of them is, by several
    methods side by side; then what the model is like inside on these images, with how
    each picture is read and what it does not show. The page is one file, to be opened
    in any browser or sent to someone.

    An image that cannot be read is reported, and the others go on; the exit code is
    then 1.

    Examples:

        keras-metaformer explain cat.jpg --model CAFormerS18 --html cat.html

        keras-metaformer explain photos/ --model run --html report.html
    """
    chosen = _checked(model, weights, html)
    files = _files(images)

    classifier = open_chosen(chosen, weights)
    from keras_metaformer.explain.report import report
    from keras_metaformer.training.memory import peak_bytes
    from keras_metaformer_lite.images import ImageError, load_image

    pictures, names, unreadable = [], [], []
    for file in files:
        try:
            pictures.append(load_image(file))
        except ImageError as error:
            unreadable.append((str(file), str(error)))
        else:
            names.append(file.name)
    start = time.perf_counter()
    try:
        if not pictures:
            raise ValueError("Expected at least one image that can be read")
        found = report(
            _keras_model(classifier, model),
            pictures,
            html,
            names=names,
            title=f"What {Path(model).name} sees",
            batch_size=batch,
        )
    except ValueError as error:
        _tell(unreadable)
        stop(error, USAGE)
    except (ImportError, OSError) as error:
        stop(error, FAILED)
    seconds = time.perf_counter() - start
    peak, where = peak_bytes()
    if json:
        print_json(
            {
                "html": str(html),
                "images": [
                    {
                        "image": name,
                        "classes": [
                            {"name": each, "probability": value}
                            for each, value in answers
                        ],
                    }
                    for name, answers in zip(names, found.answers, strict=True)
                ],
                "unreadable": [
                    {"image": name, "reason": reason} for name, reason in unreadable
                ],
                "seconds": seconds,
                "peak_bytes": peak,
            }
        )
    else:
        size = html.stat().st_size / 1e6
        memory = f", {peak / 1e9:.1f} GB of memory at most{where}" if peak else ""
        say(f"{html} ({size:.1f} MB), {seconds:.1f} s{memory}")
    _end(unreadable)


def compare(
    first: Annotated[str, typer.Argument(help=_MODEL)],
    second: Annotated[str, typer.Argument(help="Another, with the same classes.")],
    images: Annotated[
        list[str],
        typer.Option(help="An image file, a directory or a pattern; may be repeated."),
    ],
    html: Annotated[Path, typer.Option(help="The page to write.")] = Path(
        "compare.html"
    ),
    number: Annotated[
        int, typer.Option(min=1, help="So many images on the page at most.")
    ] = 12,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a page of the images on which two models disagree.

    With what each answers, and where it sees that. The images come first on which both
    are certain.

    Examples:

        keras-metaformer compare CAFormerS18 ConvFormerS18 --images photos/

        keras-metaformer compare run1 run2 --images "val/*/*.jpg" --html differ.html
    """
    chosen = [_checked(each, None, html) for each in (first, second)]
    files = _files(images)

    models = [
        _keras_model(open_chosen(each, None), name)
        for each, name in zip(chosen, (first, second), strict=True)
    ]
    from keras_metaformer.explain.disagreements import disagreements

    try:
        found = disagreements(
            models[0],
            models[1],
            files,
            names=(Path(first).name, Path(second).name),
            number=number,
            batch_size=batch,
        )
        found.save_page(html)
    except ValueError as error:
        stop(error, USAGE)
    except (ImportError, OSError) as error:
        stop(error, FAILED)
    if json:
        print_json(
            {
                "html": str(html),
                "images": found.images,
                "disagreed": found.disagreed,
                "found": [
                    {
                        "image": each.name,
                        "answers": list(each.answers),
                        "probabilities": [list(pair) for pair in each.probabilities],
                    }
                    for each in found.found
                ],
            }
        )
    else:
        say(
            f"They disagree on {found.disagreed} of {found.images} images; "
            f"{len(found.found)} of these are in {html}"
        )
    _end(list(found.unreadable))


def _checked(model: str, weights: str | None, html: Path) -> str:
    """The classifier that is named, or the program ends before anything is loaded."""
    if Path(model).suffix.lower() == ".tflite":
        stop(
            "A .tflite file cannot be looked into: take the .keras file it was made "
            f"of. Received: {model!r}",
            USAGE,
        )
    chosen = chosen_classifier(model, weights)
    chosen_target(html)
    if importlib.util.find_spec("matplotlib") is None:
        stop(
            "The page needs matplotlib: pip install 'keras-metaformer[explain]'", FAILED
        )
    return chosen


def _files(images: list[str]) -> list[Path]:
    from keras_metaformer_lite.images import ImageError, expand_images

    try:
        return expand_images(images)
    except (ImageError, OSError, ValueError) as error:
        stop(error, USAGE)


def _keras_model(classifier: Any, name: str) -> Any:
    model = getattr(classifier, "model", None)
    if model is None:
        stop(f"The run has no Keras model to look into. Received: {name!r}", USAGE)
    return model


def _tell(unreadable: list[tuple[str, str]]) -> None:
    for name, reason in unreadable:
        complain(f"{name}: {reason}")


def _end(unreadable: list[tuple[str, str]]) -> None:
    _tell(unreadable)
    if unreadable:
        raise typer.Exit(FAILED)
