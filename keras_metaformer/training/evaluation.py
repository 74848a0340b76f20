"""What a classifier's answers amount to, counted exactly."""

import collections
import dataclasses
import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

#: Equal bins of the confidence, as in Guo et al.
_BINS = 15
_TOP = 5


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image that was classified wrongly.

    Attributes:
        index: int. Its place in the data.
        label: int. Its class.
        answer: int. The class that the model gave.
        probability: float. That the model gave to its answer.
    """

    index: int
    label: int
    answer: int
    probability: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a classifier gets right.

    Attributes:
        images: int. How many were classified.
        top1: int. Of how many the class was the most probable one.
        top5: int. Of how many it was among the five most probable ones.
        loss: float. Mean negative log likelihood of the class, in nats.
        calibration_error: float. The mean distance of confidence and accuracy, over 15
            bins of confidence, weighted by their images.
        class_names: one per class.
        class_images: int64 `(classes,)`. Images of each class.
        class_top1: int64 `(classes,)`. Those of them that were classified rightly.
        confusions: images by `(class, answer)`, where there are any.
        mistakes: the mistakes of which the model was most certain, worst first.

    Reference:
        - On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599
    """

    images: int
    top1: int
    top5: int
    loss: float
    calibration_error: float
    class_names: tuple[str, ...]
    class_images: np.ndarray
    class_top1: np.ndarray
    confusions: dict[tuple[int, int], int]
    mistakes: tuple[Mistake, ...]

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, from 0 to 1."""
        return self.top1 / self.images

    @property
    def top5_accuracy(self) -> float:
        """Top-5 accuracy, from 0 to 1."""
        return self.top5 / self.images

    def confusion_matrix(self) -> np.ndarray:
        """Images by class (row) and answer (column), int64 `(classes, classes)`."""
        classes = len(self.class_names)
        matrix = np.zeros((classes, classes), "int64")
        for place, count in self.confusions.items():
            matrix[place] = count
        return matrix

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON can hold them, class by class for those with images."""
        return {
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "accuracy": self.accuracy,
            "top5_accuracy": self.top5_accuracy,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "classes": {
                name: {"images": int(images), "top1": int(right)}
                for name, images, right in zip(
                    self.class_names, self.class_images, self.class_top1, strict=True
                )
                if images
            },
            "confusions": [
                {
                    "class": self.class_names[label],
                    "answer": self.class_names[answer],
                    "images": count,
                }
                for (label, answer), count in sorted(
                    self.confusions.items(), key=lambda item: (-item[1], item[0])
                )
                if label != answer
            ],
        }


class Counter:
    """Counts batch by batch; only integers are kept where integers will do.

    Args:
        class_names: one per class, in the order of the model's outputs.
        worst: int. How many mistakes to remember.
    """

    def __init__(self, class_names: Sequence[str], worst: int = 24) -> None:
        self._names = tuple(class_names)
        self._worst = worst
        classes = len(self._names)
        self._images = self._top1 = self._top5 = 0
        self._loss = 0.0
        self._class_images = np.zeros(classes, "int64")
        self._class_top1 = np.zeros(classes, "int64")
        self._confusions: collections.Counter[tuple[int, int]] = collections.Counter()
        self._bin_images = np.zeros(_BINS, "int64")
        self._bin_right = np.zeros(_BINS, "int64")
        self._bin_confidence = np.zeros(_BINS, "float64")
        self._heap: list[tuple[float, int, Mistake]] = []

    def add(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        mask: np.ndarray | None = None,
    ) -> None:
        """Counts a batch.

        Args:
            probabilities: float `(batch, classes)`.
            labels: int `(batch,)`.
            mask: `(batch,)`, 0 for what only fills the batch up; None for none.

        Raises:
            ValueError: if probabilities are not finite, or have another width.
        """
        probabilities = np.asarray(probabilities, "float64")
        labels = np.asarray(labels, "int64")
        if mask is not None:
            kept = np.asarray(mask) > 0
            probabilities, labels = probabilities[kept], labels[kept]
        if probabilities.shape != (len(labels), len(self._names)):
            raise ValueError(
                f"Expected probabilities {(len(labels), len(self._names))}. "
                f"Received: probabilities.shape={probabilities.shape}"
            )
        if not np.isfinite(probabilities).all():
            first = int(np.argmin(np.isfinite(probabilities).all(axis=1)))
            raise ValueError(
                "Expected finite probabilities; those of image "
                f"{self._images + first} (counted from 0) are not. "
                f"Received: {probabilities[first][:8]}"
            )
        rows = np.arange(len(labels))
        answers = probabilities.argmax(axis=1)
        confidence = probabilities[rows, answers]
        own = probabilities[rows, labels]
        right = answers == labels
        # The place of the class among all; of equal ones the first comes first, as
        # `argmax` takes it.
        before = np.arange(probabilities.shape[1]) < labels[:, np.newaxis]
        ahead = (probabilities > own[:, np.newaxis]) | (
            (probabilities == own[:, np.newaxis]) & before
        )
        within = ahead.sum(axis=1) < _TOP

        self._loss -= float(np.log(np.maximum(own, np.finfo("float64").tiny)).sum())
        np.add.at(self._class_images, labels, 1)
        np.add.at(self._class_top1, labels[right], 1)
        self._confusions.update(zip(labels.tolist(), answers.tolist(), strict=True))
        # A bin has its upper edge, not its lower one.
        bins = np.clip(np.ceil(confidence * _BINS).astype("int64") - 1, 0, _BINS - 1)
        np.add.at(self._bin_images, bins, 1)
        np.add.at(self._bin_right, bins, right)
        np.add.at(self._bin_confidence, bins, confidence)
        for row in np.flatnonzero(~right):
            index = self._images + int(row)
            mistake = Mistake(
                index, int(labels[row]), int(answers[row]), float(confidence[row])
            )
            heapq.heappush(self._heap, (mistake.probability, -index, mistake))
            if len(self._heap) > self._worst:
                heapq.heappop(self._heap)
        self._images += len(labels)
        self._top1 += int(right.sum())
        self._top5 += int(within.sum())

    def result(self) -> Evaluation:
        """The evaluation of what was counted.

        Raises:
            ValueError: if that is nothing.
        """
        if not self._images:
            raise ValueError("Expected at least one image. Received: none")
        gaps = np.abs(self._bin_right - self._bin_confidence)
        worst = sorted(self._heap, key=lambda item: (-item[0], -item[1]))
        return Evaluation(
            images=self._images,
            top1=self._top1,
            top5=self._top5,
            loss=self._loss / self._images,
            calibration_error=float(gaps.sum() / self._images),
            class_names=self._names,
            class_images=self._class_images.copy(),
            class_top1=self._class_top1.copy(),
            confusions=dict(self._confusions),
            mistakes=tuple(mistake for _, _, mistake in worst),
        )
