"""The learned scales of a model through its depth."""

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.explain.parts import block_of, mixing_of, parts_by_path
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.results import PALETTE, Result, tidy
from keras_metaformer.layers import LayerScale, ResScale, StarReLU

#: The weights that are scales: by a name, the class of the layer and the weight's name.
_KINDS = {
    "StarReLU scale": (StarReLU, "scale"),
    "StarReLU bias": (StarReLU, "bias"),
    "ResScale": (ResScale, "scale"),
    "LayerScale": (LayerScale, "scale"),
}
_STYLES = {"token": (PALETTE[1], "o"), "channel": (PALETTE[0], "s")}


@dataclasses.dataclass(frozen=True)
class LearnedScales(Result):
    """The scales of a model, as `learned_scales` finds them.

    Attributes:
        values: dict by kind (`"StarReLU scale"`, `"StarReLU bias"`, `"ResScale"`,
            `"LayerScale"`) of dicts of float32 arrays `(1,)` or `(channels,)`, by the
            path of the layer, in the order of the model.
    """

    reading: ClassVar[str] = (
        "What training made of the scales, block by block: the mean over the channels "
        "and, where there is one a channel, the range of the middle 90 %. A small "
        "scale on a branch is not a branch that does little: its weights may be large."
    )

    values: dict[str, dict[str, np.ndarray]]

    @property
    def size(self) -> tuple[float, float]:
        return 7.0, 0.6 + 2.2 * len(self.values)

    def arrays(self) -> dict[str, np.ndarray]:
        """By kind `(layers, channels)`, filled up with NaN where layers have fewer."""
        found = {}
        for kind, by_path in self.values.items():
            channels = max(map(len, by_path.values()))
            rows = [
                np.pad(each, (0, channels - len(each)), constant_values=np.nan)
                for each in by_path.values()
            ]
            found[kind.replace(" ", "_")] = np.stack(rows)
        return found

    def draw(self, figure: Any) -> None:
        grid: Any = figure.subplots(len(self.values), 1, squeeze=False, sharex=True)
        blocks = list(
            dict.fromkeys(
                block_of(path) for by_path in self.values.values() for path in by_path
            )
        )
        for axes, (kind, by_path) in zip(grid.flat, self.values.items(), strict=True):
            for mixer, (color, marker) in _STYLES.items():
                chosen = [path for path in by_path if mixing_of(path) == mixer]
                if not chosen:
                    continue
                depth = [blocks.index(block_of(path)) for path in chosen]
                means = [by_path[path].mean() for path in chosen]
                low, high = np.transpose(
                    [np.quantile(by_path[path], (0.05, 0.95)) for path in chosen]
                )
                axes.plot(
                    depth,
                    means,
                    color=color,
                    marker=marker,
                    ms=4,
                    label=f"{mixer} mixer",
                )
                axes.fill_between(depth, low, high, color=color, alpha=0.2, linewidth=0)
            axes.set_title(kind, fontsize=10)
            if all((each > 0).all() for each in by_path.values()):
                means = [each.mean() for each in by_path.values()]
                if max(means) > 20 * min(means):
                    axes.set_yscale("log")
            tidy(axes)
        grid.flat[0].legend(frameon=False, fontsize=8)
        grid.flat[-1].set_xlabel("block")
        grid.flat[-1].xaxis.get_major_locator().set_params(integer=True)


def learned_scales(model: keras.Model | Probe) -> LearnedScales:
    """The learned scales in the blocks of a model, by kind and depth.

    They are StarReLU's scale and bias, ResScale on the residual branches and LayerScale
    on the transforming ones.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.MetaFormer(
    ...     depths=(1, 1), widths=(8, 16), input_shape=(32, 32, 3), classes=5
    ... )
    >>> {kind: len(found) for kind, found in learned_scales(model).values.items()}
    {'StarReLU scale': 2, 'StarReLU bias': 2, 'ResScale': 2}

    Args:
        model: any model with blocks of this library, or its `Probe`.

    Returns:
        The scales.

    Raises:
        ValueError: if the model has none.

    Reference:
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
        - Going deeper with Image Transformers, https://arxiv.org/abs/2103.17239
    """
    model = model.model if isinstance(model, Probe) else model
    parts = {
        path: part for path, part in parts_by_path(model).items() if mixing_of(path)
    }
    values: dict[str, dict[str, np.ndarray]] = {}
    for kind, (layer_class, weight) in _KINDS.items():
        found = {
            path: to_numpy(getattr(part, weight)).astype("float32")
            for path, part in parts.items()
            if isinstance(part, layer_class)
        }
        if found:
            values[kind] = found
    if not values:
        raise ValueError(
            "Expected a model with StarReLU, ResScale or LayerScale in its blocks; "
            "`km.fold` makes StarReLU's scale and LayerScale part of the linear layers "
            f"behind and before them. Received: model={model.name!r}"
        )
    return LearnedScales(values)
