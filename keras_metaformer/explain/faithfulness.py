"""Whether maps show what the model uses: take that away, and look at its score."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np

from keras_metaformer.explain.attributions import baseline_of
from keras_metaformer.explain.images import prepared
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.results import PALETTE, Result, needing, tidy
from keras_metaformer.explain.targets import (
    Resolved,
    TargetLike,
    probability,
    resolve,
)
from keras_metaformer.layers.validation import positive_integer

#: The paper's weights of a pixel's neighbours: those that share a side, and the others.
_DIRECT, _DIAGONAL = 1 / 6, 1 / 12
#: Of the noise that hides where pixels were imputed, as a part of the image's range.
_NOISE = 0.01
CURVES = ("deletion", "insertion", "road")


@dataclasses.dataclass(frozen=True)
class Faithfulness(Result):
    """How the score of a target goes as pixels go, or come, in the order of maps.

    Attributes:
        shares: float `(steps + 1,)` from 0 to 1. Of the pixels that are taken away, or
            put in.
        curves: `{"deletion": {method: float32 (steps + 1,)}, ...}`: mean score (a
            probability where the target is a class) after taking the most important
            pixels away (`"deletion"`: less is better), after putting them into nothing
            (`"insertion"`: more is better), and half the difference of the scores
            without the least and without the most important ones (`"road"`: more is
            better).
        areas: the mean heights of the curves, `{"deletion": {method: float}, ...}`.
    """

    reading: ClassVar[str] = (
        "A map is faithful to the model if the score falls fast as the bright places "
        "are taken away and rises fast as they are put in. The images on the way are "
        "such as the model has never seen; ROAD fills the gaps so that they are not "
        "seen, and is the fairest of the three."
    )

    shares: np.ndarray
    curves: dict[str, dict[str, np.ndarray]]
    areas: dict[str, dict[str, float]]

    @property
    def size(self) -> tuple[float, float]:
        return 3.6 * len(self.curves), 3.4

    def arrays(self) -> dict[str, np.ndarray]:
        """`(curves, methods, steps + 1)` in the order of the dictionaries."""
        stacked = [np.stack(list(each.values())) for each in self.curves.values()]
        return {"curves": np.stack(stacked), "shares": self.shares}

    def draw(self, figure: Any) -> None:
        titles = {
            "deletion": "Deletion (low is good)",
            "insertion": "Insertion (high is good)",
            "road": "ROAD (high is good)",
        }
        grid: Any = figure.subplots(1, len(self.curves), squeeze=False)
        for axes, (name, curves) in zip(grid.flat, self.curves.items(), strict=True):
            for place, (method, curve) in enumerate(curves.items()):
                axes.plot(
                    100 * self.shares,
                    curve,
                    color=PALETTE[place % len(PALETTE)],
                    linestyle=("-", "--", ":")[place // len(PALETTE) % 3],
                    label=f"{method.replace('_', ' ')}: {self.areas[name][method]:.2f}",
                )
            axes.set_title(titles[name], fontsize=10)
            axes.set_xlabel("% of the pixels")
            axes.legend(frameon=False, fontsize=7)
            tidy(axes)


def faithfulness(
    model: keras.Model | Probe,
    images: Any,
    maps: Mapping[str, Any],
    target: TargetLike = None,
    *,
    curves: tuple[str, ...] = CURVES,
    steps: int = 10,
    seed: int = 0,
    transform: Any = None,
    batch_size: int = 8,
) -> Faithfulness:
    """Compare methods by what the model's score does without what they point at.

    Args:
        model: a model of images, as `Probe` takes it, or its `Probe`.
        images: as `CAM` takes them.
        maps: by the name of the method what it gave for the images: `HeatMaps`,
            `Attributions`, or arrays `(batch, height, width)`.
        target: as `CAM` takes it; that of the maps.
        curves: those of `"deletion"`, `"insertion"` and `"road"` that are computed.
        steps: int. Equal parts of the pixels.
        seed: int. Of the order among equal pixels, and of ROAD's noise.
        transform: callable that prepares an image, where the model does not know.
        batch_size: int. Images at once.

    Raises:
        ValueError: if an argument is out of range, or the maps are not of the images'
            size.
        ImportError: if ROAD is asked for and SciPy is not installed.

    Reference:
        - RISE (insertion and deletion), https://arxiv.org/abs/1806.07421
        - ROAD, https://arxiv.org/abs/2202.00449
    """
    positive_integer("steps", steps)
    unknown = [name for name in curves if name not in CURVES]
    if unknown or not curves:
        raise ValueError(
            f"`curves` must be of {', '.join(CURVES)}. Received: curves={curves!r}"
        )
    probe = Probe.of(model)
    batch = prepared(probe, images, transform)
    resolved = resolve(probe, batch, target, batch_size)
    if not maps:
        raise ValueError("Expected the maps of at least one method. Received: none")
    judge = _Judge(probe, batch, probability(probe, resolved), steps, seed, batch_size)
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in curves}
    for method, given in maps.items():
        values = np.asarray(getattr(given, "maps", given), "float32")
        if values.shape != batch.shape[:3]:
            raise ValueError(
                f"Expected maps {batch.shape[:3]}, one value for each pixel. "
                f"Received: {method!r} of shape {values.shape}"
            )
        ranks = _ranks(values, seed)
        for name in curves:
            found[name][method] = judge.curve(name, ranks)
    areas = {
        name: {method: _area(curve) for method, curve in each.items()}
        for name, each in found.items()
    }
    return Faithfulness(np.linspace(0, 1, steps + 1), found, areas)


def _area(curve: np.ndarray) -> float:
    """The mean height of straight lines through the points."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


