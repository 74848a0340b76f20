"""Whether a method looks at what a model has learned: randomise that, and compare."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.explain.attributions import Attributions
from keras_metaformer.explain.images import prepared
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.results import PALETTE, Result, tidy
from keras_metaformer.explain.targets import TargetLike, resolve
from keras_metaformer.models.nodes import is_graph


@dataclasses.dataclass(frozen=True)
class Sanity(Result):
    """How like the maps of randomised models are to those of the model.

    Attributes:
        method: what computed the maps.
        layers: paths of the layers in the order in which they were randomised, each in
            addition to those before it; `"(none)"` comes first.
        correlations: float32 `(steps + 1, batch)`. Spearman's rank correlation of the
            maps with those of the model as it is, of absolute values for attributions.
    """

    reading: ClassVar[str] = (
        "The layers are randomised one after another, from the last to the first. If "
        "the maps stay as they are although nothing is left of what the model learned, "
        "the method shows the image, not the model. A low end is necessary, and not "
        "sufficient: the maps of a bad method change as well."
    )

    method: str
    layers: tuple[str, ...]
    correlations: np.ndarray

    @property
    def size(self) -> tuple[float, float]:
        return max(4.5, 0.34 * len(self.layers) + 2), 4.2

    def arrays(self) -> dict[str, np.ndarray]:
        return {"correlations": self.correlations}

    def draw(self, figure: Any) -> None:
        axes = figure.subplots()
        places = np.arange(len(self.layers))
        mean = self.correlations.mean(axis=1)
        low, high = np.quantile(self.correlations, (0.1, 0.9), axis=1)
        axes.fill_between(places, low, high, color=PALETTE[5], alpha=0.35, linewidth=0)
        axes.plot(places, mean, color=PALETTE[0], marker="o", ms=3)
        axes.axhline(0, color="#555555", linewidth=0.8)
        axes.set_xticks(places, self.layers, rotation=90, fontsize=7)
        axes.set_ylabel("rank correlation")
        axes.set_title(
            f"{self.method.replace('_', ' ')}: likeness to the trained model's",
            fontsize=10,
        )
        tidy(axes)


def sanity(
    model: keras.Model | Probe,
    images: Any,
    method: Callable[..., Any],
    target: TargetLike = None,
    *,
    seed: int = 0,
    layers: Sequence[Any] | None = None,
    transform: Any = None,
    batch_size: int = 8,
) -> Sanity:
    """Randomise a model layer by layer, from its end, and follow a method's maps.

    The values of each weight are shuffled: of the layer nothing is left but how large
    they are. The model is afterwards what it was before, to the bit, whatever happens;
    no other thread should use it meanwhile.

    Example:

    >>> import keras_metaformer as km
    >>> from keras_metaformer.explain import smooth_grad
    >>> model = km.MetaFormer((1, 1), (8, 8), input_shape=(32, 32, 3), classes=5)
    >>> found = sanity(model, np.ones((1, 32, 32, 3), "float32"), smooth_grad)
    >>> found.layers[:2]
    ('(none)', 'predictions')

    Args:
        model: a model of images, as `Probe` takes it, or its `Probe`.
        images: as `CAM` takes them.
        method: function of this module's kind, such as `km.explain.smooth_grad`, called
            as `method(probe, images, target, batch_size=...)`; its result has `maps`
            `(batch, height, width)`. `functools.partial` gives it further arguments.
        target: as `CAM` takes it. The class that the model answers is that of the model
            as it is.
        seed: int. Of the shuffling.
        layers: of the graph, as `Probe.find` takes them, in the order in which they are
            randomised; None for all with weights, from the last to the first.
        transform: callable that prepares an image, where the model does not know.
        batch_size: int. Images at once.

    Raises:
        ValueError: if there is no such layer, or no layer with weights.

    Reference:
        - Sanity Checks for Saliency Maps, https://arxiv.org/abs/1810.03292
    """
    probe = Probe.of(model)
    batch = prepared(probe, images, transform)
    resolved = resolve(probe, batch, target, batch_size)
    if resolved.classes is not None:
        target = list(resolved.classes)
    if layers is None:
        chosen = [
            path
            for path in reversed(probe.shapes)
            if probe.layers[path].weights and not is_graph(probe.layers[path])
        ]
    else:
        chosen = [probe.find(layer) for layer in layers]
    if not chosen:
        raise ValueError(
            f"Expected a layer with weights. Received: layers={layers!r} of "
            f"{probe.model.name!r}"
        )
    name = getattr(method, "__name__", None)
    own = method(probe, batch, target, batch_size=batch_size)
    found = [_correlations(own, own)]
    rng = np.random.default_rng(seed)
    with _restored(probe.model):
        done: set[int] = set()
        for path in chosen:
            for variable in probe.layers[path].weights:
                if id(variable) not in done:
                    done.add(id(variable))
                    _shuffle(variable, rng)
            other = method(probe, batch, target, batch_size=batch_size)
            found.append(_correlations(own, other))
    return Sanity(
        method=name or getattr(own, "method", type(method).__name__),
        layers=("(none)", *chosen),
        correlations=np.asarray(found, "float32"),
    )


@contextmanager
def _restored(model: keras.Model) -> Iterator[None]:
    """Gives the model's variables the values back that they have before the block."""
    before = [(variable, np.array(to_numpy(variable))) for variable in model.variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _shuffle(variable: Any, rng: np.random.Generator) -> None:
    values = np.array(to_numpy(variable))
    if np.issubdtype(values.dtype, np.integer):
        return  # a counter, or the state of random numbers
    variable.assign(rng.permutation(values.reshape(-1)).reshape(values.shape))


def _correlations(own: Any, other: Any) -> np.ndarray:
    return np.array(
        [
            rank_correlation(one, another)
            for one, another in zip(_compared(own), _compared(other), strict=True)
        ],
        "float32",
    )


def _compared(found: Any) -> np.ndarray:
    if isinstance(found, Attributions):
        return np.abs(found.values).sum(axis=-1)
    coarse = getattr(found, "coarse", None)
    return np.asarray(found.maps if coarse is None else coarse)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of two arrays of one shape; 0 where all values of one are equal."""
    ranks = [_mean_ranks(each.reshape(-1)) for each in (one, other)]
    first, second = (each - each.mean() for each in ranks)
    divisor = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / divisor) if divisor > 0 else 0.0


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places.reshape(-1)]
