"""What activations cost, and what they make of normally distributed inputs."""

import dataclasses
import math
from typing import Any, ClassVar

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.explain.parts import is_activation
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.results import PALETTE, Result, tidy
from keras_metaformer.layers import GELU, SquaredReLU, StarReLU
from keras_metaformer.layers.composite import Shapes, has_flow
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer.models.complexity import calls_of, count_macs

#: Floating-point operations for one unit, as the paper counts (section 2.4.1).
FLOPS_PER_UNIT = {"ReLU": 1, "SquaredReLU": 2, "StarReLU": 4, "GELU": 14}
#: The classes that these are.
_CLASSES = {
    keras.layers.ReLU: "ReLU",
    SquaredReLU: "SquaredReLU",
    StarReLU: "StarReLU",
    GELU: "GELU",
}
_FUNCTIONS = {keras.activations.relu: "ReLU", keras.activations.gelu: "GELU"}


@dataclasses.dataclass(frozen=True)
class ActivationCost(Result):
    """The cost of a model's activations, as `activation_cost` counts it.

    Attributes:
        units: dict of int by the path of the layer. Outputs of each activation for one
            image.
        kinds: dict of str, likewise: `"ReLU"`, `"SquaredReLU"`, `"StarReLU"`, `"GELU"`,
            or the name of another class, whose cost is not known.
        macs: int. Multiply-accumulate operations of all else for one image, each of
            two floating-point operations.
        model: str. The name of the model.
    """

    reading: ClassVar[str] = (
        "How many floating-point operations an image's activations take, if all of the "
        "model were of each kind, as the MetaFormer paper counts them, and their share "
        "of all operations (a multiply-accumulate being two). Operations are not time: "
        "activations are bound by memory, and fused ones cost next to nothing."
    )

    units: dict[str, int]
    kinds: dict[str, str]
    macs: int
    model: str

    @property
    def size(self) -> tuple[float, float]:
        return 7.0, 2.8

    def flops(self, kind: str | None = None) -> int:
        """Floating-point operations of the activations for one image.

        Args:
            kind: of `FLOPS_PER_UNIT`, as if all were of it; None for those that the
                model has.

        Raises:
            ValueError: if the cost of a kind is not known.
        """
        if kind is not None:
            return _flops_of(kind) * sum(self.units.values())
        return sum(
            _flops_of(self.kinds[path]) * units for path, units in self.units.items()
        )

    def share(self, kind: str | None = None) -> float:
        """The share of the activations in all operations.

        Args:
            kind: as of `flops`.
        """
        flops = self.flops(kind)
        return flops / (flops + 2 * self.macs)

    def rows(self) -> list[dict[str, Any]]:
        """The table: for each kind operations for a unit, of all units, their share."""
        return [
            {
                "activation": kind,
                "flops_per_unit": per_unit,
                "flops": self.flops(kind),
                "share": self.share(kind),
            }
            for kind, per_unit in FLOPS_PER_UNIT.items()
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "flops": np.asarray([row["flops"] for row in self.rows()]),
            "shares": np.asarray([row["share"] for row in self.rows()]),
            "units": np.asarray(list(self.units.values())),
        }

    def draw(self, figure: Any) -> None:
        axes = figure.subplots()
        rows = self.rows()[::-1]
        own = set(self.kinds.values())
        shares = [100 * row["share"] for row in rows]
        colors = [
            PALETTE[0] if row["activation"] in own else PALETTE[5] for row in rows
        ]
        axes.barh([row["activation"] for row in rows], shares, color=colors)
        for place, row in enumerate(rows):
            text = f" {row['share']:.2%}: {row['flops'] / 1e6:,.1f} M, "
            text += f"{row['flops_per_unit']} a unit"
            axes.text(shares[place], place, text, va="center", fontsize=8)
        axes.set_xlim(0, 1.7 * max(shares))
        axes.set_xlabel(
            "% of all floating-point operations (dark: kinds the model has)"
        )
        axes.set_title(
            f"{self.model}: {sum(self.units.values()) / 1e6:.1f} M units, "
            f"{self.macs / 1e9:.2f} G MACs",
            fontsize=10,
        )
        tidy(axes)


def activation_cost(model: keras.Model | Probe) -> ActivationCost:
    """Count the operations of a model's activations, and their share in all.

    Example:

    >>> import keras_metaformer as km
    >>> cost = activation_cost(km.ConvFormerS18(weights=None))
    >>> [row["flops_per_unit"] for row in cost.rows()]
    [1, 2, 4, 14]

    Args:
        model: functional model with known input shapes, or its `Probe`.

    Returns:
        The counts, for one image.

    Raises:
        ValueError: if a shape is not known, or the model has no activation.
        TypeError: if a layer multiplies matrices and its count is not known.

    Reference:
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """
    model = model.model if isinstance(model, Probe) else model
    counting = _Counting()
    for layer, shape in calls_of(model):
        counting.add(layer, layer.name, shape)
    if not counting.units:
        raise ValueError(
            f"Expected a model with activations. Received: model={model.name!r}"
        )
    return ActivationCost(
        counting.units, counting.kinds, count_macs(model), str(model.name)
    )


