"""Reading image files and preparing them for a model, as the references do.

Pillow decodes and resizes, with antialiasing, as in torchvision and timm: the
published accuracies were measured so.
"""

from __future__ import annotations

import glob
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    #: What `EvaluationTransform` takes for one image.
    ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Pillow knows more formats, but some of them start other programs (EPS) or are
# read by code that few files ever tried.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
SUFFIXES = frozenset(
    ".jpg .jpeg .mpo .png .webp .gif .bmp .tif .tiff .ppm .pgm .avif".split()
)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
# Pixels of a resized image, before the crop, that are computed as a whole: 64 MB, and
# sides of 1 to 256 at 256 pixels.
_LARGEST_RESIZED = 1 << 24
_SMALLEST_CROP_FRACTION = 0.01


class ImageError(ValueError):
    """A file or array that cannot be read as an image."""


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as 8-bit RGB.

    The EXIF orientation is applied. Grey, palette, CMYK and 16-bit images are
    converted; what is transparent is laid on white. Of an animation the first
    image is taken.

    Args:
        path: a JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or AVIF file.

    Returns:
        A `PIL.Image.Image` of mode `"RGB"`.

    Raises:
        ImageError: if the file cannot be read, is not an image of these formats,
            is cut off or damaged, or has more pixels than Pillow decodes
            (about 179 million, see `PIL.Image.MAX_IMAGE_PIXELS`).
    """
    path = Path(path)
    received = f"Received: path={str(path)!r}"
    try:
        if path.exists() and not path.is_file():
            # Reading a pipe or a device might never end.
            raise ImageError(
                f"Expected a file, not a directory, a pipe or a device. {received}"
            )
        with path.open("rb") as file:
            return _decode(file, received)
    except FileNotFoundError as error:
        raise ImageError(
            f"Expected an image file; there is none. {received}"
        ) from error
    except OSError as error:
        raise ImageError(
            "Expected a whole, readable image file; reading it failed with "
            f"{type(error).__name__}: {error}. {received}"
        ) from error


def decode_image(content: bytes, name: str = "") -> Image.Image:
    """Read an image file's bytes as `load_image` reads the file.

    Args:
        content: the whole file.
        name: what messages call it.

    Raises:
        ImageError: as `load_image`.
    """
    received = f"Received: {name!r}" if name else f"Received: {len(content)} bytes"
    return _decode(io.BytesIO(content), received)


def _decode(file: Any, received: str) -> Image.Image:
    """The image in an open file; errors end in `received`."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)  # A copy, as a rule wanted as is.
            if upright.mode == "RGB" and "transparency" not in upright.info:
                return upright
            return to_rgb(upright)
    except UnidentifiedImageError as error:
        file.seek(0)
        start = file.read(16)
        found = f"its first bytes are {start!r}" if start else "the file is empty"
        raise ImageError(
            f"Expected an image file ({', '.join(FORMATS)}), but {found}. {received}"
        ) from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"Expected an image of at most {limit:,} pixels: {error} {received}"
        ) from error
    except ImageError as error:
        raise ImageError(f"{error} {received}") from error
    # Pillow's decoders raise almost anything on damaged files: OSError,
    # SyntaxError, struct.error, zlib.error, IndexError ...
    except Exception as error:
        raise ImageError(
            "Expected a whole, readable image file; reading it failed with "
            f"{type(error).__name__}: {error}. {received}"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as 8-bit RGB, transparency on white.

    Raises:
        ImageError: if the mode has no 8-bit or 16-bit meaning (32-bit and
            floating-point images).
    """
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image.copy()
    if image.mode.startswith("I"):  # 16 bits of grey, in Pillow's I;16 or 32-bit I
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ImageError(
                "Expected 8 or 16 bits per channel, but values go from "
                f"{values.min()} to {values.max()}."
            )
        # values / 257, rounded, in no more than 16 bits.
        grey = np.minimum(values, 65535 - 128).astype("uint16")
        grey += 128
        grey //= 257
        return Image.fromarray(grey.astype("uint8")).convert("RGB")
    if image.mode == "F":
        raise ImageError(
            "Expected 8 or 16 bits per channel, but values are floating-point."
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def expand_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The image files that files, directories and patterns stand for.

    A directory stands for the files in it (not below it) with an image's suffix, a
    pattern for the files that match (`**` for any depth of directories, each of which
    is visited once, however many links lead to it), each sorted by name. Anything
    else is taken for a file and passed on as it is, so that `load_image` can report
    it without stopping the rest. A file named twice is listed once.

    Raises:
        ImageError: if a directory or pattern, or `paths` as a whole, has no image.
    """
    files: dict[Path, None] = {}
    for path in paths:
        text = os.fspath(path)
        if os.path.isdir(text):
            found = sorted(
                entry
                for entry in Path(text).iterdir()
                if entry.suffix.lower() in SUFFIXES and entry.is_file()
            )
            below = os.path.join(text, "**")
            kind = (
                f"a directory with image files ({' '.join(sorted(SUFFIXES))}), or a "
                f"pattern such as {below!r} for those below it"
            )
        elif glob.has_magic(text) and not os.path.exists(text):
            matches = map(Path, _matches(text))
            found = sorted(match for match in matches if match.is_file())
            kind = "a pattern that matches files"
        else:
            found, kind = [Path(text)], ""
        if not found:
            raise ImageError(f"Expected {kind}. Received: path={text!r}")
        files.update(dict.fromkeys(found))
    if not files:
        raise ImageError("Expected at least one image. Received: paths=[]")
    return list(files)


def _matches(pattern: str) -> Iterator[str]:
    """What `glob.glob(pattern, recursive=True)` finds, in real directories only once.

    It would walk round a link to a directory above until the path is too long.
    """
    separators = re.escape(os.sep + (os.altsep or ""))
    recursive = re.search(
        rf"(?:^|[{separators}])(\*\*(?:[{separators}]+\*\*)*)(?:[{separators}]+|$)",
        pattern,
    )
    if recursive is None:
        yield from glob.iglob(pattern)
        return
    before, after = pattern[: recursive.start(1)], pattern[recursive.end() :]
    tops = glob.glob(before) if glob.has_magic(before) else [before or os.curdir]
    visited: set[str] = set()
    for top in tops:
        for directory, below, _ in os.walk(top, followlinks=True):
            if os.path.realpath(directory) in visited:
                below.clear()
                continue
            visited.add(os.path.realpath(directory))
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from _matches(os.path.join(glob.escape(directory), after or "*"))


@dataclass(frozen=True)
class EvaluationTransform:
    """Resizes, crops and normalises an image as a checkpoint was evaluated.

    The shorter side is resized to `floor(resolution / crop_fraction)`, keeping the
    aspect, and the middle square of `resolution` is cut out; with `squash` both
    sides are resized to that length instead.

    >>> transform = EvaluationTransform(224, crop_fraction=0.875)
    >>> transform(np.zeros((300, 400, 3), "uint8")).shape
    (224, 224, 3)

    Args:
        resolution: height and width of the result.
        crop_fraction: part of the resized side that the crop keeps, from 0.01 to 1.
        interpolation: `"nearest"`, `"bilinear"`, `"bicubic"` or `"lanczos"`.
        mean: per channel, of values from 0 to 1.
        std: per channel, of values from 0 to 1.
        squash: whether to give up the aspect, as for Google's MLP-Mixer.

    Raises:
        ValueError: if an argument is out of its range.

    Reference:
        timm's `create_transform` for evaluation, crop modes "center" and "squash".
    """

    resolution: int
    crop_fraction: float = 1.0
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    squash: bool = False

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ValueError(
                f"`resolution` must be positive. Received: resolution={self.resolution}"
            )
        if not _SMALLEST_CROP_FRACTION <= self.crop_fraction <= 1:
            raise ValueError(
                f"`crop_fraction` must be from {_SMALLEST_CROP_FRACTION} to 1. "
                f"Received: crop_fraction={self.crop_fraction}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"`interpolation` must be one of {', '.join(INTERPOLATIONS)}. "
                f"Received: interpolation={self.interpolation!r}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "`mean` and `std` must have three values each, `std` positive ones. "
                f"Received: mean={self.mean}, std={self.std}"
            )

    def __call__(
        self, image: ImageLike | Sequence[ImageLike], normalise: bool = True
    ) -> np.ndarray:
        """The image as a float32 array `(resolution, resolution, 3)`.

        A list of images, or an array of several, becomes a batch `(number,
        resolution, resolution, 3)`.

        Args:
            image: a path, a Pillow image, a uint8 array `(height, width, 3)`, RGB, a
                list of such, or a uint8 array `(number, height, width, 3)`.
            normalise: whether to subtract the mean and divide by the standard
                deviation. If not, values go from 0 to 255, as models with
                `include_preprocessing=True` take them.

        Raises:
            ImageError: if an array has another shape or type, a list is empty, or a
                file cannot be read.
        """
        from PIL import Image

        if isinstance(image, np.ndarray) and image.ndim == 4:
            image = list(image)
        if isinstance(image, (list, tuple)):
            if not image:
                raise ImageError("Expected at least one image. Received: none")
            return np.stack([self(one, normalise) for one in image])
        if isinstance(image, (str, os.PathLike)):
            image = load_image(image)
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
                raise ImageError(
                    "Expected a uint8 array (height, width, 3). Received: an array "
                    f"of shape {image.shape} and type {image.dtype}"
                )
            image = Image.fromarray(image)
        elif not isinstance(image, Image.Image):
            raise ImageError(
                "Expected a path, a Pillow image, a uint8 array, or a list of these. "
                f"Received: image={image!r}"
            )
        elif image.mode != "RGB":
            image = to_rgb(image)

        pixels = np.asarray(self.resized_and_cropped(image), dtype="float32")
        return self.normalised(pixels) if normalise else pixels

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels 0..255 `(..., 3)`, less the mean and over the standard deviation.

        Args:
            pixels: uint8 or float32 array, which stays as it is.
        """
        result = np.divide(pixels, np.float32(255), dtype="float32")
        # By rows: NumPy is slow where its innermost axis is of three.
        width = result.shape[-2]
        rows = result.reshape(*result.shape[:-2], 3 * width)
        rows -= np.tile(np.asarray(self.mean, "float32"), width)
        rows /= np.tile(np.asarray(self.std, "float32"), width)
        return result

    def resized_and_cropped(self, image: Image.Image) -> Image.Image:
        """A Pillow image of mode `"RGB"` as one of height and width `resolution`."""
        from PIL import Image

        width, height = self._resized(*image.size)
        # round(), to even, as torchvision places its crop.
        left = round((width - self.resolution) / 2)
        top = round((height - self.resolution) / 2)
        crop = (left, top, left + self.resolution, top + self.resolution)
        resampling = Image.Resampling[self.interpolation.upper()]
        if width * height <= _LARGEST_RESIZED:
            return image.resize((width, height), resampling).crop(crop)
        # A strip of an image may become gigabytes: of these the crop alone. Not so
        # for others, because Pillow rounds the box, and a pixel may be a level off.
        across, down = image.width / width, image.height / height
        box = (
            crop[0] * across,
            crop[1] * down,
            min(crop[2] * across, image.width),
            min(crop[3] * down, image.height),
        )
        return image.resize((self.resolution, self.resolution), resampling, box)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        side = math.floor(self.resolution / self.crop_fraction)
        if self.squash:
            return side, side
        if width <= height:
            return side, int(side * height / width)
        return int(side * width / height), side
