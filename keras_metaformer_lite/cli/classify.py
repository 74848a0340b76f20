"""`keras-metaformer classify`: what is on these images?"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from keras_metaformer_lite.cli.chosen import chosen_model_or_file
from keras_metaformer_lite.cli.loading import check_weights_of, load_described
from keras_metaformer_lite.cli.output import (
    FAILED,
    USAGE,
    WEIGHTS,
    complain,
    line,
    print_json,
    print_rich,
    say,
    stop,
    table,
)
from keras_metaformer_lite.listing import ListedModel

DEFAULT_MODEL = "CAFormerS18"


def classify(
    images: Annotated[
        list[str], typer.Argument(help="Image files, directories or glob patterns.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of `keras-metaformer list`, or a .keras or .tflite file, "
            "which knows its images and classes by itself.",
            show_default=DEFAULT_MODEL,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A tag of `keras-metaformer weights list`, or a file; the model's "
            "default weights if left out."
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=1, help="Classes of a weights file, if not 1000."),
    ] = None,
    tflite: Annotated[
        Path | None,
        typer.Option(
            help="A file of `keras-metaformer export`, run by LiteRT, with its own "
            "labels; the same as --model with that file."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes for each image.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name the most probable classes of images: ImageNet's, or a file's own.

    An image that cannot be read is reported, and the others go on; the exit code is
    then 1.

    Examples:

        keras-metaformer classify cat.jpg

        keras-metaformer classify photos/ "more/*.png" --model ConvFormerS18 --json

        keras-metaformer classify photos/ --model mine.keras

        keras-metaformer classify photos/ --model caformer.tflite
    """
    from keras_metaformer_lite.images import ImageError, expand_images

    chosen: ListedModel | Path
    if tflite is None:
        chosen = chosen_model_or_file(model or DEFAULT_MODEL, ".keras", ".tflite")
        weights = check_weights_of(chosen, weights, classes)
        is_exported = isinstance(chosen, Path) and chosen.suffix.lower() == ".tflite"
    else:
        chosen, is_exported = tflite, True
        given = {"--model": model, "--weights": weights, "--classes": classes}
        others = [option for option, value in given.items() if value is not None]
        if others:
            stop(
                "--tflite names a whole model, so it goes without "
                f"{' and '.join(others)}",
                USAGE,
            )
    try:
        files = expand_images(images)
    except (ImageError, OSError, ValueError) as error:
        stop(error, USAGE)
    if is_exported:
        assert isinstance(chosen, Path)
        classifier = _LiteRTClassifier.load(chosen)
    else:
        classifier = _Classifier(chosen, weights, classes)
    results = []
    for result in _results(files, classifier.predict, top):
        results.append(result)
        if not json:
            _print(result)
    if json:
        print_json(results)
    if any("error" in result for result in results):
        raise typer.Exit(FAILED)


def _results(
    files: list[Path], predict: Callable[[Any, int], dict[str, Any]], top: int
) -> Iterator[dict[str, Any]]:
    """The classes of each image, or why there are none."""
    from keras_metaformer_lite.images import ImageError, load_image

    for file in files:
        try:
            found = predict(load_image(file), top)
        except (ImageError, OSError, MemoryError) as error:
            reason = str(error) or type(error).__name__
            yield {"image": str(file), "error": reason}
        else:
            yield {"image": str(file), **found}


@dataclasses.dataclass(frozen=True)
class _Classifier:
    """A model of the list, or of a `.keras` file."""

    model: ListedModel | Path
    weights: str | None
    classes: int | None

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any, Any]:
        """The model, the description of its images, and its classes' names.

        Not before there is an image to classify: it may take a minute. Ends the program
        where the weights cannot be loaded.
        """
        model, description = load_described(self.model, self.weights, self.classes)
        if description.output == "features":
            stop("The model has no classes, so it cannot classify", WEIGHTS)
        names = description.names()
        if names is None:
            return model, description, None
        identifiers = description.identifiers() or [None] * len(names)
        return model, description, list(zip(identifiers, names, strict=True))

    def predict(self, picture: Any, top: int) -> dict[str, Any]:
        """The best classes of one image, best first."""
        model, description, names = self._loaded
        outputs = model.predict_on_batch(description.prepare(picture)[np.newaxis])
        return _best(description.probabilities(outputs)[0], names, top)


@dataclasses.dataclass(frozen=True)
class _LiteRTClassifier:
    """An exported file; no Keras model is built."""

    model: Any
    names: list[tuple[None, str]] | None

    @classmethod
    def load(cls, path: Path) -> "_LiteRTClassifier":
        """Open the file, or end the program."""
        from keras_metaformer_lite import LiteRTModel, ModelFileError

        try:
            model = LiteRTModel(path, num_threads=os.cpu_count() or 1)
            model.check_takes_photographs()
        except ModelFileError as error:
            stop(error, WEIGHTS)
        except ImportError as error:
            stop(error, FAILED)
        labels = model.labels
        return cls(model, None if labels is None else [(None, name) for name in labels])

    def predict(self, picture: Any, top: int) -> dict[str, Any]:
        """The best classes of one image, best first."""
        return _best(self.model.probabilities(picture)[0], self.names, top)


def _best(scores: np.ndarray, names: Any, top: int) -> dict[str, Any]:
    best = np.argsort(-scores, kind="stable")[:top]
    return {
        "classes": [
            {
                "index": int(index),
                "id": names[index][0] if names else None,
                "name": names[index][1] if names else str(index),
                "probability": float(scores[index]),
            }
            for index in best
        ]
    }


def _print(result: dict[str, Any]) -> None:
    name = line(result["image"])
    if "error" in result:
        complain(f"{name}: {result['error']}")
        return
    # Not as the table's title, which is wrapped to the table's width.
    say(name)
    rows = table("Class", "Probability", numbers=("Probability",))
    for entry in result["classes"]:
        label = line(entry["name"]).replace("_", " ")
        rows.add_row(label, f"{entry['probability']:.1%}")
    print_rich(rows)
