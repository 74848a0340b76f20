"""The isotropic builder: patches, equal blocks, norm, pooling, head."""

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer import layers
from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers.initializers import undrawn
from keras_metaformer.models import families
from keras_metaformer.models.metaformer import ISOTROPIC
from tests.layer_checks import randomize
from tests.reference import formulas

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")


def _vit(**arguments):
    settings = {"input_shape": (32, 32, 3), "classes": 5, **arguments}
    return km.IsotropicMetaFormer(2, 32, 16, **settings)


def _weights(layer):
    return [weight.astype("float64") for weight in layer.get_weights()]


@pytest.mark.parametrize(
    ("positions", "class_token"), [(False, False), (True, False), (True, True)]
)
def test_with_self_attention_it_is_a_vision_transformer(positions, class_token):
    """The whole model once more, in NumPy."""
    model = _vit(
        classifier_activation=None,
        mixer=layers.SelfAttentionMixer(16, True),
        position_embedding=positions,
        class_token=class_token,
    )
    randomize(model)

    def dense(layer, x):
        kernel, bias = _weights(layer)
        return x @ kernel + bias

    def norm(layer, x):
        gamma, beta = _weights(layer)
        return formulas.normalize(x, -1, 1e-6) * gamma + beta

    kernel, bias = _weights(model.get_layer("patch_embedding"))
    x = formulas.convolution(IMAGES.astype("float64"), kernel, 16) + bias
    x = x.reshape(2, 4, 32)
    if class_token:
        (token,) = _weights(model.get_layer("class_token"))
        x = np.concatenate([np.tile(token, (2, 1, 1)), x], axis=1)
    if positions:
        (vectors,) = _weights(model.get_layer("position_embedding"))
        assert vectors.shape == ((5, 32) if class_token else (2, 2, 32))
        x = x + vectors.reshape(-1, 32)
    for index in range(2):
        block = model.get_layer(f"block_{index}")
        attention, mlp = block.token_mixing.transform, block.channel_mixing.transform
        qkv = _weights(attention.qkv)
        projection = _weights(attention.output_projection)
        normed = norm(block.token_mixing.norm, x)
        x = x + formulas.self_attention(
            normed, qkv[0], qkv[1], projection[0], projection[1], 16
        )
        hidden = formulas.gelu(dense(mlp.expand, norm(block.channel_mixing.norm, x)))
        x = x + dense(mlp.project, hidden)
    x = norm(model.get_layer("output_norm"), x)
    x = x[:, 0] if class_token else x.mean(axis=1)
    expected = dense(model.get_layer("predictions"), x)

    actual = to_numpy(model(IMAGES, training=False))
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    count = 30 + positions + class_token
    assert len(model.weights) == count
    assert sum(len(layer.weights) for layer in model.layers) == count


def test_vit_s16_by_arguments():
    with undrawn():
        model = km.IsotropicMetaFormer(
            12,
            384,
            16,
            mixer=layers.SelfAttentionMixer(head_dim=64, use_bias=True),
            position_embedding=True,
            class_token=True,
        )
    assert model.count_params() == 22_050_664  # timm's vit_small_patch16_224


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_tokens_of_a_model_with_a_class_token(pooling):
    options = {"position_embedding": True, "class_token": True}
    model = _vit(include_top=False, pooling=pooling, **options)
    randomize(model)
    tokens = keras.Model(model.input, model.get_layer("output_norm").output)(IMAGES)
    assert tokens.shape == (2, 5, 32)
    reduce = {None: lambda x: x, "avg": lambda x: x[:, 1:].mean(1)}
    reduce["max"] = lambda x: x[:, 1:].max(1)
    expected = reduce[pooling](to_numpy(tokens))
    np.testing.assert_allclose(to_numpy(model(IMAGES)), expected, atol=1e-6)
    assert model.pyramid_outputs == model.pyramid_level_inputs == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"mixer": "pooling"},
        {"mixer": "convolution"},
        {"mixer": "ffnified_attention"},
        {"channel_mixer": "convnext"},
    ],
)
def test_a_class_token_has_no_neighbours(fields):
    with pytest.raises(ValueError, match=r"no place on the map.*class_token=True"):
        _vit(class_token=True, **fields)


@pytest.mark.parametrize("mixer", ["token_mlp", "gated_mlp", "random"])
def test_mixers_of_tokens_take_a_class_token(mixer):
    model = _vit(mixer=mixer, class_token=True)
    assert to_numpy(model(IMAGES)).shape == (2, 5)


def test_patches_are_one_stage_of_the_pyramid():
    model = _vit()
    assert model.pyramid_level_inputs == {"P4": "blocks"}
    assert model.pyramid_outputs["P4"].shape == (None, 2, 2, 32)
    assert list(km.IsotropicMetaFormer(1, 32, 4).pyramid_outputs) == ["P2"]