def _ranks(values: np.ndarray, seed: int) -> np.ndarray:
    """How many pixels are more important than each; equal ones come by chance."""
    rng = np.random.default_rng(seed)
    flat = values.reshape(len(values), -1)
    ranks = np.empty(flat.shape, "int64")
    for row, of_one in zip(ranks, flat, strict=True):
        order = np.lexsort((rng.random(of_one.size), -of_one))
        row[order] = np.arange(of_one.size)
    return ranks.reshape(values.shape)


class _Judge:
    def __init__(
        self,
        probe: Probe,
        batch: np.ndarray,
        resolved: Resolved,
        steps: int,
        seed: int,
        batch_size: int,
    ) -> None:
        self.probe, self.batch, self.resolved = probe, batch, resolved
        self.steps, self.seed, self.batch_size = steps, seed, batch_size
        self.pixels = batch.shape[1] * batch.shape[2]

    def curve(self, name: str, ranks: np.ndarray) -> np.ndarray:
        """The mean scores for 0, 1, ... `steps` parts of the pixels."""
        if name == "road":
            least = self.pixels - 1 - ranks
            return (self._imputed(least) - self._imputed(ranks)) / 2
        nothing = baseline_of(self.batch)
        found = []
        for step in range(self.steps + 1):
            chosen = (ranks < self._number(step))[..., np.newaxis]
            if name == "deletion":
                variants = np.where(chosen, nothing, self.batch)
            else:
                variants = np.where(chosen, self.batch, nothing)
            found.append(self._mean(variants))
        return np.asarray(found, "float32")

    def _number(self, step: int) -> int:
        return round(self.pixels * step / self.steps)

    def _imputed(self, ranks: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        found = []
        for step in range(self.steps + 1):
            gone = ranks < self._number(step)
            variants = [
                imputed(image, mask, rng)
                for image, mask in zip(self.batch, gone, strict=True)
            ]
            found.append(self._mean(np.stack(variants)))
        return np.asarray(found, "float32")

    def _mean(self, variants: np.ndarray) -> float:
        scores = self.probe.scores(
            variants.astype("float32"),
            self.resolved.score,
            watch=self.resolved.watch,
            data=self.resolved.data,
            batch_size=self.batch_size,
        )
        return float(scores.mean())


def imputed(image: np.ndarray, gone: np.ndarray, rng: Any) -> np.ndarray:
    """An image with some pixels made of their neighbours, so that none stands out.

    Each that is gone is the weighted mean of its eight neighbours, whether these are
    there or gone too, and noise.

    Args:
        image: float `(height, width, channels)`.
        gone: bool `(height, width)`. If all are, they get the image's mean.
        rng: NumPy generator, of the noise.

    Raises:
        ImportError: if SciPy is not installed.

    Reference:
        - A Consistent and Efficient Evaluation Strategy for Attribution Methods,
          https://arxiv.org/abs/2202.00449
    """
    with needing("scipy", "ROAD's systems of equations"):
        from scipy.sparse import coo_matrix
        from scipy.sparse.linalg import spsolve

    number = int(gone.sum())
    result = np.array(image, "float32")
    if number == 0:
        return result
    noise = _NOISE * np.ptp(image) * rng.normal(size=(number, image.shape[-1]))
    if number == gone.size:
        result[gone] = image.mean(axis=(0, 1)) + noise
        return result
    height, width = gone.shape
    places = np.full(gone.shape, -1)
    places[gone] = np.arange(number)
    rows, columns = np.nonzero(gone)
    total, known = np.zeros(number), np.zeros((number, image.shape[-1]))
    entries: list[Any] = []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if not (down or right):
                continue
            weight = _DIAGONAL if down and right else _DIRECT
            y, x = rows + down, columns + right
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            own, y, x = np.flatnonzero(inside), y[inside], x[inside]
            np.add.at(total, own, weight)
            is_gone = gone[y, x]
            known[own[~is_gone]] += weight * image[y[~is_gone], x[~is_gone]]
            entries.append((own[is_gone], places[y, x][is_gone], -weight))
    diagonal = np.arange(number)
    row = np.concatenate([diagonal, *(each[0] for each in entries)])
    column = np.concatenate([diagonal, *(each[1] for each in entries)])
    data = np.concatenate(
        [total, *(np.full(len(each[0]), each[2]) for each in entries)]
    )
    system = coo_matrix((data, (row, column)), shape=(number, number)).tocsc()
    solved = np.asarray(spsolve(system, known)).reshape(number, -1)
    result[gone] = solved + noise
    return result
