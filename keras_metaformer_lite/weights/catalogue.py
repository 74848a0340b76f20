"""The published checkpoints as data, read from `catalogue.json`."""

import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from keras_metaformer_lite.images import EvaluationTransform
from keras_metaformer_lite.names import question, simplify

Source = Literal["auto", "official"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One published set of weights, and how its authors evaluate it.

    Attributes:
        constructor: name of the constructor here, such as `"ConvFormerS18"`.
        family: lower-case family name, such as `"convformer"`.
        tag: what `weights=` takes, such as `"imagenet_384"`.
        urls: official file first; further files hold the same weights and are
            accepted when placed by hand in the cache.
        hub_id: timm's Hugging Face repository with the same weights, or `None`.
        hub_file: file in that repository, or `None`.
        hub_revision: commit of that repository that is asked for, or `None` for the
            newest.
        sha256: of the files, by address; where a file has none, a hash in its name
            counts, or the one that was seen first.
        naming: source whose key naming the first of `urls` has; the hub file has
            `"timm"`'s.
        resolution: height and width in pixels of the evaluation images.
        classes: width of the classifier in the file.
        resize: `"shorter_side"`: keep the aspect ratio and scale the shorter side to
            `resolution / crop_fraction`, then crop the centre. `"exact"`: scale to
            `resolution` x `resolution` whatever the aspect ratio.
        crop_fraction: side of the centre crop over the resized shorter side.
        interpolation: `"bicubic"` or `"bilinear"`.
        activation: activation that the weights were trained with, or `None` for the
            constructor's own.
        mean: per channel (RGB), for pixels in [0, 1].
        std: per channel (RGB), for pixels in [0, 1].
        top1: published ImageNet-1k top-1 accuracy in percent, if any.
        parameters_millions: published parameter count (rounded), if any.
        macs_billions: published multiply-adds for one image (rounded), if any.
        licence: SPDX identifier.
        notes: what else is to be known, or `None`.
        source: where these facts were read.
    """

    constructor: str
    family: str
    tag: str
    urls: tuple[str, ...]
    hub_id: str | None
    hub_file: str | None
    naming: str
    resolution: int
    classes: int
    resize: str
    crop_fraction: float
    interpolation: str
    activation: str | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    top1: float | None
    parameters_millions: float | None
    macs_billions: float | None
    licence: str
    notes: str | None
    source: str
    hub_revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def transform(self) -> EvaluationTransform:
        """How images are resized, cropped and normalised to evaluate the weights."""
        return EvaluationTransform(
            resolution=self.resolution,
            crop_fraction=self.crop_fraction,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            squash=self.resize == "exact",
        )

    def known_sha256(self, url: str) -> str | None:
        """The SHA-256 of a file, or as much of its start as is published.

        Args:
            url: address of the file.
        """
        return self.sha256.get(url) or hash_prefix(url)

    def url(self, source: Source = "auto") -> str:
        """The address of the file that is downloaded.

        Args:
            source: `"auto"` prefers timm's safetensors file where there is one,
                `"official"` takes the original.

        Raises:
            ValueError: if `source` is neither.
        """
        if source not in ("auto", "official"):
            raise ValueError(
                f"`source` must be 'auto' or 'official'. Received: source={source!r}"
            )
        if source == "auto" and self.hub_id is not None:
            revision = self.hub_revision or "main"
            address = f"https://huggingface.co/{self.hub_id}/resolve/{revision}"
            return f"{address}/{self.hub_file}"
        return self.urls[0]


def hash_prefix(url: str) -> str | None:
    """The start of the SHA-256 that a file name such as `x-76587d61.pth` holds.

    Args:
        url: address or file name.
    """
    match = re.search(r"-([0-9a-f]{8,64})\.pth$", url)
    return match[1] if match else None


@functools.cache
def all_checkpoints() -> tuple[Checkpoint, ...]:
    """Every published checkpoint, in the catalogue's order."""
    file = resources.files("keras_metaformer_lite.weights") / "catalogue.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    return tuple(map(_from_row, data["checkpoints"]))


def _from_row(row: dict[str, Any]) -> Checkpoint:
    for name in ("urls", "mean", "std"):
        row[name] = tuple(row[name])
    return Checkpoint(**row)


def _canonical(constructor: str) -> str:
    """The constructor's name in its own spelling."""
    # Which reads the catalogue in turn.
    from keras_metaformer_lite.listing import all_models

    names = [model.name for model in all_models()]
    simple = {simplify(name): name for name in names}
    if simplify(constructor) not in simple:
        raise ValueError(
            f"Not a constructor of this package.{question(constructor, names)} "
            f"Received: constructor={constructor!r}"
        )
    return simple[simplify(constructor)]


def for_constructor(constructor: str) -> tuple[Checkpoint, ...]:
    """The checkpoints of one constructor; none for unpublished sizes.

    Args:
        constructor: name such as `"ConvFormerS18"`, or `"convformer_s18"`.

    Raises:
        ValueError: if there is no such constructor.
    """
    return named(_canonical(constructor))


def named(constructor: str) -> tuple[Checkpoint, ...]:
    """The checkpoints of a constructor by its exact name; none for any other name."""
    return tuple(c for c in all_checkpoints() if c.constructor == constructor)


def list_weights(constructor: str) -> list[str]:
    """The tags that the constructor's `weights` argument takes.

    Args:
        constructor: name such as `"ConvFormerS18"`, or `"convformer_s18"`.

    Raises:
        ValueError: if there is no such constructor.
    """
    return [c.tag for c in for_constructor(constructor)]


def find(constructor: str, tag: str) -> Checkpoint:
    """The checkpoint of a constructor and a tag.

    Args:
        constructor: name such as `"ConvFormerS18"`, or `"convformer_s18"`.
        tag: tag such as `"imagenet_384"`.

    Raises:
        ValueError: if there is no such constructor, or it has no such tag.
    """
    checkpoints = for_constructor(constructor)
    for checkpoint in checkpoints:
        if checkpoint.tag == tag:
            return checkpoint
    tags = [checkpoint.tag for checkpoint in checkpoints]
    raise ValueError(
        f"{_canonical(constructor)} has no such published weights."
        f"{question(tag, tags)} Known: {_quoted(tags)}. Received: weights={tag!r}"
    )


def default_tag(constructor: str) -> str | None:
    """`"imagenet"` where it exists, else the first published tag, else `None`.

    Args:
        constructor: name such as `"ConvFormerS18"`, or `"convformer_s18"`.

    Raises:
        ValueError: if there is no such constructor.
    """
    checkpoint = default_of(for_constructor(constructor))
    return checkpoint.tag if checkpoint else None


def default_of(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """That of the tag `"imagenet"`, else the first, or None where there are none."""
    tags = {checkpoint.tag: checkpoint for checkpoint in checkpoints}
    return tags.get("imagenet", next(iter(checkpoints), None))


def _quoted(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
