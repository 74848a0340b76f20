"""What classifiers say of images, and how well they do."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metaformer.training.classifiers import Classifier, Source, open_classifier
from keras_metaformer.training.evaluation import Counter, Evaluation
from keras_metaformer_lite.data.batches import EvaluationBatches
from keras_metaformer_lite.data.errors import DataError
from keras_metaformer_lite.data.predicted import ImageReader, with_classes
from keras_metaformer_lite.data.sources import Source as DataSource
from keras_metaformer_lite.data.sources import open_source
from keras_metaformer_lite.data.worker_pool import WorkerPool
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import expand_images

BATCH_SIZE = 32
#: Images of one task of a worker process.
_TASK = 8


def evaluate(
    model: Source | Classifier,
    data: Any,
    *,
    weights: str | os.PathLike[str] | None = None,
    split: str | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
) -> Evaluation:
    """Counts what a classifier gets right; every image once, exactly.

    Example:

    >>> import keras_metaformer as km
    >>> km.evaluate("run/", "photos/validation").accuracy  # doctest: +SKIP
    0.97

    Args:
        model: a constructor's name, a `.keras` file, the folder or the checkpoint of a
            run, a `.tflite` file, or a functional model.
        data: what `keras_metaformer.data.open_source` takes. Its classes are found
            among the model's by their names, or by ImageNet's identifiers.
        weights: tag or file for a constructor.
        split: of a data set of TensorFlow Datasets.
        batch_size: int. Images of a batch; the last one is filled up and masked.
        workers: processes that read images; None for one for each core but one.

    Raises:
        DataError: if the data has classes that the model does not know, or cannot be
            read.
        ValueError: if the model is no classifier.
    """
    classifier = _opened(model, weights)
    source = open_for(classifier.description, classifier.classes, data, split)
    counter = Counter(classifier.description.names() or source.class_names)
    with EvaluationBatches(
        source, classifier.description, batch_size, workers
    ) as batches:
        for images, labels, mask in batches:
            counter.add(classifier.probabilities(images), labels, mask)
    return counter.result()


def open_for(
    description: ImageDescription, classes: int, data: Any, split: str | None = None
) -> DataSource:
    """A data source with the classes of a model, in its order.

    Raises:
        DataError: if the data has other classes.
    """
    names, identifiers = description.names(), description.identifiers()
    if names is None:
        source = open_source(data, split=split)
        if len(source.class_names) != classes:
            raise DataError(
                f"The model tells {classes} classes apart, which it does not name: "
                "expected data of as many. "
                f"Received: {len(source.class_names)} classes"
            )
        return source
    own = open_source(data, split=split)
    for known in (names, identifiers):
        if known is not None and set(own.class_names) <= set(known):
            return with_classes(own, known)
    unknown = [name for name in own.class_names if name not in names]
    raise DataError(
        f"The data has classes that the model does not know: {unknown[:5]}; the model "
        f"has {list(names[:5])}{', ...' if len(names) > 5 else ''}. "
        f"Received: data={data!r:.200}"
    )


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a classifier says of images.

    Attributes:
        names: one per image that could be read.
        values: float32 `(images, classes)` probabilities, or `(images, channels)`
            embeddings.
        class_names: one per class, or None where the model does not name them.
        unreadable: `(name, reason)` of each image that could not be read.
    """

    names: list[str]
    values: np.ndarray
    class_names: tuple[str, ...] | None
    unreadable: list[tuple[str, str]]


def predict(
    model: Source | Classifier,
    images: Any,
    *,
    weights: str | os.PathLike[str] | None = None,
    embeddings: bool = False,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
) -> Predictions:
    """Give the probabilities of images, or their embeddings.

    Example:

    >>> import keras_metaformer as km
    >>> found = km.predict("run/", "photos/*.jpg")  # doctest: +SKIP
    >>> found.class_names[found.values[0].argmax()]  # doctest: +SKIP
    'daisy'

    Args:
        model: as of `evaluate`.
        images: a path, a folder, a pattern, or a list of these.
        weights: tag or file for a constructor.
        embeddings: bool. Whether to give what the last layer is given instead.
        batch_size: int. Images of a batch.
        workers: processes that read images; None for one for each core but one.

    Raises:
        ImageError: if there is no image at all.
        ValueError: if the model is no classifier, or has no embeddings.
    """
    classifier = _opened(model, weights)
    files = expand_images(
        [images] if isinstance(images, (str, os.PathLike)) else images
    )
    names: list[str] = []
    values: list[np.ndarray] = []
    unreadable: list[tuple[str, str]] = []
    for found in predicted_batches(
        classifier, files, embeddings=embeddings, batch_size=batch_size, workers=workers
    ):
        names += found.names
        values.append(found.values)
        unreadable += found.unreadable
    # Of a batch without a readable image the width is not known.
    values = [each for each in values if len(each)] or values[:1]
    return Predictions(
        names, np.concatenate(values), classifier.description.names(), unreadable
    )


def predicted_batches(
    classifier: Classifier,
    files: Sequence[Path],
    *,
    embeddings: bool = False,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
) -> Iterator[Predictions]:
    """The predictions of each batch of files, in their order."""
    if workers is None and len(files) <= batch_size:
        workers = 0  # done before a process has started
    tasks = [files[place : place + _TASK] for place in range(0, len(files), _TASK)]
    with WorkerPool(ImageReader(classifier.description), workers) as pool:
        yield from predictions_of(classifier, pool.run(tasks), embeddings, batch_size)


def predictions_of(
    classifier: Classifier,
    results: Iterable[list[tuple[str, np.ndarray | None, str]]],
    embeddings: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Predictions]:
    """The predictions of each batch of images that a reader gave.

    Args:
        classifier: what predicts.
        results: lists of `(name, image or None, why there is none)`.
        embeddings: bool. Whether to give embeddings instead of probabilities.
        batch_size: int. Images of a batch.
    """
    run = classifier.embeddings if embeddings else classifier.probabilities
    names = classifier.description.names()
    for chunk in _chunks(results, batch_size):
        readable = [(name, image) for name, image, _ in chunk if image is not None]
        unreadable = [(name, reason) for name, _, reason in chunk if reason]
        if readable:
            batch = np.stack([image for _, image in readable])
            count = len(batch)
            # Of one size, so that nothing is compiled for the last one.
            fill = np.zeros((batch_size - count, *batch.shape[1:]), batch.dtype)
            values = run(np.concatenate([batch, fill]))[:count]
        else:
            values = np.zeros((0, classifier.classes), "float32")
        yield Predictions([name for name, _ in readable], values, names, unreadable)


def _chunks(results: Iterable[list[Any]], size: int) -> Iterator[list[Any]]:
    waiting: list[Any] = []
    for result in results:
        waiting += result
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]
    if waiting:
        yield waiting


def _opened(model: Any, weights: Any) -> Classifier:
    if isinstance(model, (str, os.PathLike, keras.Model)):
        return open_classifier(model, weights)
    return model
