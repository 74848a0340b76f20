"""Words that users bring, and what they are told; dtypes; types for editors."""

import inspect
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.models import families
from keras_metaformer.models.ffnet import FFNET
from keras_metaformer.models.keywords import FOREIGN_WORDS
from keras_metaformer.models.metaformer import ISOTROPIC, METAFORMER
from tests.layer_checks import to_numpy
from tests.small_models import metaformer

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
ONCE = pytest.mark.backend_independent


@ONCE
class TestNames:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [("ConvFormerS81", "ConvFormerS18"), ("metaformer", "MetaFormer")],
    )
    def test_misspelt_attributes(self, name, meant):
        with pytest.raises(AttributeError, match=rf"Did you mean .*'{meant}'"):
            getattr(km, name)

    def test_dir_shows_what_is_public(self):
        shown = {name for name in dir(km) if not name.startswith("__")}
        assert shown == set(km.__all__)

    def test_misspelt_models_and_constructors(self):
        with pytest.raises(ValueError, match="'ConvFormerS18'"):
            families.get("convformers81")
        with pytest.raises(ValueError, match="Did you mean 'ConvFormerS18'"):
            km.list_weights("ConvFormerS1")


@ONCE
class TestArguments:
    @pytest.mark.parametrize(
        ("build", "word", "meant"),
        [
            (km.CAFormerS18, "num_classes", "`classes`"),
            (km.CAFormerS18, "drop_path_rate", "`stochastic_depth_rate`"),
            (km.CAFormerS18, "in_chans", "`input_shape=(height, width, channels)`"),
            (km.CAFormerS18, "img_size", "`input_shape=(height, width, channels)`"),
            (km.CAFormerS18, "global_pool", "`pooling`"),
            (km.CAFormerS18, "drop_rate", "`head_dropout`"),
            (km.CAFormerS18, "clases", "'classes'"),
            (km.FFNet1, "num_classes", "`classes`"),
            (km.MetaFormer, "embed_dims", "`widths`"),
            (km.MetaFormer, "token_mixers", "`mixer`"),
            (km.MetaFormer, "head_dim", "SelfAttentionMixer(head_dim=...)"),
            (km.MetaFormer, "activations", "'activation'"),
            (km.IsotropicMetaFormer, "embed_dim", "`width`"),
            (km.IsotropicMetaFormer, "drop_path", "`stochastic_depth_rate`"),
        ],
    )
    def test_unknown_words_are_answered_with_ours(self, build, word, meant):
        with pytest.raises(TypeError) as error:
            build(**{word: 1})
        message = str(error.value)
        assert meant in message
        assert message.endswith(f"Received: {word!r}")

    def test_the_answers_are_arguments(self):
        known = {
            name
            for build in (km.MetaFormer, km.IsotropicMetaFormer, km.CAFormerS18)
            for name in inspect.signature(build).parameters
        }
        for word, answer in FOREIGN_WORDS.items():
            assert word not in known
            if answer.startswith("`") and not answer.startswith("`km."):
                assert answer.split("`")[1].split("=")[0] in known

    def test_words_of_another_kind_of_model_are_no_answer(self):
        with pytest.raises(TypeError) as error:
            km.MetaFormer(embed_dim=1)  # pyright: ignore[reportCallIssue]
        assert "`width`" not in str(error.value)


@ONCE
class TestWeights:
    def test_no_such_file(self, tmp_path):
        for wrong in ("mine.h5", "folder/mine", tmp_path / "mine"):
            with pytest.raises(ValueError, match="No such file"):
                km.CAFormerS18(weights=wrong)

    def test_a_misspelt_tag(self):
        with pytest.raises(ValueError, match="Did you mean 'imagenet_384'"):
            km.CAFormerS18(weights="imagenet384")

    def test_a_size_without_weights(self):
        with pytest.raises(ValueError, match="none are published"):
            km.GMLPB16(weights="imagenet")


class TestActivations:
    @pytest.mark.parametrize(
        "activation", ["silu", "hard_swish", keras.activations.silu, lambda x: 2 * x]
    )
    def test_names_and_functions_of_keras(self, activation):
        model = metaformer(activation=activation)
        mlp = model.get_layer("stage_0_block_0").channel_mixing.transform
        expected = activation
        if isinstance(activation, str):
            expected = keras.activations.get(activation)
        values = np.linspace(-2, 2, 8, dtype="float32")
        np.testing.assert_allclose(
            to_numpy(mlp.activation(values)),
            to_numpy(expected(keras.ops.convert_to_tensor(values))),
            atol=1e-6,
        )

    def test_they_are_saved_and_loaded(self, tmp_path):
        model = metaformer("separable_convolution", activation="silu")
        model.save(tmp_path / "model.keras")
        loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(to_numpy(loaded(IMAGES)), to_numpy(model(IMAGES)))

    @ONCE
    @pytest.mark.parametrize("wrong", ["slu", "get", "keras"])
    def test_unknown_names(self, wrong):
        with pytest.raises(ValueError, match=f"Received: activation='{wrong}'"):
            metaformer(activation=wrong)
        with pytest.raises(ValueError, match=r"Did you mean .*'silu'"):
            metaformer(activation="slu")


