"""`weights=TAG` of the constructors: heads, image sizes, sources, defaults, errors.

The weights are stand-ins that were placed in a cache by hand; `test_published.py`
checks numbers, here every array is compared with the file's, bit for bit.
"""

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers import initializers
from keras_metaformer.weights import loading
from keras_metaformer_lite.images import EvaluationTransform
from keras_metaformer_lite.weights import cache, catalogue
from keras_metaformer_lite.weights.catalogue import Source
from tests.golden.seeded import seeded_state_dict
from tests.weights import synthetic

SAIL = "sail-sg/metaformer"
# Loading is the same on every backend; test_published.py does it on all of them.
ONCE = pytest.mark.backend_independent


@pytest.fixture(scope="module", autouse=True)
def cache_folder():
    """One cache for all tests here, so that files are converted once; no network."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("KERAS_METAFORMER_CACHE", folder)
        patch.setenv("KERAS_METAFORMER_OFFLINE", "1")
        yield folder


_CONTENTS: dict[tuple, dict[str, np.ndarray]] = {}


def place(constructor: str, tag: str, source: Source = "official"):
    """Put a stand-in into the cache, once; returns its arrays."""
    row = catalogue.find(constructor, tag)
    key = (os.environ["KERAS_METAFORMER_CACHE"], constructor, tag, source)
    if key not in _CONTENTS:
        _CONTENTS[key] = synthetic.make(row, source).state_dict
        synthetic.write(row, source, _CONTENTS[key])
    return _CONTENTS[key]


def assert_holds(model, content, naming, but: tuple[str, ...] = ()) -> None:
    """The model has exactly the file's arrays, but for keys that start with `but`."""
    state_dict = km.to_state_dict(model, naming)
    expected = {
        key: array
        for key, array in content.items()
        if not key.startswith(but or "nothing") and "num_batches" not in key
    }
    found = {
        key: array
        for key, array in state_dict.items()
        if not key.startswith(but or "nothing")
    }
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)


class TestHead:
    @ONCE
    @pytest.mark.parametrize("pooling", [None, "avg", "max"])
    def test_left_out(self, pooling):
        content = place("PoolFormerV2S12", "imagenet")
        model = km.PoolFormerV2S12(
            include_top=False, weights="imagenet", source="official", pooling=pooling
        )
        assert model.input_shape == (None, None, None, 3)
        grid = () if pooling else (None, None)
        assert model.output_shape == (None, *grid, 512)
        assert_holds(model, content, SAIL, but=("head.",))

    @pytest.mark.one_backend
    def test_features_are_those_below_the_head(self):
        place("PoolFormerV2S12", "imagenet")
        options = {"source": "official", "input_shape": (64, 64, 3)}
        features = km.PoolFormerV2S12(include_top=False, pooling="avg", **options)
        whole = km.PoolFormerV2S12(**options)
        below = keras.Model(whole.input, whole.get_layer("output_norm").output)
        images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
        np.testing.assert_allclose(
            to_numpy(features(images)), to_numpy(below(images)), rtol=1e-5, atol=1e-5
        )

    @ONCE
    def test_with_other_classes_all_but_the_last_layer_is_loaded(self):
        content = place("PoolFormerV2S12", "imagenet")
        message = (
            r"PoolFormerV2S12 'imagenet' \(224 x 224 pixels\) except the last layer, "
            r"which has 1000 classes there and 10 here"
        )
        with pytest.warns(UserWarning, match=message):
            model = km.PoolFormerV2S12(classes=10, source="official")
        assert model.output_shape == (None, 10)
        assert_holds(model, content, SAIL, but=("head.",))

    @ONCE
    def test_no_warning_where_all_is_loaded(self):
        content = place("PoolFormerV2S12", "imagenet")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model = km.PoolFormerV2S12(classes=1000, source="official")
        assert_holds(model, content, SAIL)

    @ONCE
    def test_all_but_the_last_layer_of_an_mlp_head_is_loaded(self):
        content = place("CAFormerS18", "imagenet")
        # Convolutions and attention do not care about the size of the image.
        options = {"source": "official", "classes": 10, "input_shape": (64, 96, 3)}
        with pytest.warns(UserWarning, match="has 1000 classes there and 10 here"):
            model = km.CAFormerS18(**options)
        assert_holds(model, content, SAIL, but=("head.fc2",))
        # Initial values are not drawn, but that layer's are.
        kernel = to_numpy(model.get_layer("predictions").kernel)
        assert 0.01 < kernel.std() < 0.03 and abs(kernel).max() < 0.12

    @ONCE
    def test_nothing_is_drawn_that_is_overwritten_at_once(self, monkeypatch):
        place("PoolFormerV2S12", "imagenet")
        drawn = []
        draw = np.random.default_rng

        def counted(seed):
            drawn.append(seed)
            return draw(seed)

        monkeypatch.setattr(initializers.np.random, "default_rng", counted)
        km.PoolFormerV2S12(source="official")
        assert len(drawn) == 0
        with pytest.warns(UserWarning, match="10 here"):
            km.PoolFormerV2S12(source="official", classes=10)
        assert len(drawn) == 1
        km.PoolFormerV2S12(weights=None)
        assert len(drawn) > 20

    @pytest.mark.large
    def test_imagenet21k_brings_its_classes_unless_asked_for_others(self):
        content = place("CAFormerS18", "imagenet21k")
        options: dict[str, Any] = {"weights": "imagenet21k", "source": "official"}
        model = km.CAFormerS18(**options)
        assert model.output_shape == (None, 21841)
        assert_holds(model, content, SAIL)
        with pytest.warns(UserWarning, match="has 21841 classes there and 1000 here"):
            model = km.CAFormerS18(classes=1000, **options)
        assert model.output_shape == (None, 1000)
        assert_holds(model, content, SAIL, but=("head.fc2",))


