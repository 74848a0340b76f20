"""timm's folder of a model: `config.json` beside `model.safetensors`.

That is the layout of timm's repositories on the Hugging Face hub, which timm reads as
`timm.create_model("hf-hub:owner/name")` and `"local-dir:folder"`.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import keras

from keras_metaformer.layers.initializers import undrawn
from keras_metaformer.models import families
from keras_metaformer.models.pyramid_model import description_of
from keras_metaformer.sharing.config_file import CONFIG, read_config
from keras_metaformer.weights.files.readers import read_checkpoint
from keras_metaformer.weights.porting import port_weights, to_state_dict
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import EvaluationTransform
from keras_metaformer_lite.weights.disk import replacement
from keras_metaformer_lite.weights.timm_names import timm_name

#: What timm may have called the weights; the first is what is written.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
#: Of timm's arguments those that change nothing about a model that is not trained.
_ONLY_TRAINING = {"drop_rate", "drop_path_rate", "proj_drop_rate"}


def load_timm_folder(folder: Path, **arguments: Any) -> keras.Model:
    """The model of a folder in timm's layout, as timm computes it; gives logits.

    Args:
        folder: with `config.json` and `model.safetensors` (or `pytorch_model.bin`).
        **arguments: of the constructor, such as another `input_shape`.

    Raises:
        ValueError: if the config is none of timm's, its model is none of ours, or the
            weights do not fit.
    """
    config = read_config(folder)
    published = config.get("pretrained_cfg", config)
    architecture = config["architecture"].split(".")[0]
    variant = next(
        (name for name in families.names() if timm_name(name) == architecture), None
    )
    if variant is None:
        known = sorted(filter(None, map(timm_name, families.names())))
        raise ValueError(
            f"Expected a model of timm that is here too, one of {known}. "
            f"Received: architecture={config['architecture']!r} in {str(folder)!r}"
        )
    given = dict(config.get("model_args") or {})
    size = given.pop("img_size", published.get("input_size", (3, 224, 224))[-1])
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    channels = given.pop("in_chans", published.get("input_size", (3,))[0])
    pooling = given.pop("global_pool", "avg")
    if pooling != "avg":
        raise ValueError(
            f"Expected a model that pools by averages. Received: {pooling!r} in "
            f"{str(folder)!r}"
        )
    unknown = set(given) - _ONLY_TRAINING - {"num_classes"}
    if unknown:
        raise ValueError(
            "Expected no `model_args` in the config but `img_size`, `in_chans`, "
            f"`num_classes` and rates of dropout. Received: {sorted(unknown)} in "
            f"{str(folder)!r}"
        )
    classes = config.get("num_classes", published.get("num_classes", 1000))
    if families.get(variant).family == "mlp_mixer":
        arguments.setdefault("activation", "gelu")  # timm's, where ours is tanh's
    if families.get(variant).family == "poolformer":
        arguments.setdefault("normalize_before_pooling", False)
    arguments.setdefault("input_shape", (height, width, channels))
    with undrawn():
        model = families.get(variant).constructor(
            weights=None,
            include_top=bool(classes),
            pooling=None if classes else "avg",
            classes=classes or 1000,
            classifier_activation=None,
            **arguments,
        )
    port_weights(model, read_checkpoint(_weights(folder)))
    made_for = model.input_shape[1:]
    if made_for[0] == made_for[1] and made_for[2] == 3:
        names = config.get("label_names", published.get("label_names"))
        model.image_description = ImageDescription(
            EvaluationTransform(
                made_for[0] or height,
                crop_fraction=published.get("crop_pct", 0.875),
                interpolation=published.get("interpolation", "bicubic"),
                mean=tuple(published.get("mean", (0.485, 0.456, 0.406))),
                std=tuple(published.get("std", (0.229, 0.224, 0.225))),
                squash=published.get("crop_mode") == "squash",
            ),
            includes_preprocessing=bool(arguments.get("include_preprocessing")),
            output="logits" if classes else "features",
            class_names=tuple(names) if isinstance(names, list) and names else None,
        )
    return model


def save_timm_folder(
    model: keras.Model, folder: Path, architecture: str | None = None
) -> None:
    """Write a model in timm's layout; timm loads it strictly.

    Args:
        model: with weights of one of timm's models, any number of classes.
        folder: made where it is not there; the two files in it are replaced.
        architecture: constructor's name, such as `"CAFormerS18"`; None where the
            model's own name says it.

    Raises:
        ValueError: if timm has no such model, or computes something else.
    """
    name = architecture or model.name
    try:
        variant = families.get(name)
    except ValueError as error:
        raise ValueError(
            "`architecture` must be the constructor that the model is of, such as "
            f"'CAFormerS18'. Received: architecture={name!r}"
        ) from error
    timms = timm_name(variant.name)
    if timms is None:
        raise ValueError(f"timm has no such model. Received: {variant.name!r}")
    state_dict = to_state_dict(model, "timm")
    _check_is(model, variant, state_dict)
    description = description_of(model)
    height, width, channels = model.input_shape[1:]
    size = [channels, height or variant.resolution, width or variant.resolution]
    has_top = "predictions" in {layer.name for layer in model.layers}
    classes = model.output_shape[-1] if has_top else 0
    published: dict[str, Any] = {
        "input_size": size,
        "num_classes": classes,
        "custom_load": False,
    }
    if description is not None:
        transform = dataclasses.asdict(description.transform)
        published.update(
            crop_pct=transform["crop_fraction"],
            crop_mode="squash" if transform["squash"] else "center",
            interpolation=transform["interpolation"],
            mean=list(transform["mean"]),
            std=list(transform["std"]),
        )
        names = description.names()
        if names is not None:
            published["label_names"] = list(names)
    config: dict[str, Any] = {
        "architecture": timms,
        "num_classes": classes,
        "pretrained_cfg": published,
    }
    if timms.endswith("_224") and size[1:] != [224, 224]:
        config["model_args"] = {"img_size": size[1:]}
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with replacement(folder / WEIGHT_FILES[0], ".safetensors") as temporary:
        save_file(state_dict, temporary)
    with replacement(folder / CONFIG, ".json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _weights(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"Expected a folder with {CONFIG} and {WEIGHT_FILES[0]}. "
        f"Received: {os.fspath(folder)!r} without {WEIGHT_FILES[0]}"
    )


def _check_is(model: keras.Model, variant: families.Variant, state_dict: Any) -> None:
    """Raises a ValueError unless timm's model would compute what this one does."""
    exact = {}
    if variant.family == "mlp_mixer":
        exact["activation"] = "gelu"
    if variant.family == "poolformer":
        exact["normalize_before_pooling"] = False
    layers = {layer.name: layer for layer in model.layers}
    has_top = "predictions" in layers
    height, width, channels = model.input_shape[1:]
    with undrawn():
        other = variant.constructor(
            weights=None,
            include_top=has_top,
            pooling=None if has_top else "avg",
            classes=model.output_shape[-1] if has_top else 1000,
            classifier_activation=None,
            input_shape=(
                height or variant.resolution,
                width or variant.resolution,
                channels,
            ),
            **exact,
        )
    expected = {key: array.shape for key, array in to_state_dict(other, "timm").items()}
    found = {key: array.shape for key, array in state_dict.items()}
    order = [layer.name for layer in model.layers if layer.name in _TAIL]
    if found != expected or order != [
        layer.name for layer in other.layers if layer.name in _TAIL
    ]:
        different = sorted(set(found.items()) ^ set(expected.items()))[:3]
        what = different or f"the norm and the pooling in the order {order}"
        raise ValueError(
            f"timm's {timm_name(variant.name)} is another model than this one. "
            f"Received: {model.name!r}, which differs in {what}"
        )


_TAIL = ("output_norm", "average_pool")
