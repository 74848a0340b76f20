"""What each position attends to, and where that leads through the blocks of a stage."""

import dataclasses
import re
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_metaformer.explain.images import pixels, prepared
from keras_metaformer.explain.memory import show
from keras_metaformer.explain.parts import block_of, class_token_of
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.results import Result, by_file_name, short
from keras_metaformer.layers import ScaledDotProduct, SelfAttentionMixer

_MOST_ROWS, _MOST_COLUMNS = 4, 7


@dataclasses.dataclass(frozen=True)
class _Attention(Result):
    """Weights over the positions of maps, which each of the results below explains."""

    weights: dict[str, np.ndarray]
    grids: dict[str, tuple[int, int]]
    images: np.ndarray
    query: tuple[float, float] | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        return by_file_name(self.weights)


@dataclasses.dataclass(frozen=True)
class AttentionMaps(_Attention):
    """The weights of attention, as `attention_maps` finds them.

    Attributes:
        weights: dict of float32 arrays `(images, heads, queries, keys)`, by the path of
            the mixer, in the order of the model. They sum to 1 over the keys. A class
            token is the first of queries and keys.
        grids: dict of `(height, width)`, of the map that the tokens are.
        images: uint8 `(images, height, width, 3)`, to be shown.
        query: `(y, x)` in [0, 1], the place whose attention is drawn; None for what all
            places together attend to, or the class token.
    """

    reading: ClassVar[str] = (
        "Each map is how much attention a position gets, mean over the heads: from "
        "all positions, from the class token where there is one, or from the place "
        "that was asked for. Where attention goes is not what the answer rests on: "
        "values, the residual branches and the MLPs are not in it."
    )

    @property
    def size(self) -> tuple[float, float]:
        rows = min(len(self.images), _MOST_ROWS)
        columns = 1 + min(len(self.weights), _MOST_COLUMNS)
        return max(1.5 * columns, 3.5), 1.5 * rows + 0.6

    def maps(self, layer: str) -> np.ndarray:
        """How much attention each position gets, mean over the heads.

        Args:
            layer: one of the paths of `weights`.

        Returns:
            float32 array `(images, height, width)`.
        """
        return _received(self.weights[layer].mean(1), self.grids[layer], self.query)

    def rollout(self) -> "AttentionRollout":
        """The attention of the blocks of each stage as one, by attention rollout.

        Each block passes on half of what it gets and half of what it attends to; the
        matrices of a stage's blocks, mean over the heads, are multiplied.

        Returns:
            The product of each stage.
        """
        stages: dict[str, np.ndarray] = {}
        grids: dict[str, tuple[int, int]] = {}
        for path, weights in self.weights.items():
            stage = _stage_of(path)
            step = weights.mean(1, dtype="float64")
            step = step / step.sum(-1, keepdims=True)
            step = 0.5 * (step + np.eye(step.shape[-1]))
            before = stages.get(stage)
            stages[stage] = step if before is None else step @ before
            grids[stage] = self.grids[path]
        rollouts = {name: found.astype("float32") for name, found in stages.items()}
        return AttentionRollout(rollouts, grids, self.images, self.query)

    def draw(self, figure: Any) -> None:
        maps = {short(block_of(path)): self.maps(path) for path in self.weights}
        _draw(figure, self.images, maps, self.query)
        whose = "that each position gets" if self.query is None else "of the cross"
        figure.suptitle(f"Attention {whose}", fontsize=9)


@dataclasses.dataclass(frozen=True)
class AttentionRollout(_Attention):
    """Attention through the blocks of each stage, as `attention_rollout` finds it.

    Attributes:
        weights: dict of float32 arrays `(images, queries, keys)`, by stage. They sum
            to 1 over the keys.
        grids: dict of `(height, width)`, of the map that the tokens are.
        images: uint8 `(images, height, width, 3)`, to be shown.
        query: `(y, x)` in [0, 1], the place whose attention is drawn; None for what all
            places together attend to, or the class token.
    """

    reading: ClassVar[str] = (
        "Where the positions at the end of a stage come from at its start if each "
        "block passes on half and mixes half by its attention. Heads are averaged; "
        "values, learned scales and MLPs are left out, so that it is a sketch of the "
        "flow."
    )

    @property
    def size(self) -> tuple[float, float]:
        rows = min(len(self.images), _MOST_ROWS)
        return 1.8 * (1 + len(self.weights)), 1.8 * rows + 0.6

    def maps(self, stage: str) -> np.ndarray:
        """How much each position at the start of a stage counts at its end.

        Args:
            stage: one of the names of `weights`.

        Returns:
            float32 array `(images, height, width)`.
        """
        return _received(self.weights[stage], self.grids[stage], self.query)

    def draw(self, figure: Any) -> None:
        maps = {short(stage): self.maps(stage) for stage in self.weights}
        _draw(figure, self.images, maps, self.query)
        whose = "" if self.query is None else " at the cross"
        figure.suptitle(f"Where the end of a stage{whose} comes from", fontsize=9)


