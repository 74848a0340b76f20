"""How many coefficients of each layer are active."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_metaformer.explain.images import prepared
from keras_metaformer.explain.parts import (
    block_of,
    is_activation,
    is_rectifier,
    mixing_of,
)
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.results import PALETTE, Result, tidy

#: GELU is nowhere below -0.17: what is larger than this in size is positive.
_SMOOTH_THRESHOLD = 0.17


@dataclasses.dataclass(frozen=True)
class Sparsity(Result):
    """The shares of active coefficients, as `sparsity` finds them.

    Attributes:
        active: float32 `(images, layers)`, the shares, in [0, 1].
        layers: tuple of str. The paths of the activations, in the order of the model.
        mixers: tuple of str. `"token"` or `"channel"` for each of them: the half of a
            block that it is in.
        threshold: float. Of the activations that are not exactly 0.
    """

    reading: ClassVar[str] = (
        "The share of an activation layer's outputs that are active, through the "
        "depth. Few active coefficients mean that an image uses few of a layer's "
        "keys. What a coefficient counts for in the answer is not shown, and shares "
        "of a rectifier and of GELU, which is cut at a threshold, are not comparable."
    )

    active: np.ndarray
    layers: tuple[str, ...]
    mixers: tuple[str, ...]
    threshold: float

    def arrays(self) -> dict[str, np.ndarray]:
        return {"active": self.active, "layers": np.asarray(self.layers)}

    def draw(self, figure: Any) -> None:
        axes = figure.subplots()
        blocks = list(dict.fromkeys(map(block_of, self.layers)))
        styles = {"token": (PALETTE[1], "o"), "channel": (PALETTE[0], "s")}
        for mixer, (color, marker) in styles.items():
            chosen = [i for i, each in enumerate(self.mixers) if each == mixer]
            if not chosen:
                continue
            depth = [blocks.index(block_of(self.layers[i])) for i in chosen]
            shares = self.active[:, chosen]
            axes.plot(
                depth,
                shares.mean(0),
                color=color,
                marker=marker,
                label=f"{mixer} mixer",
            )
            axes.fill_between(
                depth, shares.min(0), shares.max(0), color=color, alpha=0.2, linewidth=0
            )
        axes.set_ylim(0, 1)
        axes.set_xlabel("block")
        axes.set_ylabel("active coefficients")
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        count = len(self.active)
        images = f"{count} images: mean and range" if count > 1 else "one image"
        axes.set_title(f"Active coefficients through the depth, {images}", fontsize=10)
        axes.legend(frameon=False)
        tidy(axes)


def sparsity(
    model: keras.Model | Probe,
    images: Any,
    threshold: float = _SMOOTH_THRESHOLD,
    batch_size: int = 8,
    *,
    transform: Any = None,
) -> Sparsity:
    """The share of active coefficients of each activation in the blocks of a model.

    A coefficient of ReLU, squared ReLU and StarReLU is active where it is not 0
    (StarReLU before its scale and bias, so that a folded model gives the same), one of
    GELU and other smooth activations where it is larger than `threshold` in size.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.MetaFormer(
    ...     depths=(1, 1), widths=(8, 16), input_shape=(32, 32, 3), classes=5
    ... )
    >>> found = sparsity(model, np.zeros((2, 32, 32, 3), "float32"))
    >>> found.active.shape
    (2, 2)

    Args:
        model: functional model with blocks of this library, or its `Probe`.
        images: as `km.embeddings` takes them: a float array `(number, height, width,
            channels)`, or paths, Pillow images and uint8 arrays.
        threshold: float. For activations that are nowhere exactly 0. GELU never falls
            below -0.17: what is larger than that in size is positive.
        batch_size: int. So many images at once.
        transform: callable from an image to what the model takes, instead of the
            model's own.

    Returns:
        The shares, for each image.

    Raises:
        ValueError: if no block of the model has an activation, or `threshold` is
            negative.

    Reference:
        - MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021
        - The Lazy Neuron Phenomenon, https://arxiv.org/abs/2210.06313
    """
    if threshold < 0:
        raise ValueError(
            f"`threshold` must not be negative. Received: threshold={threshold}"
        )
    probe = Probe.of(model)
    activations = block_activations(probe)
    if not activations:
        raise ValueError(
            "Expected a model whose blocks have activations, as every model of this "
            f"library has. Received: model={probe.model.name!r}"
        )
    watch = sparsity_watch(probe, threshold)
    found = probe.observe(
        prepared(probe, images, transform), watch, batch_size=batch_size
    )
    return Sparsity(
        active=np.stack([found[path] for path in activations], axis=1),
        layers=tuple(activations),
        mixers=tuple(map(mixing_of, activations)),
        threshold=float(threshold),
    )


def sparsity_watch(
    probe: Probe, threshold: float = _SMOOTH_THRESHOLD
) -> dict[str, Any]:
    """What `sparsity` observes.

    Args:
        probe: of the model.
        threshold: as of `sparsity`.
    """
    return dict.fromkeys(block_activations(probe), _share(float(threshold)))


def block_activations(probe: Probe) -> dict[str, keras.layers.Layer]:
    """The activations in the blocks of a model by their paths, in its order.

    Args:
        probe: of the model.
    """
    return {
        path: layer
        for path, layer in probe.layers.items()
        if mixing_of(path) and is_activation(path, layer)
    }


@functools.cache
def _share(threshold: float) -> Callable[..., Any]:
    """The watching function, the same one each time: JAX compiles it once."""

    def share(layer: Any, inputs: Any, outputs: Any) -> Any:
        if is_rectifier(layer):
            active = inputs > 0
        else:
            active = ops.abs(ops.cast(outputs, "float32")) > threshold
        axes = tuple(range(1, len(outputs.shape)))
        return ops.mean(ops.cast(active, "float32"), axis=axes)

    return share