class TestImageSize:
    @ONCE
    def test_free_where_the_architecture_allows_it(self):
        content = place("FFNet1", "imagenet")
        model = km.FFNet1(input_shape=(96, 160, 3))
        assert model.input_shape == (None, 96, 160, 3)
        assert_holds(model, content, "ysj9909/FFNet")

    @pytest.mark.parametrize(
        ("constructor", "tag", "naming"),
        [
            pytest.param(
                *("ResMLP12", "imagenet", "facebookresearch/deit"),
                marks=pytest.mark.one_backend,
            ),
            pytest.param("MLPMixerS32", "imagenet_gsam", synthetic.GOOGLE, marks=ONCE),
            pytest.param("GMLPS16", "imagenet", "timm", marks=ONCE),
        ],
    )
    def test_token_matrices_are_interpolated_if_asked(self, constructor, tag, naming):
        source = "auto" if constructor == "GMLPS16" else "official"
        content = place(constructor, tag, source)
        options: dict[str, Any] = {"weights": tag, "source": source}
        build = getattr(km, constructor)
        with pytest.raises(ValueError, match="token_interpolation=True") as caught:
            build(input_shape=(256, 192, 3), **options)
        assert "224 x 224 pixels" in str(caught.value)
        assert "(256, 192, 3)" in str(caught.value)
        assert "block_0/" in str(caught.value)

        options["token_interpolation"] = True
        with pytest.warns(UserWarning, match="Resized the token-mixing matrices"):
            model = build(input_shape=(256, 192, 3), **options)
        images = np.random.default_rng(0).normal(size=(1, 256, 192, 3))
        scores = to_numpy(model(images.astype("float32"), training=False))
        assert np.isfinite(scores).all() and scores.std() > 0
        np.testing.assert_allclose(scores.sum(), 1, rtol=1e-5)

        # At the published size nothing is resized.
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model = build(**options)
        assert_holds(model, content, naming)

    @ONCE
    def test_randformers_frozen_matrices_are_interpolated_if_asked(self):
        place("RandFormerS12", "imagenet")
        with pytest.raises(ValueError, match="224 x 224 pixels"):
            km.RandFormerS12(input_shape=(256, 256, 3))
        with pytest.warns(UserWarning, match="from maps of 14 x 14 tokens"):
            model: Any = km.RandFormerS12(
                input_shape=(256, 256, 3), token_interpolation=True
            )
        block = model.get_layer("stage_2_block_0")
        assert block.token_mixing.transform.random_matrix.shape == (256, 256)


