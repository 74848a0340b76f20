"""A small model of every family, made from the family's own settings."""

import dataclasses
import importlib
import itertools
from typing import Any

import keras
import pytest

import keras_metaformer as km
from keras_metaformer.models import families
from keras_metaformer.models.arguments import IMAGES
from keras_metaformer.models.builder import Builder
from keras_metaformer.models.families import define_variant
from keras_metaformer.models.ffnet import FFNET
from keras_metaformer.models.metaformer import ISOTROPIC, METAFORMER

FAMILIES = tuple(dict.fromkeys(families.get(name).family for name in families.names()))
#: One of each builder, with attention, matrices over the tokens and batch norms.
EACH_BUILDER = ("caformer", "mlp_mixer", "ffnet")
#: Runs a test on every family. What they are made of is tested on each backend layer by
#: layer, so that there one model of each builder speaks for the others.
every_family = pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            family, marks=() if family in EACH_BUILDER else pytest.mark.one_backend
        )
        for family in FAMILIES
    ],
)
#: Families with a weight for every token, tied to one image size.
TIED_TO_A_SIZE = ("poolformer_hybrids", "randformer", "mlp_mixer", "resmlp", "gmlp")
#: Where the smallest variant lacks what makes the family.
_TYPICAL = {"poolformer_hybrids": "MetaFormerPPAAS12"}


def opposites(number: int, *pairs: tuple[Any, Any]) -> list[tuple[Any, ...]]:
    """Two of the combinations of four pairs, which differ in each of them.

    Numbers 0 to 3 give half of all combinations; any three of the pairs meet there in
    each of theirs, so that few runs show what a setting does beside the others.
    """
    even = [row for row in itertools.product((0, 1), repeat=4) if sum(row) % 2 == 0]
    return [
        tuple(pair[value] for pair, value in zip(pairs, row, strict=True))
        for row in (even[number % 4], even[-1 - number % 4])
    ]


def smallest(family: str) -> families.Variant:
    """The variant of a family with the fewest parameters that has all of its layers."""
    if family in _TYPICAL:
        return families.get(_TYPICAL[family])
    variants = [families.get(name) for name in families.names()]
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
        fields: further arguments of the builder.
        **arguments: likewise, the size of the input and so on.
    """
    variant = smallest(family)
    settings = {
        **variant.arguments,
        **_NARROW[variant.builder.build],
        **(fields or {}),
        "classes": 7,
        "input_shape": input_shape,
        "name": family,
        **arguments,
    }
    return build(variant.builder, **settings)


_NARROW: dict[Any, dict[str, Any]] = {
    METAFORMER.build: {"depths": (1,) * 4, "widths": (16, 32, 64, 32)},
    ISOTROPIC.build: {"depth": 2, "width": 32},
    FFNET.build: {"depths": (1,) * 4, "widths": (8, 16, 32, 64), "stem_width": 8},
}


def build(builder: Builder, **arguments: Any) -> keras.Model:
    """A model without weights, by a builder that need not be public."""
    return builder.build(builder.arguments(**arguments), IMAGES)


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
    variant = families.get(name)
    module = importlib.import_module(f"keras_metaformer.applications.{variant.family}")
    size = {"depths": (1,) * 4, "widths": (8, 16, 32, 32)}
    key = name.removeprefix(module.FAMILY.title)
    family = dataclasses.replace(module.FAMILY, sizes={key: size})
    patch.delitem(families._VARIANTS, name)
    constructor = define_variant(family, key, 0, 0)
    patch.setattr(module, name, constructor)
    patch.setattr(km, name, constructor)
    return constructor
