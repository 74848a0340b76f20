"""The constructors behave like those of `keras.applications`."""

import inspect
import warnings
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.layers.initializers import undrawn
from keras_metaformer.models import families
from keras_metaformer_lite.weights import catalogue
from tests.layer_checks import randomize, to_numpy
from tests.small_models import every_family, smallest

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
CONTRACT = {
    "include_top": True,
    "weights": "imagenet",
    "input_tensor": None,
    "input_shape": None,
    "pooling": None,
    "classes": 1000,
    "classifier_activation": "softmax",
    "name": "",
    "include_preprocessing": False,
}
NAMES = {
    "CAFormerB36": "caformer_b36",
    "ConvFormerS18": "convformer_s18",
    "IdentityFormerM48": "identityformer_m48",
    "PoolFormerS12": "poolformer_s12",
    "PoolFormerV2S12": "poolformerv2_s12",
    "RandFormerS36": "randformer_s36",
}


def _family(family: str) -> Any:
    return getattr(km.applications, family)


def tiny(**arguments: Any) -> Any:
    """The cheapest constructor at the smallest size."""
    return km.IdentityFormerS12(**{"weights": None, **arguments})


@pytest.mark.backend_independent
@pytest.mark.parametrize("name", families.names())
class TestSignatures:
    def test_the_contracts_arguments_come_first_and_in_order(self, name):
        constructor = getattr(km, name)
        parameters = inspect.signature(constructor).parameters
        positional = {
            key: parameter.default
            for key, parameter in parameters.items()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        }
        assert list(positional) == list(CONTRACT)
        for key, default in CONTRACT.items():
            if key not in ("name", "weights"):
                assert positional[key] == default
        assert positional["weights"] == catalogue.default_tag(name)
        if "imagenet" in km.list_weights(name):
            assert positional["weights"] == "imagenet"
        if not km.list_weights(name):
            assert positional["weights"] is None
        keyword = [
            key
            for key, parameter in parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        assert {"stochastic_depth_rate", "head_dropout", "seed"} <= set(keyword)
        assert len(positional) + len(keyword) == len(parameters)  # no **kwargs

    def test_it_is_documented_and_found_where_it_says(self, name):
        constructor = getattr(km, name)
        assert constructor.__name__ == constructor.__qualname__ == name
        module = _family(families.get(name).family)
        assert constructor.__module__ == module.__name__
        assert getattr(module, name) is constructor
        assert name in km.__all__
        doc = inspect.getdoc(constructor)
        assert doc and doc.startswith(name)
        for key in CONTRACT:
            assert f"\n    {key}: " in doc
        assert "https://arxiv.org/abs/" in doc
        millions = f"{families.get(name).parameters / 1e6:.1f} million parameters"
        assert millions in doc

    def test_the_default_name_is_lower_case_with_the_size_apart(self, name):
        default = inspect.signature(getattr(km, name)).parameters["name"].default
        assert default == NAMES.get(name, default)
        assert default.replace("_", "") == name.lower()
        assert default.count("_") >= 1

    def test_it_is_listed(self, name):
        assert name in km.list_models()
        assert families.get(name.lower()).constructor is getattr(km, name)


@pytest.mark.backend_independent
def test_all_names_of_the_contract_exist():
    sizes = {
        "IdentityFormer RandFormer PoolFormerV2 PoolFormer": "S12 S24 S36 M36 M48",
        "ConvFormer CAFormer": "S18 S36 M36 B36",
        "MLPMixer": "S32 S16 B32 B16 L32 L16",
        "ResMLP": "12 24 36 B24",
        "GMLP": "Ti16 S16 B16",
        "FFNet": "1 2 3 4",
    }
    for titles, variants in sizes.items():
        for title in titles.split():
            for size in variants.split():
                assert callable(getattr(km, title + size)), title + size


@pytest.mark.backend_independent
def test_list_models():
    assert km.list_models("caformer*") == [
        "CAFormerS18",
        "CAFormerS36",
        "CAFormerM36",
        "CAFormerB36",
    ]
    assert km.list_models("*S1?", weights="imagenet_384") == [
        "ConvFormerS18",
        "CAFormerS18",
    ] or set(km.list_models("*S1?", weights="imagenet_384")) == {
        "ConvFormerS18",
        "CAFormerS18",
    }
    assert km.list_models("nothing*") == []
    with pytest.raises(ValueError, match="Received: weights='imagnet'"):
        km.list_models(weights="imagnet")


class TestTop:
    def test_classes_and_softmax(self):
        model = tiny(input_shape=(32, 32, 3), classes=3)
        outputs = to_numpy(model(PIXELS / 255.0, training=False))
        assert outputs.shape == (2, 3)
        np.testing.assert_allclose(outputs.sum(axis=1), 1.0, rtol=1e-5)
        assert model.name == "identityformer_s12"

    @pytest.mark.one_backend
    def test_no_activation_gives_logits(self):
        model = tiny(input_shape=(32, 32, 3), classes=3, classifier_activation=None)
        randomize(model)
        logits = to_numpy(model(PIXELS / 255.0, training=False))
        assert logits.min() < 0
        same = tiny(input_shape=(32, 32, 3), classes=3)
        same.set_weights(model.get_weights())
        probabilities = to_numpy(same(PIXELS / 255.0, training=False))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(
            probabilities, powers / powers.sum(axis=1, keepdims=True), atol=1e-5
        )

    @pytest.mark.one_backend
    def test_default_size_is_the_published_one(self):
        model = tiny(classes=3)
        assert model.input_shape == (None, 224, 224, 3)

    @pytest.mark.one_backend
    def test_positional_arguments(self):
        model = tiny(name="mine", classes=3)
        positional = km.IdentityFormerS12(
            True, None, None, (32, 32, 3), None, 3, None, "mine", True
        )
        assert positional.name == model.name == "mine"
        assert positional.output_shape == (None, 3)
        assert "preprocessing" in {layer.name for layer in positional.layers}


@pytest.mark.one_backend
class TestWithoutTop:
    def test_sizes_are_free(self):
        model = tiny(include_top=False)
        assert model.input_shape == (None, None, None, 3)
        assert model.output_shape == (None, None, None, 512)
        outputs = to_numpy(model(PIXELS / 255.0, training=False))
        assert outputs.shape == (2, 1, 1, 512)
        names = {layer.name for layer in model.layers}
        assert not names & {"predictions", "average_pool", "max_pool"}

    @pytest.mark.parametrize("pooling", ["avg", "max"])
    def test_pooling(self, pooling):
        model = tiny(include_top=False, pooling=pooling)
        assert model.output_shape == (None, 512)
        images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype("float32")
        outputs = to_numpy(model(images, training=False))
        stage = keras.Model(model.input, model.pyramid_outputs["P5"])
        maps = to_numpy(stage(images, training=False))
        pooled = maps.mean(axis=(1, 2)) if pooling == "avg" else maps.max(axis=(1, 2))
        # Pooled first, normalised then.
        normed = to_numpy(model.get_layer("output_norm")(pooled))
        np.testing.assert_allclose(outputs, normed, atol=1e-4)

    def test_random_matrices_need_a_size_and_take_the_default(self):
        model = km.RandFormerS12(weights=None, include_top=False)
        assert model.input_shape == (None, 224, 224, 3)
        small = km.RandFormerS12(
            weights=None, include_top=False, input_shape=(96, 64, 3)
        )
        shapes = {tuple(w.shape) for w in small.weights if w.name == "random_matrix"}
        assert shapes == {(24, 24), (6, 6)}

    def test_the_number_of_classes_does_not_matter(self):
        model = tiny(include_top=False, classes=0)
        assert model.output_shape == (None, None, None, 512)


@pytest.mark.one_backend
class TestInputTensor:
    def test_a_keras_tensor(self):
        image = keras.Input((32, 32, 3), name="mine")
        model = tiny(input_tensor=image, classes=3)
        assert model.input is image
        assert tuple(model.output_shape) == (None, 3)

    def test_the_output_of_another_layer(self):
        image = keras.Input((32, 32, 3))
        doubled = keras.layers.Rescaling(2.0, name="double")(image)
        model = tiny(input_tensor=doubled, classes=3)
        plain = tiny(input_shape=(32, 32, 3), classes=3)
        randomize(plain)
        model.set_weights(plain.get_weights())
        images = (PIXELS / 255.0).astype("float32")
        np.testing.assert_allclose(
            to_numpy(model(images, training=False)),
            to_numpy(plain(2.0 * images, training=False)),
            atol=1e-6,
        )
        assert model.input is image
        assert list(model.pyramid_outputs) == ["P2", "P3", "P4", "P5"]

    def test_shapes_must_agree(self):
        image = keras.Input((32, 32, 3))
        with pytest.raises(ValueError, match="Received: input_shape="):
            tiny(input_tensor=image, input_shape=(64, 64, 3))

    def test_another_tensor_is_refused_as_keras_does(self):
        values = keras.ops.zeros((1, 32, 32, 3))
        with pytest.raises(ValueError, match="input_tensor"):
            keras.applications.MobileNetV2(weights=None, input_tensor=values)
        with pytest.raises(ValueError, match="input_tensor"):
            tiny(input_tensor=values)


class TestPreprocessing:
    @every_family
    def test_inside_the_model_equals_the_function(self, family):
        variant = smallest(family)
        module = _family(family)
        with undrawn():
            inside: Any = variant.constructor(
                weights=None,
                include_top=False,
                input_shape=(32, 32, 3),
                include_preprocessing=True,
            )
        # The layer is compared, not the whole model.
        first = inside.get_layer("preprocessing")
        np.testing.assert_allclose(
            to_numpy(first(PIXELS.astype("float32"))),
            module.preprocess_input(PIXELS),
            atol=2e-6,
        )
        assert inside.layers[1] is first

    @every_family
    def test_integers_become_float32_and_are_left_as_they_were(self, family):
        module = _family(family)
        before = PIXELS.copy()
        values = module.preprocess_input(PIXELS)
        np.testing.assert_array_equal(PIXELS, before)
        assert values.dtype == np.float32
        tensor = module.preprocess_input(keras.ops.convert_to_tensor(PIXELS))
        np.testing.assert_allclose(to_numpy(tensor), values, atol=2e-6)
        floats = PIXELS.astype("float32")
        module.preprocess_input(floats)
        np.testing.assert_array_equal(floats, before)

    @pytest.mark.one_backend
    def test_the_formula(self):
        values = km.applications.caformer.preprocess_input(PIXELS.astype("float64"))
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        np.testing.assert_allclose(values, (PIXELS / 255.0 - mean) / std, atol=1e-6)
        assert values.dtype == np.float64

    @pytest.mark.one_backend
    def test_wrong_input(self):
        preprocess = km.applications.caformer.preprocess_input
        with pytest.raises(ValueError, match="Received: data_format='channels_first'"):
            preprocess(PIXELS, data_format="channels_first")
        with pytest.raises(ValueError, match=r"Received: shape=\(2, 3, 32, 32\)"):
            preprocess(np.zeros((2, 3, 32, 32)))


class TestRangesOfValues:
    """Input of the wrong range gives wrong answers: a warning says so."""

    FLOATS = PIXELS.astype("float32")

    @pytest.mark.parametrize("convert", [np.asarray, keras.ops.convert_to_tensor])
    def test_preprocess_input(self, convert):
        preprocess = km.applications.caformer.preprocess_input
        with pytest.warns(UserWarning, match="from 0 to 1") as caught:
            preprocess(convert(self.FLOATS / 255.0))
        assert __file__ in {warning.filename for warning in caught}
        with pytest.warns(UserWarning, match="normalised before"):
            preprocess(preprocess(convert(self.FLOATS)))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            preprocess(convert(self.FLOATS))
            preprocess(convert(PIXELS))
            preprocess(convert(np.zeros((1, 4, 4, 3), "float32")))  # A black image.
            preprocess(keras.KerasTensor((None, 4, 4, 3)))

    @pytest.mark.one_backend
    def test_predict_of_a_model_with_its_preprocessing(self):
        model = tiny(input_shape=(32, 32, 3), classes=3, include_preprocessing=True)
        with pytest.warns(UserWarning, match="from 0 to 1") as caught:
            model.predict(self.FLOATS / 255.0, verbose=0)
        assert __file__ in {warning.filename for warning in caught}
        with pytest.warns(UserWarning, match="normalised before"):
            model.predict_on_batch(self.FLOATS / 127.5 - 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.predict(PIXELS, verbose=0)

    @pytest.mark.one_backend
    def test_predict_of_a_model_without(self):
        model = tiny(input_shape=(32, 32, 3), classes=3)
        for pixels in (PIXELS, self.FLOATS):
            with pytest.warns(UserWarning, match="`include_preprocessing=True`"):
                model.predict(pixels, verbose=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            normalised = km.applications.identityformer.preprocess_input(PIXELS)
            model.predict(normalised, verbose=0)

    def test_a_compiler_sees_nothing_of_it(self):
        """Traced tensors have no values, and looking for some would fail."""
        preprocess = km.applications.caformer.preprocess_input
        images = keras.ops.convert_to_tensor(self.FLOATS)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            traced = _compiled(preprocess)(images)
        np.testing.assert_allclose(to_numpy(traced), preprocess(self.FLOATS), atol=1e-5)

    @pytest.mark.one_backend
    def test_decode_predictions(self):
        decode = km.applications.convformer.decode_predictions
        logits = np.random.default_rng(0).normal(size=(1, 1000))
        with pytest.warns(UserWarning, match="Received: logits") as caught:
            decode(logits)
        assert __file__ in {warning.filename for warning in caught}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            decode(np.exp(logits) / np.exp(logits).sum())

    @pytest.mark.parametrize(
        ("classes", "index", "expected"),
        [
            (1000, 2, ("n01484850", "great_white_shark", 1.0)),
            (21841, 359, ("n01440764", "tench", 1.0)),
            (21843, 0, ("n00004475", "organism", 1.0)),
            (11221, 0, ("n00005787", "benthos", 1.0)),
        ],
    )
    def test_decode_predictions_of_each_data_set(self, classes, index, expected):
        scores = np.eye(1, classes, index)
        (best,) = km.applications.mlp_mixer.decode_predictions(scores, top=1)
        assert best == [expected]


def _compiled(function: Any) -> Any:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import torch

    return torch.compile(function, backend="eager", fullgraph=True)


@pytest.mark.backend_independent
class TestDecoding:
    def test_best_first_with_names(self):
        predictions = np.zeros((2, 1000), "float32")
        predictions[0, [1, 2]] = 0.75, 0.25
        predictions[1, 999] = 1.0
        decoded = km.applications.convformer.decode_predictions(predictions, top=2)
        assert decoded[0] == [
            ("n01443537", "goldfish", 0.75),
            ("n01484850", "great_white_shark", 0.25),
        ]
        assert decoded[1][0][0] == "n15075141"
        assert len(km.applications.convformer.decode_predictions(predictions)[0]) == 5

    def test_wrong_input(self):
        decode = km.applications.convformer.decode_predictions
        with pytest.raises(ValueError, match=r"Received: shape=\(2, 10\)"):
            decode(np.zeros((2, 10)))
        with pytest.raises(ValueError, match="Received: top=0"):
            decode(np.zeros((2, 1000)), top=0)


@pytest.mark.backend_independent
class TestWeightsArgument:
    def test_neither_tag_nor_file(self, tmp_path):
        missing = tmp_path / "missing.pth"
        for wrong in ("imagnet", str(missing), missing, tmp_path):
            with pytest.raises(ValueError) as error:
                km.CAFormerS18(weights=wrong)
            message = str(error.value)
            assert "'imagenet_384'" in message  # the known tags
            assert f"Received: weights={str(wrong)!r}" in message

    def test_another_models_tag(self):
        with pytest.raises(ValueError, match="Received: weights='imagenet_384'"):
            km.PoolFormerS12(weights="imagenet_384")

    def test_an_unknown_source(self):
        with pytest.raises(ValueError, match="Received: source='mirror'"):
            km.PoolFormerS12(source="mirror")


@pytest.mark.backend_independent
class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"classes": 0}, "Received: classes=0"),
            ({"input_shape": (3, 224, 224)}, "channels first"),
            ({"input_shape": (31, 64, 3)}, "at least 32 pixels"),
            ({"stochastic_depth_rate": 1.0}, "Received: stochastic_depth_rate=1.0"),
            ({"mixer": "atention"}, "Received: mixer='atention'"),
            ({"residual_scaling": ("none",)}, "of length 1"),
        ],
    )
    def test_values(self, arguments, expected):
        with pytest.raises(ValueError) as error:
            tiny(**arguments)
        assert expected in str(error.value)

    @pytest.mark.parametrize("name", ["depths", "widths", "drop_rate", "Pooling"])
    def test_unknown_keywords(self, name):
        with pytest.raises(TypeError, match=name):
            tiny(**{name: 1})


@pytest.mark.backend_independent
def test_an_override_is_an_ablation_of_a_named_model():
    model = km.IdentityFormerS12(
        weights=None,
        input_shape=(32, 32, 3),
        classes=3,
        mixer="pooling",
        norm="layer_norm",
    )
    block = model.get_layer("stage_0_block_0")
    assert isinstance(block.token_mixing.transform, km.layers.PoolingMixer)
    assert isinstance(block.token_mixing.norm, keras.layers.LayerNormalization)