@ONCE
class TestSource:
    def test_official_takes_the_original_file(self, monkeypatch, tmp_path):
        """The two files differ here, as they never should, to tell them apart."""
        monkeypatch.setenv("KERAS_METAFORMER_CACHE", str(tmp_path))
        place("PoolFormerV2S12", "imagenet", "official")
        row = catalogue.find("PoolFormerV2S12", "imagenet")
        whole = km.PoolFormerV2S12(source="official")
        entries = [
            (key, array.shape, "float32")
            for key, array in km.to_state_dict(whole, "timm").items()
        ]
        other = seeded_state_dict(entries, seed=2)
        synthetic.write(row, "auto", other)
        assert_holds(km.PoolFormerV2S12(), other, "timm")
        content = place("PoolFormerV2S12", "imagenet", "official")
        assert_holds(km.PoolFormerV2S12(source="official"), content, SAIL)
        names = ("PoolFormerV2S12-imagenet", "PoolFormerV2S12-imagenet-official")
        urls = [
            json.loads((tmp_path / f"{name}.json").read_text("utf-8"))["url"]
            for name in names
        ]
        assert urls == [row.url("auto"), row.url("official")]


class TestPath:
    @ONCE
    @pytest.mark.parametrize(
        "file",
        ["a.safetensors", "a.npz", "a.pth", "a.pth.tar", "a.weights.h5", "a.keras"],
    )
    def test_every_format_with_and_without_the_top(self, tmp_path, file):
        content = place("PoolFormerV2S12", "imagenet")
        path = tmp_path / file
        if file.endswith(".h5"):
            km.PoolFormerV2S12(source="official").save_weights(path)
        elif file.endswith(".keras"):
            km.PoolFormerV2S12(source="official").save(path)
        else:
            synthetic.write_file(path, SAIL, content)
        assert_holds(km.PoolFormerV2S12(weights=path), content, SAIL)
        model = km.PoolFormerV2S12(weights=str(path), include_top=False)
        assert_holds(model, content, SAIL, but=("head.",))


@pytest.fixture
def unloaded(monkeypatch):
    """Models as they are built for a tag, without its weights."""
    monkeypatch.setattr(loading.cache, "ensure_source", lambda *_: Path("nowhere"))
    monkeypatch.setattr(loading, "load_weights_file", lambda *_, **__: False)


@ONCE
class TestDefaults:
    """What a tag decides before any weight is loaded."""

    @pytest.mark.parametrize(
        ("constructor", "tag", "size", "classes"),
        [
            ("ConvFormerS18", "imagenet_384", 384, 1000),
            ("CAFormerS18", "imagenet21k_ft1k_384", 384, 1000),
            ("ConvFormerS18", "imagenet21k", 224, 21841),
            ("FFNet1", "imagenet", 256, 1000),
            ("FFNet3", "imagenet_384", 384, 1000),
            ("MLPMixerB16", "imagenet21k", 224, 21843),
            ("MLPMixerB16", "imagenet21k_miil", 224, 11221),
            ("PoolFormerS12", "imagenet", 224, 1000),
        ],
    )
    def test_image_size_and_classes(self, unloaded, constructor, tag, size, classes):
        model = getattr(km, constructor)(weights=tag)
        assert model.input_shape == (None, size, size, 3)
        assert model.output_shape == (None, classes)

    def test_what_is_asked_for_counts(self, unloaded):
        model = km.ConvFormerS18(
            weights="imagenet_384", input_shape=(64, 96, 3), classes=7
        )
        assert model.input_shape == (None, 64, 96, 3)
        assert model.output_shape == (None, 7)

    @pytest.mark.parametrize(
        ("constructor", "tag"),
        [
            ("MLPMixerB16", "imagenet21k_miil_ft1k"),
            ("MLPMixerS32", "imagenet_gsam"),
            ("PoolFormerV2S12", "imagenet"),
        ],
    )
    def test_preprocessing_is_the_checkpoints(self, unloaded, constructor, tag):
        row = catalogue.find(constructor, tag)
        if tag == "imagenet21k_miil_ft1k":
            assert (row.mean, row.std) == ((0, 0, 0), (1, 1, 1))
        model = getattr(km, constructor)(weights=tag, include_preprocessing=True)
        pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3))
        found = to_numpy(model.get_layer("preprocessing")(pixels.astype("float32")))
        expected = (pixels / 255 - np.array(row.mean)) / np.array(row.std)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    def test_activation_is_the_checkpoints_unless_asked_for_another(self, unloaded):
        def activation(**options) -> Any:
            model = km.MLPMixerB16(input_shape=(32, 32, 3), **options)
            return model.get_layer("block_0").channel_mixing.transform.activation

        assert activation(weights="imagenet").approximate
        assert not activation(weights="imagenet21k_miil").approximate
        relu = activation(weights="imagenet21k_miil", activation="relu")
        assert isinstance(relu, keras.layers.ReLU)


