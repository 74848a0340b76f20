"""Parameter groups against those that timm makes of the references' parameters."""

import keras
import pytest

import keras_metaformer as km
from keras_metaformer.training.groups import has_weight_decay, rate_scales
from keras_metaformer.weights.naming import NAMINGS
from keras_metaformer.weights.porting import to_state_dict
from keras_metaformer.weights.structure import weight_slots
from tests.small_models import FAMILIES, build_small

#: Families whose sizes differ in what has a layer scale of its own shape.
FIELDS = {"ffnet": {"layer_scale_initial_value": 1e-6}}
#: Recipes by family, where the groups are not those of the shapes alone.
RECIPES = {"ffnet": "ffnet-3"}


@pytest.mark.one_backend
@pytest.mark.parametrize("family", FAMILIES)
def test_weight_decay_is_timms_on_the_official_parameters(family):
    model = build_small(family, fields=FIELDS.get(family))
    also_decayed = (
        km.training.load_recipe(RECIPES[family]).also_decayed
        if family in RECIPES
        else ()
    )
    slots = weight_slots(model)
    trainable = {id(variable) for variable in model.trainable_variables}
    official = to_state_dict(model, "timm" if family == "gmlp" else "official")
    naming = next(
        naming
        for naming in NAMINGS
        if {entry and entry.key for entry in naming.entries(slots).values()}
        == set(official)
    )
    keys = {path: entry.key for path, entry in naming.entries(slots).items() if entry}
    decayed = set()
    for path, slot in slots.items():
        if id(slot.variable) not in trainable:
            continue
        key, variable = keys[path], slot.variable
        expected = official[key].ndim > 1 and not key.endswith(".bias")
        got = has_weight_decay(variable.path, variable.shape, also_decayed)
        assert got == expected, f"{path}: {key} of shape {official[key].shape}"
        decayed.add(got)
    assert decayed == {True, False}


@pytest.mark.one_backend
def test_the_rate_decays_from_block_to_block():
    model = build_small("caformer")
    optimizer = km.training.AdamW(1e-3, layer_decay=0.5)
    optimizer.build(model.trainable_variables)
    scales = {
        path: group.rate_scale
        for group in optimizer.parameter_groups
        for path in group.paths
    }
    by_layer = {path.split("/")[0]: scale for path, scale in scales.items()}
    assert by_layer == {
        "stem": 2**-5,
        "stage_0_block_0": 2**-4,
        "stage_1_downsampling": 2**-3,
        "stage_1_block_0": 2**-3,
        "stage_2_downsampling": 2**-2,
        "stage_2_block_0": 2**-2,
        "stage_3_downsampling": 2**-1,
        "stage_3_block_0": 2**-1,
        "output_norm": 1,
        "head_expand": 1,
        "head_norm": 1,
        "predictions": 1,
    }


@pytest.mark.backend_independent
def test_without_blocks_every_layer_at_the_top_is_one():
    paths = ["a/kernel", "a/bias", "b/inner/kernel", "c/kernel"]
    assert rate_scales(paths, 0.5) == [0.25, 0.25, 0.5, 1]
    nested = [f"sequential_3/{path}" for path in paths]
    assert rate_scales(nested, 0.5) == [0.25, 0.25, 0.5, 1]
    assert rate_scales(paths, None) == [1, 1, 1, 1]


def test_groups_add_up_and_name_their_parameters():
    model = build_small("convformer")
    groups = km.training.parameter_groups(model.trainable_variables, 0.05)
    assert [group.weight_decay for group in groups] == [0.05, 0.0]
    assert sum(group.parameters for group in groups) == sum(
        int(keras.ops.size(v)) for v in model.trainable_variables
    )
    paths = {path for group in groups for path in group.paths}
    assert paths == {variable.path for variable in model.trainable_variables}
