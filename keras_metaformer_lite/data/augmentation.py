"""What is done to the images and labels of training, as timm does it.

On Pillow images and NumPy arrays, on the host. All that is random comes from a
`numpy.random.Generator` that the caller makes of (seed, epoch, index).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_metaformer_lite.data.random_augment import RandAugment, enhance
from keras_metaformer_lite.images import INTERPOLATIONS, EvaluationTransform

if TYPE_CHECKING:
    from PIL import Image

_CROP_ATTEMPTS = 10
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of a recipe; the defaults are those of the MetaFormer baselines.

    An image goes through a random resized crop, a flip, RandAugment or colour jitter;
    then images of a batch are mixed, with one factor for all of it; then a rectangle
    of each is erased, after normalisation, as in timm's loader.

    >>> Augmentation(mixup=0.0, cutmix=0.0).mixes
    False

    Args:
        crop_scale: least and greatest part of the area that a crop takes; None to
            resize and crop as in evaluation instead.
        crop_ratio: least and greatest width over height of the crop.
        horizontal_flip: probability.
        interpolation: of the resize: `"nearest"`, `"bilinear"`, `"bicubic"`,
            `"lanczos"`, or `"random"` for bilinear or bicubic, drawn for each image.
        rand_augment: a policy such as `"rand-m9-mstd0.5-inc1"`, or None.
        color_jitter: largest relative change of brightness, contrast and saturation.
            As in timm it acts only where there is no `rand_augment`.
        random_erasing: probability with which a rectangle of 2 % to a third of the
            image is filled with normal noise, a value for each pixel and channel.
        mixup: alpha of the Beta distribution of mixup's factor; 0 for no mixup.
        cutmix: likewise of cutmix.
        mix_probability: probability that a batch is mixed at all.
        cutmix_probability: probability of cutmix rather than mixup, where both are on.
        label_smoothing: part of the target that is spread over all classes.

    Raises:
        ValueError: if an argument is out of its range.

    Reference:
        timm 1.0.31: `transforms_imagenet_train`, `RandomErasing`, `FastCollateMixup`.
    """

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    interpolation: str = "random"
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    random_erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_probability: float = 1.0
    cutmix_probability: float = 0.5
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_ratio"):
            if getattr(self, name) is None and name == "crop_scale":
                continue
            least, greatest = getattr(self, name)
            object.__setattr__(self, name, (float(least), float(greatest)))
            if not 0 < least <= greatest or (name == "crop_scale" and greatest > 1):
                raise ValueError(
                    f"`{name}` must be two positive numbers, the smaller one first"
                    f"{', at most 1' if name == 'crop_scale' else ''}. "
                    f"Received: {name}={(least, greatest)}"
                )
        for name in (
            "horizontal_flip",
            "random_erasing",
            "mix_probability",
            "cutmix_probability",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"`{name}` must be from 0 to 1. "
                    f"Received: {name}={getattr(self, name)}"
                )
        for name in ("color_jitter", "mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"`{name}` must not be negative. "
                    f"Received: {name}={getattr(self, name)}"
                )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be from 0 to below 1. "
                f"Received: label_smoothing={self.label_smoothing}"
            )
        if self.interpolation not in ("random", *INTERPOLATIONS):
            raise ValueError(
                f"`interpolation` must be 'random' or one of "
                f"{', '.join(INTERPOLATIONS)}. "
                f"Received: interpolation={self.interpolation!r}"
            )
        if self.rand_augment is not None:
            RandAugment.from_name(self.rand_augment)

    @classmethod
    def none(cls) -> Augmentation:
        """Nothing random: images as in evaluation, targets of 0 and 1."""
        return cls(
            crop_scale=None,
            horizontal_flip=0.0,
            rand_augment=None,
            color_jitter=0.0,
            random_erasing=0.0,
            mixup=0.0,
            cutmix=0.0,
            label_smoothing=0.0,
        )

    @property
    def mixes(self) -> bool:
        """Whether batches may be mixed."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def get_config(self) -> dict[str, Any]:
        """The fields in values that JSON has."""
        config = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in config.items()
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Augmentation:
        """The augmentation of `get_config`."""
        return cls(**config)

    def apply(
        self,
        image: Image.Image,
        transform: EvaluationTransform,
        random: np.random.Generator,
    ) -> Image.Image:
        """A training image of one photograph, before mixing and normalisation.

        Args:
            image: of mode `"RGB"`.
            transform: that of evaluation, which says the size and the mean colour.
            random: where everything is drawn from.

        Returns:
            A Pillow image of mode `"RGB"`, of height and width `transform.resolution`.
        """
        if self.crop_scale is None:
            image = transform.resized_and_cropped(image)
        else:
            box = random_crop_box(
                image.width, image.height, self.crop_scale, self.crop_ratio, random
            )
            size = (transform.resolution, transform.resolution)
            image = image.crop(box).resize(
                size, _resampling(self.interpolation, random)
            )
        if self.horizontal_flip and random.random() < self.horizontal_flip:
            from PIL import Image as pillow

            image = image.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment is not None:
            policy = _policy(self.rand_augment, self.interpolation, transform.mean)
            return policy(image, random)
        if self.color_jitter:
            return jitter_colors(image, self.color_jitter, random)
        return image

    def erase(
        self,
        pixels: np.ndarray,
        random: np.random.Generator,
        mean: np.ndarray | float = 0.0,
        std: np.ndarray | float = 1.0,
    ) -> None:
        """Fill a rectangle with normal noise, in place, as often as is asked for.

        Args:
            pixels: float array `(height, width, channels)`.
            random: where everything is drawn from.
            mean: of the noise, per channel.
            std: likewise the standard deviation.
        """
        if not self.random_erasing or random.random() >= self.random_erasing:
            return
        box = random_erasing_box(pixels.shape[0], pixels.shape[1], random)
        if box is None:
            return
        top, left, height, width = box
        noise = random.standard_normal(
            (height, width, pixels.shape[-1]), dtype="float32"
        )
        pixels[top : top + height, left : left + width] = noise * std + mean

    def draw_mixing(
        self, height: int, width: int, random: np.random.Generator
    ) -> Mixing:
        """How a batch of images of this size is mixed."""
        if not self.mixes or random.random() >= self.mix_probability:
            return Mixing()
        use_cutmix = self.cutmix > 0 and (
            self.mixup == 0 or random.random() < self.cutmix_probability
        )
        alpha = self.cutmix if use_cutmix else self.mixup
        factor = float(random.beta(alpha, alpha))
        if not use_cutmix:
            return Mixing(factor)
        ratio = math.sqrt(1.0 - factor)
        cut_height, cut_width = int(height * ratio), int(width * ratio)
        y, x = int(random.integers(height)), int(random.integers(width))
        box = (
            max(y - cut_height // 2, 0),
            min(y + cut_height // 2, height),
            max(x - cut_width // 2, 0),
            min(x + cut_width // 2, width),
        )
        return Mixing.of_box(box, height, width)


class Mixing(NamedTuple):
    """How the images of a batch are mixed with their partners.

    The partner of the image at `i` is that at `batch - 1 - i`.

    Attributes:
        factor: weight of an image and its label, that of the partner's is the rest.
        box: `(top, bottom, left, right)` that the partner fills (cutmix), or None
            where images are averaged (mixup).
    """

    factor: float = 1.0
    box: tuple[int, int, int, int] | None = None

    @classmethod
    def of_box(cls, box: tuple[int, int, int, int], height: int, width: int) -> Mixing:
        """Cutmix with a box, the factor being the area that is left."""
        top, bottom, left, right = box
        return cls(1.0 - (bottom - top) * (right - left) / (height * width), box)

    def images(self, images: np.ndarray, partners: np.ndarray) -> np.ndarray:
        """Images mixed with their partners, both of one shape and dtype.

        Args:
            images: `(..., height, width, channels)`, uint8 (the result is rounded) or
                float.
            partners: likewise.
        """
        if self.box is not None:
            top, bottom, left, right = self.box
            mixed = images.copy()
            mixed[..., top:bottom, left:right, :] = partners[
                ..., top:bottom, left:right, :
            ]
            return mixed
        if self.factor == 1.0:
            return images
        if images.dtype != np.uint8:
            return images * self.factor + partners * (1.0 - self.factor)
        mixed = images * np.float32(self.factor)
        mixed += partners * np.float32(1.0 - self.factor)
        return np.rint(mixed, out=mixed).astype("uint8")

    def targets(
        self, labels: np.ndarray, classes: int, label_smoothing: float = 0.0
    ) -> np.ndarray:
        """Soft targets `(batch, classes)`, float32, of a whole batch's labels.

        Args:
            labels: int array `(batch,)`.
            classes: int. Number of classes.
            label_smoothing: part of the target that is spread over all classes.
        """
        first = _smoothed(labels, classes, label_smoothing)
        if self.factor == 1.0:
            return first
        mixed = first * np.float32(self.factor)
        mixed += first[::-1] * np.float32(1.0 - self.factor)
        return mixed


def _smoothed(labels: np.ndarray, classes: int, smoothing: float) -> np.ndarray:
    off = smoothing / classes
    targets = np.full((len(labels), classes), off, "float32")
    targets[np.arange(len(labels)), labels] = 1.0 - smoothing + off
    return targets


def random_crop_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    random: np.random.Generator,
) -> tuple[int, int, int, int]:
    """A crop of random area and aspect, `(left, top, right, bottom)`.

    After ten attempts that do not fit, the largest central one of an allowed aspect.

    Args:
        width: of the image, in pixels.
        height: likewise.
        scale: least and greatest part of the area.
        ratio: least and greatest width over height.
        random: where everything is drawn from.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * random.random())
        aspect = math.exp(low + (high - low) * random.random())
        across = round(math.sqrt(area * aspect))
        down = round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            top = int(random.integers(0, height - down + 1))
            left = int(random.integers(0, width - across + 1))
            return left, top, left + across, top + down
    across, down = width, height
    if width / height < ratio[0]:
        down = max(round(width / ratio[0]), 1)
    elif width / height > ratio[1]:
        across = max(round(height * ratio[1]), 1)
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def random_erasing_box(
    height: int, width: int, random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """A rectangle inside an image, `(top, left, height, width)`, or None in ten."""
    low, high = math.log(_ERASED_ASPECT[0]), math.log(_ERASED_ASPECT[1])
    for _ in range(_CROP_ATTEMPTS):
        least, greatest = _ERASED_AREA
        area = height * width * (least + (greatest - least) * random.random())
        aspect = math.exp(low + (high - low) * random.random())
        down = round(math.sqrt(area * aspect))
        across = round(math.sqrt(area / aspect))
        if down < height and across < width:
            top = int(random.integers(0, height - down + 1))
            left = int(random.integers(0, width - across + 1))
            return top, left, down, across
    return None


def jitter_colors(
    image: Image.Image, strength: float, random: np.random.Generator
) -> Image.Image:
    """Brightness, contrast and saturation changed by up to `strength`, in any order."""
    kinds = ("Brightness", "Contrast", "Color")
    for kind in random.permutation(len(kinds)):
        least = max(0.0, 1.0 - strength)
        factor = least + (1.0 + strength - least) * random.random()
        image = enhance(kinds[kind], image, factor)
    return image


def _resampling(interpolation: str, random: np.random.Generator) -> Any:
    from PIL import Image

    if interpolation == "random":
        interpolation = ("bilinear", "bicubic")[random.integers(2)]
    return Image.Resampling[interpolation.upper()]


@functools.cache
def _policy(
    name: str, interpolation: str, mean: tuple[float, float, float]
) -> RandAugment:
    # Pillow has no Lanczos filter for what turns an image.
    if interpolation == "lanczos":
        interpolation = "bicubic"
    fill = tuple(min(255, round(255 * value)) for value in mean)
    return RandAugment.from_name(name, interpolation=interpolation, fill=fill)
