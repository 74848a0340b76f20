"""A model that gives the maps of its levels."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_metaformer.blocks import MetaFormerBlock, ResidualBranch
from keras_metaformer.features.freezing import freeze
from keras_metaformer.layers import ImageNormalization
from keras_metaformer.layers.norms.table import make_norm
from keras_metaformer.models.nodes import output_in
from keras_metaformer.models.pyramid_model import (
    PyramidModel,
    description_of,
    pyramid_layers,
)
from keras_metaformer_lite.description import ImageDescription

#: Of FFNet's detectors and segmenters.
_NORM_EPSILON = 1e-6
_LEVEL = re.compile(r"P\d+")


@keras.saving.register_keras_serializable(package="keras_metaformer")
class FeatureExtractor(PyramidModel):
    """What `feature_extractor` makes: a functional model with a dict of outputs.

    Its `pyramid_outputs` are those of its outputs that are named as levels, `"P2"` and
    so on, with their norms: detectors and segmenters take it as their backbone.
    """

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """`{"P3": symbolic map, ...}` of shape `(batch, height, width, channels)`."""
        named: Any = self.output
        return {
            level: tensor
            for level, tensor in named.items()
            if _LEVEL.fullmatch(level) and len(tensor.shape) == 4
        }

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """`{"P3": layer name, ...}`: the layer that gives each level."""
        return {
            level: _maker_of(tensor) for level, tensor in self.pyramid_outputs.items()
        }


def feature_extractor(
    model: keras.Model,
    levels: Sequence[str | int] | None = None,
    norm: Any = False,
    prune: bool = True,
    *,
    tokens: bool = False,
    frozen_stages: int | None = None,
    input_shape: Sequence[int | None] | None = None,
    name: str | None = None,
) -> FeatureExtractor:
    """A model that gives the maps of some levels of another, by name.

    The layers are those of `model`: what trains the one trains the other.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.CAFormerS18(weights=None)
    >>> extractor = feature_extractor(model, levels=("P3", "P5"))
    >>> {level: map.shape for level, map in extractor.output.items()}
    {'P3': (None, None, None, 128), 'P5': (None, None, None, 512)}

    Args:
        model: functional model of this library, with or without its top.
        levels: each a pyramid level such as `"P3"` (the map of 1/8 of the image's
            height and width, at the end of its stage), the index of a block, counted
            from 0 or, where negative, from the end, or the name of a layer. None for
            all pyramid levels.
        norm: whether each level is followed by a norm of its own, which is new and is
            trained, as in the papers' detectors and segmenters: a group norm of one
            group, as the model's last, where that is one (PoolFormer), else a layer
            norm with epsilon 1e-6 (FFNet). Or a norm as `MetaFormer` takes it.
        prune: whether the rest of the model is left out. Otherwise its own output is
            among the outputs, by the name of its layer (`"predictions"`).
        tokens: whether maps are given as `(batch, height * width, channels)`.
        frozen_stages: int or None. The stem and so many stages stay untrained, and so
            do all batch norms with their statistics, in `model` too: see `freeze`.
        input_shape: `(height, width, channels)` of the image, or None for any height
            and width where the mixers allow that, else the model's.
        name: of the new model; None for that of `model` and `"_features"`.

    Returns:
        A model whose output is a dict of float maps `(batch, height, width, channels)`:
        the keys are the levels as given, but for indices the names of the blocks.

    Raises:
        TypeError: if `model` is no functional model.
        ValueError: if it has no such level, a level is no map but is to be given
            as tokens or normalised, or the mixers are tied to another image size.
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        raise TypeError(
            "`feature_extractor` takes a functional model. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    chosen = chosen_layers(model, levels)
    image, outputs = _on_image(model, chosen, input_shape, prune)
    last = None if prune else outputs.pop(_own_output(model))
    for level, tensor in outputs.items():
        if (norm is not False or tokens) and len(tensor.shape) != 4:
            raise ValueError(
                "Norms and tokens are of maps (batch, height, width, channels). "
                f"Received: level={level!r}, of shape {tuple(tensor.shape)}"
            )
        if norm is not False:
            layer = _norm(model, norm, chosen[level].dtype_policy)
            layer.name = f"{level}_norm"
            tensor = layer(tensor)
        if tokens:
            shape = (-1, tensor.shape[-1])
            tensor = keras.layers.Reshape(shape, name=f"{level}_tokens")(tensor)
        outputs[level] = tensor
    if last is not None:
        outputs[_own_output(model)] = last
    extractor = FeatureExtractor(
        image,
        outputs,
        name=name or f"{model.name}_features",
        image_description=of_features(description_of(model), image.shape[1:3]),
    )
    if frozen_stages is not None:
        freeze(extractor, frozen_stages)
    return extractor


def of_features(
    description: ImageDescription | None,
    size: Sequence[int | None] = (None, None),
) -> ImageDescription | None:
    """What a model that gives features knows of its images.

    Args:
        description: of the model with the classifier.
        size: `(height, width)` that the new one takes, None for any.
    """
    if description is None or size[0] != size[1]:
        return None
    transform = description.transform
    if size[0] is not None:
        transform = dataclasses.replace(transform, resolution=size[0])
    return dataclasses.replace(
        description, transform=transform, output="features", class_names=None
    )


def chosen_layers(
    model: keras.Model, levels: Sequence[str | int] | None
) -> dict[str, keras.layers.Layer]:
    """The layers that give the levels, by the names of the outputs."""
    pyramid = pyramid_layers(model)
    if levels is None:
        levels = list(pyramid)
    if isinstance(levels, (str, int)) or not levels:
        raise ValueError(
            "`levels` must be a sequence of levels, such as ('P3', 'P5') or (2, -1), "
            f"or None. Received: levels={levels!r}"
        )
    blocks = [
        layer
        for layer in model.layers
        if isinstance(layer, (MetaFormerBlock, ResidualBranch))
    ]
    by_name = {layer.name: layer for layer in model.layers}
    chosen: dict[str, keras.layers.Layer] = {}
    for level in levels:
        is_index = isinstance(level, int) and not isinstance(level, bool)
        if is_index and -len(blocks) <= int(level) < len(blocks):
            layer = blocks[int(level)]
            level = layer.name
        elif isinstance(level, str) and (level in pyramid or level in by_name):
            layer = pyramid.get(level) or by_name[level]
        else:
            raise ValueError(
                f"The levels of {model.name!r} are {list(pyramid)}, the indices of its "
                f"{len(blocks)} blocks, and the names of its layers. "
                f"Received: level={level!r}"
            )
        if str(level) in chosen:
            raise ValueError(
                f"Each level may be asked for once. Received: levels={levels!r}"
            )
        chosen[str(level)] = layer
    return chosen


def _own_output(model: keras.Model) -> str:
    """The name of the layer that gives the output of a model."""
    return _maker_of(model.outputs[0])


def _maker_of(tensor: Any) -> str:
    """The name of the layer that gives a symbolic tensor."""
    return tensor._keras_history.operation.name


def _on_image(
    model: keras.Model,
    chosen: dict[str, keras.layers.Layer],
    input_shape: Sequence[int | None] | None,
    prune: bool,
) -> tuple[Any, dict[str, Any]]:
    """The image, and what the layers make of it."""
    outputs = {name: output_in(model, layer) for name, layer in chosen.items()}
    if not prune:
        outputs[_own_output(model)] = model.outputs[0]
    if len(model.inputs) != 1:
        raise ValueError(
            "Expected a model of one image. "
            f"Received: {model.name!r} with {len(model.inputs)} inputs"
        )
    image = model.inputs[0]
    before = tuple(image.shape[1:])
    tied = any(
        getattr(layer, "needs_static_size", False) for layer in model._flatten_layers()
    )
    if input_shape is None:
        after = before if tied else (None, None, before[-1])
    else:
        after = tuple(input_shape)
    if after == before:
        return image, outputs
    if len(after) != 3 or after[-1] != before[-1] or tied:
        why = "a mixer has a weight for every token" if tied else "weights are shared"
        raise ValueError(
            f"`input_shape` must be {before if tied else (None, None, before[-1])}: "
            f"{why}. Another size of MLP-Mixer, ResMLP, gMLP and RandFormer is made by "
            "their constructors, with weights=PATH and `token_interpolation`. "
            f"Received: input_shape={input_shape}"
        )
    asked_for = keras.Model(image, outputs)
    other: Any = keras.layers.Input(after, dtype=image.dtype, name="image")
    moved: Any = keras.models.clone_model(
        asked_for, input_tensors=other, clone_function=lambda layer: layer
    )
    return other, dict(moved.output)


def _norm(model: keras.Model, norm: Any, policy: Any) -> keras.layers.Layer:
    """A fresh norm of a level."""
    if norm is True:
        last = next(
            (layer for layer in model.layers if layer.name == "output_norm"), None
        )
        if isinstance(last, ImageNormalization):
            return make_norm("group_norm", epsilon=last.epsilon, dtype=policy)
        norm = "layer_norm"
    return make_norm(norm, epsilon=_NORM_EPSILON, dtype=policy)
