"""The model of `--model`, `--weights` and `--classes`, and what it knows of its images.

Like `chosen.py` it ends the program where they name nothing.
"""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from keras_metaformer_lite.cli.chosen import chosen_weights
from keras_metaformer_lite.cli.output import USAGE, WEIGHTS, stop
from keras_metaformer_lite.listing import ListedModel


def check_weights_of(
    model: ListedModel | Path, weights: str | None, classes: int | None
) -> str | None:
    """The weights to load: those of `chosen_weights`, or None, a file having its own.

    To be called before anything is loaded.
    """
    if isinstance(model, ListedModel):
        return chosen_weights(model, weights)
    given = {"--weights": weights, "--classes": classes}
    others = [option for option, value in given.items() if value is not None]
    if others:
        stop(
            f"{model.name} is a whole model, so it goes without {' and '.join(others)}",
            USAGE,
        )
    return None


def load_described(
    model: ListedModel | Path, weights: str | None, classes: int | None, **options: Any
) -> tuple[Any, Any]:
    """A Keras model with an `ImageDescription`, which has the class names if any.

    Args:
        model: what `chosen_model_or_file` gave; a file is a `.keras` one.
        weights: what `check_weights_of` gave, or `"random"`.
        classes: of a model of the list, or None for its own.
        **options: of a constructor.
    """
    if isinstance(model, Path):
        return _load_file(model)
    import keras_metaformer
    from keras_metaformer_lite.classes import dataset_of

    if classes is not None:
        options["classes"] = classes
    try:
        with warnings.catch_warnings():
            # A classifier that starts at random names nothing.
            warnings.filterwarnings("error", message="Loaded the weights .* except")
            built: Any = getattr(keras_metaformer, model.name)(
                weights=None if weights == "random" else weights, **options
            )
    except (OSError, ValueError, UserWarning) as error:
        stop(error, WEIGHTS)
    description = built.image_description
    if description.class_names is None:
        # A file of so many classes is taken for one of ImageNet.
        names = dataset_of(built.output_shape[-1])
        description = dataclasses.replace(description, class_names=names)
    return built, description


def _load_file(path: Path) -> tuple[Any, Any]:
    import keras

    from keras_metaformer.models.pyramid_model import description_of

    try:
        model: Any = keras.saving.load_model(path, compile=False)
    # What Keras raises on files that it cannot read depends on where it stops.
    except (OSError, TypeError, ValueError, KeyError) as error:
        stop(f"{path} cannot be loaded: {error}", WEIGHTS)
    description = description_of(model)
    if description is None:
        stop(
            f"{path} does not say how its images are prepared: load it, set "
            "`model.image_description` (`keras_metaformer.models.pyramid_model."
            "described` for a model of another package), and save it again",
            WEIGHTS,
        )
    return model, description
