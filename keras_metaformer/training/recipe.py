"""Recipes: how a published model was trained, as data with its sources."""

import dataclasses
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keras_metaformer.models import families
from keras_metaformer.models.families import snake_case
from keras_metaformer_lite.names import question, simplify

_FOLDER = resources.files("keras_metaformer.training") / "recipes"


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What values a field may have: `parse` takes one or raises ValueError."""

    expected: str
    parse: Callable[[Any], Any]


def _optional(kind: _Kind) -> _Kind:
    def parse(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return kind.parse(value)

    return _Kind(f"{kind.expected}, or 'none'", parse)


def _number(low: float, high: float = math.inf, below: bool = False) -> _Kind:
    ends = f"from {low:g}" if high == math.inf else f"in [{low:g}, {high:g}"
    expected = f"a number {ends}{'' if high == math.inf else ')' if below else ']'}"

    def parse(value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not low <= number <= high or (below and number == high):
            raise ValueError
        return number

    return _Kind(expected, parse)


def _whole(least: int) -> _Kind:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or int(value) != float(value) or int(value) < least:
            raise ValueError
        return int(value)

    return _Kind(f"a whole number from {least}", parse)


def _choice(*names: str) -> _Kind:
    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError
        return value

    return _Kind("one of " + ", ".join(map(repr, names)), parse)


def _parse_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _parse_range(value: Any) -> tuple[float, float]:
    parts = value.split(",") if isinstance(value, str) else value
    low, high = (float(part) for part in parts)
    if not 0 < low <= high:
        raise ValueError
    return low, high


def _parse_texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part]
    return tuple(_parse_text(part) for part in value)


_TEXT = _Kind("text", _parse_text)
_TEXTS = _Kind("a list of texts", _parse_texts)
_RANGE = _Kind("two positive numbers, the smaller first", _parse_range)


def _field(section: str, kind: _Kind, default: Any = dataclasses.MISSING) -> Any:
    metadata = {"section": section, "kind": kind}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a field's value comes from.

    Attributes:
        source: paper, script or page; of an override, who set it.
        script: what the published script says where that slipped, or None.
        note: what else is to be known, or None.
    """

    source: str
    script: str | None = None
    note: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides how a model is trained, resolved for one model.

    `load_recipe` makes one. Learning rates are per update of
    `batch_size * accumulate` images.

    Attributes:
        name: of the recipe, such as `"caformer-s18"`.
        title: one line.
        model: constructor's name, or None where the recipe is for any model.
        weights: tag of the published weights that training starts from, or None.
        head: what becomes of the classifier of those weights: `"keep"`, `"new"` (drawn
            anew), or `"imagenet21k_to_1k"` (its rows of the classes of ImageNet-1K).
        freeze: `"backbone"` trains the classifier alone; None trains everything.
        epochs: of the schedule, warmup among them, cooldown not.
        batch_size: images of one batch.
        accumulate: batches of one update.
        published_batch_size: images of an update that `published_learning_rate` is for.
        published_learning_rate: the highest rate at that size.
        optimizer: `"adamw"` or `"lamb"`.
        learning_rate: the highest rate: the published one times
            `batch_size * accumulate / published_batch_size`, as `warmup_rate` and
            `floor_rate` are.
        weight_decay: of parameters with more than one dimension, biases excepted.
        also_decayed: patterns of the paths of further parameters with weight decay.
        layer_decay: factor of the rate from block to block, None for none.
        beta_1: of the optimizer's first moment.
        beta_2: of its second moment.
        epsilon: of the optimizer.
        clip_norm: global norm that gradients are clipped to, None for no clipping.
        schedule: `"cosine"`, `"linear"` or `"constant"`.
        schedule_interval: `"epoch"`: the rate changes once an epoch; `"update"`: it
            moves at every update.
        warmup_epochs: of `epochs`; cut out of the cosine, before the line.
        warmup_rate: rate at the start of the warmup.
        floor_rate: rate that the schedule ends at.
        cooldown_epochs: epochs at `floor_rate` after that.
        average_decay: of the exponential moving average of the weights, None for none.
        stochastic_depth_rate: of the last block; those before it have less.
        head_dropout: before the classifier.
        label_smoothing: of the training targets.
        distillation: `"hard"`, `"soft"` or None.
        distillation_alpha: weight of the teacher's part of the loss.
        distillation_temperature: of soft distillation.
        teacher: what the published teacher is; a model is to be given. None for none.
        image_size: height and width that the model is trained and evaluated on, or None
            for the model's own, in pixels.
        crop_fraction: centre crop of the evaluation, over the resized shorter side; or
            None for the model's own.
        random_resized_crop_scale: least and largest part of the area that is cut out.
        random_resized_crop_ratio: least and largest width over height of the cut.
        interpolation: of training images: `"nearest"`, `"bilinear"`, `"bicubic"`,
            `"lanczos"`, or `"random"` for bilinear or bicubic, drawn for each image.
        horizontal_flip: probability.
        rand_augment: policy in timm's notation, such as `"rand-m9-mstd0.5-inc1"`, or
            None.
        color_jitter: strength; as in timm only applied where `rand_augment` is None.
        random_erasing: probability.
        random_erasing_mode: `"pixel"` (noise), `"color"` or `"constant"`.
        random_erasing_count: most rectangles erased in an image.
        mixup_alpha: of the Beta distribution, 0 for no mixup.
        cutmix_alpha: of the Beta distribution, 0 for no cutmix.
        mixup_probability: that a batch is mixed at all.
        mixup_switch_probability: that a mixed batch is cut instead, where both are on.
        repeated_augmentation: how often an image stands in a row in the order of an
            epoch, each time augmented anew. An epoch is as long as without.
        origins: where each field's value comes from.
    """

    name: str
    title: str
    model: str | None = None

    weights: str | None = _field("start", _optional(_TEXT), None)
    head: str = _field("start", _choice("keep", "new", "imagenet21k_to_1k"), "new")
    freeze: str | None = _field("start", _optional(_choice("backbone")), None)

    epochs: int = _field("length", _whole(1))
    batch_size: int = _field("length", _whole(1))
    accumulate: int = _field("length", _whole(1), 1)
    published_batch_size: int = _field("length", _whole(1))

    optimizer: str = _field("optimizer", _choice("adamw", "lamb"))
    learning_rate: float = _field("optimizer", _number(0))
    published_learning_rate: float = _field("optimizer", _number(0))
    weight_decay: float = _field("optimizer", _number(0))
    also_decayed: tuple[str, ...] = _field("optimizer", _TEXTS, ())
    layer_decay: float | None = _field("optimizer", _optional(_number(0, 1)), None)
    beta_1: float = _field("optimizer", _number(0, 1, below=True), 0.9)
    beta_2: float = _field("optimizer", _number(0, 1, below=True), 0.999)
    epsilon: float = _field("optimizer", _number(0))
    clip_norm: float | None = _field("optimizer", _optional(_number(0)), None)

    schedule: str = _field(
        "schedule", _choice("cosine", "linear", "constant"), "cosine"
    )
    schedule_interval: str = _field("schedule", _choice("epoch", "update"), "epoch")
    warmup_epochs: int = _field("schedule", _whole(0), 0)
    warmup_rate: float = _field("schedule", _number(0), 1e-6)
    floor_rate: float = _field("schedule", _number(0), 1e-5)
    cooldown_epochs: int = _field("schedule", _whole(0), 0)
    average_decay: float | None = _field(
        "schedule", _optional(_number(0, 1, below=True)), None
    )

    stochastic_depth_rate: float = _field(
        "regularisation", _number(0, 1, below=True), 0.0
    )
    head_dropout: float = _field("regularisation", _number(0, 1, below=True), 0.0)
    label_smoothing: float = _field("regularisation", _number(0, 1, below=True), 0.0)
    distillation: str | None = _field(
        "regularisation", _optional(_choice("hard", "soft")), None
    )
    distillation_alpha: float = _field("regularisation", _number(0, 1), 0.5)
    distillation_temperature: float = _field("regularisation", _number(1e-3), 1.0)
    teacher: str | None = _field("regularisation", _optional(_TEXT), None)

    image_size: int | None = _field("images", _optional(_whole(1)), None)
    crop_fraction: float | None = _field("images", _optional(_number(0.01, 1)), None)
    random_resized_crop_scale: tuple[float, float] = _field(
        "images", _RANGE, (0.08, 1.0)
    )
    random_resized_crop_ratio: tuple[float, float] = _field(
        "images", _RANGE, (3 / 4, 4 / 3)
    )
    interpolation: str = _field(
        "images",
        _choice("nearest", "bilinear", "bicubic", "lanczos", "random"),
        "random",
    )
    horizontal_flip: float = _field("images", _number(0, 1), 0.5)
    rand_augment: str | None = _field("images", _optional(_TEXT), None)
    color_jitter: float = _field("images", _number(0), 0.0)
    random_erasing: float = _field("images", _number(0, 1), 0.0)
    random_erasing_mode: str = _field(
        "images", _choice("pixel", "color", "constant"), "pixel"
    )
    random_erasing_count: int = _field("images", _whole(1), 1)
    mixup_alpha: float = _field("images", _number(0), 0.0)
    cutmix_alpha: float = _field("images", _number(0), 0.0)
    mixup_probability: float = _field("images", _number(0, 1), 1.0)
    mixup_switch_probability: float = _field("images", _number(0, 1), 0.5)
    repeated_augmentation: int = _field("images", _whole(1), 1)

    origins: Mapping[str, Origin] = dataclasses.field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    @property
    def total_epochs(self) -> int:
        """Epochs of the schedule and of the cooldown."""
        return self.epochs + self.cooldown_epochs

    @property
    def update_size(self) -> int:
        """Images of one update."""
        return self.batch_size * self.accumulate

    def updates_per_epoch(self, images: int) -> int:
        """Update in one epoch over so many images; what fills none is left out.

        Raises:
            ValueError: if there are fewer images than one update takes.
        """
        updates = images // self.update_size
        if updates < 1:
            raise ValueError(
                f"One update takes {self.update_size} images (batch_size="
                f"{self.batch_size} times accumulate={self.accumulate}), more than "
                "there are: give a smaller batch (`batch_size`, --batch), or "
                "`accumulate=1`. "
                f"Received: images={images}"
            )
        return updates

    def learning_rates(self):
        """The rate of each epoch, float64 `(total_epochs,)`."""
        from keras_metaformer.training import schedules

        if self.schedule == "constant":
            return schedules.constant_schedule(self.learning_rate, self.total_epochs)
        make = {
            "cosine": schedules.epoch_schedule,
            "linear": schedules.linear_schedule,
        }[self.schedule]
        return make(
            self.learning_rate,
            self.epochs,
            self.warmup_epochs,
            self.warmup_rate,
            min(self.floor_rate, self.learning_rate),
            self.cooldown_epochs,
        )

    def model_arguments(self) -> dict[str, float]:
        """Arguments of the model's constructor."""
        return {
            "stochastic_depth_rate": self.stochastic_depth_rate,
            "head_dropout": self.head_dropout,
        }

    def to_dict(self) -> dict[str, Any]:
        """Every field but `origins`, of types that JSON and TOML have."""
        values = {}
        for field in dataclasses.fields(self):
            if field.name != "origins":
                value = getattr(self, field.name)
                values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    def describe(self) -> str:
        """All fields with their values and sources, one a line, for people."""
        lines = [f"{self.name}: {self.title}"]
        if self.model:
            lines.append(f"model: {self.model}")
        if "model" in self.origins:
            lines += _notes(self.origins["model"], "")
        section = None
        for field in dataclasses.fields(self):
            if "kind" not in field.metadata:
                continue
            if field.metadata["section"] != section:
                section = field.metadata["section"]
                lines += ["", f"[{section}]"]
            origin = self.origins.get(field.name, Origin("default"))
            value = _show(getattr(self, field.name))
            lines.append(f"{field.name:<26} {value:<24} {origin.source}")
            lines += _notes(origin, " " * 52)
        return "\n".join(lines)


