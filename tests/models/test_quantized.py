"""Models that `keras.Model.quantize` has changed: saved, loaded, cloned, refused."""

import gc
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.layers import BatchNormalizedSkip, FFNifiedAttention
from tests.layer_checks import randomize, to_numpy
from tests.small_models import FAMILIES, build_small

MODES = ("int8", "int4", "float8")
#: The last block of a hierarchical model, the first of an isotropic one.
_BLOCKS = ("stage_3_block_0/", "block_0/")
_SHAPE = (32, 32, 3)
_IMAGES = np.random.default_rng(5).normal(size=(2, *_SHAPE)).astype("float32")
# Keras says of every layer that it has no rounded form for.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a")


def _quantized(family: str, mode: str) -> keras.Model:
    model = build_small(family, _SHAPE)
    randomize(model)
    # One block, as Keras collects garbage after every layer.
    model.quantize(mode, filters=lambda layer: str(layer.path).startswith(_BLOCKS))
    return model


def _check_copies(model: Any, inputs: Any, path: Any) -> None:
    expected = to_numpy(model(inputs, training=False))
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    cloned = keras.models.clone_model(model)
    # By path: `quantize` appends weights that a quantized layer makes first.
    values = {weight.path: weight for weight in model.weights}
    for weight in cloned.weights:
        weight.assign(values[weight.path])
    modes = [layer.quantization_mode for layer in model._flatten_layers()]
    for copy in (loaded, cloned):
        assert [layer.quantization_mode for layer in copy._flatten_layers()] == modes
        np.testing.assert_array_equal(to_numpy(copy(inputs, training=False)), expected)


@pytest.fixture(autouse=True)
def _keep_garbage(monkeypatch):
    """Keras collects it after every layer: most of the time, in a large process."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        *(("caformer", mode) for mode in MODES),
        ("ffnet", "int8"),
        *(
            pytest.param("ffnet", mode, marks=pytest.mark.one_backend)
            for mode in MODES
            if mode != "int8"
        ),
    ],
)
def test_copies_compute_the_same(family, mode, tmp_path):
    model = _quantized(family, mode)
    assert any(
        layer.quantization_mode == mode
        for layer in model._flatten_layers()
        if str(layer.path).startswith(_BLOCKS)
    )
    _check_copies(model, _IMAGES, tmp_path / "model.keras")


@pytest.mark.one_backend
@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"caformer", "ffnet"}))
def test_every_family_has_copies(family, tmp_path):
    _check_copies(_quantized(family, "int8"), _IMAGES, tmp_path / "model.keras")


@pytest.mark.one_backend
def test_settings_of_the_quantization_are_kept(tmp_path):
    model = build_small("convformer", _SHAPE)
    settings = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    model.quantize(config=settings, filters="qkv|expand")
    _check_copies(model, _IMAGES, tmp_path / "model.keras")


@pytest.mark.backend_independent
def test_ranks_of_lora_are_kept(tmp_path):
    model: Any = build_small("convformer", _SHAPE)
    model.get_layer("stage_0_block_0").channel_mixing.transform.expand.enable_lora(2)
    copy = keras.models.clone_model(model)
    expand: Any = copy.get_layer("stage_0_block_0").channel_mixing.transform.expand
    assert expand.lora_rank == 2


@pytest.mark.backend_independent
def test_policies_of_parts_within_parts_are_kept():
    layer = FFNifiedAttention(3)
    layer.build((None, 8, 8, 4))
    layer.query.linear.quantize("int8")
    config = layer.get_config()
    assert list(config["parts"]) == ["query"]
    copy = FFNifiedAttention.from_config(config)
    copy.build((None, 8, 8, 4))
    assert copy.query.linear.quantization_mode == "int8"
    assert copy.get_config() == config


@pytest.mark.backend_independent
def test_the_config_of_a_layer_as_made_says_nothing_of_its_parts():
    layer = BatchNormalizedSkip(dtype="mixed_bfloat16")
    layer.build((None, 8, 8, 4))
    assert "parts" not in layer.get_config()


@pytest.mark.one_backend
@pytest.mark.parametrize("mode", MODES)
def test_folding_and_export_are_refused(mode, tmp_path):
    model = _quantized("convformer", mode)
    with pytest.raises(ValueError, match=rf"fold it before\..* in {mode}"):
        km.fold(model)
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=rf"export it .* before\..* in {mode}"):
        km.export.to_litert(model, path)
    assert not path.exists()


@pytest.mark.one_backend
def test_a_folded_model_is_quantized_and_saved(tmp_path):
    model = km.fold(build_small("ffnet", _SHAPE))
    model.quantize("int8", filters="interaction|aggregation")
    _check_copies(model, _IMAGES, tmp_path / "model.keras")