class TestDtype:
    @ONCE
    @pytest.mark.parametrize(
        "build",
        [
            lambda dtype: metaformer(("pooling", "self_attention"), dtype=dtype),
            lambda dtype: km.IsotropicMetaFormer(
                1, 32, 16, input_shape=(32, 32, 3), classes=5, dtype=dtype
            ),
            lambda dtype: km.PoolFormerV2S12(
                weights=None,
                input_shape=(32, 32, 3),
                classes=5,
                dtype=dtype,
                include_preprocessing=True,
            ),
        ],
        ids=["MetaFormer", "IsotropicMetaFormer", "PoolFormerV2S12"],
    )
    def test_every_layer_has_it(self, build):
        policy = keras.DTypePolicy("mixed_bfloat16")
        for dtype in ("mixed_bfloat16", policy):
            model = build(dtype)
            found = {layer.dtype_policy.name for layer in model._flatten_layers()}
            assert found - {"float32"} == {"mixed_bfloat16"}
            with_another = [
                layer
                for layer in model._flatten_layers()
                if layer.dtype_policy.name != "mixed_bfloat16"
            ]
            assert {type(layer) for layer in with_another} <= {keras.layers.InputLayer}
        # How such models compute is tested with the families.
        assert model.output.dtype == "bfloat16"
        assert keras.config.dtype_policy().name == "float32"

    @ONCE
    def test_names_of_dtypes(self):
        assert metaformer(dtype="float16").dtype == "float16"

    @ONCE
    @pytest.mark.parametrize("wrong", ["float17", 16])
    def test_others_are_refused(self, wrong):
        with pytest.raises(ValueError, match=f"Received: dtype={wrong!r}"):
            metaformer(dtype=wrong)
        assert keras.config.dtype_policy().name == "float32"

    @ONCE
    def test_other_threads_see_nothing_of_it(self):
        seen = []

        def mixer():
            look = lambda: seen.append(keras.config.dtype_policy().name)  # noqa: E731
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            return km.layers.IdentityMixer()

        metaformer(mixer, dtype="mixed_bfloat16")
        assert set(seen) == {"float32"}


def test_the_width_of_heads_is_the_layers():
    mixer = km.layers.SelfAttentionMixer(head_dim=16)
    model = metaformer(mixer, widths=(16, 48))
    assert model.get_layer("stage_1_block_0").token_mixing.transform.head_dim == 16
    wider = metaformer("self_attention", widths=(32, 48))
    assert wider.get_layer("stage_1_block_0").token_mixing.transform.heads == 1


#: What a variant's name decides of an isotropic model.
SIZE = ("depth", "width", "patch_size")


def _parameters(function):
    return inspect.signature(function).parameters


@ONCE
class TestSignatures:
    """Each argument is stated once, in a dataclass; all else follows from it."""

    @pytest.mark.parametrize("builder", [METAFORMER, ISOTROPIC, FFNET])
    def test_constructors_and_builders_have_the_same_defaults(self, builder):
        """Several bases with the same fields must come in the right order."""
        ours = _parameters(builder.arguments)
        named = _parameters(builder.constructor_arguments)
        sizes = {"depths", "widths"} if "depths" in ours else set(SIZE)
        assert set(ours) - set(named) == sizes
        assert set(named) - set(ours) == {"source"}
        differing = {
            name
            for name in set(ours) & set(named)
            if ours[name].default != named[name].default
        }
        assert differing == {"weights", "name"}

    @pytest.mark.parametrize("function", [km.MetaFormer, km.IsotropicMetaFormer])
    def test_builders(self, function):
        names = list(_parameters(function))
        doc = inspect.getdoc(function) or ""
        described = re.findall(
            r"^    (\w+): ", doc.split("Args:")[1].split("Returns:")[0], re.MULTILINE
        )
        assert described == names
        assert "Attributes:" not in doc and doc.index("Args:") < doc.index("Returns:")

    def test_a_vision_transformers_defaults(self):
        parameters = _parameters(km.IsotropicMetaFormer)
        assert (
            list(parameters)[:5] == "depth width patch_size mixer include_top".split()
        )
        for name, default in {
            "mixer": "self_attention",
            "activation": "gelu",
            "use_bias": True,
            "normalize_before_pooling": True,
            "name": "isotropic_metaformer",
        }.items():
            assert parameters[name].default == default

    def test_every_argument_of_a_constructor_is_described(self):
        for name in families.names():
            constructor = families.get(name).constructor
            section = (
                (inspect.getdoc(constructor) or "")
                .split("Args:")[1]
                .split("Returns:")[0]
            )
            described = re.findall(r"^    (\w+): ", section, re.MULTILINE)
            assert described == list(_parameters(constructor))

    def test_missing_and_surplus_arguments(self):
        with pytest.raises(TypeError, match=r"MetaFormer\(\): missing.*'width'"):
            km.IsotropicMetaFormer(1)  # pyright: ignore[reportCallIssue]
        with pytest.raises(TypeError, match=r"CAFormerS18\(\): too many positional"):
            km.CAFormerS18(*[None] * 10)


@ONCE
def test_type_checkers_find_misspelt_arguments(tmp_path):
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "import keras_metaformer as km\n"
        "model = km.CAFormerS18(classes=10, seed=1, dtype='float16')\n"
        "km.fold(km.MetaFormer((1,), (8,), 'pooling', classes=10)).summary()\n"
        "km.applications.caformer.preprocess_input(0, data_format=None)\n"
        "km.CAFormerS18(clases=10)\n"
        "km.MetaFormer((1,), (8,), clases=10)\n"
        "km.IsotropicMetaFormer(1, 8, 16, clases=10)\n"
        "km.fold(1)\n"
        "km.applications.caformer.preprocess_input(0, format=None)\n"
    )
    pyright = Path(sys.executable).with_name("pyright")
    root = Path(km.__path__[0]).parent
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(root)], "typeCheckingMode": "basic"})
    )
    finished = subprocess.run(
        [pyright, "--outputjson", "--pythonpath", sys.executable, "-p", tmp_path],
        capture_output=True,
        text=True,
    )
    errors = json.loads(finished.stdout)["generalDiagnostics"]
    assert [error["range"]["start"]["line"] + 1 for error in errors] == [5, 6, 7, 8, 9]