def _notes(origin: Origin, indent: str) -> list[str]:
    lines = []
    if origin.script:
        lines.append(f"{indent}the script says: {origin.script}")
    if origin.note:
        lines.append(f"{indent}{origin.note}")
    return lines


def _show(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return ", ".join(map(_show, value))
    return str(value)


_KINDS: dict[str, _Kind] = {
    field.name: field.metadata["kind"]
    for field in dataclasses.fields(Recipe)
    if "kind" in field.metadata
}
#: Follow from the size of the batch.
_SCALED = ("learning_rate", "warmup_rate", "floor_rate")
_REQUIRED = tuple(
    field.name
    for field in dataclasses.fields(Recipe)
    if "kind" in field.metadata
    and field.default is dataclasses.MISSING
    and field.name not in ("batch_size", "learning_rate")
)


def _parse(name: str, value: Any, where: str) -> Any:
    if name not in _KINDS:
        raise ValueError(
            f"Unknown field of a recipe in {where}.{question(name, _KINDS)} "
            f"Received: {name}={value!r}"
        )
    try:
        return _KINDS[name].parse(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be {_KINDS[name].expected}. Received: {name}={value!r}"
        ) from error


@dataclasses.dataclass(frozen=True)
class _File:
    """One file of recipes: its fields, still with a value for each model."""

    stem: str
    title: str
    models: tuple[str, ...]
    suffix: str
    fields: dict[str, dict[str, Any]]
    sources: dict[str, str]

    def names(self) -> dict[str, str | None]:
        """Names of the recipes in the file, each with its model."""
        if not self.models:
            return {self.stem: None}
        tail = f"-{self.suffix}" if self.suffix else ""
        return {
            snake_case(model).replace("_", "-") + tail: model for model in self.models
        }


_KEYS = ("title", "models", "suffix", "extends", "sources", "fields")
_FIELD_KEYS = ("value", "source", "script", "note")


def _read(stem: str, text: str, where: str) -> _File:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} is no TOML file: {error}") from error
    for key in table:
        if key not in _KEYS:
            raise ValueError(
                f"Unknown key in {where}: expected of {list(_KEYS)}."
                f"{question(key, _KEYS)} Received: {key!r}"
            )
    base = None
    if "extends" in table:
        known = [path.name.removesuffix(".toml") for path in _FOLDER.iterdir()]
        if table["extends"] not in known:
            raise ValueError(
                f"`extends` in {where} must be the name of a file of the package."
                f"{question(str(table['extends']), known)} Received: "
                f"extends={table['extends']!r}"
            )
        base = _built_in(table["extends"])
    fields = dict(base.fields) if base else {}
    # Those of the base are read by the names of their sources in this file.
    sources = {**(base.sources if base else {}), **table.get("sources", {})}
    for name, entry in table.get("fields", {}).items():
        if name not in _KINDS and name != "model":
            _parse(name, entry, where)
        if name != "model" and not (isinstance(entry, dict) and "value" in entry):
            entry = {"value": entry}
        for key in entry:
            if key not in _FIELD_KEYS:
                raise ValueError(
                    f"Unknown key of the field {name!r} in {where}: expected of "
                    f"{list(_FIELD_KEYS)}. Received: {key!r}"
                )
        fields[name] = {"source": where, **entry}
    return _File(
        stem=stem,
        title=table.get("title", base.title if base else stem),
        models=tuple(table.get("models", base.models if base else ())),
        suffix=table.get("suffix", base.suffix if base else ""),
        fields=fields,
        sources=sources,
    )


