"""Draws the blocks of all families as SVG, each from the flow of the layers themselves.

`--check` writes nothing and fails if a picture is not current.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import keras

from keras_metaformer import layers
from keras_metaformer.blocks import Downsampling, MetaFormerBlock
from keras_metaformer.layers.composite import Run, has_flow
from keras_metaformer.layers.scales.channel_scale import ChannelScale
from keras_metaformer.models import families
from keras_metaformer.models.arguments import IMAGES
from scripts.page import put_drawings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "images" / "blocks"

#: For each picture the model, and the name of its layer that is drawn.
BLOCKS = {
    "identityformer": ("IdentityFormerS12", "stage_0_block_0"),
    "randformer": ("RandFormerS12", "stage_3_block_0"),
    "poolformer": ("PoolFormerS12", "stage_0_block_0"),
    "poolformerv2": ("PoolFormerV2S12", "stage_3_block_0"),
    "convformer": ("ConvFormerS18", "stage_0_block_0"),
    "caformer": ("CAFormerS18", "stage_3_block_0"),
    "spatial_linear": ("MetaFormerPPPFS12", "stage_3_block_0"),
    "mlp_mixer": ("MLPMixerB16", "block_0"),
    "resmlp": ("ResMLP12", "block_0"),
    "gmlp": ("GMLPS16", "block_0"),
    "ffnet": ("FFNet1", "stage_2_block_0"),
    "downsampling": ("ConvFormerS18", "stage_1_downsampling"),
    "patch_merging": ("FFNet1", "stage_1_downsampling"),
}

# What is drawn ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A layer without a flow: what it is called, and a few words more."""

    label: str
    detail: str = ""
    kind: str = "other"


