"""Porting is strict on both sides, and the namings lead back to themselves."""

import functools
import re
from typing import Any

import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.weights import porting
from keras_metaformer.weights.structure import weight_slots
from tests.golden import cases
from tests.layer_checks import randomize, to_numpy
from tests.small_models import build_small

BASELINES = (
    "identityformer",
    "randformer",
    "poolformerv2",
    "convformer",
    "caformer",
)


@functools.cache
def _model(family: str) -> Any:
    return build_small(family, classifier_activation=None)


def _snapshot(model) -> list[np.ndarray]:
    return [to_numpy(weight).copy() for weight in model.weights]


def _assert_equal(before, after) -> None:
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def _seeded(state_dict: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        key: generator.normal(size=array.shape).astype("float32")
        for key, array in state_dict.items()
    }


ROUND_TRIPS = [
    *((family, "official", "sail-sg/metaformer") for family in BASELINES),
    *((family, "sail-sg/metaformer", "sail-sg/metaformer") for family in BASELINES),
    *((family, "timm", "timm") for family in BASELINES),
    ("poolformer", "official", "sail-sg/poolformer"),
    ("poolformer", "timm", "timm"),
    ("ffnet", "official", "ysj9909/FFNet"),
    ("resmlp", "official", "facebookresearch/deit"),
    ("resmlp", "timm", "timm"),
    ("mlp_mixer", "official", "google-research/vision_transformer"),
    ("mlp_mixer", "timm", "timm"),
    ("gmlp", "timm", "timm"),
]


@pytest.mark.parametrize(("family", "naming", "source"), ROUND_TRIPS)
def test_every_naming_leads_back_bit_for_bit(family, naming, source):
    model = _model(family)
    randomize(model, seed=1)
    before = _snapshot(model)
    state_dict = km.to_state_dict(model, naming)
    assert len(state_dict) == len(weight_slots(model)) == len(model.weights)
    randomize(model, seed=2)
    assert any(
        (old != new).any() for old, new in zip(before, _snapshot(model), strict=True)
    )

    assert km.port_weights(model, state_dict) == source

    _assert_equal(before, _snapshot(model))
    again = km.to_state_dict(model, naming)
    assert list(again) == list(state_dict)
    for key, array in state_dict.items():
        assert array.flags.c_contiguous and again[key].dtype == array.dtype
        np.testing.assert_array_equal(again[key], array)


def _timm_key(key: str, attention_stages: str) -> str:
    """A key of sail-sg/metaformer as timm's porting table has it, written anew."""
    parts = key.split(".")
    if parts[0] == "downsample_layers":
        kind = "conv" if parts[2] == "conv" else "norm"
        if parts[1] == "0":
            return f"stem.{kind}.{parts[-1]}"
        return f"stages.{parts[1]}.downsample.{kind}.{parts[-1]}"
    if parts[0] == "stages":
        return ".".join(["stages", parts[1], "blocks", *parts[2:]])
    if parts[0] == "norm":
        return f"head.norm.{parts[1]}"
    assert parts[0] == "head"
    return ".".join(["head", "fc", *parts[1:]])


def _as_timm(state_dict: dict[str, np.ndarray], attention_stages: str = "") -> dict:
    """timm's keys and shapes: 1x1 convolutions where a block does not attend."""
    renamed = {}
    for key, array in state_dict.items():
        linear = re.search(r"\.(pwconv\d|fc\d)\.weight$", key)
        attends = re.match(rf"stages\.[{attention_stages or 'none'}]\.", key)
        if linear and key.startswith("stages.") and not attends:
            array = array[:, :, None, None]
        renamed[_timm_key(key, attention_stages)] = array
    return renamed


