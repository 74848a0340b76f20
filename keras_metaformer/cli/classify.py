"""`keras-metaformer classify`: what is on these images?"""

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from keras_metaformer.cli.output import (
    FAILED,
    USAGE,
    WEIGHTS,
    print_json,
    print_rich,
    stop,
    table,
)

DEFAULT_MODEL = "CAFormerS18"


def classify(
    images: Annotated[
        list[str], typer.Argument(help="Image files, directories or glob patterns.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of `keras-metaformer list`.", show_default=DEFAULT_MODEL
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
            "labels; in place of --model, --weights and --classes."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes for each image.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name the most probable classes of images: ImageNet's, or an exported file's.

    An image that cannot be read is reported, and the others go on; the exit code is
    then 1.

    Examples:

        keras-metaformer classify cat.jpg

        keras-metaformer classify photos/ "more/*.png" --model ConvFormerS18 --json

        keras-metaformer classify photos/ --tflite caformer.tflite
    """
    from keras_metaformer.data.images import ImageError, expand_images, load_image

    if tflite is not None:
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
    classifier = (
        _Classifier.load(model or DEFAULT_MODEL, weights, classes)
        if tflite is None
        else _LiteRTClassifier.load(tflite)
    )
    results: list[dict[str, Any]] = []
    for file in files:
        try:
            picture = load_image(file)
        except (ImageError, OSError) as error:
            results.append({"image": str(file), "error": str(error)})
        else:
            results.append({"image": str(file), **classifier.predict(picture, top)})
    if json:
        print_json(results)
    else:
        _print(results)
    if any("error" in result for result in results):
        raise typer.Exit(FAILED)


@dataclasses.dataclass(frozen=True)
class _Classifier:
    """A model with its weights, and how it wants its images."""

    model: Any
    transform: Any
    names: list[tuple[str, str]] | None

    @classmethod
    def load(cls, name: str, weights: str | None, classes: int | None) -> "_Classifier":
        """Build the model and load its weights, or end the program."""
        from keras_metaformer.data.classes import class_names
        from keras_metaformer.models import registry
        from keras_metaformer.weights import catalogue
        from keras_metaformer.weights.transforms import transforms_for

        try:
            variant = registry.get(name)
        except ValueError as error:
            stop(error, USAGE)
        weights = weights or catalogue.default_tag(variant.name)
        if weights is None:
            stop(
                f"No weights are published for {variant.name}: give a file with "
                "--weights",
                USAGE,
            )
        options = {} if classes is None else {"classes": classes}
        try:
            with warnings.catch_warnings():
                # A classifier that starts at random names nothing.
                warnings.filterwarnings("error", message="Loaded the weights .* except")
                model = variant.constructor(weights=weights, **options)
        except (OSError, ValueError, UserWarning) as error:
            stop(error, WEIGHTS)
        published = weights in catalogue.list_weights(variant.name)
        tag = weights if published else catalogue.default_tag(variant.name)
        transform = (
            _plain_transform(variant.resolution)
            if tag is None
            else transforms_for(variant.name, tag)
        )
        datasets = {1000: "imagenet", 21841: "imagenet21k"}
        dataset = datasets.get(model.output_shape[-1])
        return cls(model, transform, class_names(dataset) if dataset else None)

    def predict(self, picture: Any, top: int) -> dict[str, Any]:
        """The best classes of one image, best first."""
        batch = self.transform(picture)[np.newaxis]
        return _best(self.model.predict_on_batch(batch)[0], self.names, top)


@dataclasses.dataclass(frozen=True)
class _LiteRTClassifier:
    """An exported file; no Keras model is built."""

    model: Any
    names: list[tuple[None, str]] | None

    @classmethod
    def load(cls, path: Path) -> "_LiteRTClassifier":
        """Open the file, or end the program."""
        from keras_metaformer.export import LiteRTModel, ModelFileError

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


def _plain_transform(resolution: int) -> Any:
    from keras_metaformer.data.images import EvaluationTransform

    return EvaluationTransform(resolution)


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        if "error" in result:
            typer.secho(
                f"{Path(result['image'])}: {result['error']}",
                fg=typer.colors.RED,
                err=True,
            )
            continue
        # Not as the table's title, which is wrapped to the table's width.
        typer.echo(result["image"])
        rows = table("Class", "Probability", numbers=("Probability",))
        for entry in result["classes"]:
            rows.add_row(entry["name"].replace("_", " "), f"{entry['probability']:.1%}")
        print_rich(rows)
