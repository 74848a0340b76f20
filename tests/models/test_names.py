"""Names and paths of weights, which do not depend on what was built before."""

from typing import Any

import keras
import pytest

import keras_metaformer as km
from keras_metaformer.weights.structure import weight_slots
from tests.layer_checks import randomize
from tests.small_models import FAMILIES, build_small, every_family, metaformer

#: Every source of random numbers, so that their states are named too.
_RATES: dict[str, Any] = {"stochastic_depth_rate": 0.1, "head_dropout": 0.1}


def _paths(model: keras.Model) -> list[str]:
    return [variable.path for variable in model.variables]


def _copies(model: keras.Model, path: Any) -> list[keras.Model]:
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    return [loaded, keras.models.clone_model(model)]


@every_family
def test_paths_are_those_of_the_places_in_the_model(family, tmp_path):
    fields = {**_RATES, "mlp_dropout": 0.1} if family != "ffnet" else _RATES
    first, second = (build_small(family, fields=fields) for _ in range(2))
    paths = _paths(first)
    assert len(set(paths)) == len(paths)
    assert {slot.variable.path for slot in weight_slots(first).values()} == set(
        weight_slots(first)
    )
    for model in (second, *_copies(first, tmp_path / "model.keras")):
        assert _paths(model) == paths


@every_family
def test_paths_of_a_folded_model_are_unique(family):
    fields = {"residual_scaling": "branch"} if family == "convformer" else {}
    model = km.fold(build_small(family, fields=fields))
    for slot_path, slot in weight_slots(model).items():
        assert slot.variable.path == slot_path


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch's state dicts")
@pytest.mark.parametrize("family", FAMILIES)
def test_state_dicts_of_equal_models_are_exchanged(family):
    import torch

    first, second = (build_small(family, fields=_RATES) for _ in range(2))
    randomize(first)
    assert list(first.state_dict()) == list(second.state_dict())
    second.load_state_dict(first.state_dict(), strict=True)
    image = torch.rand(1, 64, 64, 3)
    assert torch.equal(first(image, training=False), second(image, training=False))


def test_a_layer_of_the_users_own_is_named_by_its_place():
    class Mixer(keras.layers.Layer):
        def build(self, input_shape):
            self.gain = self.add_weight(shape=(), name="gain")

        def call(self, inputs):
            return inputs * self.gain

    first, second = (metaformer(Mixer) for _ in range(2))
    assert "stage_0_block_0/token_mixing/transform/gain" in _paths(first)
    assert _paths(first) == _paths(second)