@pytest.mark.parametrize(
    ("constructor", "attention_stages"),
    [("CAFormerS18", "23"), ("ConvFormerS18", ""), ("PoolFormerV2S12", "")],
)
def test_timms_naming_gives_the_weights_of_the_official_one(
    constructor, attention_stages
):
    case = next(
        case
        for case in cases.all_cases()
        if case["constructor"] == constructor and case["source"] == "timm"
    )
    official = cases.state_dict(case)
    renamed = _as_timm(official, attention_stages)
    assert len(renamed) == len(official)
    assert not set(renamed) & set(official) - {"head.norm.weight", "head.norm.bias"}
    model = getattr(km, constructor)(weights=None)
    assert km.port_weights(model, official) == "sail-sg/metaformer"
    expected = _snapshot(model)
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape, "float32"))

    assert km.port_weights(model, renamed) == "timm"

    _assert_equal(expected, _snapshot(model))
    written = km.to_state_dict(model, "timm")
    assert set(written) == set(renamed)
    for key, array in renamed.items():
        np.testing.assert_array_equal(written[key], array)


@pytest.mark.backend_independent
def test_timms_keys_are_those_of_its_models():
    # Read from timm's own models: the traps of its naming.
    state_dict = km.to_state_dict(km.CAFormerS18(weights=None), "timm")
    shapes = {
        "stem.conv.weight": (64, 3, 7, 7),
        "stem.norm.weight": (64,),
        "stages.1.downsample.norm.weight": (64,),
        "stages.1.downsample.conv.weight": (128, 64, 3, 3),
        "stages.0.blocks.2.token_mixer.pwconv1.weight": (128, 64, 1, 1),
        "stages.0.blocks.2.token_mixer.dwconv.weight": (128, 1, 7, 7),
        "stages.0.blocks.2.token_mixer.act1.scale": (1,),
        "stages.1.blocks.0.mlp.fc1.weight": (512, 128, 1, 1),
        "stages.2.blocks.8.token_mixer.qkv.weight": (960, 320),
        "stages.2.blocks.8.mlp.fc2.weight": (320, 1280),
        "stages.3.blocks.0.res_scale1.scale": (512,),
        "head.norm.weight": (512,),  # the output norm
        "head.fc.norm.weight": (2048,),  # the MLP head's
        "head.fc.fc2.weight": (1000, 2048),
    }
    assert {key: state_dict[key].shape for key in shapes} == shapes
    assert not any("res_scale" in key for key in state_dict if "stages.1." in key)


