"""What every analysis gives: arrays that draw themselves and are written to files."""

import abc
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_metaformer_lite.weights.disk import replacement

#: Okabe and Ito's colours, which the colour-blind tell apart: blue, orange, green,
#: purple, vermilion, sky blue, yellow, black.
PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
#: Colour maps of matplotlib that the colour-blind read, too: of values from 0 up, and
#: of values on both sides of 0.
SEQUENTIAL, DIVERGING = "viridis", "PuOr_r"


class Result(abc.ABC):
    """What an analysis found.

    Derived classes are dataclasses that say what their arrays are and how these are
    drawn.

    Attributes:
        reading: how the picture is read, and what it does not show.
        size: width and height of the picture, in inches.
    """

    reading: ClassVar[str] = ""

    @property
    def size(self) -> tuple[float, float]:
        return 7.0, 4.0

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """What was found, by name; the first array is the main one."""

    @abc.abstractmethod
    def draw(self, figure: Any) -> None:
        """Draw into an empty figure of matplotlib."""

    def figure(self) -> Any:
        """The picture, as a `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        figure = new_figure(self.size)
        self.draw(figure)
        return figure

    def png(self, dpi: int = 110) -> bytes:
        """The picture as the content of a PNG file.

        Args:
            dpi: int. Pixels for each inch of `size`.
        """
        stream = io.BytesIO()
        self.figure().savefig(stream, format="png", dpi=dpi, facecolor="white")
        return stream.getvalue()

    def save(self, path: str | Path) -> list[Path]:
        """Write the picture, the arrays, or both.

        Each file is written under another name and then put in place.

        Args:
            path: ends in `.png` for the picture alone, in `.npy` for the main array
                alone. Any other is the beginning of the names of all files:
                `PATH.png`, `PATH.npy` and `PATH.NAME.npy` for each further array.

        Returns:
            The files that were written.

        Raises:
            ValueError: if there is no such folder.
            ImportError: if a picture is asked for and matplotlib is not installed.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise ValueError(
                f"Expected a path in a folder that exists. Received: path={str(path)!r}"
            )
        arrays = self.arrays()
        main = next(iter(arrays))
        if path.suffix.lower() == ".png":
            return [_write(path, self.png())]
        if path.suffix.lower() == ".npy":
            return [_write(path, _npy(arrays[main]))]
        # Drawn first: nothing is written if that fails.
        written = [_write(path.with_name(f"{path.name}.png"), self.png())]
        for name, array in arrays.items():
            ending = "npy" if name == main else f"{name}.npy"
            target = path.with_name(f"{path.name}.{ending}")
            written.append(_write(target, _npy(array)))
        return written

    def _repr_png_(self) -> bytes:
        return self.png()


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure of matplotlib.

    Args:
        size: width and height, in inches.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    with needing("matplotlib", "Pictures"):
        from matplotlib.figure import Figure
    return Figure(figsize=size, layout="constrained")


@contextmanager
def needing(package: str, what: str) -> Iterator[None]:
    """Say which extra has a package where importing it fails.

    Args:
        package: its name.
        what: what needs it, at the start of a sentence and in the plural.

    Raises:
        ImportError: in place of that of the block.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{what} need {package}: pip install 'keras-metaformer[explain]'"
        ) from error


def tidy(axes: Any) -> None:
    """Give the axes of a diagram a light grid and no frame at the top and right."""
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def grid_of_pictures(figure: Any, number: int, columns: int) -> list[Any]:
    """Axes without frames for so many pictures, row by row.

    Args:
        figure: an empty figure of matplotlib.
        number: int. How many axes are wanted.
        columns: int. How many stand in a row.
    """
    grid: Any = figure.subplots(-(-number // columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    return list(grid.flat[:number])


def by_file_name(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by paths of layers, under names that files can have."""
    return {path.replace("/", "-"): array for path, array in arrays.items()}


def short(name: str) -> str:
    """A label of at most 20 characters; dollar signs would be read as formulas."""
    name = name.replace("_", " ").replace("$", r"\$")
    return name if len(name) <= 20 else name[:19] + "…"


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _write(path: Path, content: bytes) -> Path:
    with replacement(path, path.suffix) as temporary:
        temporary.write_bytes(content)
    return path