@cache
def _built_in(stem: str) -> _File:
    path = _FOLDER / f"{stem}.toml"
    return _read(stem, path.read_text("utf-8"), f"recipes/{stem}.toml")


@cache
def _stems() -> tuple[str, ...]:
    names = sorted(path.name for path in _FOLDER.iterdir())
    return tuple(
        name.removesuffix(".toml")
        for name in names
        if name.endswith(".toml") and not name.startswith("_")
    )


@cache
def _catalogue() -> dict[str, tuple[str, str | None]]:
    """Stem of the file and model, by name of the recipe."""
    found: dict[str, tuple[str, str | None]] = {}
    for stem in _stems():
        for name, model in _built_in(stem).names().items():
            if name in found:
                raise ValueError(f"Two recipes have one name. Received: {name!r}")
            found[name] = (stem, model)
    return found


def list_recipes() -> list[str]:
    """Names of all recipes of the package.

    >>> "caformer-s18" in list_recipes()
    True
    """
    return list(_catalogue())


def load_recipe(
    name_or_path: str | os.PathLike = "finetune",
    model_name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe, resolved for one model and one size of batch.

    The learning rate is the published one times the images of an update over the
    published number of them. Where `accumulate` is not given, so many batches make an
    update as come nearest to that number.

    Example:

    >>> recipe = load_recipe("caformer-s18", overrides={"batch_size": 128})
    >>> recipe.accumulate, recipe.learning_rate
    (32, 0.008)

    Args:
        name_or_path: name of `list_recipes`, of a file of the package for several
            models with `model_name` (`"caformer"`), or path of a `.toml` file.
        model_name: constructor's name; None for the recipe's own model.
        overrides: values of fields, as they are or as text.

    Raises:
        ValueError: if there is no such recipe or field, or a value is out of range.
        FileNotFoundError: if there is no such file.
    """
    file, own_model = _find(name_or_path)
    model = families.get(model_name).name if model_name else own_model
    if own_model is None and file.models:
        if model not in file.models:
            raise ValueError(
                f"The recipes of {file.stem!r} are for {list(file.models)}: name one "
                f"of them as the model, or a recipe of {list(file.names())}. Received: "
                f"model_name={model_name!r}"
            )
        own_model = model
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for name, entry in file.fields.items():
        value, script, note = (
            _for_model(entry.get(key, _ABSENT), own_model)
            for key in ("value", "script", "note")
        )
        if value is _ABSENT and name != "model":
            raise ValueError(
                f"The field {name!r} of {file.stem!r} has no value for "
                f"{own_model}. Received: {entry['value']!r}"
            )
        if name != "model":
            values[name] = _parse(name, value, file.stem)
        origins[name] = Origin(
            file.sources.get(entry["source"]) or entry["source"],
            None if script is _ABSENT else script,
            None if note is _ABSENT else note,
        )
    given = {
        name: _parse(name, value, "`overrides`")
        for name, value in (overrides or {}).items()
    }
    for name in given:
        before = f", instead of {_show(values[name])}" if name in values else ""
        origins[name] = Origin(f"given{before}")
    values.update(given)
    _resolve_batch(values, origins, given, file.stem)
    name = next((n for n, m in file.names().items() if m == own_model), file.stem)
    recipe = Recipe(
        name=name,
        title=file.title,
        model=model,
        origins=MappingProxyType(origins),
        **values,
    )
    if recipe.warmup_epochs > recipe.epochs:
        raise ValueError(
            "`warmup_epochs` must not exceed `epochs`, which it is part of. Received: "
            f"warmup_epochs={recipe.warmup_epochs}, epochs={recipe.epochs}"
        )
    return recipe


_ABSENT = object()


def _for_model(value: Any, model: str | None) -> Any:
    """A value, or the entry for `model` of a table of them."""
    return value.get(model, _ABSENT) if isinstance(value, dict) else value


def _resolve_batch(
    values: dict[str, Any],
    origins: dict[str, Origin],
    given: Mapping[str, Any],
    stem: str,
) -> None:
    """Batch size, accumulation and the rates that follow from them."""
    lacking = [name for name in _REQUIRED if name not in values]
    if lacking:
        raise ValueError(
            f"The recipe {stem!r} lacks the fields {lacking}: give them, or `extends`. "
            f"Received: {sorted(values)}"
        )
    published = values["published_batch_size"]
    if "batch_size" not in values:
        values["batch_size"] = published
        origins["batch_size"] = origins["published_batch_size"]
    if "accumulate" not in values:
        values["accumulate"] = max(1, round(published / values["batch_size"]))
        origins["accumulate"] = Origin("from batch_size and published_batch_size")
    factor = values["batch_size"] * values["accumulate"] / published
    values.setdefault("warmup_rate", 1e-6)
    values.setdefault("floor_rate", 1e-5)
    for name in _SCALED:
        if name in given:
            continue
        value = values.get(
            "published_learning_rate" if name == "learning_rate" else name
        )
        values[name] = value if factor == 1 else value * factor
        origin = origins.get(name, origins["published_learning_rate"])
        if factor != 1:
            origin = dataclasses.replace(
                origin, note=f"{value:.6g} for {published} images, times {factor:.6g}"
            )
        origins[name] = origin


def _find(name_or_path: str | os.PathLike) -> tuple[_File, str | None]:
    name = os.fspath(name_or_path)
    if name.endswith(".toml") or os.sep in name:
        path = Path(name)
        return _read(path.stem, path.read_text("utf-8"), name), None
    wanted = simplify(name)
    for known, (stem, model) in _catalogue().items():
        if simplify(known) == wanted:
            return _built_in(stem), model
    for stem in _stems():
        if simplify(stem) == wanted:
            return _built_in(stem), None
    known = [*_catalogue(), *_stems()]
    raise ValueError(
        "Unknown recipe: expected a name that `list_recipes()` lists, or the path of a "
        f"TOML file.{question(name, known)} Received: {name!r}"
    )


def build_optimizer(recipe: Recipe, model: Any, updates_per_epoch: int):
    """The recipe's optimizer, built for the trainable variables of `model`.

    Its `learning_rate` is an `EpochSchedule`; its `parameter_groups` say which have
    weight decay, and which part of the rate each is trained at.

    Args:
        recipe: of `load_recipe`.
        model: the model, with what is frozen frozen.
        updates_per_epoch: updates of the weights in an epoch,
            `recipe.updates_per_epoch(images)`.
    """
    from keras_metaformer.training.optimizers import LAMB, AdamW
    from keras_metaformer.training.schedules import EpochSchedule

    make = {"adamw": AdamW, "lamb": LAMB}[recipe.optimizer]
    rates = recipe.learning_rates()
    each_update = recipe.schedule_interval == "update"
    if each_update:  # the end of the last epoch
        constant = recipe.schedule == "constant"
        rates = [*rates, recipe.learning_rate if constant else recipe.floor_rate]
    optimizer = make(
        learning_rate=EpochSchedule(rates, updates_per_epoch, interpolate=each_update),
        weight_decay=recipe.weight_decay,
        also_decayed=recipe.also_decayed,
        beta_1=recipe.beta_1,
        beta_2=recipe.beta_2,
        epsilon=recipe.epsilon,
        layer_decay=recipe.layer_decay,
        global_clipnorm=recipe.clip_norm,
        gradient_accumulation_steps=(
            recipe.accumulate if recipe.accumulate > 1 else None
        ),
    )
    optimizer.build(model.trainable_variables)
    return optimizer


def build_loss(recipe: Recipe, model: Any):
    """The loss on the targets that the training loader makes.

    Those are soft, `(batch, classes)`: mixed, and smoothed by `recipe.label_smoothing`,
    so that the loss smooths nothing, and its value on a validation set is that of
    the plain labels. Whether the model gives logits or probabilities is seen from its
    last layer.

    Args:
        recipe: of `load_recipe`.
        model: the classifier.
    """
    import keras

    from keras_metaformer.training.distillation import gives_probabilities

    return keras.losses.CategoricalCrossentropy(
        from_logits=not gives_probabilities(model)
    )


def wrap_for_training(recipe: Recipe, model: Any, teacher: Any = None):
    """What is to be fitted: `model` itself, or a `Distiller` around it.

    Raises:
        ValueError: if the recipe distils and there is no teacher, or the other way
            round.
    """
    from keras_metaformer.training.distillation import Distiller

    if (recipe.distillation is None) != (teacher is None):
        raise ValueError(
            f"The recipe {recipe.name!r} has distillation={recipe.distillation!r}: "
            + (
                "set it to 'hard' or 'soft' for a teacher."
                if recipe.distillation is None
                else f"give a teacher (the published one is {recipe.teacher}), or set "
                "it to 'none'."
            )
            + f" Received: teacher={teacher!r}"
        )
    if teacher is None:
        return model
    return Distiller(
        model,
        teacher,
        hard=recipe.distillation == "hard",
        alpha=recipe.distillation_alpha,
        temperature=recipe.distillation_temperature,
    )
