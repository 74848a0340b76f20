"""Batches for training and evaluation, prepared in worker processes.

What is in a batch is a function of the seed, the epoch and the step, and of nothing
else: a run can go on anywhere, with any number of workers.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from keras_metaformer_lite.data.augmentation import Augmentation, Mixing
from keras_metaformer_lite.data.errors import DataError
from keras_metaformer_lite.data.sources import Source
from keras_metaformer_lite.data.worker_pool import WorkerPool
from keras_metaformer_lite.description import ImageDescription

_Item = TypeVar("_Item")

#: Images of one task: enough that messages cost nothing, few enough that all workers
#: take part in a batch.
_TASK = 16
# What a random generator is for: a number of its own keeps each apart.
_ORDER, _MIXING, _IMAGE, _ERASING = range(4)


def generator(purpose: int, *place: int) -> np.random.Generator:
    """The random generator of one place: (seed, epoch, index of an image or step)."""
    return np.random.default_rng((purpose, *place))


class TrainingBatches:
    """Shuffled, augmented batches of a source.

    The last images of an epoch that do not fill a batch are left out, as in timm; the
    order is another one in each epoch.

    Args:
        source: images and labels.
        description: of the model's images: size, normalisation, number of classes.
        augmentation: what is done to images and labels.
        batch_size: int. Images of a batch.
        seed: int, not negative.
        workers: processes that prepare images; 0 for none, None for one for each core
            but one.
        part: `(number, of)`: which of so many equal parts of each batch is made. The
            parts of a batch together have each of its images once; images that are
            mixed with each other are in one part wherever they can be.

    Raises:
        DataError: if the source has too few images for one batch.
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        source: Source,
        description: ImageDescription,
        augmentation: Augmentation,
        batch_size: int,
        seed: int = 0,
        workers: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        _check_batch_size(batch_size)
        _check_part(part, batch_size)
        if seed < 0:
            raise ValueError(f"`seed` must not be negative. Received: seed={seed}")
        if len(source) < batch_size:
            raise DataError(
                f"The data has fewer images than one batch: {len(source)}. "
                f"Received: batch_size={batch_size}"
            )
        self.source, self.description = source, description
        self.augmentation = augmentation
        self.batch_size, self.seed = batch_size, seed
        self._places = _places_of_part(batch_size, *part)
        self._order = (-1, np.zeros(0, "int64"))
        self._pool = WorkerPool(
            _TrainingImages(source, description, augmentation, seed), workers
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the source."""
        return len(self.source) // self.batch_size

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """The positions in the source of a batch's images, int64 `(batch,)`.

        Args:
            epoch: int, from 0.
            step: int, from 0 to below `steps_per_epoch`.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise ValueError(
                f"`step` must be from 0 to below {self.steps_per_epoch}. "
                f"Received: step={step}"
            )
        known, order = self._order
        if known != epoch:
            random = generator(_ORDER, self.seed, epoch)
            order = random.permutation(len(self.source))
            self._order = epoch, order
        return order[step * self.batch_size :][: self.batch_size]

    def mixing(self, epoch: int, step: int) -> Mixing:
        """How a batch is mixed."""
        size = self.description.transform.resolution
        random = generator(_MIXING, self.seed, epoch, step)
        return self.augmentation.draw_mixing(size, size, random)

    def epoch(
        self, epoch: int, start_step: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of an epoch, from a step on.

        Args:
            epoch: int, from 0.
            start_step: int. Steps that are passed over.

        Yields:
            `(images, targets)`: float32 `(batch, size, size, 3)`, normalised or of
            pixels 0..255 as the model takes them, and float32 `(batch, classes)`; of
            the part of the batch, where there are parts.

        Raises:
            DataError: if an image cannot be read.
        """
        steps = range(start_step, self.steps_per_epoch)
        batches = self._batches(epoch, steps)
        return _ahead(batches) if self._pool.workers else batches

    def _batches(
        self, epoch: int, steps: range
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        classes = len(self.source.class_names)
        # What is made: the part, and the partners of its images.
        made = np.union1d(self._places, self.batch_size - 1 - self._places)
        kept = np.searchsorted(made, self._places)
        whole = len(kept) == len(made)
        places = _pairs(len(made))
        plans = [self.indices(epoch, step) for step in steps]
        tasks = (
            _Task(epoch, indices[made[part]], self.mixing(epoch, step))
            for step, indices in zip(steps, plans, strict=True)
            for part in places
        )
        labels, smoothing = self.source.labels, self.augmentation.label_smoothing
        # A whole batch may wait while another is used, and parts of the next.
        ahead = len(places) + 2 * self._pool.workers
        with contextlib.closing(self._pool.run(tasks, ahead)) as results:
            for step, indices in zip(steps, plans, strict=True):
                images = _collected(results, places, len(made))
                mixing = self.mixing(epoch, step)
                targets = mixing.targets(labels[indices], classes, smoothing)
                yield images if whole else images[kept], targets[self._places]

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class EvaluationBatches:
    """All images of a source in its order, prepared as in evaluation.

    Batches are of one size: the last one is filled up with zeros, which the mask tells.

    Args:
        source: images and labels.
        description: of the model's images.
        batch_size: int. Images of a batch.
        workers: processes that prepare images; 0 for none, None for one for each core
            but one.
        part: `(number, of)`: which of so many equal parts of each batch has its images
            made; labels and mask are always those of the whole batch.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        source: Source,
        description: ImageDescription,
        batch_size: int,
        workers: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        _check_batch_size(batch_size)
        _check_part(part, batch_size)
        self.source, self.description = source, description
        self.batch_size = batch_size
        number, parts = part
        self._size = batch_size // parts
        self._first = number * self._size
        self._pool = WorkerPool(_EvaluationImages(source, description), workers)

    def __len__(self) -> int:
        """Batches."""
        return math.ceil(len(self.source) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The batches.

        Yields:
            `(images, labels, mask)`: float32 `(batch, size, size, 3)` as the model
            takes them, of the part of the batch, int64 `(batch,)`, and float32
            `(batch,)` of ones, with zeros where the batch was filled up.

        Raises:
            DataError: if an image cannot be read.
        """
        return _ahead(self._batches()) if self._pool.workers else self._batches()

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        starts = range(0, len(self.source), self.batch_size)
        batches = [
            np.arange(start, min(start + self.batch_size, len(self.source)))
            for start in starts
        ]
        own = [batch[self._first :][: self._size] for batch in batches]
        places = [
            [
                range(at, min(at + _TASK, len(batch)))
                for at in range(0, len(batch), _TASK)
            ]
            for batch in own
        ]
        tasks = (
            batch[part]
            for batch, parts in zip(own, places, strict=True)
            for part in parts
        )
        ahead = math.ceil(self._size / _TASK) + 2 * self._pool.workers
        known = self.source.labels
        size = self.description.transform.resolution
        with contextlib.closing(self._pool.run(tasks, ahead)) as results:
            for batch, parts, some in zip(batches, places, own, strict=True):
                if len(some):
                    images = _collected(results, parts, self._size)
                    images[len(some) :] = 0
                else:
                    images = np.zeros((self._size, size, size, 3), "float32")
                labels = np.zeros(self.batch_size, "int64")
                mask = np.zeros(self.batch_size, "float32")
                labels[: len(batch)] = known[batch]
                mask[: len(batch)] = 1.0
                yield images, labels, mask

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def __enter__(self) -> EvaluationBatches:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Task(NamedTuple):
    """Some images of a batch: the second half are the partners of the first, reversed.

    An odd batch's middle image is its own partner.
    """

    epoch: int
    indices: np.ndarray
    mixing: Mixing


class _TrainingImages:
    """Makes the images of a task; goes to the worker processes."""

    def __init__(
        self,
        source: Source,
        description: ImageDescription,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self._source, self._description = source, description
        self._augmentation, self._seed = augmentation, seed
        #: Mean and standard deviation of the noise where something is erased.
        self._noise: tuple[Any, Any] = (0.0, 1.0)
        if description.includes_preprocessing:
            transform = description.transform
            self._noise = (
                255 * np.array(transform.mean, "float32"),
                255 * np.array(transform.std, "float32"),
            )

    def __call__(self, task: _Task) -> np.ndarray:
        """float32 `(number, size, size, 3)`."""
        pixels = [self._pixels(task.epoch, int(i)) for i in task.indices]
        size = self._description.transform.resolution
        images = np.empty((len(pixels), size, size, 3), "float32")
        # One by one, so that each stays in the processor's cache. Partners lie mirrored
        # in the batch, and so in the task.
        pairs = zip(images, task.indices, pixels, pixels[::-1], strict=True)
        for image, index, own, partner in pairs:
            image[:] = self._finished(task.mixing.images(own, partner))
            random = generator(_ERASING, self._seed, task.epoch, int(index))
            self._augmentation.erase(image, random, *self._noise)
        return images

    def _finished(self, pixels: np.ndarray) -> np.ndarray:
        if self._description.includes_preprocessing:
            return pixels
        return self._description.transform.normalised(pixels)

    def _pixels(self, epoch: int, index: int) -> np.ndarray:
        image = _loaded(self._source, index)
        random = generator(_IMAGE, self._seed, epoch, index)
        transform = self._description.transform
        return np.asarray(self._augmentation.apply(image, transform, random))


class _EvaluationImages:
    """Prepares images as in evaluation; goes to the worker processes."""

    def __init__(self, source: Source, description: ImageDescription) -> None:
        self._source, self._description = source, description

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """float32 `(number, size, size, 3)`."""
        return np.stack(
            [
                self._description.prepare(_loaded(self._source, int(index)))
                for index in indices
            ]
        )


def _loaded(source: Source, index: int) -> Any:
    try:
        return source.load(index)
    except (ValueError, OSError) as error:
        raise DataError(f"An image cannot be read: {error}") from error


def _places_of_part(batch_size: int, number: int, parts: int) -> np.ndarray:
    """The places in a batch of one of its parts, in ascending order.

    Partners, which lie mirrored in the batch, follow each other before it is cut.
    """
    first = np.arange((batch_size + 1) // 2)
    pairs = np.stack([first, batch_size - 1 - first], axis=1).reshape(-1)[:batch_size]
    size = batch_size // parts
    return np.sort(pairs[number * size :][:size])


def _pairs(batch_size: int) -> list[np.ndarray]:
    """The places of a batch in parts that hold images together with their partners."""
    half = (batch_size + 1) // 2
    parts = []
    for start in range(0, half, _TASK // 2):
        first = np.arange(start, min(start + _TASK // 2, half))
        last = batch_size - 1 - first[::-1]
        # The middle one of an odd batch is in both.
        parts.append(np.concatenate([first, last[last > first[-1]]]))
    return parts


def _collected(
    results: Iterator[np.ndarray], places: Iterable[Any], batch_size: int
) -> np.ndarray:
    """A batch of the next results; what no place names is as it comes."""
    images = None
    for place in places:
        part = next(results)
        if images is None:
            images = np.empty((batch_size, *part.shape[1:]), part.dtype)
        images[place] = part
    assert images is not None
    return images


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The items, of which one waits, made by a thread."""
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(1)
    left = threading.Event()

    def put(went_well: bool, item: Any) -> bool:
        while not left.is_set():
            try:
                waiting.put((went_well, item), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(True, item):
                    break
            else:
                put(False, None)
        except BaseException as error:
            put(False, error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            went_well, item = waiting.get()
            if went_well:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        left.set()
        thread.join()


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be positive. Received: batch_size={batch_size}"
        )


def _check_part(part: tuple[int, int], batch_size: int) -> None:
    number, parts = part
    if parts < 1 or not 0 <= number < parts or batch_size % parts:
        raise ValueError(
            "`part` must be (number, of), of as many parts as the batch can be cut "
            f"into equally. Received: part={part}, batch_size={batch_size}"
        )