def has_attention(model: keras.Model | Probe) -> bool:
    """Whether a model has self-attention that `attention_maps` reads.

    Args:
        model: functional model, or its `Probe`.
    """
    return bool(_mixers(Probe.of(model)))


def attention_maps(
    model: keras.Model | Probe,
    images: Any,
    query: tuple[float, float] | None = None,
    average_heads: bool = False,
    batch_size: int = 8,
    *,
    transform: Any = None,
) -> AttentionMaps:
    """The weights of self-attention in each block that has it.

    They are computed beside the forward pass, which goes through the fused form: the
    weights step by step are those of the same queries and keys
    (`SelfAttentionMixer.with_weights`).

    Example:

    >>> import keras_metaformer as km
    >>> model = km.MetaFormer(
    ...     depths=(1, 2), widths=(8, 32), mixer=("pooling", "self_attention"),
    ...     input_shape=(32, 32, 3), classes=5,
    ... )
    >>> found = attention_maps(model, np.zeros((1, 32, 32, 3), "float32"))
    >>> {path: weights.shape for path, weights in found.weights.items()}
    {'stage_1_block_0/token_mixing/transform': (1, 1, 16, 16), \
'stage_1_block_1/token_mixing/transform': (1, 1, 16, 16)}

    Args:
        model: functional model with self-attention, or its `Probe`.
        images: as `km.embeddings` takes them: a float array `(number, height, width,
            channels)`, or paths, Pillow images and uint8 arrays.
        query: `(y, x)` in [0, 1], a place on the images whose attention is to be drawn.
        average_heads: bool. Whether only the mean over the heads is kept, as one head:
            the weights of CAFormerS18 at 224 pixels are 14 MB an image, at 384 119 MB.
        batch_size: int. So many images at once.
        transform: callable from an image to what the model takes, instead of the
            model's own.

    Returns:
        The weights.

    Raises:
        ValueError: if the model has no self-attention, or `query` is no place.

    Reference:
        - Attention Is All You Need, https://arxiv.org/abs/1706.03762
    """
    probe = Probe.of(model)
    mixers = _mixers(probe)
    if not mixers:
        raise ValueError(
            "Expected a model with self-attention: CAFormer, MetaFormerPPPAS12 and "
            "MetaFormerPPAAS12 have it, and models with mixer='self_attention' in a "
            f"stage. Received: model={probe.model.name!r}"
        )
    if query is not None and (
        len(query) != 2 or not all(0 <= each <= 1 for each in query)
    ):
        raise ValueError(f"`query` must be (y, x) in [0, 1]. Received: query={query}")
    batch = prepared(probe, images, transform)
    watch = attention_watch(probe, average_heads)
    found = probe.observe(batch, watch, batch_size=batch_size)
    weights, grids = {}, {}
    for path in mixers:
        *first, height, width = found[path].shape
        weights[path] = found[path].reshape(*first, height * width)
        grids[path] = height, width
    for path in class_token_of(probe):
        grids = dict.fromkeys(grids, found[path].shape[1:3])
    return AttentionMaps(weights, grids, pixels(batch, probe.description), query)


def attention_watch(probe: Probe, average_heads: bool) -> dict[str, Any]:
    """What `attention_maps` observes.

    Args:
        probe: of a model with self-attention.
        average_heads: as of `attention_maps`.
    """
    read = _mean_weights if average_heads else _weights
    return {**dict.fromkeys(_mixers(probe), read), **class_token_of(probe)}