class TestStrictness:
    """Problems are listed by name, and the model is left as it was."""

    @pytest.fixture
    def model(self):
        model = _model("caformer")
        randomize(model, seed=3)
        return model

    def _refused(self, model, state_dict, *expected, **arguments) -> str:
        before = _snapshot(model)
        with pytest.raises(ValueError) as error:
            km.port_weights(model, state_dict, **arguments)
        _assert_equal(before, _snapshot(model))
        for part in expected:
            assert part in str(error.value)
        return str(error.value)

    def test_missing_tensors(self, model):
        state_dict = _seeded(km.to_state_dict(model), 1)
        del state_dict["norm.weight"], state_dict["stages.2.0.token_mixer.qkv.weight"]
        message = self._refused(
            model,
            state_dict,
            "norm.weight: missing",
            "stages.2.0.token_mixer.qkv.weight: missing",
            "2 problems",
        )
        assert "unchanged" in message

    def test_unknown_tensors(self, model):
        state_dict = _seeded(km.to_state_dict(model), 1)
        state_dict["stages.0.1.norm1.weight"] = np.zeros(16, "float32")
        state_dict["extra"] = np.zeros((2, 3), "float32")
        self._refused(
            model,
            state_dict,
            "stages.0.1.norm1.weight: unknown",
            "extra: unknown, of shape (2, 3)",
            "2 problems",
        )

    @pytest.mark.parametrize(
        ("key", "shape"),
        [
            ("stages.0.0.mlp.fc1.weight", (16, 64)),  # transposed
            ("stages.0.0.mlp.fc1.weight", (64, 16, 3, 3)),
            ("stages.0.0.token_mixer.dwconv.weight", (32, 2, 7, 7)),
            ("stages.0.0.token_mixer.dwconv.weight", (7, 7, 32, 1)),
            ("downsample_layers.0.conv.weight", (7, 7, 3, 16)),
            ("stages.0.0.norm1.weight", (17,)),
            ("stages.0.0.norm1.weight", ()),
            ("stages.0.0.token_mixer.act1.scale", (2,)),
            ("head.fc2.weight", (8, 128)),
        ],
    )
    def test_misshapen_tensors(self, model, key, shape):
        state_dict = _seeded(km.to_state_dict(model), 1)
        assert key in state_dict
        state_dict[key] = np.zeros(shape, "float32")
        self._refused(model, state_dict, f"{key}: of shape {shape}", "1 problems")

    def test_all_kinds_at_once(self, model):
        state_dict = _seeded(km.to_state_dict(model), 1)
        del state_dict["norm.bias"]
        state_dict["norm.weight"] = np.zeros(3, "float32")
        state_dict["more"] = np.zeros(1, "float32")
        self._refused(
            model,
            state_dict,
            "norm.bias: missing",
            "norm.weight: of shape (3,)",
            "more: unknown",
        )

    def test_another_architecture(self, model):
        other = km.to_state_dict(_model("poolformer"))
        self._refused(model, other)
        self._refused(model, km.to_state_dict(_model("convformer")), "missing")

    def test_no_naming_at_all(self, model):
        self._refused(
            model,
            {"conv1.weight": np.zeros((3, 3))},
            "sail-sg/metaformer",
            "Received: ['conv1.weight']",
        )
        self._refused(model, {}, "0 keys")

    def test_text_among_the_tensors(self, model):
        state_dict: dict[str, Any] = _seeded(km.to_state_dict(model), 1)
        last = list(state_dict)[-1]
        state_dict[last] = np.full(state_dict[last].shape, "a")
        self._refused(model, state_dict, last)

    def test_skipping_the_classifier(self, model):
        state_dict = _seeded(km.to_state_dict(model), 1)
        state_dict["head.fc2.weight"] = np.zeros((11, 128), "float32")
        state_dict["head.fc2.bias"] = np.zeros(11, "float32")
        self._refused(model, state_dict, "head.fc2.weight: of shape (11, 128)")
        classifier = model.get_layer("predictions")
        before = [to_numpy(weight).copy() for weight in classifier.weights]
        km.port_weights(model, state_dict, skip_classifier=True)
        _assert_equal(before, [to_numpy(weight) for weight in classifier.weights])
        np.testing.assert_array_equal(
            to_numpy(model.get_layer("output_norm").gamma), state_dict["norm.weight"]
        )

    def test_without_the_top_the_head_is_left_aside_and_nothing_else(self, model):
        for naming in ("official", "timm"):
            state_dict = km.to_state_dict(model, naming)
            headless = build_small("caformer", include_top=False)
            km.port_weights(headless, state_dict)
            slots = weight_slots(headless)
            for path, slot in weight_slots(model).items():
                if path in slots:
                    np.testing.assert_array_equal(
                        to_numpy(slots[path].variable), to_numpy(slot.variable)
                    )
            assert any(path.startswith("output_norm/") for path in slots)
            state_dict["neck.weight"] = np.zeros(1, "float32")
            self._refused(headless, state_dict, "neck.weight: unknown")

    def test_random_matrices_of_another_size(self):
        large = build_small("randformer", (96, 96, 3))
        self._refused(
            _model("randformer"),
            km.to_state_dict(large),
            "stages.2.0.token_mixer.random_matrix: of shape (36, 36)",
            "(16, 16)",
        )


