"""KerasHub's presets, made of the catalogue of published weights."""

import functools
from typing import Any

import keras

from keras_metaformer.models import families
from keras_metaformer_lite.weights import catalogue


@functools.cache
def presets() -> dict[str, catalogue.Checkpoint]:
    """The published weights by the names of presets, `"caformer_s18_imagenet"`."""
    return {
        f"{families.snake_case(row.constructor)}_{row.tag}": row
        for row in catalogue.all_checkpoints()
    }


def described() -> dict[str, dict[str, Any]]:
    """What `presets` of KerasHub's classes gives."""
    return {
        name: {
            "metadata": {
                "description": (
                    f"{row.constructor} with the weights {row.tag!r}, for images of "
                    f"{row.resolution} x {row.resolution} pixels and {row.classes} "
                    "classes."
                ),
                "params": families.get(row.constructor).parameters,
                "path": row.family,
                "licence": row.licence,
            },
        }
        for name, row in presets().items()
    }


def model_of(name: str, load_weights: bool, **arguments: Any) -> keras.Model:
    """The model of a preset, its classifier giving logits.

    Args:
        name: of the preset.
        load_weights: whether it has the published weights.
        **arguments: of the constructor.
    """
    row = presets()[name]
    if row.activation is not None:
        arguments["activation"] = row.activation
    # A preset names its weights: those of tied models are for one image size.
    arguments.setdefault("input_shape", (row.resolution, row.resolution, 3))
    arguments.setdefault("classes", row.classes)
    return families.get(row.constructor).constructor(
        weights=row.tag if load_weights else None,
        classifier_activation=None,
        **arguments,
    )