@dataclasses.dataclass(frozen=True)
class Group:
    """A layer with a flow of its own, framed."""

    title: str
    chain: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Residual:
    """A branch, and the input beside it, with a scale of its own or None."""

    chain: tuple[Any, ...]
    scale: Leaf | None


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Branches of one input that the next layer takes together, or that are summed."""

    chains: tuple[tuple[Any, ...], ...]
    is_sum: bool = False


class Drawing(Run):
    """The flow of pictures: a chain of what the input has gone through so far.

    Args:
        outer: the layer whose flow it is.
        channels: of the block, for the words on linear layers.
    """

    def __init__(self, outer: Any, channels: int):
        super().__init__(outer)
        self.channels = channels

    def step(self, layer, x):
        if isinstance(x, list):
            x = _joined(x)
        is_idle = isinstance(layer, (keras.layers.Dropout, layers.Dropout))
        if is_idle or (
            isinstance(layer, layers.IdentityMixer) and layer.name == "norm"
        ):
            return x
        if not has_flow(layer):
            return (*x, *leaves(layer, self.channels))
        chain = layer.flow(Drawing(layer, self.channels), ())
        inner = _without_frame(layer)
        return (*x, *chain) if inner else (*x, Group(type(layer).__name__, chain))

    def add(self, x, branch, scale=None):
        shared = _shared([x, branch])
        if shared < len(x):
            return (*x[:shared], Parallel((x[shared:], branch[shared:]), is_sum=True))
        leaf = None if scale is None else leaves(scale, self.channels)[0]
        return (*x, Residual(branch[shared:], leaf))

    def over_tokens(self, x, *layers):
        return self(x, *layers)


def _without_frame(layer: Any) -> bool:
    """Whether what is in the layer says all, so that a frame would only add lines."""
    plain = (layers.BatchNormalized, layers.BatchNormalizedSkip)
    return isinstance(layer, plain) or type(layer).__name__ == "ResidualBranch"


def _shared(chains: list[Any]) -> int:
    """How many steps several chains have in common at their start."""
    for index, steps in enumerate(zip(*chains, strict=False)):
        if any(step is not steps[0] for step in steps):
            return index
    return min(map(len, chains))


def _joined(chains: list[Any]) -> tuple[Any, ...]:
    """Several branches of one input, as one chain that ends in both."""
    shared = _shared(chains)
    return (*chains[0][:shared], Parallel(tuple(c[shared:] for c in chains)))


_NORMS = {
    keras.layers.LayerNormalization: "layer norm",
    keras.layers.GroupNormalization: "group norm",
    keras.layers.BatchNormalization: "batch norm",
}


def leaves(layer: Any, channels: int) -> tuple[Leaf, ...]:
    """What a layer without a flow is called in a picture."""
    if isinstance(layer, Downsampling):
        kernel, stride = layer.kernel_size, layer.strides
        words = f"{kernel} by {kernel}, stride {stride}"
        convolution = Leaf("convolution", words, "linear")
        norms = [
            leaves(norm, channels) if norm is not None else ()
            for norm in (layer.pre_norm, layer.post_norm)
        ]
        return (*norms[0], convolution, *norms[1])
    return (_leaf(layer, channels),)


def _leaf(layer: Any, channels: int) -> Leaf:
    for kind, label in _NORMS.items():
        if isinstance(layer, kind):
            return Leaf(label, kind="norm")
    for kind, describe in _WORDS.items():
        if isinstance(layer, kind):
            return describe(layer, channels)
    raise ValueError(
        "A layer without a flow needs a row in `_WORDS`. "
        f"Received: layer of class {type(layer).__name__}"
    )


def _times(size: int, channels: int) -> str:
    ratio = size / channels
    return f"{ratio:g}C" if ratio != 1 else "C"


def _kernel(layer: Any) -> str:
    sizes = layer.kernel_size
    size = sizes if isinstance(sizes, int) else sizes[0]
    return f"{size} by {size}"


def _activation(label: str, detail: str = "") -> Callable[[Any, int], Leaf]:
    return lambda layer, channels: Leaf(label, detail, "activation")


_WORDS: dict[type, Callable[[Any, int], Leaf]] = {
    keras.layers.Dense: lambda layer, channels: Leaf(
        "linear",
        f"{_times(layer.kernel.shape[0], channels)} → {_times(layer.units, channels)}",
        "linear",
    ),
    layers.TokenLinear: lambda layer, channels: Leaf(
        "linear over the tokens", f"to {layer.units}", "linear"
    ),
    layers.ReparameterizableDepthwise: lambda layer, channels: Leaf(
        "depthwise convolution", f"{_kernel(layer)} beside 3 by 3", "linear"
    ),
    layers.DepthwiseConvolution: lambda layer, channels: Leaf(
        "depthwise convolution", _kernel(layer), "linear"
    ),
    layers.StarReLU: _activation("StarReLU", "s · relu(x)² + b"),
    layers.SquaredReLU: _activation("squared ReLU"),
    layers.GELU: _activation("GELU"),
    keras.layers.Activation: lambda layer, channels: Leaf(
        layer.activation.__name__.upper(), kind="activation"
    ),
    layers.Affine: lambda layer, channels: Leaf("affine", "a · x + b", "norm"),
    ChannelScale: lambda layer, channels: Leaf(
        type(layer).__name__, "one number a channel", "norm"
    ),
    layers.IdentityMixer: lambda layer, channels: Leaf("identity", kind="mixer"),
    layers.PoolingMixer: lambda layer, channels: Leaf(
        "pooling", "mean of 3 by 3, minus x", "mixer"
    ),
    layers.RandomMixer: lambda layer, channels: Leaf(
        "random matrix", "over the tokens, frozen", "mixer"
    ),
    layers.SelfAttentionMixer: lambda layer, channels: Leaf(
        "self-attention", f"heads of {layer.head_dim}", "mixer"
    ),
    layers.SpatialGatingUnit: lambda layer, channels: Leaf(
        "spatial gating", "half · linear over tokens of the other", "mixer"
    ),
}

# The drawing -----------------------------------------------------------------------

_LETTER, _GAP, _PAD = 7.4, 20, 14
_STYLE = """
text { font: 14px system-ui, "Segoe UI", Roboto, sans-serif; fill: #1b1f24;
  text-anchor: middle; }
