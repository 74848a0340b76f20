"""What the options name, checked before a backend is imported or a byte downloaded."""

from pathlib import Path

from keras_metaformer_lite.cli.output import FAILED, USAGE, WEIGHTS, stop
from keras_metaformer_lite.listing import ListedModel, find_model
from keras_metaformer_lite.weights import catalogue


def chosen_model(name: str) -> ListedModel:
    """The model of `--model`, or the program ends."""
    try:
        return find_model(name)
    except ValueError as error:
        stop(error, USAGE)


def chosen_model_or_file(name: str, *suffixes: str) -> ListedModel | Path:
    """The model or the file of `--model`, or the program ends.

    Args:
        name: of the list, or a path that ends in one of the suffixes.
        *suffixes: such as `".keras"`.
    """
    if Path(name).suffix.lower() not in suffixes:
        return chosen_model(name)
    if not Path(name).is_file():
        stop(f"There is no such file. Received: model={name!r}", USAGE)
    return Path(name)


def chosen_classifier(name: str, weights: str | None) -> str:
    """What `--model` of `evaluate` and `predict` names, or the program ends.

    Args:
        name: of the list, a `.keras` or `.tflite` file, or the folder or checkpoint of
            a run.
        weights: of a model of the list.
    """
    path = Path(name)
    if path.is_dir() or path.suffix == ".safetensors":
        folder = path if path.is_dir() else path.parent
        if not any(folder.glob("*.keras")):
            stop(
                "Expected the folder of a training run, with a model in it. "
                f"Received: model={name!r}",
                USAGE,
            )
    else:
        chosen = chosen_model_or_file(name, ".keras", ".tflite")
        if isinstance(chosen, ListedModel):
            chosen_weights(chosen, weights)
            return chosen.name
    if weights is not None:
        stop(f"{name} is a whole model, so it goes without --weights", USAGE)
    return name


def chosen_weights(model: ListedModel, weights: str | None) -> str:
    """The tag or file of `--weights`, the model's default tag, or the program ends."""
    tags = catalogue.list_weights(model.name)
    if weights is None:
        if not tags:
            stop(
                f"No weights are published for {model.name}: give a file with "
                "--weights",
                USAGE,
            )
        return str(catalogue.default_tag(model.name))
    if weights not in tags and not Path(weights).is_file():
        stop(
            f"--weights must be a file or one of {', '.join(tags) or 'none published'} "
            f"for {model.name}; there is no such file. Received: {weights!r}",
            WEIGHTS,
        )
    return weights


def chosen_target(path: Path) -> None:
    """End the program if a file cannot be written there."""
    if not path.parent.is_dir():
        stop(f"Expected a folder that exists. Received: {str(path.parent)!r}", FAILED)
    if path.is_dir():
        stop(f"Expected a file to write, not a folder. Received: {str(path)!r}", FAILED)
