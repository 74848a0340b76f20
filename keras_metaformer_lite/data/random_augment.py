"""RandAugment as timm has it: operations that grow with the magnitude."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

#: ImageNet's mean colour, which fills what a transformation leaves empty.
FILL = (124, 116, 104)
LARGEST_MAGNITUDE = 10.0
_TRANSLATION = 0.45


def rand_augment_operation(
    name: str,
    image: Image.Image | np.ndarray,
    *arguments: float,
    fill: Sequence[int] = FILL,
    interpolation: str = "bilinear",
) -> Any:
    """Apply one of RandAugment's operations, with the arguments that it is given.

    >>> image = np.full((4, 4, 3), 100, "uint8")
    >>> int(rand_augment_operation("SolarizeAdd", image, 99)[0, 0, 0])
    199

    Args:
        name: one of `OPERATIONS`, as timm calls them: `"AutoContrast"`, `"Equalize"`,
            `"Invert"`, `"Rotate"`, `"PosterizeIncreasing"`, `"SolarizeIncreasing"`,
            `"SolarizeAdd"`, `"ColorIncreasing"`, `"ContrastIncreasing"`,
            `"BrightnessIncreasing"`, `"SharpnessIncreasing"`, `"ShearX"`, `"ShearY"`,
            `"TranslateXRel"` or `"TranslateYRel"`.
        image: a Pillow image of mode `"RGB"`, or a uint8 array `(height, width, 3)`.
        *arguments: none for the first three. Degrees for `"Rotate"`; bits that are kept
            for posterizing; the level above which values are inverted for solarizing,
            or what is added to those below 128; the factor of an enhancement (1 leaves
            the image alone); the slope of a shear; the part of the side for a
            translation.
        fill: RGB of what becomes empty.
        interpolation: of the geometric operations: `"nearest"`, `"bilinear"` or
            `"bicubic"`.

    Returns:
        A Pillow image, or an array where an array was given, of the same size.

    Raises:
        ValueError: if there is no such operation, or it takes other arguments.

    Reference:
        - RandAugment, https://arxiv.org/abs/1909.13719
        - timm 1.0.31, `timm.data.auto_augment`
    """
    from PIL import Image

    if name not in OPERATIONS:
        raise ValueError(
            f"`name` must be one of {', '.join(OPERATIONS)}. Received: name={name!r}"
        )
    operation = OPERATIONS[name]
    expected = 0 if operation.argument is None else 1
    if len(arguments) != expected:
        raise ValueError(
            f"{name} takes {expected} argument(s). Received: arguments={arguments}"
        )
    if isinstance(image, np.ndarray):
        return np.asarray(
            rand_augment_operation(
                name,
                Image.fromarray(image),
                *arguments,
                fill=fill,
                interpolation=interpolation,
            )
        )
    if not operation.is_geometric:
        return operation.apply(image, *arguments)
    resampling = Image.Resampling[interpolation.upper()]
    return operation.apply(image, *arguments, tuple(fill), resampling)


@dataclass(frozen=True)
class RandAugment:
    """Some operations in a row, drawn at random, on each image.

    >>> policy = RandAugment.from_name("rand-m9-mstd0.5-inc1")
    >>> policy.magnitude, policy.layers
    (9.0, 2)

    Args:
        magnitude: of 10.
        magnitude_std: standard deviation of the normal distribution around it, cut off
            at 0 and 10.
        layers: operations for each image, drawn with replacement.
        probability: with which each of them is applied.
        interpolation: of the geometric ones; `"random"` for bilinear or bicubic, drawn
            for each.
        fill: RGB of what becomes empty.

    Raises:
        ValueError: if an argument is out of its range.
    """

    magnitude: float = 9.0
    magnitude_std: float = 0.5
    layers: int = 2
    probability: float = 0.5
    interpolation: str = "random"
    fill: tuple[int, int, int] = FILL

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= LARGEST_MAGNITUDE:
            raise ValueError(
                "`magnitude` must be from 0 to 10. "
                f"Received: magnitude={self.magnitude}"
            )
        if self.magnitude_std < 0 or self.layers < 0 or not 0 <= self.probability <= 1:
            raise ValueError(
                "`magnitude_std` and `layers` must not be negative, `probability` from "
                f"0 to 1. Received: {self}"
            )

    @classmethod
    def from_name(cls, name: str, **settings: Any) -> RandAugment:
        """The policy of a name such as `"rand-m9-mstd0.5-inc1"`.

        Args:
            name: `rand` and, in any order: `m` the magnitude, `mstd` its standard
                deviation, `n` the number of layers, `p` the probability, and `inc1`,
                without which timm has other operations.
            **settings: other fields.

        Raises:
            ValueError: if the name is not of this form.
        """
        kind, *parts = name.split("-")
        fields = {
            "m": "magnitude",
            "mstd": "magnitude_std",
            "n": "layers",
            "p": "probability",
        }
        found: dict[str, Any] = {"magnitude_std": 0.0}
        increasing = False
        for part in parts:
            match = re.fullmatch(r"(inc|mstd|m|n|p)(\d+(?:\.\d+)?)", part)
            if match is None:
                kind = ""
            elif match[1] == "inc":
                increasing = float(match[2]) == 1
            else:
                value = float(match[2])
                found[fields[match[1]]] = int(value) if match[1] == "n" else value
        if kind != "rand" or not increasing:
            raise ValueError(
                "Expected a policy such as 'rand-m9-mstd0.5-inc1', of m, mstd, n, p "
                f"and inc1. Received: rand_augment={name!r}"
            )
        return cls(**{**found, **settings})

    def __call__(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        """The image with what was drawn applied.

        Args:
            image: of mode `"RGB"`.
            random: where everything is drawn from.
        """
        for index in random.integers(0, len(_NAMES), self.layers):
            if random.random() > self.probability:
                continue
            magnitude = self.magnitude
            if self.magnitude_std:
                magnitude += self.magnitude_std * random.standard_normal()
            magnitude = min(max(magnitude, 0.0), LARGEST_MAGNITUDE)
            name = _NAMES[index]
            make = OPERATIONS[name].argument
            arguments = () if make is None else (make(magnitude, random),)
            interpolation = self.interpolation
            if interpolation == "random":
                interpolation = ("bilinear", "bicubic")[random.integers(2)]
            image = rand_augment_operation(
                name, image, *arguments, fill=self.fill, interpolation=interpolation
            )
        return image


@dataclass(frozen=True)
class _Operation:
    """How to apply an operation, and its argument at a magnitude, if it has one."""

    apply: Callable[..., Any]
    argument: Callable[[float, np.random.Generator], float] | None = None
    is_geometric: bool = False


def _signed(largest: float) -> Callable[[float, np.random.Generator], float]:
    """In proportion to the magnitude, and negative every other time."""

    def argument(magnitude: float, random: np.random.Generator) -> float:
        value = magnitude / LARGEST_MAGNITUDE * largest
        return -value if random.random() > 0.5 else value

    return argument


def _enhancement(magnitude: float, random: np.random.Generator) -> float:
    return max(0.1, 1.0 + _signed(0.9)(magnitude, random))


def _bits(magnitude: float, random: np.random.Generator) -> int:
    return 4 - int(magnitude / LARGEST_MAGNITUDE * 4)


def _threshold(magnitude: float, random: np.random.Generator) -> int:
    return 256 - min(256, int(magnitude / LARGEST_MAGNITUDE * 256))


def _addition(magnitude: float, random: np.random.Generator) -> int:
    return min(128, int(magnitude / LARGEST_MAGNITUDE * 110))


def _rotate(image: Image.Image, degrees: float, fill: Any, resampling: Any) -> Any:
    return image.rotate(degrees, resample=resampling, fillcolor=fill)


def _affine(
    place: Callable[[Image.Image, float], tuple[float, ...]],
) -> Callable[..., Any]:
    """What maps each point of the result to one of the image, by six coefficients."""

    def apply(image: Image.Image, value: float, fill: Any, resampling: Any) -> Any:
        from PIL import Image

        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            place(image, value),
            resample=resampling,
            fillcolor=fill,
        )

    return apply


def _image_operation(name: str) -> Callable[..., Any]:
    def apply(image: Image.Image, *arguments: Any) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, name)(image, *arguments)

    return apply


def _posterize(image: Image.Image, bits: float) -> Any:
    from PIL import ImageOps

    if bits < 1:  # Which Pillow refuses since version 13.
        return image.point([0] * 768)
    return image if bits >= 8 else ImageOps.posterize(image, int(bits))


def _solarize_add(image: Image.Image, addition: float) -> Any:
    table = [
        min(255, level + int(addition)) if level < 128 else level
        for level in range(256)
    ]
    return image.point(table * 3)


def enhance(kind: str, image: Image.Image, factor: float) -> Image.Image:
    """Pillow's `"Color"`, `"Contrast"`, `"Brightness"` or `"Sharpness"`."""
    from PIL import ImageEnhance

    return getattr(ImageEnhance, kind)(image).enhance(factor)


