"""The model card of a repository, made of the model, and its picture."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import keras

from keras_metaformer.blocks import MetaFormerBlock, ResidualBranch
from keras_metaformer.models.pyramid_model import (
    StageOutput,
    description_of,
    pyramid_layers,
)
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import load_image

if TYPE_CHECKING:
    from PIL import Image

CARD, PICTURE = "README.md", "picture.png"
#: Class names that the card lists; the model has them all.
_MOST_NAMES = 200
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!])")
_WHAT = {
    "probabilities": "probabilities",
    "logits": "logits",
    "features": "features, without a classifier",
}


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a card says that the model does not know.

    Attributes:
        licence: identifier of the hub's list, such as `"apache-2.0"`, or None.
        metrics: values by name, such as `{"accuracy": 0.93}`.
        dataset: name of the images that these were measured on, or None.
        picture: a Pillow image or the path of one, instead of a drawing of the stages.

    Raises:
        ValueError: if one of them is something else.
    """

    licence: str | None = None
    metrics: Mapping[str, float] | None = None
    dataset: str | None = None
    picture: "str | os.PathLike | Image.Image | None" = None

    #: By what a card made here is told from one that somebody wrote.
    MARK: ClassVar[str] = "<!-- made by keras-metaformer of the model -->"

    def __post_init__(self) -> None:
        for name in ("licence", "dataset"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ValueError(
                    f"`{name}` must be a name, or None. Received: {name}={value!r}"
                )
        metrics = self.metrics
        if metrics is not None and not (
            isinstance(metrics, Mapping)
            and all(isinstance(name, str) and name for name in metrics)
            and all(_is_finite(value) for value in metrics.values())
        ):
            raise ValueError(
                "`metrics` must be numbers by name, such as {'accuracy': 0.93}, or "
                f"None. Received: metrics={metrics!r}"
            )

    def said(self) -> list[str]:
        """The names of the facts that are given."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        ]


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(value)
    except TypeError:
        return False


def write_card(
    model: keras.Model, folder: Path, address: str, facts: CardFacts, *, timm: bool
) -> None:
    """Write the card and its picture beside a saved model.

    Args:
        model: that was saved.
        folder: where to.
        address: from which the model will be loaded.
        facts: what the model does not know.
        timm: whether the folder has timm's layout.

    Raises:
        ImageError: if the picture is no image.
    """
    stages = _stages(model)
    picture: Any = None
    if facts.picture is not None:
        picture = facts.picture
        if isinstance(picture, (str, os.PathLike)):
            picture = load_image(picture)
    elif stages:
        picture = _drawing(model.name, stages)
    if picture is not None:
        picture.convert("RGB").save(folder / PICTURE)
    data = _metadata(model, address, facts, timm)
    parts = [
        f"---\n{data.to_yaml()}\n---",
        CardFacts.MARK,
        f"# {_plain(model.name)}",
        f"![{_plain(model.name)}]({PICTURE})" if picture is not None else "",
        f"{model.count_params():,} parameters. Runs in Keras 3, on TensorFlow, JAX and "
        f"PyTorch{', and in timm, whose layout the files have' if timm else ''}.",
        _use(model, address, timm),
        _about_images(description_of(model)),
        _about_stages(stages),
        _about_metrics(facts),
        f"## Licence\n\n{_plain(facts.licence)}" if facts.licence else "",
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / CARD).write_text(text, encoding="utf-8")


def _metadata(model: keras.Model, address: str, facts: CardFacts, timm: bool) -> Any:
    """The part that the hub reads: a `ModelCardData`."""
    from huggingface_hub import EvalResult, ModelCardData

    description = description_of(model)
    classifies = description is not None and description.output != "features"
    task = "image-classification" if classifies else "image-feature-extraction"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=re.sub(r"[^\w.-]+", "-", facts.dataset or "held-out").lower(),
            dataset_name=facts.dataset or "held-out images",
            metric_type=re.sub(r"[^\w.-]+", "_", name).lower(),
            metric_name=name,
            metric_value=float(value),
        )
        for name, value in (facts.metrics or {}).items()
    ]
    return ModelCardData(
        library_name="timm" if timm else "keras",
        license=facts.licence,
        pipeline_tag=task,
        tags=["keras", "keras-metaformer", "metaformer"],
        model_name=model.name if results else None,
        eval_results=results or None,
    )


def _use(model: keras.Model, address: str, timm: bool) -> str:
    lines = ["import keras_metaformer as km", "", f'model = km.load("{address}")']
    if description_of(model) is not None:
        lines += [
            'images = model.image_description.prepare(["photograph.jpg"])',
            "outputs = model.predict(images)",
        ]
    if timm:
        name = address.removeprefix("hf://")
        lines += [
            "",
            "import timm",
            "",
            f'the_same = timm.create_model("hf-hub:{name}", pretrained=True)',
        ]
    code = "\n".join(lines)
    return f"## Use\n\n```python\n{code}\n```"


def _about_images(description: ImageDescription | None) -> str:
    if description is None:
        return ""
    transform = description.transform
    size = transform.resolution
    resized = (
        "squashed to the size"
        if transform.squash
        else f"the shorter side resized to {math.floor(size / transform.crop_fraction)}"
        ", the middle cut out"
    )
    normalised = "by the model" if description.includes_preprocessing else "before it"
    names = description.names()
    rows = [
        ("size", f"{size} x {size} pixels, RGB"),
        ("resizing", f"{resized}, {transform.interpolation}"),
        (
            "normalisation",
            f"{normalised}: mean {_numbers(transform.mean)}, standard deviation "
            f"{_numbers(transform.std)}, of values from 0 to 1",
        ),
        ("output", _WHAT[description.output]),
    ]
    text = "## Images\n\n" + _table(("", ""), rows)
    if names is not None:
        listed = ", ".join(_plain(name) for name in names[:_MOST_NAMES])
        more = "" if len(names) <= _MOST_NAMES else " and so on"
        text += f"\n\n{len(names)} classes: {listed}{more}."
    return text


@dataclasses.dataclass(frozen=True)
class _Stage:
    """One stage: its pyramid level, its map and what its blocks mix tokens with."""

    level: str
    shape: tuple[int | None, ...]
    blocks: int
    mixers: str

    @property
    def size(self) -> str:
        height, width, channels = ("?" if n is None else n for n in self.shape)
        return f"{height} x {width} x {channels}"


def _stages(model: keras.Model) -> list[_Stage]:
    if not hasattr(model, "_nodes_by_depth"):  # no graph of layers
        return []
    levels = {layer.name: level for level, layer in pyramid_layers(model).items()}
    stages: list[_Stage] = []
    blocks: list[Any] = []
    for layer in model.layers:
        if isinstance(layer, (MetaFormerBlock, ResidualBranch)):
            blocks.append(layer)
        elif isinstance(layer, StageOutput) and blocks:
            mixers = dict.fromkeys(map(_mixer, blocks))
            output: Any = layer.output
            shape = tuple(output.shape[1:])
            stages.append(
                _Stage(levels[layer.name], shape, len(blocks), ", ".join(mixers))
            )
            blocks = []
    return stages


def _mixer(block: Any) -> str:
    """What a block mixes tokens with, in words."""
    branch = getattr(block, "token_mixing", block)
    name = type(branch.transform).__name__.removesuffix("Mixer")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _about_stages(stages: list[_Stage]) -> str:
    if not stages:
        return ""
    rows = [
        (stage.level, stage.size, str(stage.blocks), stage.mixers) for stage in stages
    ]
    return "## Stages\n\n" + _table(("level", "map", "blocks", "token mixing"), rows)


def _about_metrics(facts: CardFacts) -> str:
    if not facts.metrics:
        return ""
    where = f"on {facts.dataset}" if facts.dataset else "on held-out images"
    rows = [(_plain(name), f"{value:.6g}") for name, value in facts.metrics.items()]
    return f"## Results\n\n{_table(('metric', _plain(where)), rows)}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _plain(text: Any) -> str:
    """A name as Markdown shows it, whatever is in it."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _drawing(name: str, stages: list[_Stage]) -> "Image.Image":
    """The stages side by side: maps get smaller and deeper."""
    from PIL import Image, ImageDraw, ImageFont

    scale, margin, column, top = 2, 20, 200, 60
    tallest, widest = 200, 110
    width = 2 * margin + column * len(stages)
    height = top + tallest + 110
    picture = Image.new("RGB", (width * scale, height * scale), "white")
    draw = ImageDraw.Draw(picture)

    def write(x: float, y: float, text: str, size: int, colour: str = "#222222"):
        font = ImageFont.load_default(size * scale)
        draw.text((x * scale, y * scale), text, colour, font, anchor="ma")

    def fitting(text: str) -> str:
        return text if len(text) <= 30 else text[:29] + "…"

    write(width / 2, 18, name, 18)
    # Of maps of any size the sides halve from level to level.
    sides = [stage.shape[0] or 2.0 ** -int(stage.level[1:]) for stage in stages]
    channels = [stage.shape[-1] or 1 for stage in stages]
    for index, stage in enumerate(stages):
        middle = margin + column * (index + 0.5)
        tall = max(8.0, tallest * sides[index] / max(sides))
        deep = max(10.0, widest * channels[index] / max(channels))
        bottom = top + tallest
        draw.rectangle(
            [
                (middle - deep / 2) * scale,
                (bottom - tall) * scale,
                (middle + deep / 2) * scale,
                bottom * scale,
            ],
            fill="#9fc5e8",
            outline="#1f4e79",
            width=scale,
        )
        write(middle, bottom + 10, f"{stage.level}: {stage.size}", 14)
        write(middle, bottom + 32, f"{stage.blocks} blocks", 13)
        write(middle, bottom + 54, fitting(stage.mixers), 13, "#1f4e79")
    return picture
