"""Looking at data before anything is learnt from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_metaformer_lite.data.errors import DataError
from keras_metaformer_lite.data.sources import Source, some
from keras_metaformer_lite.data.worker_pool import WorkerPool
from keras_metaformer_lite.names import counted

#: More unreadable images than this part of all are an error.
LARGEST_UNREADABLE = 0.01
_TASK = 64


@dataclass(frozen=True)
class SourceReport:
    """What `check_sources` found.

    Attributes:
        training: the source, without what cannot be read.
        validation: likewise, or None.
        counts: images of each class, by its name: `(training, validation)`.
        unreadable: `(image, reason)` of each image that was left out.
        duplicates: `(image in training, the same image in validation)`.
        warnings: what should be known, a sentence each.
    """

    training: Source
    validation: Source | None
    counts: dict[str, tuple[int, int]]
    unreadable: list[tuple[str, str]]
    duplicates: list[tuple[str, str]]
    warnings: list[str]


def check_sources(
    training: Source,
    validation: Source | None = None,
    *,
    read_images: bool = True,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SourceReport:
    """Look for what is wrong with data before training starts.

    Every image is read once, in worker processes.

    Args:
        training: images and labels.
        validation: the held-out part, of the same classes.
        read_images: whether to read all images, for those that cannot be read and those
            that are in both parts.
        workers: processes that read images; 0 for none, None for one for each core but
            one.
        progress: called with the number of images that were read, and of all.

    Returns:
        The sources without what cannot be read, and what was found.

    Raises:
        DataError: if labels are outside the classes, only one class has images, the two
            parts have other classes, or more than 1 % of the images are unreadable.
    """
    parts = [training] if validation is None else [training, validation]
    for source in parts:
        _check_labels(source)
    if validation is not None and validation.class_names != training.class_names:
        raise DataError(
            "Training and validation must have the same classes, in the same order. "
            f"Received: {some(training.class_names)} and "
            f"{some(validation.class_names)}"
        )
    present = np.flatnonzero(training.counts())
    if len(present) < 2:
        names = [training.class_names[label] for label in present]
        raise DataError(
            "Expected images of at least two classes to tell apart. "
            f"Received: images of {some(names) or 'none'}"
        )
    warnings: list[str] = []
    unreadable: list[tuple[str, str]] = []
    duplicates: list[tuple[str, str]] = []
    if read_images:
        found = _read(parts, workers, progress)
        parts, unreadable = _without_unreadable(parts, found)
        if unreadable:
            names = [name for name, _ in unreadable]
            warnings.append(
                f"Left out, as unreadable: {counted(len(unreadable), 'image')}, "
                f"{some(names)}. The first: {unreadable[0][1]}"
            )
        if len(parts) == 2:
            duplicates = _duplicates(parts, found)
        if duplicates:
            pairs = [f"{one} = {other}" for one, other in duplicates]
            warnings.append(
                "The accuracy in validation comes out too high, as images are in "
                f"training too: {counted(len(duplicates), 'image')}, {some(pairs)}"
            )
    counts = _counts(parts)
    for part, name in enumerate(("training", "validation")[: len(parts)]):
        empty = [each for each, count in counts.items() if not count[part]]
        if empty:
            warnings.append(f"Classes without an image in {name}: {some(empty)}")
    return SourceReport(
        parts[0],
        parts[1] if len(parts) == 2 else None,
        counts,
        unreadable,
        duplicates,
        warnings,
    )


class _Found(NamedTuple):
    """A digest of what an image shows, or why it cannot be read."""

    digest: bytes
    reason: str = ""


class _Reader:
    """Reads images; goes to the worker processes."""

    def __init__(self, parts: list[Source]) -> None:
        self._parts = parts

    def __call__(self, task: tuple[int, range]) -> list[_Found]:
        part, indices = task
        return [_look(self._parts[part], index) for index in indices]


def _look(source: Source, index: int) -> _Found:
    try:
        image = source.load(index)
    except (ValueError, OSError) as error:
        return _Found(b"", str(error))
    # Of the pixels: a file that was written anew shows the same.
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.tobytes())
    return _Found(digest.digest())


def _read(
    parts: list[Source],
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> list[list[_Found]]:
    tasks = [
        (part, range(start, min(start + _TASK, len(source))))
        for part, source in enumerate(parts)
        for start in range(0, len(source), _TASK)
    ]
    found: list[list[_Found]] = [[] for _ in parts]
    done, total = 0, sum(map(len, parts))
    with WorkerPool(_Reader(parts), workers) as pool:
        for (part, indices), results in zip(tasks, pool.run(tasks), strict=True):
            found[part] += results
            done += len(indices)
            if progress is not None:
                progress(done, total)
    return found


def _without_unreadable(
    parts: list[Source], found: list[list[_Found]]
) -> tuple[list[Source], list[tuple[str, str]]]:
    unreadable = [
        (source.name(index), each.reason)
        for source, results in zip(parts, found, strict=True)
        for index, each in enumerate(results)
        if each.reason
    ]
    total = sum(map(len, parts))
    if len(unreadable) > LARGEST_UNREADABLE * total:
        listed = some([name for name, _ in unreadable])
        raise DataError(
            f"{len(unreadable)} of {total} images cannot be read, more than "
            f"{LARGEST_UNREADABLE:.0%}: {listed}. The first: {unreadable[0][1]}"
        )
    if not unreadable:
        return parts, []
    kept = [
        [index for index, each in enumerate(results) if not each.reason]
        for results in found
    ]
    parts = [source.subset(which) for source, which in zip(parts, kept, strict=True)]
    # What follows looks at the images that are left.
    for results in found:
        results[:] = [each for each in results if not each.reason]
    return parts, unreadable


def _duplicates(
    parts: list[Source], found: list[list[_Found]]
) -> list[tuple[str, str]]:
    first = {each.digest: index for index, each in reversed([*enumerate(found[0])])}
    return [
        (parts[0].name(first[each.digest]), parts[1].name(index))
        for index, each in enumerate(found[1])
        if each.digest in first
    ]


def _counts(parts: list[Source]) -> dict[str, tuple[int, int]]:
    columns = [source.counts() for source in parts]
    if len(columns) == 1:
        columns.append(np.zeros_like(columns[0]))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(parts[0].class_names, rows, strict=True))


def _check_labels(source: Source) -> None:
    labels, classes = source.labels, len(source.class_names)
    outside = np.unique(labels[(labels < 0) | (labels >= classes)])
    if len(outside):
        raise DataError(
            f"Labels must be from 0 to {classes - 1}, for the {classes} classes. "
            f"Received: labels {some(outside.tolist())}"
        )
