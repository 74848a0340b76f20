"""The MLPs of a model as memories: keys, and the coefficients of their values."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_metaformer.explain.images import pixels, prepared
from keras_metaformer.explain.parts import (
    block_of,
    class_token_of,
    coefficients,
    mixing_of,
)
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.results import PALETTE, SEQUENTIAL, Result, short, tidy
from keras_metaformer.explain.sparsity import block_activations
from keras_metaformer.layers.validation import positive_integer

_MOST_ROWS, _MOST_COLUMNS = 8, 8
_MOST_BARS = 20


@dataclasses.dataclass(frozen=True)
class Memory(Result):
    """Coefficients of one layer's keys, as `memory` finds them.

    Attributes:
        maps: float32 `(images, most, height, width)`. The coefficients of the chosen
            keys at each position.
        keys: int `(images, most)`. Which keys these are: of each image its own, by
            their mean, or for all images those that were asked for.
        means: float32 `(images, keys)`. Of every key, the mean over the positions.
        layer: str. The path of the activation that makes the coefficients.
        images: uint8 `(images, height, width, 3)`, to be shown.
        titles: tuple of str, one an image, or None.
    """

    reading: ClassVar[str] = (
        "Each map is where one key (a column of the layer's first matrix) answers, "
        "with its mean coefficient above and colours of its own scale; the key's "
        "value is added there that much. It shows what the layer reacts to, not what "
        "the answer of the model rests on."
    )

    maps: np.ndarray
    keys: np.ndarray
    means: np.ndarray
    layer: str
    images: np.ndarray
    titles: tuple[str, ...] | None = None

    @property
    def size(self) -> tuple[float, float]:
        rows = min(len(self.maps), _MOST_ROWS)
        columns = 1 + min(self.maps.shape[1], _MOST_COLUMNS)
        return max(1.5 * columns, 3.5), 1.65 * rows + 0.4

    def arrays(self) -> dict[str, np.ndarray]:
        return {"maps": self.maps, "keys": self.keys, "means": self.means}

    def shared_by(
        self,
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str] | None = None,
        most: int = 50,
    ) -> "SharedKeys":
        """Which keys are among the most active ones of many classes.

        Args:
            labels: sequence of int, the class of each image.
            class_names: sequence of str, the names of the classes, or None.
            most: int. So many keys of each class, by the mean over its images, count as
                its own.

        Returns:
            The keys and for how many classes they are so.

        Raises:
            ValueError: if there is not one label an image, or there are fewer keys than
                `most`.
        """
        given = np.asarray(labels)
        if given.shape != (len(self.means),):
            raise ValueError(
                f"`labels` must be {len(self.means)} classes, one for each image. "
                f"Received: labels of shape {given.shape}"
            )
        classes = np.unique(given)
        means = np.stack([self.means[given == label].mean(0) for label in classes])
        if positive_integer("most", most) > means.shape[1]:
            raise ValueError(
                f"`most` must be at most the number of keys, {means.shape[1]}. "
                f"Received: most={most}"
            )
        own = np.argsort(-means, axis=1, kind="stable")[:, :most]
        counts = np.bincount(own.ravel(), minlength=means.shape[1])
        names = [str(label) for label in classes]
        if class_names is not None:
            names = [class_names[int(label)] for label in classes]
        return SharedKeys(counts, means, tuple(names), most, self.layer)

    def draw(self, figure: Any) -> None:
        rows = min(len(self.maps), _MOST_ROWS)
        columns = min(self.maps.shape[1], _MOST_COLUMNS)
        grid: Any = figure.subplots(rows, 1 + columns, squeeze=False)
        for row, axes_of_row in enumerate(grid):
            show(axes_of_row[0], self.images[row])
            if self.titles is not None:
                axes_of_row[0].set_title(short(self.titles[row]), fontsize=7, pad=2)
            for column, axes in enumerate(axes_of_row[1:]):
                key = self.keys[row, column]
                show(axes, self.images[row], self.maps[row, column])
                title = f"key {key}: {self.means[row, key]:.3g}"
                axes.set_title(title, fontsize=7, pad=2)
        figure.suptitle(f"Keys of {_place(self.layer)}", fontsize=9)


@dataclasses.dataclass(frozen=True)
class SharedKeys(Result):
    """Keys that many classes share, as `Memory.shared_by` finds them.

    Attributes:
        counts: int `(keys,)`. Of how many classes a key is among the most active.
        means: float32 `(classes, keys)`. The mean coefficients.
        classes: tuple of str. Their names.
        most: int. So many keys count as a class's own.
        layer: str. The path of the activation.
    """

    reading: ClassVar[str] = (
        "How many classes have a key among their most active ones. Keys that most "
        "classes share answer to what all images have; those of few classes are "
        "specific. With few images a class the counts are noise."
    )

    counts: np.ndarray
    means: np.ndarray
    classes: tuple[str, ...]
    most: int
    layer: str

    def arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts, "means": self.means}

    def draw(self, figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        first = np.argsort(-self.counts, kind="stable")[:_MOST_BARS]
        first = first[self.counts[first] > 0]
        left.bar([str(key) for key in first], self.counts[first], color=PALETTE[0])
        left.set_xlabel("key")
        left.tick_params(axis="x", labelrotation=90, labelsize=7)
        left.set_ylabel(f"of {len(self.classes)} classes")
        left.set_title("Shared by most classes", fontsize=10)
        used = self.counts[self.counts > 0]
        edges = np.arange(0.5, len(self.classes) + 1)
        right.hist(used, bins=edges, color=PALETTE[0], edgecolor="white")
        right.set_xlabel("classes that share a key")
        right.set_ylabel("keys")
        right.set_title(f"{len(used)} of {len(self.counts)} keys", fontsize=10)
        right.xaxis.get_major_locator().set_params(integer=True)
        for axes in (left, right):
            axes.yaxis.get_major_locator().set_params(integer=True)
            tidy(axes)
        figure.suptitle(
            f"Keys of {_place(self.layer)} among a class's {self.most} most active",
            fontsize=9,
        )


def memory(
    model: keras.Model | Probe,
    images: Any,
    block: Any = -1,
    mixer: str = "channel",
    keys: int | Sequence[int] = 5,
    batch_size: int = 8,
    *,
    titles: Sequence[str] | None = None,
    transform: Any = None,
) -> Memory:
    """The most active keys of a block's MLP, and where on the images they answer.

    An MLP `W2 act(W1 x)` is a memory: the columns of `W1` are keys that a position is
    compared with, `act` makes coefficients of the comparison, and these add up the rows
    of `W2`, the values. Token mixers with an activation are read alike: the keys of a
    separable convolution are the columns of its first matrix, those of FFNified
    attention are depthwise kernels. The coefficients of StarReLU are those before its
    scale and bias.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.MetaFormer(
    ...     depths=(1, 1), widths=(8, 16), input_shape=(32, 32, 3), classes=5
    ... )
    >>> found = memory(model, np.ones((2, 32, 32, 3), "float32"), keys=3)
    >>> found.maps.shape, found.means.shape
    ((2, 3, 4, 4), (2, 64))

    Args:
        model: functional model with blocks of this library, or its `Probe`.
        images: as `km.embeddings` takes them: a float array `(number, height, width,
            channels)`, or paths, Pillow images and uint8 arrays.
        block: of which the memory is: an index, counted from 0 or, where negative, from
            the end, a name, or the path of an activation.
        mixer: `"channel"` or `"token"`. The half of the block.
        keys: int, so many keys for each image, those with the largest mean; or a
            sequence of int, these keys on every image, as to see one key over similar
            classes, or within one.
        batch_size: int. So many images at once.
        titles: sequence of str, one for each image, such as its class.
        transform: callable from an image to what the model takes, instead of the
            model's own.

    Returns:
        The coefficients.

    Raises:
        ValueError: if there is no such block, its mixer has no keys with a place on the
            image, there are not so many keys, or titles.

    Reference:
        - Transformer Feed-Forward Layers Are Key-Value Memories,
          https://arxiv.org/abs/2012.14913
        - MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021
    """
    probe = Probe.of(model)
    path = _activation_of(probe, block, mixer)
    batch = prepared(probe, images, transform)
    if titles is not None and len(titles) != len(batch):
        raise ValueError(
            f"`titles` must be {len(batch)}, one for each image. "
            f"Received: {len(titles)} titles"
        )
    token, watch = class_token_of(probe), memory_watch(probe, block, mixer)
    maps, chosen, means = [], [], []
    # By batches, of which only what is asked for is kept: the maps of all keys of many
    # images are gigabytes.
    for found in _batches(probe, batch, watch, batch_size):
        size = next((found[each].shape[1:3] for each in token), None)
        of_batch = _on_map(found[path], size, path)
        means.append(of_batch.mean(axis=(1, 2), dtype="float64").astype("float32"))
        chosen.append(_chosen(keys, means[-1]))
        of_batch = of_batch.transpose(0, 3, 1, 2)
        maps.append(
            np.take_along_axis(of_batch, chosen[-1][:, :, np.newaxis, np.newaxis], 1)
        )
    return Memory(
        maps=np.concatenate(maps),
        keys=np.concatenate(chosen),
        means=np.concatenate(means),
        layer=path,
        images=pixels(batch, probe.description),
        titles=None if titles is None else tuple(titles),
    )


def memory_watch(probe: Probe, block: Any, mixer: str = "channel") -> dict[str, Any]:
    """What `memory` observes.

    Args:
        probe: of the model.
        block: as of `memory`.
        mixer: as of `memory`.

    Raises:
        ValueError: as of `memory`.
    """
    path = _activation_of(probe, block, mixer)
    return {path: coefficients, **class_token_of(probe)}


def _activation_of(probe: Probe, block: Any, mixer: str) -> str:
    """The path of the activation that makes the coefficients."""
    if mixer not in ("channel", "token"):
        raise ValueError(
            f"`mixer` must be 'channel' or 'token'. Received: mixer={mixer!r}"
        )
    activations = block_activations(probe)
    where = probe.find(block)
    if where in activations:
        return where
    of_mixer = [path for path in activations if mixing_of(path) == mixer]
    for path in of_mixer:
        if block_of(path) == where:
            return path
    blocks = list(dict.fromkeys(map(block_of, of_mixer)))
    raise ValueError(
        f"Keys are compared with in a block whose {mixer} mixer has an activation. "
        f"Those of {probe.model.name!r} are: {blocks}. Received: block={block!r}"
    )


def _batches(probe: Probe, batch: np.ndarray, watch: Any, batch_size: int) -> Any:
    """What is observed, batch by batch."""
    size = positive_integer("batch_size", batch_size)
    for start in range(0, len(batch), size):
        yield probe.observe(batch[start : start + size], watch, batch_size=size)


def _on_map(found: np.ndarray, size: tuple[int, ...] | None, path: str) -> np.ndarray:
    """Coefficients `(batch, height, width, keys)`, without those of a class token."""
    if found.ndim == 4:
        return found
    if size is None:
        raise ValueError(
            "Expected keys that are compared with each position of a map. The keys of "
            "a token-mixing MLP are patterns of the whole image: see `token_matrices`. "
            f"Received: {path!r}, with coefficients of shape {found.shape[1:]} for an "
            "image"
        )
    return found[:, 1:].reshape(len(found), *size, found.shape[-1])


def _chosen(keys: int | Sequence[int], means: np.ndarray) -> np.ndarray:
    """The keys to be shown, of each image."""
    count = means.shape[1]
    if isinstance(keys, (int, np.integer)):
        if positive_integer("keys", int(keys)) > count:
            raise ValueError(f"The layer has {count} keys. Received: keys={keys}")
        return np.argsort(-means, axis=1, kind="stable")[:, :keys]
    asked = np.asarray(keys)
    if asked.ndim != 1 or not len(asked) or asked.min() < 0 or asked.max() >= count:
        raise ValueError(
            f"`keys` must be a number of keys, or some of 0 to {count - 1}. "
            f"Received: keys={keys}"
        )
    return np.tile(asked.astype("int64"), (len(means), 1))


def _place(path: str) -> str:
    return f"{short(block_of(path))}, {mixing_of(path)} mixer"


def show(axes: Any, image: np.ndarray, values: np.ndarray | None = None) -> None:
    """Draw an image, and a map over it.

    Args:
        axes: of matplotlib.
        image: uint8 `(height, width, 3)`.
        values: float `(rows, columns)`, or None.
    """
    axes.set_axis_off()
    extent = (0, image.shape[1], image.shape[0], 0)
    if values is None:
        axes.imshow(image, extent=extent)
        return
    grey = image.mean(axis=-1)
    axes.imshow(grey, extent=extent, cmap="gray", vmin=0, vmax=255)
    axes.imshow(
        values, extent=extent, cmap=SEQUENTIAL, alpha=0.65, interpolation="nearest"
    )