.small { font-size: 12px; fill: #4a5159; }
.title { font-weight: 600; font-size: 12.5px; fill: #3d434a; }
.ground { fill: #ffffff; }
.frame { fill: #f2f4f7; stroke: #c4cad2; }
.linear { fill: #d8e8fb; stroke: #4c86c6; }
.norm { fill: #e9e4f7; stroke: #8673bd; }
.activation { fill: #fdeccd; stroke: #c58a1f; }
.mixer { fill: #d6f1df; stroke: #3c9a5f; }
.other { fill: #eceff2; stroke: #8b939c; }
.sum { fill: #ffffff; stroke: #4a5159; }
.line { fill: none; stroke: #4a5159; stroke-width: 1.5; }
.head { fill: #4a5159; }
@media (prefers-color-scheme: dark) {
  text { fill: #eceff3; } .small { fill: #b9c1ca; } .title { fill: #d0d6dd; }
  .ground { fill: #14171a; } .frame { fill: #1e2329; stroke: #48515b; }
  .linear { fill: #173554; } .norm { fill: #332a52; } .activation { fill: #4d3812; }
  .mixer { fill: #17432a; } .other { fill: #2a3037; }
  .sum { fill: #14171a; stroke: #b9c1ca; } .line { stroke: #b9c1ca; }
  .head { fill: #b9c1ca; }
}
"""


class Canvas:
    """Collects the elements of an SVG."""

    def __init__(self) -> None:
        self.elements: list[str] = []
        self.left = self.right = 0.0

    def _reach(self, *positions: float) -> None:
        if not self.elements:
            self.left = self.right = positions[0]
        self.left = min(self.left, *positions)
        self.right = max(self.right, *positions)

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A rounded rectangle, `x` and `y` its upper left corner."""
        self._reach(x, x + width)
        self.elements.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="6" class="{kind}"/>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        """Centred at `x`, on the line `y`."""
        named = f' class="{kind}"' if kind else ""
        self.elements.append(
            f'<text x="{x:.1f}" y="{y:.1f}"{named}>{escape(text)}</text>'
        )

    def line(self, *points: tuple[float, float], arrow: bool = False) -> None:
        """Through the points, with a head at the last if `arrow`."""
        self._reach(*(x for x, _ in points))
        path = " L ".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.elements.append(f'<path d="M {path}" class="line"/>')
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            if abs(x - x0) > abs(y - y0):
                back = -6 if x > x0 else 6
                head = f"M {x} {y} l {back} -4 l 0 8 z"
            else:
                head = f"M {x:.1f} {y:.1f} l -4 -6 l 8 0 z"
            self.elements.append(f'<path d="{head}" class="head"/>')

    def plus(self, x: float, y: float) -> None:
        """A sum, `x` and `y` its centre."""
        self.elements.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" class="sum"/>')
        self.line((x - 5, y), (x + 5, y))
        self.line((x, y - 5), (x, y + 5))

    def svg(self, height: float, title: str, margin: float = 18) -> str:
        """The whole picture, as wide as what was drawn.

        Args:
            height: in pixels.
            title: what a screen reader says.
            margin: left and right, in pixels.
        """
        left, width = self.left - margin, self.right - self.left + 2 * margin
        size = f'width="{width:.0f}" height="{height:.0f}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
            f'viewBox="{left:.0f} 0 {width:.0f} {height:.0f}" role="img">\n'
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
            f'<rect class="ground" x="{left:.0f}" {size} rx="8"/>\n'
            + "\n".join(self.elements)
            + "\n</svg>\n"
        )


def _size(node: Any) -> tuple[float, float]:
    if isinstance(node, Leaf):
        words = max(len(node.label), 0.86 * len(node.detail))
        return words * _LETTER + 28, 46 if node.detail else 32
    if isinstance(node, Group):
        width, height = _chain_size(node.chain)
        title = len(node.title) * 7 + 24
        return max(width, title) + 2 * _PAD, height + 34 + _PAD
    if isinstance(node, Residual):
        width, height = _chain_size(node.chain)
        side = 34 if node.scale is None else _size(node.scale)[0] + 24
        return width + 2 * side, height + 14 + _GAP + 20
    widths, heights = zip(*map(_chain_size, node.chains), strict=True)
    height = max(heights) + 2 * _GAP + (20 if node.is_sum else 0)
    return sum(widths) + 24 * (len(widths) - 1), height


def _chain_size(chain: Sequence[Any]) -> tuple[float, float]:
    if not chain:
        return 24, 24
    widths, heights = zip(*map(_size, chain), strict=True)
    return max(widths), sum(heights) + _GAP * (len(chain) - 1)


def _draw_chain(canvas: Canvas, chain: Sequence[Any], x: float, y: float) -> float:
    """Draws from `y` down around the middle `x`, and returns where it ends."""
    if not chain:
        canvas.line((x, y), (x, y + 24))
        return y + 24
    for index, node in enumerate(chain):
        if index:
            canvas.line((x, y), (x, y + _GAP), arrow=not isinstance(node, Residual))
            y += _GAP
        y = _draw(canvas, node, x, y)
    return y


def _draw(canvas: Canvas, node: Any, x: float, y: float) -> float:
    width, height = _size(node)
    if isinstance(node, Leaf):
        canvas.box(x - width / 2, y, width, height, node.kind)
        canvas.text(x, y + 20, node.label)
        if node.detail:
            canvas.text(x, y + 37, node.detail, "small")
    elif isinstance(node, Group):
        canvas.box(x - width / 2, y, width, height, "frame")
        canvas.text(x, y + 18, node.title, "title")
        first = y + 34
        bottom = _draw_chain(canvas, node.chain, x, first)
        canvas.line((x, bottom), (x, y + height))
    elif isinstance(node, Residual):
        canvas.line((x, y), (x, y + 14), arrow=bool(node.chain))
        bottom = _draw_chain(canvas, node.chain, x, y + 14)
        middle = bottom + _GAP + 10
        canvas.line((x, bottom), (x, middle - 10), arrow=True)
        side = x + width / 2 - 14
        if node.scale is not None:
            scale_width, scale_height = _size(node.scale)
            side = x + width / 2 - scale_width / 2
            top = (y + middle - scale_height) / 2
            canvas.line((x, y + 2), (side, y + 2), (side, top), arrow=True)
            _draw(canvas, node.scale, side, top)
            start = (side, top + scale_height)
            canvas.line(start, (side, middle), (x + 10, middle), arrow=True)
        else:
            canvas.line(
                (x, y + 2), (side, y + 2), (side, middle), (x + 10, middle), arrow=True
            )
        canvas.plus(x, middle)
        return middle + 10
    else:
        left = x - width / 2
        for chain in node.chains:
            chain_width, _ = _chain_size(chain)
            middle = left + chain_width / 2
            canvas.line((x, y), (middle, y), (middle, y + _GAP), arrow=True)
            bottom = _draw_chain(canvas, chain, middle, y + _GAP)
            end = y + height - (10 if node.is_sum else 0)
            join = x if not node.is_sum else x + (10 if middle > x else -10)
            canvas.line((middle, bottom), (middle, end), (join, end), arrow=node.is_sum)
            left += chain_width + 24
        if node.is_sum:
            canvas.plus(x, y + height - 10)
    return y + height


def picture(chain: Sequence[Any], title: str) -> str:
    """An SVG of a chain from top to bottom."""
    canvas = Canvas()
    canvas.line((0, 12), (0, 34), arrow=True)
    bottom = _draw_chain(canvas, chain, 0, 34)
    canvas.line((0, bottom), (0, bottom + 22), arrow=True)
    return canvas.svg(bottom + 36, title)


def layer_of(model: str, layer: str) -> Any:
    """One layer of a named model of which each stage has one block."""
    variant = families.get(model)
    size: dict[str, Any] = (
        {"depth": 1} if "depth" in variant.arguments else {"depths": (1,) * 4}
    )
    arguments = variant.builder.arguments(**{**variant.arguments, **size})
    return variant.builder.build(arguments, IMAGES).get_layer(layer)


def chain_of(layer: Any) -> tuple[Any, ...]:
    """What a layer of a model does, step by step."""
    channels = int(layer.output.shape[-1])
    if not has_flow(layer):
        return leaves(layer, channels)
    return layer.flow(Drawing(layer, channels), ())


def overview() -> str:
    """The idea: a block is two residual steps, and any token mixer fits the first."""
    canvas = Canvas()
    steps = (
        ("norm", "norm", 70.0),
        ("token mixer", "mixer", 120.0),
        ("+", "", 0.0),
        ("norm", "norm", 70.0),
        ("channel MLP", "linear", 120.0),
        ("+", "", 0.0),
    )
    y, x, start = 68.0, 62.0, 62.0
    canvas.text(30, y + 5, "tokens")
    for label, kind, width in steps:
        if label == "+":
            canvas.line((x, y), (x + 24, y), arrow=True)
            canvas.line((start, y), (start, y - 44), (x + 34, y - 44), (x + 34, y - 10))
            canvas.plus(x + 34, y)
            x = start = x + 44
            continue
        canvas.line((x, y), (x + 24, y), arrow=True)
        canvas.box(x + 24, y - 18, width, 36, kind)
        canvas.text(x + 24 + width / 2, y + 5, label)
        x += 24 + width
    canvas.line((x, y), (x + 26, y), arrow=True)
    names = (
        ("identity", "IdentityFormer"),
        ("random matrix", "RandFormer"),
        ("pooling", "PoolFormer"),
        ("convolution", "ConvFormer"),
        ("self-attention", "CAFormer"),
        ("token MLP", "MLP-Mixer"),
        ("FFNified attention", "FFNet"),
    )
    left, right, top = 4.0, x + 26, y + 46
    cell = (right - left + 8) / 4
    mixer = 62 + 24 + 70 + 24 + 60
    canvas.line((mixer, y + 18), (mixer, top - 12))
    canvas.line((left, top - 12), (right, top - 12))
    for index, (name, family) in enumerate(names):
        row, column = divmod(index, 4)
        corner = left + column * cell + row * cell / 2
        canvas.box(corner, top + row * 56, cell - 8, 48, "mixer")
        canvas.text(corner + (cell - 8) / 2, top + row * 56 + 20, name)
        canvas.text(corner + (cell - 8) / 2, top + row * 56 + 38, family, "title")
    return canvas.svg(
        top + 120,
        "A MetaFormer block: norm, token mixer and residual sum, then norm, channel "
        "MLP and residual sum. The token mixer is what the families differ in.",
    )


def pictures() -> dict[str, str]:
    """The text of every SVG, by its name."""
    drawn = {"metaformer": overview()}
    for name, (model, layer) in BLOCKS.items():
        found = layer_of(model, layer)
        kind = "block" if isinstance(found, MetaFormerBlock) else type(found).__name__
        drawn[name] = picture(chain_of(found), f"{kind} of {model}, {layer}")
        keras.backend.clear_session()
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pictures, or check them; the exit status."""
    return put_drawings(__doc__, FOLDER, pictures, "the drawing", arguments)


if __name__ == "__main__":
    sys.exit(main())