def attention_rollout(
    model: keras.Model | Probe,
    images: Any,
    query: tuple[float, float] | None = None,
    batch_size: int = 8,
    *,
    transform: Any = None,
) -> AttentionRollout:
    """Attention through all blocks of a stage as one matrix, by attention rollout.

    It goes stage by stage: between two stages maps are halved by a convolution, which
    is no attention.

    Args:
        model: functional model with self-attention, or its `Probe`.
        images: as of `attention_maps`.
        query: `(y, x)` in [0, 1], a place on the images whose attention is to be drawn.
        batch_size: int. So many images at once.
        transform: callable from an image to what the model takes, instead of the
            model's own.

    Returns:
        The matrices.

    Raises:
        ValueError: if the model has no self-attention, or `query` is no place.

    Reference:
        - Quantifying Attention Flow in Transformers, https://arxiv.org/abs/2005.00928
    """
    maps = attention_maps(
        model, images, query, True, batch_size=batch_size, transform=transform
    )
    return maps.rollout()


def _mixers(probe: Probe) -> list[str]:
    """What to watch: mixers, and the products of a `MetaMixer` that is attention."""
    paths = []
    for path, layer in probe.of_kind(SelfAttentionMixer, ScaledDotProduct).items():
        behind = probe.layers.get(f"{path.rpartition('/')[0]}/activation")
        is_softmax = isinstance(behind, keras.layers.Softmax)
        if isinstance(layer, SelfAttentionMixer) or is_softmax:
            paths.append(path)
    return paths


def _weights(layer: Any, inputs: Any, outputs: Any) -> Any:
    """`(batch, heads, queries, height, width)`, in one row if the tokens are no map."""
    if isinstance(layer, SelfAttentionMixer):
        grid = tuple(inputs.shape[1:-1])
        weights = layer.with_weights(ops.cast(inputs, layer.compute_dtype))[1]
    else:  # The products of queries and keys.
        grid = tuple(inputs[1].shape[1:-1])
        weights = ops.softmax(outputs)
    shape: Any = weights.shape
    _, heads, queries, keys = shape
    grid = grid if len(grid) == 2 else (1, keys)
    return ops.reshape(weights, (-1, heads, queries, *grid))


def _mean_weights(layer: Any, inputs: Any, outputs: Any) -> Any:
    weights = ops.cast(_weights(layer, inputs, outputs), "float32")
    return ops.mean(weights, axis=1, keepdims=True)


def _received(
    weights: np.ndarray, grid: tuple[int, int], query: tuple[float, float] | None
) -> np.ndarray:
    """The attention that each position gets: `(images, height, width)`."""
    height, width = grid
    tokens = weights.shape[-1]
    first = tokens - height * width  # 1 after a class token.
    if query is not None:
        row = min(int(query[0] * height), height - 1)
        column = min(int(query[1] * width), width - 1)
        found = weights[:, first + row * width + column]
    elif first:
        found = weights[:, 0]
    else:
        found = weights.mean(1)
    return found[:, first:].reshape(-1, height, width)


def _draw(
    figure: Any,
    images: np.ndarray,
    maps: dict[str, np.ndarray],
    query: tuple[float, float] | None,
) -> None:
    rows = min(len(images), _MOST_ROWS)
    names = list(maps)
    places = np.linspace(0, len(names) - 1, min(len(names), _MOST_COLUMNS)).round()
    chosen = [names[int(place)] for place in places]
    grid: Any = figure.subplots(rows, 1 + len(chosen), squeeze=False)
    for row, axes_of_row in enumerate(grid):
        show(axes_of_row[0], images[row])
        if query is not None:
            height, width = images.shape[1:3]
            axes_of_row[0].plot(
                [query[1] * width], [query[0] * height], "+", color="white", ms=9, mew=3
            )
            axes_of_row[0].plot(
                [query[1] * width], [query[0] * height], "+", color="black", ms=8, mew=1
            )
        for name, axes in zip(chosen, axes_of_row[1:], strict=True):
            show(axes, images[row], maps[name][row])
            if not row:
                axes.set_title(name, fontsize=7, pad=2)


def _stage_of(path: str) -> str:
    """The stage of a mixer, by the name of its block."""
    block = block_of(path)
    return re.sub(r"_?block_\d+$", "", block) or "blocks"
