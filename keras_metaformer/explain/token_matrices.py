"""The matrices by which models mix their tokens."""

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.explain.parts import block_of, parts_by_path
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.results import (
    DIVERGING,
    SEQUENTIAL,
    Result,
    by_file_name,
    grid_of_pictures,
    short,
)
from keras_metaformer.layers import RandomMixer, TokenLinear
from keras_metaformer.layers.tokens import grid_of
from keras_metaformer.layers.validation import positive_integer

_COLUMNS, _MOST = 4, 12
_COLUMNS_OF_ROWS = 8

#: `(height, width)` of the map that tokens are, or None where they are none.
Grid = tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class TokenMatrices(Result):
    """Matrices over the tokens, as `token_matrices` finds them.

    Attributes:
        matrices: dict of float32 arrays `(outputs, inputs)`, `y = W x` over the tokens,
            by the path of the layer, in the order of the model.
        grids: dict of `(output grid, input grid)`, each `(height, width)` or None for
            the hidden units of an MLP.
    """

    reading: ClassVar[str] = (
        "Each matrix says how much of which token (columns) goes into which (rows). A "
        "bright diagonal keeps tokens where they are, parallel lines are like a "
        "convolution. The weights are the same for every image: what an image makes of "
        "them is not shown."
    )

    matrices: dict[str, np.ndarray]
    grids: dict[str, tuple[Grid, Grid]]

    @property
    def size(self) -> tuple[float, float]:
        count = min(len(self.matrices), _MOST)
        columns = min(count, _COLUMNS)
        return 2.2 * columns + 0.4, 2.3 * -(-count // _COLUMNS) + 0.5

    def arrays(self) -> dict[str, np.ndarray]:
        return by_file_name(self.matrices)

    def patterns(self, layer: str, most: int = 32) -> "TokenPatterns":
        """What single outputs of a matrix look at, as maps over the image.

        Args:
            layer: one of the paths of `matrices`.
            most: int. So many outputs, those with the largest norm.

        Returns:
            The maps.

        Raises:
            ValueError: if there is no such layer, or its inputs are no map, as those of
                the second matrix of a token-mixing MLP.
        """
        of_maps = {path: grid for path, (_, grid) in self.grids.items() if grid}
        if layer not in of_maps:
            raise ValueError(
                f"Matrices whose inputs are maps are {list(of_maps)}. "
                f"Received: layer={layer!r}"
            )
        matrix = self.matrices[layer]
        norms = np.linalg.norm(matrix, axis=1)
        outputs = np.argsort(-norms, kind="stable")[: positive_integer("most", most)]
        return TokenPatterns(
            matrix[outputs].reshape(-1, *of_maps[layer]), outputs, layer
        )

    def draw(self, figure: Any) -> None:
        paths = list(self.matrices)
        places = np.linspace(0, len(paths) - 1, min(len(paths), _MOST)).round()
        chosen = [paths[int(place)] for place in places]
        columns = min(len(chosen), _COLUMNS)
        grid = grid_of_pictures(figure, len(chosen), columns)
        for axes, path in zip(grid, chosen, strict=True):
            axes.imshow(self.matrices[path], **_colors(self.matrices[path]))
            outputs, inputs = self.matrices[path].shape
            place = f"{short(block_of(path))} {path.split('/')[-1]}"
            axes.set_title(f"{place}, {outputs}x{inputs}", fontsize=7, pad=2)
        figure.suptitle("Token-mixing matrices: outputs by inputs", fontsize=9)


@dataclasses.dataclass(frozen=True)
class TokenPatterns(Result):
    """Rows of a matrix over the tokens as maps.

    Attributes:
        patterns: float32 `(outputs, height, width)`. The weights of each position.
        outputs: int `(outputs,)`. Which outputs these are.
        layer: str. The path of the layer.
    """

    reading: ClassVar[str] = (
        "Each map has the weights by which one output adds up the positions of the "
        "image, the two colours for the two signs."
    )

    patterns: np.ndarray
    outputs: np.ndarray
    layer: str

    @property
    def size(self) -> tuple[float, float]:
        rows = -(-len(self.patterns) // _COLUMNS_OF_ROWS)
        return 1.1 * _COLUMNS_OF_ROWS, 1.25 * rows + 0.5

    def arrays(self) -> dict[str, np.ndarray]:
        return {"patterns": self.patterns, "outputs": self.outputs}

    def draw(self, figure: Any) -> None:
        grid = grid_of_pictures(figure, len(self.patterns), _COLUMNS_OF_ROWS)
        shown = zip(grid, self.patterns, self.outputs, strict=True)
        for axes, pattern, output in shown:
            axes.imshow(pattern, **_colors(pattern))
            axes.set_title(str(output), fontsize=7, pad=2)
        figure.suptitle(f"Outputs of {self.layer} over the image", fontsize=9)


def has_token_matrices(model: keras.Model | Probe) -> bool:
    """Whether a model has matrices over the tokens that `token_matrices` reads.

    Args:
        model: any model with `layers`, or its `Probe`.
    """
    model = model.model if isinstance(model, Probe) else model
    return any(isinstance(part, _KINDS) for part in parts_by_path(model).values())


_KINDS = (TokenLinear, RandomMixer)


def token_matrices(model: keras.Model | Probe) -> TokenMatrices:
    """The matrices by which a model mixes its tokens, the same for every image.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.IsotropicMetaFormer(
    ...     1, 8, 8, mixer="cross_patch_linear", input_shape=(32, 32, 3), classes=5
    ... )
    >>> found = token_matrices(model)
    >>> {path: matrix.shape for path, matrix in found.matrices.items()}
    {'block_0/token_mixing/transform/linear': (16, 16)}

    Args:
        model: any model with such layers, or its `Probe`.

    Returns:
        The two matrices of each token-mixing MLP (MLP-Mixer), those of cross-patch
        linear layers (ResMLP, MetaFormerPPPFS12, MetaFormerPPFFS12) and spatial gating
        units (gMLP), and the frozen random ones of RandFormer.

    Raises:
        ValueError: if the model has none.
    """
    model = model.model if isinstance(model, Probe) else model
    matrices: dict[str, np.ndarray] = {}
    grids: dict[str, tuple[Grid, Grid]] = {}
    for path, part in parts_by_path(model).items():
        if isinstance(part, TokenLinear):
            matrices[path] = to_numpy(part.kernel).astype("float32").T
            grids[path] = part.output_grid, part.input_grid
        elif isinstance(part, RandomMixer):
            matrices[path] = to_numpy(part.random_matrix).astype("float32")
            grid: Any = grid_of(part.get_build_config()["input_shape"][1:-1])
            grids[path] = grid, grid
    if not matrices:
        raise ValueError(
            "Expected a model that mixes tokens by matrices of weights: MLP-Mixer, "
            "ResMLP, gMLP, RandFormer, MetaFormerPPPFS12 and MetaFormerPPFFS12 do, and "
            "models with mixer='token_mlp', 'cross_patch_linear', 'gated_mlp' or "
            f"'random' in a stage. Received: model={model.name!r}"
        )
    return TokenMatrices(matrices, grids)


def _colors(values: np.ndarray) -> dict[str, Any]:
    """Colours for weights; single large ones do not make the others pale."""
    largest = float(np.quantile(np.abs(values), 0.995)) or 1.0
    if values.min() >= 0:
        return {"cmap": SEQUENTIAL, "vmin": float(values.min()), "vmax": largest}
    return {"cmap": DIVERGING, "vmin": -largest, "vmax": largest}
