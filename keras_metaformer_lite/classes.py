"""The names of the ImageNet classes, in the order of the models' outputs."""

import json
from functools import cache
from importlib import resources

# Number of classes of each data set. Google's order of ImageNet-21k holds two
# classes that the fall 2011 release, which sail-sg trained on, does not have; MIIL left
# away those with few images.
DATASETS = {
    "imagenet": 1000,
    "imagenet21k": 21841,
    "imagenet21k_google": 21843,
    "imagenet21k_miil": 11221,
}


def class_names(dataset: str = "imagenet") -> list[tuple[str, str]]:
    """The classes of an ImageNet data set, in the order of the outputs.

    Names are written as in `keras.applications`: the first WordNet lemma with
    underscores for blanks.

    >>> class_names()[2]
    ('n01484850', 'great_white_shark')

    Args:
        dataset: `"imagenet"` (1000 classes), `"imagenet21k"` (21841, the order of
            sail-sg's checkpoints), `"imagenet21k_google"` (21843, that of
            Google's checkpoints) or `"imagenet21k_miil"` (11221, that of MIIL's).

    Returns:
        One `(WordNet identifier, name)` per class.

    Raises:
        ValueError: if the data set is not known.
    """
    if dataset not in DATASETS:
        raise ValueError(
            f"`dataset` must be one of {', '.join(map(repr, DATASETS))}. "
            f"Received: dataset={dataset!r}"
        )
    return list(_read(dataset))


def dataset_of(classes: int) -> str | None:
    """The ImageNet data set with so many classes, or None."""
    for dataset, count in DATASETS.items():
        if count == classes:
            return dataset
    return None


@cache
def _read(dataset: str) -> tuple[tuple[str, str], ...]:
    file = "imagenet" if dataset == "imagenet" else "imagenet21k"
    text = (
        resources.files("keras_metaformer_lite")
        .joinpath(f"{file}_classes.json")
        .read_text(encoding="utf-8")
    )
    content = json.loads(text)
    dropped = content["only_google"] if dataset == "imagenet21k" else []
    return tuple(
        (identifier, name)
        for identifier, name, *marks in content["classes"]
        if identifier not in dropped
        and ("miil" in marks or dataset != "imagenet21k_miil")
    )
