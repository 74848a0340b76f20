"""What part of an image the centre of a map sees, and how much of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_metaformer.explain.images import prepared
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.results import PALETTE, SEQUENTIAL, Result, short, tidy
from keras_metaformer.models.nodes import nodes_of
from keras_metaformer.models.pyramid_model import StageOutput

#: Of the contributions, those whose squares are drawn.
_SHARES = (0.5, 0.95)
#: Contributions below this share of the largest have the darkest colour.
_FLOOR = 1e-4


@dataclasses.dataclass(frozen=True)
class ReceptiveField(Result):
    """How much each pixel contributes to the centre of a map.

    Attributes:
        contributions: float32 `(height, width)`. Mean over the images of the size of
            the gradient, summed over the colours; the sum of all is 1.
        centre: `(y, x)` in pixels, from 0: the median of the contributions in either
            direction. Strided convolutions are not centred on the middle of what a
            position stands for.
        layer: str. The path of the layer whose map it is.
        images: int. How many there were.
    """

    reading: ClassVar[str] = (
        "How strongly the central position of a map changes with each pixel, mean over "
        "the images: bright pixels count most, and the squares hold half and 95 % of "
        "all. It is a property of the model more than of an image, and says how far it "
        "looks, not what it uses."
    )

    contributions: np.ndarray
    centre: tuple[float, float]
    layer: str
    images: int

    @property
    def size(self) -> tuple[float, float]:
        return 8.0, 3.8

    def arrays(self) -> dict[str, np.ndarray]:
        return {"contributions": self.contributions}

    def radius(self, share: float = 0.95) -> float:
        """The contribution radius: how far the pixels with a share of all reach.

        Args:
            share: float in (0, 1]. Of the sum of all contributions.

        Returns:
            Half the side, in pixels, of the smallest square around the centre whose
            pixels have that share.

        Raises:
            ValueError: if `share` is outside (0, 1].
        """
        if not 0 < share <= 1:
            raise ValueError(f"`share` must be in (0, 1]. Received: share={share}")
        radii, shares = self.shares()
        # Rounding may leave the last of them a little below 1.
        return float(radii[np.searchsorted(shares, min(share, shares[-1]))])

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """The share of the contributions within each radius.

        Returns:
            `(radii, shares)`: float64 arrays, the radii in pixels and rising, at which
            a square around the centre takes in further pixels.
        """
        radii = _distances(self.contributions.shape, self.centre)
        order = np.argsort(radii, axis=None, kind="stable")
        radii = radii.ravel()[order]
        shares = np.cumsum(self.contributions.ravel()[order], dtype="float64")
        last = np.append(radii[1:] > radii[:-1], True)  # of those equally far away
        return radii[last], shares[last] / shares[-1]

    def support(self) -> tuple[int, int, int, int]:
        """The smallest rectangle with all pixels that contribute at all.

        Returns:
            `(top, left, bottom, right)` in pixels, from 0, the last two included.
        """
        rows = np.flatnonzero(self.contributions.any(axis=1))
        columns = np.flatnonzero(self.contributions.any(axis=0))
        top, bottom, left, right = map(
            int, (rows[0], rows[-1], columns[0], columns[-1])
        )
        return top, left, bottom, right

    def draw(self, figure: Any) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
        _draw_map(left, self)
        left.set_title(f"centre of {short(self.layer)}", fontsize=10)
        _draw_shares(right, {"": self})
        right.set_title(f"{self.images} images", fontsize=10)


@dataclasses.dataclass(frozen=True)
class ReceptiveFields(Result):
    """The receptive fields of several models side by side.

    Attributes:
        fields: dict of `ReceptiveField` by the name of the model.
    """

    reading: ClassVar[str] = (
        "The receptive fields of several models on the same images, and the share of "
        "all contributions within a distance of the centre: the further to the right a "
        "curve rises, the wider a model looks. Wider is not better by itself."
    )

    fields: dict[str, ReceptiveField]

    @property
    def size(self) -> tuple[float, float]:
        return max(2.4 * len(self.fields), 5.0), 6.0

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: field.contributions for name, field in self.fields.items()}

    def draw(self, figure: Any) -> None:
        axes = figure.subplot_mosaic(
            [
                [f"map {name}" for name in self.fields],
                ["shares"] * len(self.fields),
            ],
            height_ratios=(1, 1.2),
        )
        for name, field in self.fields.items():
            _draw_map(axes[f"map {name}"], field)
            axes[f"map {name}"].set_title(short(name), fontsize=10)
        _draw_shares(axes["shares"], self.fields)


def receptive_field(
    model: keras.Model | Probe,
    images: Any,
    layer: Any = None,
    batch_size: int = 8,
    *,
    transform: Any = None,
) -> ReceptiveField:
    """The effective receptive field of the centre of a map.

    The sum over the channels of the map's central position is differentiated by the
    pixels of each image; the contribution of a pixel is the size of that gradient, mean
    over the images.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.MetaFormer(
    ...     (1,), (8,), mixer="identity", input_shape=(32, 32, 3), classes=5
    ... )
    >>> images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    >>> receptive_field(model, images).support()  # the 7 x 7 pixels of the stem
    (14, 14, 20, 20)

    Args:
        model: functional model of this library or any other with maps `(batch, height,
            width, channels)`, or its `Probe`.
        images: as `km.embeddings` takes them: a float array `(number, height, width,
            channels)`, or paths, Pillow images and uint8 arrays. Real ones, some tens
            of them: the gradient depends on the image.
        layer: whose map it is: a pyramid level, the index of a block, the name or path
            of a layer; None for the last map of the model, before a norm and pooling.
        batch_size: int. So many images at once.
        transform: callable from an image to what the model takes, instead of the
            model's own.

    Returns:
        The contributions.

    Raises:
        ValueError: if the model has no such layer, or the layer no map.
        RuntimeError: if the backend does not differentiate.

    Reference:
        - Understanding the Effective Receptive Field in Deep Convolutional Neural
          Networks, https://arxiv.org/abs/1701.04128
        - Scaling Up Your Kernels to 31x31, https://arxiv.org/abs/2203.06717
    """
    probe = Probe.of(model)
    path = _last_map(probe) if layer is None else probe.find(layer)
    batch = prepared(probe, images, transform)
    found = probe.differentiate(
        batch, _central, watch={path: _map_of}, batch_size=batch_size
    )
    sizes = np.abs(found.gradients).sum(axis=-1, dtype="float64").mean(axis=0)
    total = sizes.sum()
    if not total > 0 or not np.isfinite(total):
        raise ValueError(
            "The centre of the map does not change with the image: the gradients are "
            f"all 0, or not finite. Received: layer={path!r} of {probe.model.name!r}"
        )
    return ReceptiveField(
        contributions=(sizes / total).astype("float32"),
        centre=(_median(sizes.sum(axis=1)), _median(sizes.sum(axis=0))),
        layer=path,
        images=len(batch),
    )


def receptive_field_comparison(
    models: Mapping[str, keras.Model | Probe],
    images: Any,
    layers: Mapping[str, Any] | None = None,
    batch_size: int = 8,
) -> ReceptiveFields:
    """The receptive fields of several models, on the same images.

    As in the comparison of ConvNeXt, ConvFormer, CAFormer and FFNet, whose depthwise
    kernels have 7 x 7 pixels each.

    Args:
        models: the models by the names to be shown.
        images: as `receptive_field` takes them; paths, Pillow images and uint8 arrays
            are prepared for each model as it wants them.
        layers: of some models whose map is looked at, by their names, as
            `receptive_field` takes it.
        batch_size: int. So many images at once.

    Returns:
        The fields.

    Raises:
        ValueError: if there is no model, or as `receptive_field` raises it.
    """
    if not models:
        raise ValueError("Expected at least one model. Received: models={}")
    layers = layers or {}
    if set(layers) - set(models):
        raise ValueError(
            f"`layers` is by the names of the models, {list(models)}. "
            f"Received: layers={dict(layers)}"
        )
    return ReceptiveFields(
        {
            name: receptive_field(model, images, layers.get(name), batch_size)
            for name, model in models.items()
        }
    )


def _last_map(probe: Probe) -> str:
    """The end of the last stage; of other models the last map before their head."""
    ends = list(probe.of_kind(StageOutput))
    if ends:
        return ends[-1]
    gives_maps = {
        node.operation.name
        for node in nodes_of(probe.model)
        if len(node.outputs) == 1 and len(node.outputs[0].shape) == 4
    }
    maps = [path for path in probe.layers if path in gives_maps]
    if not maps:
        raise ValueError(
            "Expected a model with maps (batch, height, width, channels); name the "
            f"layer. Received: model={probe.model.name!r}, layer=None"
        )
    return maps[-1]


def _map_of(layer: Any, inputs: Any, outputs: Any) -> Any:
    if len(outputs.shape) != 4:
        raise ValueError(
            "Expected a layer that gives maps (batch, height, width, channels). "
            f"Received: layer={layer.name!r}, outputs of shape {tuple(outputs.shape)}"
        )
    return outputs


def _central(outputs: Any, watched: dict[str, Any]) -> Any:
    """The sum over the channels of the central position, of each image."""
    (maps,) = watched.values()
    rows, columns = maps.shape[1:3]
    return ops.sum(maps[:, rows // 2, columns // 2], axis=-1)


def _median(weights: np.ndarray) -> float:
    """Where half of the weights of pixels lie before, and half behind."""
    shares = np.cumsum(weights) / weights.sum()
    place = int(np.searchsorted(shares, 0.5))
    own = weights[place] / weights.sum()
    return place + 0.5 - float((shares[place] - 0.5) / own)


def _distances(shape: tuple[int, ...], centre: tuple[float, float]) -> np.ndarray:
    """How far each pixel is from the centre; those on a square are equally far."""
    rows, columns = (
        np.abs(np.arange(size) - middle)
        for size, middle in zip(shape, centre, strict=True)
    )
    return np.maximum(rows[:, np.newaxis], columns)


def _draw_map(axes: Any, field: ReceptiveField) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    largest = float(field.contributions.max())
    values = np.maximum(field.contributions, _FLOOR * largest)
    axes.imshow(values, cmap=SEQUENTIAL, norm=LogNorm(_FLOOR * largest, largest))
    axes.set_xticks([])
    axes.set_yticks([])
    for share, color in zip(_SHARES, ("white", PALETTE[1]), strict=True):
        radius = field.radius(share) + 0.5
        corner = (field.centre[1] - radius, field.centre[0] - radius)
        axes.add_patch(
            Rectangle(corner, 2 * radius, 2 * radius, fill=False, color=color, lw=1.3)
        )
    radii = ", ".join(f"{share:.0%}: {field.radius(share):.0f}" for share in _SHARES)
    axes.set_xlabel(f"radius {radii} pixels", fontsize=7)


def _draw_shares(axes: Any, fields: Mapping[str, ReceptiveField]) -> None:
    styles = ("-", "--", "-.", ":")
    for place, (name, field) in enumerate(fields.items()):
        radii, shares = field.shares()
        axes.plot(
            radii,
            shares,
            color=PALETTE[place % len(PALETTE)],
            linestyle=styles[place % len(styles)],
            label=short(name) or None,
        )
    axes.set_xlabel("distance from the centre, pixels")
    axes.set_ylabel("share of the contributions")
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    if any(fields):
        axes.legend(frameon=False, fontsize=8)
    tidy(axes)