class TestCopies:
    """The model holds values of its own, all of them or none."""

    def test_the_other_order_of_bytes(self):
        model = _model("mlp_mixer")
        randomize(model, seed=4)
        expected = _snapshot(model)
        state_dict = {
            key: array.astype(array.dtype.newbyteorder(">"))
            for key, array in km.to_state_dict(model).items()
        }
        randomize(model, seed=5)
        km.port_weights(model, state_dict)
        _assert_equal(expected, _snapshot(model))

    def test_what_cannot_be_converted_changes_nothing(self, monkeypatch):
        model = _model("mlp_mixer")
        state_dict: dict[str, Any] = km.to_state_dict(model)
        last = list(state_dict)[-1]
        pair = np.dtype([("low", "u2"), ("high", "u2")])
        state_dict[last] = np.zeros(state_dict[last].shape, pair)
        randomize(model, seed=6)
        before = _snapshot(model)
        with pytest.raises(ValueError, match=re.escape(last)):
            km.port_weights(model, state_dict)
        _assert_equal(before, _snapshot(model))

    def test_all_is_converted_before_the_first_assignment(self, monkeypatch):
        model = _model("mlp_mixer")
        randomize(model, seed=6)
        before = _snapshot(model)
        converted = []

        def convert(array, dtype):
            converted.append(dtype)
            if len(converted) == len(model.weights):
                raise MemoryError
            return np.zeros(array.shape, dtype)

        monkeypatch.setattr(porting, "_copied", convert)
        with pytest.raises(MemoryError):
            km.port_weights(model, km.to_state_dict(model))
        _assert_equal(before, _snapshot(model))

    @pytest.mark.parametrize("naming", ["official", "timm"])
    def test_a_file_that_is_written_to_afterwards(self, naming, tmp_path):
        model = _model("mlp_mixer")
        randomize(model, seed=7)
        expected = _snapshot(model)
        path = tmp_path / "model.npz"
        np.savez(path, allow_pickle=False, **km.to_state_dict(model, naming))
        randomize(model, seed=8)
        arrays = km.read_checkpoint(path)
        km.port_weights(model, arrays)
        with path.open("rb+") as file:
            file.write(bytes(path.stat().st_size))
        assert not any(array.any() for array in arrays.values())  # they are mapped
        _assert_equal(expected, _snapshot(model))


class TestWhatIsAccepted:
    def test_other_float_types_and_lists(self):
        model = _model("identityformer")
        randomize(model, seed=4)
        expected = _snapshot(model)
        state_dict: dict[str, Any] = {
            key: array.astype("float64")
            for key, array in km.to_state_dict(model).items()
        }
        state_dict["norm.weight"] = state_dict["norm.weight"].tolist()
        randomize(model, seed=5)
        km.port_weights(model, state_dict)
        _assert_equal(expected, _snapshot(model))

    def test_a_parameter_of_poolformer_in_either_shape(self):
        model = _model("poolformer")
        randomize(model, seed=4)
        expected = _snapshot(model)
        state_dict = km.to_state_dict(model)
        assert state_dict["network.0.0.layer_scale_1"].shape == (16,)
        assert state_dict["network.0.0.mlp.fc1.weight"].shape == (64, 16, 1, 1)
        state_dict = {
            key: array[:, None, None] if "layer_scale" in key else array
            for key, array in state_dict.items()
        }
        randomize(model, seed=5)
        km.port_weights(model, state_dict)
        _assert_equal(expected, _snapshot(model))


@pytest.mark.parametrize("naming", ["timn", "google"])
def test_an_unknown_naming_lists_the_known_ones(naming):
    with pytest.raises(ValueError) as error:
        km.to_state_dict(_model("caformer"), naming)
    assert "'timm'" in str(error.value)
    assert f"Received: naming={naming!r}" in str(error.value)


def test_a_naming_that_has_no_name_for_a_weight():
    with pytest.raises(ValueError, match="no names for all weights"):
        km.to_state_dict(_model("caformer"), "sail-sg/poolformer")


def test_slots_do_not_depend_on_automatic_names():
    first, second = build_small("caformer"), build_small("caformer")
    assert list(weight_slots(first)) == list(weight_slots(second))
    assert all(
        slot.variable is weight
        for slot, weight in zip(
            sorted(weight_slots(first).values(), key=lambda slot: id(slot.variable)),
            sorted(first.weights, key=id),
            strict=True,
        )
    )
    assert "stage_2_block_0/token_mixing/transform/qkv/kernel" in weight_slots(first)