@ONCE
class TestErrors:
    def test_a_wrong_tag_lists_the_known_ones(self):
        with pytest.raises(ValueError, match=r"tag of ConvFormerS18: .*'imagenet_384'"):
            km.ConvFormerS18(weights="imagenet_385")
        with pytest.raises(ValueError, match=r"Received: weights='imagenet_385'"):
            km.ConvFormerS18(weights="imagenet_385")

    def test_an_unpublished_size_has_none_unless_asked(self):
        assert km.GMLPTi16(input_shape=(32, 32, 3)).count_params() > 0
        with pytest.raises(ValueError, match=r"tag of GMLPTi16: none are published"):
            km.GMLPTi16(weights="imagenet")

    def test_a_wrong_source(self):
        with pytest.raises(ValueError, match="source='timm'"):
            km.ConvFormerS18(source="timm")

    def test_without_a_network_the_error_says_what_to_do(self):
        row = catalogue.find("IdentityFormerM48", "imagenet")
        with pytest.raises(OSError) as caught:
            km.IdentityFormerM48()
        for part in (row.url(), str(cache.hand_placed_path(row)), "HF_HUB_OFFLINE"):
            assert part in str(caught.value)


def reference_transform(row: catalogue.Checkpoint, image: np.ndarray) -> np.ndarray:
    """The published evaluation, written down once more."""
    from PIL import Image

    picture = Image.fromarray(image)
    filters = {
        "bicubic": Image.Resampling.BICUBIC,
        "bilinear": Image.Resampling.BILINEAR,
    }
    if row.resize == "exact":
        assert row.crop_fraction == 1
        size = (row.resolution, row.resolution)
        picture = picture.resize(size, filters[row.interpolation])
    else:
        shorter = int(row.resolution / row.crop_fraction)
        width, height = picture.size
        scale = shorter / min(width, height)
        size = (int(width * scale), int(height * scale))
        picture = picture.resize(size, filters[row.interpolation])
        left, top = (round((side - row.resolution) / 2) for side in picture.size)
        picture = picture.crop((left, top, left + row.resolution, top + row.resolution))
    return (np.asarray(picture) / 255 - np.array(row.mean)) / np.array(row.std)


@ONCE
class TestTransforms:
    @pytest.mark.parametrize(
        "row",
        catalogue.all_checkpoints(),
        ids=lambda row: f"{row.constructor}-{row.tag}",
    )
    def test_row(self, row):
        transform = km.transforms_for(row.constructor, row.tag)
        assert isinstance(transform, EvaluationTransform)
        image = np.random.default_rng(0).integers(0, 256, (600, 900, 3)).astype("uint8")
        found = transform(image)
        assert found.shape == (row.resolution, row.resolution, 3)
        assert found.dtype == np.float32
        expected = reference_transform(row, image)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def test_without_a_tag_the_default_weights_count(self):
        assert km.transforms_for("FFNet4") == km.transforms_for(
            "FFNet4", "imagenet_384"
        )
        assert km.transforms_for("ConvFormerS18").resolution == 224
        with pytest.raises(ValueError, match="constructor='GMLPB16'"):
            km.transforms_for("GMLPB16")
