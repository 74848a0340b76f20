"""The models by name, and what they cost: data, to be read without Keras."""

import fnmatch
import functools
import json
from dataclasses import dataclass
from importlib import resources

from keras_metaformer.names import find_model_name, simplify
from keras_metaformer.weights import catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A row of `models.json`, which `scripts/update_readme.py` writes.

    Attributes:
        name: of the constructor, such as `"ConvFormerS18"`.
        family: the module in `keras_metaformer.applications`, such as `"convformer"`.
        parameters: weights of the 1000-class model, frozen ones included.
        macs: multiply-accumulate operations for one image of `resolution`; norms,
            activations and pooling are not counted.
        resolution: height and width of the default input, in pixels.
    """

    name: str
    family: str
    parameters: int
    macs: int
    resolution: int


@functools.cache
def all_models() -> tuple[ListedModel, ...]:
    """Every model that has a constructor, family by family."""
    file = resources.files("keras_metaformer.models") / "models.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    return tuple(ListedModel(**row) for row in rows)


def find_model(name: str) -> ListedModel:
    """The model of that name, upper and lower case and underscores ignored.

    Raises:
        ValueError: if there is none; the message offers the nearest names.
    """
    models = {model.name: model for model in all_models()}
    return models[find_model_name(name, models)]


def list_models(pattern: str = "*", *, weights: str | None = None) -> list[str]:
    """Names of the constructors that match.

    Args:
        pattern: with the wildcards `*` and `?`, such as `"caformer*"`. Upper and lower
            case and underscores make no difference.
        weights: keep only models that have weights of this tag, such as
            `"imagenet_384"`.

    Returns:
        The constructors' names, such as `"CAFormerS18"`, family by family.

    Raises:
        ValueError: if no checkpoint at all has the tag.
    """
    found = [
        model.name
        for model in all_models()
        if fnmatch.fnmatchcase(simplify(model.name), simplify(pattern))
    ]
    if weights is None:
        return found
    tags = {checkpoint.tag for checkpoint in catalogue.all_checkpoints()}
    if weights not in tags:
        raise ValueError(
            f"`weights` must be one of {sorted(tags)}. Received: weights={weights!r}"
        )
    return [name for name in found if weights in catalogue.list_weights(name)]