def _enhancer(kind: str) -> _Operation:
    return _Operation(lambda image, factor: enhance(kind, image, factor), _enhancement)


#: By timm's names, in timm's order.
OPERATIONS: dict[str, _Operation] = {
    "AutoContrast": _Operation(_image_operation("autocontrast")),
    "Equalize": _Operation(_image_operation("equalize")),
    "Invert": _Operation(_image_operation("invert")),
    "Rotate": _Operation(_rotate, _signed(30.0), True),
    "PosterizeIncreasing": _Operation(_posterize, _bits),
    "SolarizeIncreasing": _Operation(_image_operation("solarize"), _threshold),
    "SolarizeAdd": _Operation(_solarize_add, _addition),
    "ColorIncreasing": _enhancer("Color"),
    "ContrastIncreasing": _enhancer("Contrast"),
    "BrightnessIncreasing": _enhancer("Brightness"),
    "SharpnessIncreasing": _enhancer("Sharpness"),
    "ShearX": _Operation(
        _affine(lambda image, slope: (1, slope, 0, 0, 1, 0)), _signed(0.3), True
    ),
    "ShearY": _Operation(
        _affine(lambda image, slope: (1, 0, 0, slope, 1, 0)), _signed(0.3), True
    ),
    "TranslateXRel": _Operation(
        _affine(lambda image, part: (1, 0, part * image.width, 0, 1, 0)),
        _signed(_TRANSLATION),
        True,
    ),
    "TranslateYRel": _Operation(
        _affine(lambda image, part: (1, 0, 0, 0, 1, part * image.height)),
        _signed(_TRANSLATION),
        True,
    ),
}
_NAMES = tuple(OPERATIONS)
