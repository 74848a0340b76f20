"""Images for KerasHub's tasks, prepared as the weights want them."""

from typing import Any

import keras
import keras_hub

from keras_metaformer.hub import published
from keras_metaformer.hub.backbone import MetaFormerBackbone
from keras_metaformer_lite.description import ImageDescription


@keras.saving.register_keras_serializable(package="keras_metaformer")
class MetaFormerImageConverter(keras_hub.layers.ImageConverter):
    """Resizes, crops and normalises images, as a model was evaluated.

    KerasHub's `ImageConverter`, with `crop_fraction`: of the image's middle square,
    resized to `floor(size / crop_fraction)`, the middle is cut out. Pixels are 0..255.

    Example:

    >>> import numpy as np
    >>> converter = MetaFormerImageConverter((224, 224), crop_fraction=0.875)
    >>> tuple(converter(np.zeros((1, 300, 400, 3), "uint8")).shape)
    (1, 224, 224, 3)

    Args:
        image_size: `(height, width)` of the result, or None to keep the size.
        crop_fraction: float in (0, 1]. Part of the resized side that the crop keeps.
        **kwargs: those of `keras_hub.layers.ImageConverter`: `scale`, `offset`,
            `interpolation`, `antialias` and so on.

    Raises:
        ValueError: if `crop_fraction` is out of its range; when called with bounding
            boxes and a crop, which would move them.
    """

    backbone_cls = MetaFormerBackbone

    def __init__(
        self, image_size: Any = None, crop_fraction: float = 1.0, **kwargs: Any
    ):
        super().__init__(image_size=None, **kwargs)
        if not 0 < crop_fraction <= 1:
            raise ValueError(
                "`crop_fraction` must be above 0 and at most 1. "
                f"Received: crop_fraction={crop_fraction!r}"
            )
        self.crop_fraction = float(crop_fraction)
        self.image_size = image_size

    @classmethod
    def of(cls, description: ImageDescription) -> "MetaFormerImageConverter":
        """The converter that does what a model's `image_description` says."""
        transform = description.transform
        normalised: dict[str, Any] = {}
        if not description.includes_preprocessing:
            pairs = list(zip(transform.mean, transform.std, strict=True))
            normalised["scale"] = [1 / (255 * std) for _, std in pairs]
            normalised["offset"] = [-mean / std for mean, std in pairs]
        return cls(
            (transform.resolution, transform.resolution),
            crop_fraction=transform.crop_fraction,
            crop_to_aspect_ratio=not transform.squash,
            interpolation=_KERAS_NAMES.get(
                transform.interpolation, transform.interpolation
            ),
            antialias=transform.interpolation != "nearest",
            **normalised,
        )

    @property
    def image_size(self) -> Any:
        """`(height, width)` of the result, or None."""
        return self.__dict__.get("cropped_size")

    @image_size.setter
    def image_size(self, value: Any) -> None:
        self.__dict__["cropped_size"] = None if value is None else tuple(value)
        sizes = (None, None) if value is None else value
        self.resizing.height, self.resizing.width = (
            None if size is None else int(size / self.crop_fraction) for size in sizes
        )

    def call(self, inputs: Any) -> Any:
        resized = super().call(inputs)
        if self.crop_fraction == 1 or self.image_size is None:
            return resized
        if isinstance(inputs, dict):
            raise ValueError(
                "Bounding boxes and masks go with images that are not cropped: make "
                "the converter with crop_fraction=1. "
                f"Received: inputs with keys {sorted(inputs)}"
            )
        height, width = self.image_size
        top = (self.resizing.height - height) // 2
        left = (self.resizing.width - width) // 2

        def cropped(image: Any) -> Any:
            return image[..., top : top + height, left : left + width, :]

        return keras.tree.map_structure(cropped, resized)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "crop_fraction": self.crop_fraction}


#: Of our interpolations, those that Keras calls otherwise.
_KERAS_NAMES = {"lanczos": "lanczos5"}


@keras.saving.register_keras_serializable(package="keras_metaformer")
class MetaFormerImageClassifierPreprocessor(
    keras_hub.models.ImageClassifierPreprocessor
):
    """Prepares images for `MetaFormerImageClassifier`.

    Args:
        image_converter: `MetaFormerImageConverter`, or None to pass images on.
        **kwargs: `name` and the like.

    Call arguments:
        x: images 0..255, `(height, width, 3)` or a batch of such.
        y: labels, passed on.
        sample_weight: passed on.

    Returns:
        What the model takes, alone or in a tuple with what else was given.
    """

    backbone_cls = MetaFormerBackbone
    image_converter_cls = MetaFormerImageConverter

    @classmethod
    def from_preset(
        cls, preset: Any, config_file: str = "preprocessor.json", **kwargs: Any
    ) -> "MetaFormerImageClassifierPreprocessor":
        """As `keras_hub.models.Preprocessor.from_preset`, for our presets too."""
        row = published.presets().get(preset)
        if row is None:
            return super().from_preset(preset, config_file=config_file, **kwargs)
        description = ImageDescription(row.transform)
        return cls(MetaFormerImageConverter.of(description), **kwargs)
