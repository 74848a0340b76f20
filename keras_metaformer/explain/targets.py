"""What is explained: a class, the likeness to another image, or a region."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_metaformer.arrays import to_numpy
from keras_metaformer.explain.images import prepared
from keras_metaformer.explain.probe import OUTPUT, Probe
from keras_metaformer.features.embedding import pooled_layer
from keras_metaformer_lite.names import question

#: What a user may give as a target, besides None for the class that the model answers.
TargetLike = Any


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A target of certain images.

    Attributes:
        score: as `Probe.differentiate` takes it; the same object for the same kind of
            target, so that it is compiled once.
        data: arrays `(batch, ...)` for the score.
        watch: layers for the score.
        labels: what the target of each image is called.
        classes: int `(batch,)`, or None where the target is no class.
    """

    score: Callable[..., Any]
    data: tuple[np.ndarray, ...]
    watch: dict[str, None]
    labels: list[str]
    classes: np.ndarray | None = None

    def of(self, which: Any) -> "Resolved":
        """The targets of some of the images, by indices; one may be taken often."""
        which = np.asarray(which)
        return dataclasses.replace(
            self,
            data=tuple(array[which] for array in self.data),
            labels=[self.labels[index] for index in which],
            classes=None if self.classes is None else self.classes[which],
        )


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Target: the likeness to another image, for models without classes, too.

    The score is the cosine between the embedding of the image and that of the
    reference: what is pooled before the classifier, or the mean of the last map.

    Args:
        reference: one image for all, or one for each, as `km.explain` takes images; or
            embeddings, float `(channels,)` or `(batch, channels)`.
    """

    reference: Any


@dataclasses.dataclass(frozen=True)
class Region:
    """Target: what a map says within a part of the image.

    The score is the mean over the region of one channel, such as a class of a
    segmenter; without a channel it is the mean vector's length along itself, so that
    what shares its features stands out (deep feature factorisation).

    Args:
        where: `(top, left, bottom, right)` in pixels of the image as the model takes
            it, or a mask `(height, width)` or `(batch, height, width)` of them.
        channel: int. Of the map; None for all.
        layer: whose map, as `Probe.find` takes it; None for the model's output if that
            is a map, else for its last map.
    """

    where: Any
    channel: int | None = None
    layer: Any = None


def resolve(
    probe: Probe, images: np.ndarray, target: TargetLike, batch_size: int = 8
) -> Resolved:
    """The target that a user gave, for certain images.

    Args:
        probe: of the model.
        images: float `(batch, height, width, channels)`.
        target: None for the class with the highest score, image by image; a class'
            index or name, or a sequence with one for each image; `Similarity`;
            `Region`; or a function of the model's output (logits where it is a
            classifier), a tensor, that gives one score an image.
        batch_size: int. Images at once.

    Raises:
        ValueError: if there is no such class, the model has none, or shapes differ.
    """
    if isinstance(target, Similarity):
        return _similarity(probe, images, target, batch_size)
    if isinstance(target, Region):
        return _region(probe, images, target)
    if callable(target):
        name = getattr(target, "__name__", "score")
        return Resolved(_of_outputs(target), (), {}, [name] * len(images))
    return _classes(probe, images, target, batch_size)


# Classes --------------------------------------------------------------------------


def _classes(probe: Probe, images: np.ndarray, target: Any, size: int) -> Resolved:
    shape = tuple(probe.model.outputs[0].shape)
    description = probe.description
    is_features = description is not None and description.output == "features"
    if is_features or len(shape) not in (2, 4) or shape[-1] is None:
        raise ValueError(
            "Only a classifier has classes: give target=Similarity(image) or "
            "Region(box) for a model of features. "
            f"Received: target={target!r} for {probe.model.name!r}, which gives {shape}"
        )
    names = None if description is None else description.names()
    if target is None:
        outputs = probe.observe(images, {}, batch_size=size)[OUTPUT]
        scores = outputs.reshape(len(outputs), -1, outputs.shape[-1]).mean(axis=1)
        indices = scores.argmax(axis=-1)
    else:
        each = [target] if isinstance(target, (str, int, np.integer)) else list(target)
        if len(each) not in (1, len(images)):
            raise ValueError(
                f"Expected one class, or one for each of {len(images)} images. "
                f"Received: target={target!r:.200}"
            )
        found = [_index(one, shape[-1], description) for one in each]
        indices = np.resize(np.asarray(found), len(images))
    labels = [f"class {i}" if names is None else names[i] for i in indices]
    one_hot = np.eye(shape[-1], dtype="float32")[indices]
    return Resolved(_class_score, (one_hot,), {}, labels, indices)


def _class_score(outputs: Any, watched: Any, one_hot: Any) -> Any:
    between = tuple(range(1, len(outputs.shape) - 1))
    outputs = ops.mean(outputs, axis=between) if between else outputs
    return ops.sum(outputs * one_hot, axis=-1)


def _index(given: Any, classes: int, description: Any) -> int:
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        if not 0 <= given < classes:
            raise ValueError(
                f"The model has the classes 0 to {classes - 1}. "
                f"Received: target={given}"
            )
        return int(given)
    names = () if description is None else description.names() or ()
    identifiers = () if description is None else description.identifiers() or ()
    for known in (names, identifiers, [name.replace("_", " ") for name in names]):
        found = [index for index, name in enumerate(known) if name == given]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise ValueError(
                f"The classes {found} are called so: give the index of one. "
                f"Received: target={given!r}"
            )
    if not names:
        raise ValueError(
            f"The model does not name its classes: give an index below {classes}. "
            f"Received: target={given!r}"
        )
    raise ValueError(
        f"The model has no such class.{question(str(given), names)} "
        f"Received: target={given!r}"
    )


def _squashing(probe: Probe) -> Any:
    """The softmax or sigmoid that makes probabilities of the logits, if known."""
    description = probe.description
    if description is not None and description.output == "logits":
        return keras.activations.softmax
    return probe.squashing


def probabilities_of(probe: Probe, logits: np.ndarray) -> np.ndarray:
    """What `Probe.observe` gives of a classifier, as probabilities if it is known how.

    Args:
        probe: of the model.
        logits: float32 `(batch, classes)`.
    """
    squashing = _squashing(probe)
    if squashing is None:
        return logits
    return to_numpy(squashing(ops.convert_to_tensor(logits)))


def probability(probe: Probe, resolved: Resolved) -> Resolved:
    """The same target with probabilities for logits, where it is a class."""
    squashing = _squashing(probe)
    if resolved.classes is None or squashing is None:
        return resolved
    is_softmax = squashing is keras.activations.softmax
    score = _softmax_score if is_softmax else _sigmoid_score
    return dataclasses.replace(resolved, score=score)


def _softmax_score(outputs: Any, watched: Any, one_hot: Any) -> Any:
    return _class_score(ops.softmax(outputs, axis=-1), watched, one_hot)


def _sigmoid_score(outputs: Any, watched: Any, one_hot: Any) -> Any:
    return _class_score(ops.sigmoid(outputs), watched, one_hot)


@functools.lru_cache(maxsize=32)
def _of_outputs(function: Callable[[Any], Any]) -> Callable[..., Any]:
    def score(outputs: Any, watched: Any) -> Any:
        scores = function(outputs)
        if len(scores.shape) != 1:
            raise ValueError(
                "The target must give one score an image. "
                f"Received: scores of shape {tuple(scores.shape)}"
            )
        return scores

    return score


# Embeddings -----------------------------------------------------------------------


def embedding_path(probe: Probe) -> str | None:
    """The layer whose output is an image's embedding, or None for the model's own."""
    for model in probe.models:
        layer = pooled_layer(model)
        if layer is not None:
            return probe.find(layer)
    return None


def _similarity(
    probe: Probe, images: np.ndarray, target: Similarity, size: int
) -> Resolved:
    path = embedding_path(probe)
    shape = probe.model.outputs[0].shape if path is None else probe.shapes[path]
    reference = target.reference
    is_vectors = getattr(reference, "ndim", 0) in (1, 2)
    if not is_vectors:
        batch = prepared(probe, reference)
        watch: dict[Any, Any] = {} if path is None else {path: None}
        found = probe.observe(batch, watch, batch_size=size)
        vectors = found[OUTPUT if path is None else path]
        vectors = vectors.reshape(len(vectors), -1, vectors.shape[-1]).mean(axis=1)
    else:
        vectors = np.atleast_2d(np.asarray(reference, "float32"))
    if len(vectors) not in (1, len(images)) or vectors.shape[-1] != shape[-1]:
        raise ValueError(
            f"Expected one reference, or one for each of {len(images)} images, of "
            f"{shape[-1]} channels. Received: references of shape {vectors.shape}"
        )
    vectors = np.broadcast_to(vectors, (len(images), vectors.shape[-1]))
    watched: dict[str, None] = {} if path is None else {path: None}
    return Resolved(
        _similarity_score(path), (vectors,), watched, ["likeness"] * len(images)
    )


@functools.cache
def _similarity_score(path: str | None) -> Callable[..., Any]:
    def score(outputs: Any, watched: Any, reference: Any) -> Any:
        vectors = outputs if path is None else watched[path]
        between = tuple(range(1, len(vectors.shape) - 1))
        vectors = ops.mean(vectors, axis=between) if between else vectors
        return ops.sum(_unit(vectors) * _unit(reference), axis=-1)

    return score


def _unit(vectors: Any) -> Any:
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, 1e-12))


# Regions --------------------------------------------------------------------------


def _region(probe: Probe, images: np.ndarray, target: Region) -> Resolved:
    number, height, width = images.shape[:3]
    where = np.asarray(target.where)
    if where.shape == (4,):
        top, left, bottom, right = (int(side) for side in where)
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ValueError(
                "Expected a box (top, left, bottom, right) within the image of "
                f"{height} x {width} pixels. Received: where={target.where!r}"
            )
        mask = np.zeros((height, width), "float32")
        mask[top:bottom, left:right] = 1
    else:
        mask = where.astype("float32")
    if mask.shape not in ((height, width), (number, height, width)):
        raise ValueError(
            f"Expected a box, or a mask ({height}, {width}) or ({number}, {height}, "
            f"{width}). Received: a mask of shape {mask.shape}"
        )
    masks = np.broadcast_to(mask, (number, height, width))
    if not (masks.reshape(number, -1).max(axis=1) > 0).all():
        raise ValueError("Expected a region that is not empty. Received: one that is")
    is_map = len(probe.model.outputs[0].shape) == 4
    if target.layer is not None:
        path: str | None = probe.find(target.layer)
    else:
        path = None if is_map else probe.last_map()
    name = "region" if target.channel is None else f"channel {target.channel}"
    return Resolved(
        _region_score(path, target.channel),
        (masks,),
        {} if path is None else {path: None},
        [name] * number,
    )


@functools.cache
def _region_score(path: str | None, channel: int | None) -> Callable[..., Any]:
    def score(outputs: Any, watched: Any, masks: Any) -> Any:
        features = outputs if path is None else watched[path]
        if len(features.shape) != 4:
            raise ValueError(
                "A region is one of a map (batch, height, width, channels). "
                f"Received: {path or 'an output'} of shape {tuple(features.shape)}"
            )
        size = (int(features.shape[1]), int(features.shape[2]))
        weights = ops.image.resize(
            ops.expand_dims(masks, -1),
            size,
            interpolation="bilinear",
            antialias=True,
            data_format="channels_last",
        )
        total = ops.maximum(ops.sum(weights, axis=(1, 2)), 1e-6)
        means = ops.sum(features * weights, axis=(1, 2)) / total
        if channel is not None:
            return means[:, channel]
        return ops.sum(means * ops.stop_gradient(means), axis=-1)

    return score