def test_without_positions_the_order_of_patches_is_no_matter():
    model = _vit(mixer=layers.SelfAttentionMixer(16))
    randomize(model)
    turned = np.concatenate([IMAGES[:, 16:], IMAGES[:, :16]], axis=1)
    assert np.abs(turned - IMAGES).max() > 0.1
    np.testing.assert_allclose(
        to_numpy(model(turned, training=False)),
        to_numpy(model(IMAGES, training=False)),
        atol=1e-5,
    )


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_without_the_top(pooling):
    model = _vit(include_top=False, pooling=pooling)
    randomize(model)
    outputs = to_numpy(model(IMAGES, training=False))
    maps = to_numpy(
        keras.Model(model.input, model.get_layer("output_norm").output)(IMAGES)
    )
    assert maps.shape == (2, 2, 2, 32)
    reduce = {None: lambda x: x, "avg": lambda x: x.mean((1, 2)), "max": np.max}
    expected = maps.max((1, 2)) if pooling == "max" else reduce[pooling](maps)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_stochastic_depth_rises_over_the_blocks():
    model = km.IsotropicMetaFormer(
        3, 32, 16, input_shape=(32, 32, 3), stochastic_depth_rate=0.2, seed=1
    )
    blocks = [model.get_layer(f"block_{index}") for index in range(3)]
    rates = [block.token_mixing.stochastic_depth_rate for block in blocks]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2])
    seeds = {
        step.seed
        for block in blocks
        for step in (block.token_mixing, block.channel_mixing)
    }
    assert len(seeds) == 6


def test_weights_from_a_file(tmp_path):
    model, other = _vit(), _vit()
    randomize(model)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    loaded = _vit(weights=path)
    expected = to_numpy(model(IMAGES, training=False))
    np.testing.assert_array_equal(to_numpy(loaded(IMAGES, training=False)), expected)
    assert np.abs(to_numpy(other(IMAGES, training=False)) - expected).max() > 1e-3


def test_blocks_without_a_channel_mixer():
    model = _vit(mixer="gated_mlp", channel_mixer="none")
    block = model.get_layer("block_0")
    assert isinstance(block, km.blocks.ResidualBranch)
    assert isinstance(block.transform, layers.GatedMLP)


def test_convnext_blocks_take_whole_ratios_only():
    model = _vit(channel_mixer="convnext", mixer="identity", mlp_ratio=2.0)
    mixer = model.get_layer("block_0").channel_mixing.transform
    assert mixer.ratio == 2
    with pytest.raises(ValueError, match=r"Received: ratio=2\.5"):
        _vit(channel_mixer="convnext", mixer="identity", mlp_ratio=2.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "Received: depth=0"),
        ({"width": 2.5}, "Received: width=2.5"),
        ({"patch_size": -1}, "Received: patch_size=-1"),
        ({"mixer": "token_mixer"}, "Unknown mixer"),
        ({"residual_scaling": "both"}, "Received: residual_scaling='both'"),
        ({"stochastic_depth_rate": 1.0}, "Received: stochastic_depth_rate=1.0"),
        ({"input_shape": (8, 32, 3)}, "at least 16 pixels"),
        ({"input_shape": (32, 32)}, "Received: input_shape=(32, 32)"),
        ({"mixer": layers.SpatialGatingUnit}, "must keep the shape"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    settings = {"depth": 1, "width": 32, "patch_size": 16, "input_shape": (32, 32, 3)}
    with pytest.raises(ValueError) as error:
        km.IsotropicMetaFormer(**{**settings, **arguments})
    assert message in str(error.value)


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="drop_rate"):
        km.IsotropicMetaFormer(1, 32, 16, drop_rate=0.1)  # pyright: ignore[reportCallIssue]


@pytest.mark.backend_independent
def test_sizes_are_those_of_the_papers():
    def size(name):
        variant = families.get(name)
        assert variant.builder is ISOTROPIC
        return tuple(variant.arguments[key] for key in ("depth", "width", "patch_size"))

    assert size("MLPMixerS32") == (8, 512, 32)
    assert size("MLPMixerB16") == (12, 768, 16)
    assert size("MLPMixerL16") == (24, 1024, 16)
    assert size("ResMLP36") == (36, 384, 16)
    assert size("ResMLPB24") == (24, 768, 8)
    assert size("GMLPTi16") == (30, 128, 16)
    scales = [
        families.get(name).arguments["layer_scale_initial_value"]
        for name in ("ResMLP12", "ResMLP24", "ResMLP36", "ResMLPB24")
    ]
    assert scales == [0.1, 1e-5, 1e-6, 1e-6]


@pytest.mark.one_backend
@pytest.mark.parametrize("constructor", ["MLPMixerS32", "ResMLP12", "GMLPTi16"])
def test_another_size_without_weights_makes_new_matrices(constructor):
    variant = families.get(constructor)
    small = {**variant.arguments, "depth": 1, "width": 32}
    shapes = {}
    for size in (64, 96):
        model = km.IsotropicMetaFormer(input_shape=(size, size, 3), classes=2, **small)
        block = model.get_layer("block_0")
        mixer = (block if constructor == "GMLPTi16" else block.token_mixing).transform
        tokens = (size // small["patch_size"]) ** 2
        kernels = [weight for weight in mixer.weights if tokens in weight.shape]
        shapes[size] = [tuple(weight.shape) for weight in kernels]
        assert shapes[size], mixer
        assert model(np.ones((1, size, size, 3), "float32")).shape == (1, 2)
    assert shapes[64] != shapes[96]


@pytest.mark.one_backend
def test_a_constructor_at_another_size():
    model = km.ResMLP12(weights=None, input_shape=(64, 48, 3), classes=3)
    linear = model.get_layer("block_0").token_mixing.transform.linear
    assert linear.kernel.shape == (12, 12)
    assert linear.input_grid == (4, 3)
    assert model(np.ones((1, 64, 48, 3), "float32")).shape == (1, 3)
