"""What a model has to know of its images, as one value that is saved with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_metaformer_lite.classes import DATASETS, class_names, dataset_of
from keras_metaformer_lite.images import EvaluationTransform

if TYPE_CHECKING:
    from keras_metaformer_lite.images import ImageLike

OUTPUTS = ("probabilities", "logits", "features")


@dataclass(frozen=True)
class ImageDescription:
    """How a model wants its images, and what it says of them.

    The constructors write it of the catalogue's row, training of what it was told; it
    stays in the model's config and in its `.keras` file (`model.image_description`),
    where `classify`, `export` and the rest read it.

    >>> description = ImageDescription(EvaluationTransform(224), class_names=("a", "b"))
    >>> description.prepare(np.zeros((300, 400, 3), "uint8")).shape
    (224, 224, 3)

    Args:
        transform: how an image is resized, cropped and normalised in evaluation.
        includes_preprocessing: whether the model normalises by itself: it takes pixels
            0..255 then.
        output: `"probabilities"`, `"logits"` or `"features"` (no classifier).
        class_names: one for each class, in the order of the output, None where there
            are none, or the name of a list of ImageNet's: `"imagenet"`,
            `"imagenet21k"` or `"imagenet21k_google"`. The WordNet identifiers or names
            of such a list are kept as its name.

    Raises:
        ValueError: if an argument is out of its range.
    """

    transform: EvaluationTransform
    includes_preprocessing: bool = False
    output: str = "probabilities"
    class_names: tuple[str, ...] | str | None = None

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise ValueError(
                f"`output` must be one of {', '.join(OUTPUTS)}. "
                f"Received: output={self.output!r}"
            )
        names = self.class_names
        if isinstance(names, str):
            if names not in DATASETS:
                raise ValueError(
                    "`class_names` must be a sequence of names, or one of "
                    f"{', '.join(DATASETS)}. Received: class_names={names!r}"
                )
        elif names is not None:
            object.__setattr__(self, "class_names", _known_list(_checked(names)))

    def names(self) -> tuple[str, ...] | None:
        """The names of the classes, in the order of the output, or None."""
        if isinstance(self.class_names, str):
            return tuple(name for _, name in class_names(self.class_names))
        return self.class_names

    def identifiers(self) -> tuple[str, ...] | None:
        """The WordNet identifiers of the classes, of ImageNet's lists alone."""
        if isinstance(self.class_names, str):
            return tuple(identifier for identifier, _ in class_names(self.class_names))
        return None

    def prepare(self, image: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """An image as the model takes it, or a batch of several.

        Args:
            image: what `EvaluationTransform` takes.

        Returns:
            float32 array `(resolution, resolution, 3)` or `(number, resolution,
            resolution, 3)`, of pixels 0..255 where the model normalises by itself.

        Raises:
            ImageError: if it cannot be read as an image.
        """
        return self.transform(image, normalise=not self.includes_preprocessing)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """A model's outputs `(batch, classes)` as probabilities, float32."""
        outputs = np.asarray(outputs, "float32")
        if self.output != "logits":
            return outputs
        powers = np.exp(outputs - outputs.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        """The description in values that JSON has."""
        config = dataclasses.asdict(self)
        transform = config["transform"]
        transform["mean"], transform["std"] = (
            list(transform["mean"]),
            list(transform["std"]),
        )
        if isinstance(config["class_names"], tuple):
            config["class_names"] = list(config["class_names"])
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageDescription:
        """The description of `get_config`.

        Raises:
            ValueError: if it is something that `get_config` would not give.
        """
        try:
            transform = dict(config["transform"])
            for name in ("mean", "std"):
                transform[name] = tuple(map(float, transform[name]))
            return cls(**{**config, "transform": EvaluationTransform(**transform)})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                "Expected the config of an ImageDescription "
                f"({type(error).__name__}: {error}). Received: config={config!r:.500}"
            ) from error


def _checked(names: Any) -> tuple[str, ...]:
    names = tuple(names)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "`class_names` must be one name for each class, each a str. "
            f"Received: class_names={names!r:.200}"
        )
    return names


def _known_list(names: tuple[str, ...]) -> tuple[str, ...] | str:
    """The name of the ImageNet list that these are, or the names themselves."""
    dataset = dataset_of(len(names))
    if dataset is None:
        return names
    known = class_names(dataset)
    identifiers, words = zip(*known, strict=True)
    return dataset if names in (identifiers, words) else names
