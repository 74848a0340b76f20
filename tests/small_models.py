"""A small model of every family, made from the family's own settings."""

import dataclasses
import importlib
from typing import Any

import keras
import pytest

import keras_metaformer as km
from keras_metaformer.models import registry
from keras_metaformer.models.config import MetaFormerConfig
from keras_metaformer.models.ffnet import FFNetConfig, build_ffnet
from keras_metaformer.models.image_model import ImageArguments
from keras_metaformer.models.isotropic import IsotropicConfig, build_isotropic
from keras_metaformer.models.metaformer import build_metaformer
from keras_metaformer.models.variant import define_variant

FAMILIES = tuple(dict.fromkeys(registry.get(name).family for name in registry.names()))
#: Families with a weight for every token, tied to one image size.
TIED_TO_A_SIZE = ("randformer", "mlp_mixer", "resmlp", "gmlp")


def smallest(family: str) -> registry.Variant:
    """The variant of a family with the fewest parameters."""
    variants = [registry.get(name) for name in registry.names()]
    return min(
        (variant for variant in variants if variant.family == family),
        key=lambda variant: variant.parameters,
    )


def build_small(
    family: str, input_shape: Any = (64, 64, 3), fields: Any = None, **arguments: Any
) -> keras.Model:
    """One narrow block per stage, everything else as in the family.

    Args:
        family: of `FAMILIES`.
        input_shape: of one image.
        fields: further fields of the family's config.
        **arguments: of `ImageArguments`.
    """
    config = smallest(family).config
    fields = fields or {}
    image = ImageArguments(
        **{"classes": 7, "input_shape": input_shape, "name": family, **arguments}
    )
    if isinstance(config, MetaFormerConfig):
        small: Any = {"depths": (1,) * 4, "widths": (16, 32, 64, 32)}
        return build_metaformer(dataclasses.replace(config, **small, **fields), image)
    if isinstance(config, FFNetConfig):
        small = {"depths": (1,) * 4, "widths": (8, 16, 32, 64), "stem_width": 8}
        return build_ffnet(dataclasses.replace(config, **small, **fields), image)
    if isinstance(config, IsotropicConfig):
        small = {"depth": 2, "width": 32}
        return build_isotropic(dataclasses.replace(config, **small, **fields), image)
    raise AssertionError(f"No small model for {type(config)}: add it here")


def metaformer(mixer: Any = "pooling", **arguments: Any) -> keras.Model:
    """Two stages of one block, for 32 x 32 pixels."""
    settings: dict[str, Any] = {
        "depths": (1, 1),
        "widths": (16, 32),
        "input_shape": (32, 32, 3),
        "classes": 5,
    }
    return km.MetaFormer(mixer=mixer, **{**settings, **arguments})


def narrowed(patch: pytest.MonkeyPatch, name: str) -> Any:
    """A hierarchical constructor with one narrow block per stage, until the patch ends.

    Only the size is another: name, signature, published weights and loading are those
    of the real one, in whose place it is found.
    """
    variant = registry.get(name)
    module = importlib.import_module(f"keras_metaformer.applications.{variant.family}")
    size = {"depths": (1,) * 4, "widths": (8, 16, 32, 32)}
    key = name.removeprefix(module.FAMILY.title)
    family = dataclasses.replace(module.FAMILY, sizes={key: size})
    patch.delitem(registry._VARIANTS, name)
    constructor = define_variant(family, key, 0, 0)
    patch.setattr(module, name, constructor)
    patch.setattr(km, name, constructor)
    return constructor