class _Counting:
    """The units of activations, by their paths."""

    def __init__(self) -> None:
        self.units: dict[str, int] = {}
        self.kinds: dict[str, str] = {}

    def add(self, layer: Any, path: str, shape: Any) -> None:
        if has_flow(layer):
            layer.flow(_Walk(layer, self, path), shape)
        elif is_activation(path, layer):
            if None in shape[1:]:
                raise ValueError(
                    "Units can be counted for known image sizes only: build the model "
                    f"with `input_shape`. Received: shape={shape}"
                )
            # A layer that is called twice, or of two models that are layers of one.
            self.units[path] = self.units.get(path, 0) + math.prod(shape[1:])
            self.kinds[path] = kind_of(layer)


class _Walk(Shapes):
    """The flow of shapes on which activations are counted."""

    def __init__(self, outer: Any, counting: _Counting, path: str):
        super().__init__(outer)
        self.counting, self.path = counting, path

    def step(self, layer, x):
        self.counting.add(layer, f"{self.path}/{layer.name}", x)
        return super().step(layer, x)


def kind_of(layer: Any) -> str:
    """An activation by the name in `FLOPS_PER_UNIT`, or that of its class.

    Args:
        layer: the activation.
    """
    function = getattr(layer, "activation", None)
    if function in _FUNCTIONS:
        return _FUNCTIONS[function]
    return _CLASSES.get(type(layer), type(layer).__name__)


def _flops_of(kind: str) -> int:
    if kind not in FLOPS_PER_UNIT:
        raise ValueError(
            f"The cost of a unit is known for {list(FLOPS_PER_UNIT)}. "
            f"Received: {kind!r}"
        )
    return FLOPS_PER_UNIT[kind]


@dataclasses.dataclass(frozen=True)
class ActivationMoments(Result):
    """Means and variances of activations of a standard normal input.

    Attributes:
        activations: tuple of str. Their names.
        means: float64 `(activations,)`. Of the samples.
        variances: float64 `(activations,)`. Of the samples.
        expected_means: float64 `(activations,)`. Of the distribution.
        expected_variances: float64 `(activations,)`. Of the distribution.
        samples: int. Their number.
    """

    reading: ClassVar[str] = (
        "What each activation makes of inputs drawn from a standard normal: squared "
        "ReLU shifts and widens them (mean 0.5, variance 1.25), StarReLU with the "
        "paper's scale and bias gives mean 0 and variance 1. In a trained network "
        "inputs are not standard normal, and scale and bias are learned."
    )

    activations: tuple[str, ...]
    means: np.ndarray
    variances: np.ndarray
    expected_means: np.ndarray
    expected_variances: np.ndarray
    samples: int

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "means": self.means,
            "variances": self.variances,
            "expected_means": self.expected_means,
            "expected_variances": self.expected_variances,
        }

    def draw(self, figure: Any) -> None:
        grid: Any = figure.subplots(1, 2)
        places = np.arange(len(self.activations))
        pairs = (
            ("mean", self.means, self.expected_means),
            ("variance", self.variances, self.expected_variances),
        )
        for axes, (name, found, expected) in zip(grid, pairs, strict=True):
            axes.bar(places, found, 0.6, color=PALETTE[0], label="of the samples")
            axes.plot(places, expected, "D", color=PALETTE[4], label="exact")
            axes.set_xticks(places, self.activations, rotation=30, fontsize=8)
            axes.set_title(f"{name} of {self.samples:,} samples", fontsize=10)
            axes.margins(y=0.15)
            for place, value in zip(places, found, strict=True):
                axes.annotate(
                    f"{value:.3f}",
                    (place, max(value, 0)),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                )
            tidy(axes)
        grid[0].legend(frameon=False, fontsize=8)


def activation_moments(samples: int = 1_000_000, seed: int = 0) -> ActivationMoments:
    """Mean and variance of the activations of a standard normal input.

    StarReLU starts from the paper's values here (`initial_values="paper"`), which are
    derived from those of squared ReLU: mean 0.5 and variance 1.25.

    Example:

    >>> found = activation_moments(100_000)
    >>> dict(zip(found.activations, found.expected_variances.round(2).tolist()))
    {'ReLU': 0.34, 'SquaredReLU': 1.25, 'StarReLU': 1.0, 'GELU': 0.35}

    Args:
        samples: int. How many inputs are drawn.
        seed: int. Of the draw.

    Returns:
        What the layers make of them, and the values of the distribution.

    Raises:
        ValueError: if `samples` is not positive.

    Reference:
        - MetaFormer Baselines for Vision, section 2.4.1,
          https://arxiv.org/abs/2210.13452
    """
    drawn = np.random.default_rng(seed).normal(
        size=positive_integer("samples", samples)
    )
    # For the exact values, sums over a fine grid.
    grid = np.linspace(-12, 12, 240_001)
    weights = np.exp(-0.5 * grid**2)
    weights /= weights.sum()
    layers = {
        "ReLU": keras.layers.ReLU(dtype="float32"),
        "SquaredReLU": SquaredReLU(dtype="float32"),
        "StarReLU": StarReLU("paper", dtype="float32"),
        "GELU": GELU(dtype="float32"),
    }
    moments = []
    for layer in layers.values():
        found = _outputs(layer, drawn)
        on_grid = _outputs(layer, grid)
        mean = float(weights @ on_grid)
        moments.append(
            (found.mean(), found.var(), mean, float(weights @ (on_grid - mean) ** 2))
        )
    means, variances, expected_means, expected_variances = np.transpose(moments)
    return ActivationMoments(
        tuple(layers), means, variances, expected_means, expected_variances, samples
    )


def _outputs(layer: Any, inputs: np.ndarray) -> np.ndarray:
    outputs = layer(inputs.astype("float32")[np.newaxis])
    return to_numpy(outputs)[0].astype("float64")
