"""What single pixels have to do with an answer."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import keras
import numpy as np

from keras_metaformer.explain.heat_maps import draw_overlays, size_of_overlays
from keras_metaformer.explain.images import pixels, prepared
from keras_metaformer.explain.probe import Derivative, Probe
from keras_metaformer.explain.results import Result
from keras_metaformer.explain.targets import Resolved, TargetLike, resolve
from keras_metaformer.layers.validation import positive_integer

#: Of the values of an image so many, the largest, are drawn alike: a few would leave
#: the rest dark.
_SATURATED = 0.01


@dataclasses.dataclass(frozen=True)
class Attributions(Result):
    """What each value of an image has to do with the score of a target.

    Attributes:
        images: uint8 `(batch, height, width, 3)`, to be looked at.
        values: float32 `(batch, height, width, channels)`: for the target where
            positive, against it where negative, in units of the score (a logit).
        method: what computed them.
        labels: what was explained, image by image.
        scores: float32 `(batch,)`. Of the target.
        gaps: float32 `(batch,)`: of integrated gradients, how far the sum of the values
            is from the difference of the scores of image and baseline; NaN otherwise.
    """

    reading: ClassVar[str] = (
        "Bright pixels have much to do with the answer, for or against it. Edges show "
        "in all such pictures, whatever the model has learned: compare with those of a "
        "model with random weights (`sanity`)."
    )

    images: np.ndarray
    values: np.ndarray
    method: str
    labels: tuple[str, ...]
    scores: np.ndarray
    gaps: np.ndarray

    @property
    def maps(self) -> np.ndarray:
        """Float32 `(batch, height, width)` from 0 to 1: the size of the values."""
        found = np.abs(self.values.sum(axis=-1))
        largest = np.quantile(found, 1 - _SATURATED, axis=(1, 2), keepdims=True)
        largest = np.where(largest > 0, largest, found.max(axis=(1, 2), keepdims=True))
        return np.minimum(found / np.where(largest > 0, largest, 1), 1)

    @property
    def size(self) -> tuple[float, float]:
        return size_of_overlays(len(self.images))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"values": self.values, "scores": self.scores}

    def draw(self, figure: Any) -> None:
        draw_overlays(figure, self.images, self.maps, self.labels)


def integrated_gradients(
    model: keras.Model | Probe,
    images: Any,
    target: TargetLike = None,
    *,
    baseline: Any = None,
    steps: int = 32,
    transform: Any = None,
    batch_size: int = 8,
) -> Attributions:
    """Share the score out among the values of images, along a way from a baseline.

    The gradient is averaged over the images between the baseline and the image, and
    multiplied by their difference. The values of an image add up to the difference of
    the scores, up to `gaps`, which more steps make smaller.

    Args:
        model: a model of images, as `Probe` takes it, or its `Probe`.
        images: as `CAM` takes them.
        target: as `CAM` takes it.
        baseline: what stands for nothing: None for the mean colour of each image, or a
            number or array that is broadcast to the images.
        steps: int. Points of the way, at the middles of equal parts.
        transform: callable that prepares an image, where the model does not know.
        batch_size: int. Images at once.

    Raises:
        ValueError: if an argument is out of range, or the images do not fit the model.

    Reference:
        - Axiomatic Attribution for Deep Networks, https://arxiv.org/abs/1703.01365
    """
    positive_integer("steps", steps)
    run = _Run(model, images, target, transform, batch_size)
    start = baseline_of(run.batch, baseline)
    total = np.zeros(run.batch.shape, "float64")
    for step in range(steps):
        share = np.float32((step + 0.5) / steps)
        total += run.differentiate(start + share * (run.batch - start)).gradients
    values = (total / steps * (run.batch - start)).astype("float32")
    scores = run.scores(run.batch)
    gaps = scores - run.scores(start) - values.sum(axis=(1, 2, 3))
    return run.result("integrated_gradients", values, scores, np.abs(gaps))


def smooth_grad(
    model: keras.Model | Probe,
    images: Any,
    target: TargetLike = None,
    *,
    samples: int = 16,
    noise: float = 0.15,
    seed: int = 0,
    transform: Any = None,
    batch_size: int = 8,
) -> Attributions:
    """Average the gradient of the score over images with noise.

    With `samples=1` and `noise=0` it is the plain gradient.

    Args:
        model: as of `integrated_gradients`.
        images: as of `integrated_gradients`.
        target: as of `integrated_gradients`.
        samples: int. Images with noise for each.
        noise: float. Standard deviation, as a part of the range of each image.
        seed: int. Of the noise, which is the same on every backend.
        transform: as of `integrated_gradients`.
        batch_size: int. Images at once.

    Raises:
        ValueError: if an argument is out of range, or the images do not fit the model.

    Reference:
        - SmoothGrad, https://arxiv.org/abs/1706.03825
    """
    positive_integer("samples", samples)
    if noise < 0:
        raise ValueError(f"`noise` must not be negative. Received: noise={noise}")
    run = _Run(model, images, target, transform, batch_size)
    axes = (1, 2, 3)
    span = np.ptp(run.batch, axis=axes, keepdims=True)
    rng = np.random.default_rng(seed)
    total = np.zeros(run.batch.shape, "float64")
    for _ in range(samples):
        drawn = rng.normal(size=run.batch.shape).astype("float32")
        total += run.differentiate(run.batch + noise * span * drawn).gradients
    values = (total / samples).astype("float32")
    return run.result("smooth_grad", values, run.scores(run.batch))


def occlusion(
    model: keras.Model | Probe,
    images: Any,
    target: TargetLike = None,
    *,
    patch: int | None = None,
    stride: int | None = None,
    baseline: Any = None,
    transform: Any = None,
    batch_size: int = 8,
) -> Attributions:
    """How much of the score each place takes with it when it is covered.

    Without gradients: one run of the model for each place of the cover.

    Args:
        model: as of `integrated_gradients`.
        images: as of `integrated_gradients`.
        target: as of `integrated_gradients`.
        patch: int. Side of the square that covers, in pixels; None for an eighth of the
            image's shorter side.
        stride: int. Pixels between its places; None for half a patch.
        baseline: what it covers with, as of `integrated_gradients`.
        transform: as of `integrated_gradients`.
        batch_size: int. Images at once.

    Returns:
        Values of one channel: the mean loss of score over the patches that cover a
        pixel.

    Raises:
        ValueError: if an argument is out of range, or the images do not fit the model.

    Reference:
        - Visualizing and Understanding Convolutional Networks,
          https://arxiv.org/abs/1311.2901
    """
    run = _Run(model, images, target, transform, batch_size)
    height, width = run.batch.shape[1:3]
    side = max(min(height, width) // 8, 1) if patch is None else patch
    positive_integer("patch", side)
    step = max(side // 2, 1) if stride is None else stride
    positive_integer("stride", step)
    if side > min(height, width) or step > side:
        raise ValueError(
            f"`patch` must fit into the image of {height} x {width} pixels, and "
            "`stride` be no larger, so that every pixel is covered. "
            f"Received: patch={side}, stride={step}"
        )
    cover = baseline_of(run.batch, baseline)
    scores = run.scores(run.batch)
    losses = np.zeros(run.batch.shape[:3], "float64")
    counts = np.zeros((height, width), "float64")
    for places in _squares(height, width, side, step, batch_size):
        covered = np.repeat(run.batch[:, np.newaxis], len(places), axis=1)
        for index, (rows, columns) in enumerate(places):
            covered[:, index, rows, columns] = cover[:, rows, columns]
        which = np.repeat(np.arange(len(run.batch)), len(places))
        found = run.scores(covered.reshape(-1, *run.batch.shape[1:]), which)
        lost = scores[:, np.newaxis] - found.reshape(len(run.batch), len(places))
        for index, (rows, columns) in enumerate(places):
            losses[:, rows, columns] += lost[:, index, np.newaxis, np.newaxis]
            counts[rows, columns] += 1
    values = (losses / counts)[..., np.newaxis].astype("float32")
    return run.result("occlusion", values, scores)


def baseline_of(batch: np.ndarray, baseline: Any = None) -> np.ndarray:
    """What stands for nothing, float32 of the batch's shape.

    Args:
        batch: float32 `(batch, height, width, channels)`.
        baseline: None for the mean colour of each image, or what is broadcast.

    Raises:
        ValueError: if it cannot be broadcast.
    """
    if baseline is None:
        baseline = batch.mean(axis=(1, 2), keepdims=True)
    try:
        return np.broadcast_to(np.asarray(baseline, "float32"), batch.shape)
    except ValueError as error:
        raise ValueError(
            f"`baseline` must be broadcast to images {batch.shape}. "
            f"Received: baseline of shape {np.shape(baseline)}"
        ) from error


class _Run:
    """Images, their targets, and a model."""

    def __init__(self, model, images, target, transform, batch_size):
        self.probe = Probe.of(model)
        self.batch = prepared(self.probe, images, transform)
        self.resolved: Resolved = resolve(self.probe, self.batch, target, batch_size)
        self.batch_size = batch_size

    def differentiate(self, batch: np.ndarray) -> Derivative:
        return self.probe.differentiate(
            batch,
            self.resolved.score,
            watch=self.resolved.watch,
            data=self.resolved.data,
            batch_size=self.batch_size,
        )

    def scores(self, batch: np.ndarray, which: Any = None) -> np.ndarray:
        """Of images that are variants of those with these indices, or of all."""
        resolved = self.resolved if which is None else self.resolved.of(which)
        return self.probe.scores(
            batch,
            resolved.score,
            watch=resolved.watch,
            data=resolved.data,
            batch_size=self.batch_size,
        )

    def result(
        self, method: str, values: np.ndarray, scores: np.ndarray, gaps: Any = None
    ) -> Attributions:
        return Attributions(
            images=pixels(self.batch, self.probe.description),
            values=values,
            method=method,
            labels=tuple(self.resolved.labels),
            scores=scores,
            gaps=np.full(len(values), np.nan, "float32") if gaps is None else gaps,
        )


def _squares(
    height: int, width: int, patch: int, stride: int, number: int
) -> Iterator[list[tuple[slice, slice]]]:
    """The places of a square that cover everything, so many at once."""
    tops = [*range(0, height - patch, stride), height - patch]
    lefts = [*range(0, width - patch, stride), width - patch]
    places = [
        (slice(top, top + patch), slice(left, left + patch))
        for top in tops
        for left in lefts
    ]
    for start in range(0, len(places), number):
        yield places[start : start + number]
