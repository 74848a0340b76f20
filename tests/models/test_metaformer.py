"""The general builder: the paper's ablations, users' own mixers, bad input."""

import json
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_metaformer as km
from keras_metaformer import layers
from keras_metaformer.models.metaformer import MetaFormerArguments
from tests.layer_checks import randomize, to_numpy
from tests.small_models import metaformer

IMAGES = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
LABELS = np.array([0, 1, 2, 3])


@keras.saving.register_keras_serializable(package="tests")
class Shift(keras.layers.Layer):
    """A user's mixer: the rows move down by one. Nothing but `call`."""

    def call(self, inputs):
        return ops.roll(inputs, 1, axis=1)


@keras.saving.register_keras_serializable(package="tests")
class Blur(keras.layers.Layer):
    """A user's mixer with a layer inside, made in the constructor and never built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.DepthwiseConv2D(3, padding="same")

    def call(self, inputs):
        return self.inner(inputs)


@keras.saving.register_keras_serializable(package="tests")
class Halve(keras.layers.Layer):
    def call(self, inputs):
        return inputs[:, ::2, ::2]

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, height // 2, width // 2, channels)


ABLATIONS: dict[str, dict[str, Any]] = {
    "mixer-per-stage": {"mixer": ("pooling", "self_attention")},
    "mixer-random": {"mixer": "random"},
    "mixer-layer-class": {"mixer": layers.IdentityMixer},
    "mixer-instance": {"mixer": layers.PoolingMixer(5)},
    "mixer-factory": {"mixer": lambda: layers.SeparableConvolutionMixer(3)},
    "mixer-of-keras": {
        "mixer": lambda: keras.layers.DepthwiseConv2D(3, padding="same")
    },
    "mixer-own-class": {"mixer": Shift},
    "mixer-own-with-sublayer": {"mixer": (Blur, Shift)},
    "activation-relu": {"activation": "relu"},
    "activation-squared-relu": {"activation": "squared_relu"},
    "activation-gelu": {"activation": "gelu"},
    "activation-fixed-star-relu": {
        "activation": layers.StarReLU("paper", learn_scale=False, learn_bias=False)
    },
    "activation-per-stage": {"activation": ("relu", layers.GELU)},
    "residual-scaling-none": {"residual_scaling": "none"},
    "residual-scaling-residual": {"residual_scaling": "residual"},
    "residual-scaling-layer": {"residual_scaling": "layer"},
    "residual-scaling-branch": {"residual_scaling": "branch"},
    "residual-scaling-per-stage": {"residual_scaling": ("none", "branch")},
    "norm-group": {"norm": "group_norm"},
    "norm-batch": {"norm": "batch_norm"},
    "norm-none": {"norm": "identity"},
    "norm-own": {"norm": lambda: keras.layers.RMSNormalization()},
    "biases": {"use_bias": True, "mixer": "separable_convolution"},
    "biases-per-stage": {"use_bias": (True, False)},
    "mlp-ratio": {"mlp_ratio": (2, 3.5)},
    "mlp-dropout": {"mlp_dropout": 0.1},
    "stem": {"stem_kernel_size": 3, "stem_strides": 2, "stem_padding": 1},
    "no-downsampling-norm": {"downsampling_norm": "identity"},
    "own-downsampling-norm": {"downsampling_norm": "group_norm"},
    "norm-before-pooling": {"normalize_before_pooling": True},
    "mlp-head": {"head": "mlp"},
    "stochastic-depth": {"stochastic_depth_rate": 0.2, "depths": (2, 2)},
    "head-dropout": {"head_dropout": 0.2},
}


#: Layers of Keras, or with a state, that each backend has in its own way.
_ON_EACH_BACKEND = (
    "mixer-own-with-sublayer",
    "norm-batch",
    "stochastic-depth",
    "head-dropout",
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in _ON_EACH_BACKEND else pytest.mark.one_backend
        )
        for name in ABLATIONS
    ],
)
def test_every_ablation_is_one_argument(name, tmp_path):
    model = metaformer(**ABLATIONS[name])
    path = tmp_path / "model.keras"
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    np.testing.assert_array_equal(
        to_numpy(model(IMAGES, training=False)),
        to_numpy(loaded(IMAGES, training=False)),
    )

    before = [to_numpy(weight) for weight in loaded.trainable_weights]
    loaded.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss="sparse_categorical_crossentropy",
        run_eagerly=True,  # Compiled steps have their tests; they take long on JAX.
    )
    history = loaded.fit(IMAGES, LABELS, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    changed = sum(
        not np.array_equal(old, to_numpy(weight))
        for old, weight in zip(before, loaded.trainable_weights, strict=True)
    )
    assert changed >= len(before) // 2


def _layers(model, stage, kind):
    block = model.get_layer(f"stage_{stage}_block_0")
    return {
        "mixer": block.token_mixing.transform,
        "activation": block.channel_mixing.transform.activation,
        "norm": block.token_mixing.norm,
        "step": block.token_mixing,
        "mlp": block.channel_mixing.transform,
    }[kind]


class TestArgumentsArriveInTheirStage:
    def test_mixers(self):
        model = metaformer(("pooling", Shift))
        assert isinstance(_layers(model, 0, "mixer"), layers.PoolingMixer)
        assert isinstance(_layers(model, 1, "mixer"), Shift)

    def test_activations_reach_channel_mlps_and_separable_convolutions(self):
        model = metaformer("separable_convolution", activation=("gelu", "star_relu"))
        assert isinstance(_layers(model, 0, "activation"), layers.GELU)
        assert isinstance(_layers(model, 0, "mixer").activation, layers.GELU)
        assert isinstance(_layers(model, 1, "activation"), layers.StarReLU)

    def test_scales(self):
        model = metaformer(
            residual_scaling=("residual", "layer"),
            residual_scale_initial_value=0.75,
            layer_scale_initial_value=0.0,
        )
        first, second = _layers(model, 0, "step"), _layers(model, 1, "step")
        assert first.layer_scale is None and second.residual_scale is None
        assert (to_numpy(first.residual_scale.scale) == 0.75).all()
        assert (to_numpy(second.layer_scale.scale) == 0.0).all()

    def test_norms_and_biases(self):
        model = metaformer(norm=("group_norm", "layer_norm"), use_bias=(True, False))
        first, second = _layers(model, 0, "norm"), _layers(model, 1, "norm")
        assert isinstance(first, keras.layers.GroupNormalization)
        assert (len(first.weights), len(second.weights)) == (2, 1)
        assert _layers(model, 0, "mlp").expand.use_bias
        assert not _layers(model, 1, "mlp").expand.use_bias

    def test_ratios(self):
        model = metaformer(mlp_ratio=(2, 3.5))
        assert _layers(model, 0, "mlp").expand.units == 32
        assert _layers(model, 1, "mlp").expand.units == 112

    def test_stochastic_depth_rises_linearly_over_all_blocks(self):
        model = metaformer(depths=(2, 3), stochastic_depth_rate=0.2)
        rates = [
            layer.token_mixing.stochastic_depth_rate
            for layer in model.layers
            if isinstance(layer, km.blocks.MetaFormerBlock)
        ]
        np.testing.assert_allclose(rates, [0.0, 0.05, 0.1, 0.15, 0.2])

    def test_blocks_share_nothing(self):
        model = metaformer(layers.PoolingMixer(), activation=layers.StarReLU())
        first, second = (_layers(model, s, "activation") for s in (0, 1))
        assert first is not second
        assert first.scale is not second.scale


def test_names_of_layers():
    model = metaformer(depths=(1, 2), head="mlp", head_dropout=0.1)
    names = [layer.name for layer in model.layers]
    assert names == [
        "image",
        "stem",
        "stage_0_block_0",
        "stage_0",
        "stage_1_downsampling",
        "stage_1_block_0",
        "stage_1_block_1",
        "stage_1",
        "average_pool",
        "output_norm",
        "head_expand",
        "head_activation",
        "head_norm",
        "head_dropout",
        "predictions",
    ]


def test_any_number_of_stages():
    model = metaformer(depths=(1,), widths=(16,))
    assert model.pyramid_level_inputs == {"P2": "stage_0"}
    five = metaformer(
        depths=(1,) * 5, widths=(16,) * 5, input_shape=(64, 64, 3), stem_strides=2
    )
    assert list(five.pyramid_level_inputs) == ["P1", "P2", "P3", "P4", "P5"]


def test_the_config_of_a_model_is_json_and_rebuilds_it():
    model = metaformer(("separable_convolution", "self_attention"), head="mlp")
    config = json.loads(json.dumps(model.get_config()))
    rebuilt = type(model).from_config(config)
    assert rebuilt.count_params() == model.count_params()
    clone = keras.models.clone_model(model)
    randomize(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        to_numpy(clone(IMAGES, training=False)), to_numpy(model(IMAGES, training=False))
    )


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ((1,), ["none"]),
        ((1, 1), ["none", "residual"]),
        ((1, 1, 1), ["none", "none", "residual"]),
        ((1, 1, 1, 1), ["none", "none", "residual", "residual"]),
    ],
)
def test_without_words_the_later_half_of_the_stages_has_res_scale(depths, expected):
    model = km.MetaFormer(depths, (8,) * len(depths), input_shape=(32, 32, 3))
    found = [
        layer.token_mixing.residual_scaling
        for layer in model.layers
        if isinstance(layer, km.blocks.MetaFormerBlock)
    ]
    assert found == expected


@pytest.mark.backend_independent
def test_without_words_the_size_is_that_of_the_official_class():
    arguments = MetaFormerArguments()
    assert arguments.depths == (2, 2, 6, 2)
    assert arguments.widths == (64, 128, 320, 512)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"depths": (1, -1)}, "Received: depths=-1"),
        ({"depths": (1, 0)}, "Received: depths=0"),
        ({"depths": (1, 1.5)}, "Received: depths=1.5"),
        ({"depths": 2}, "Received: depths=2"),
        ({"depths": ()}, "Received: depths=()"),
        ({"widths": (16, -32)}, "Received: widths=-32"),
        ({"widths": (16,)}, "Received: depths=(1, 1), widths=(16,)"),
        ({"mixer": ("pooling",)}, "Received: mixer=('pooling',) of length 1"),
        ({"mixer": "poolin"}, "Received: mixer='poolin'"),
        ({"activation": "swish2"}, "Received: activation='swish2'"),
        ({"norm": "layernorm"}, "Received: norm='layernorm'"),
        ({"output_norm": "nrom"}, "Received: norm='nrom'"),
        ({"residual_scaling": "both"}, "Received: residual_scaling='both'"),
        ({"channel_mixer": "mpl"}, "Received: channel mixer='mpl'"),
        ({"head": "conv"}, "Received: head='conv'"),
        ({"mlp_ratio": 0}, "Received: ratio=0"),
        ({"mlp_ratio": 0.01}, "Received: ratio=0.01, channels=16"),
        ({"stem_strides": 0}, "Received: stem_strides=0"),
        ({"stem_padding": -1}, "Received: stem_padding=-1"),
        ({"stochastic_depth_rate": 1.0}, "Received: stochastic_depth_rate=1.0"),
        ({"stochastic_depth_rate": -0.1}, "Received: stochastic_depth_rate=-0.1"),
        ({"head_dropout": 1}, "Received: head_dropout=1"),
        ({"classes": 0}, "Received: classes=0"),
        ({"classes": -5}, "Received: classes=-5"),
        ({"classes": 2.5}, "Received: classes=2.5"),
        ({"pooling": "mean"}, "Received: pooling='mean'"),
        ({"input_shape": (3, 224, 224)}, "channels first: shape=(None, 3, 224, 224)"),
        ({"input_shape": (32, 32)}, "Received: input_shape=(32, 32)"),
        ({"input_shape": 32}, "Received: input_shape=32"),
        ({"input_shape": (32, 7, 3)}, "Received: shape=(None, 32, 7, 3)"),
        ({"input_shape": (4, 32, 3)}, "at least 8 pixels"),
        ({"input_shape": (32, 32, None)}, "Received: shape=(None, 32, 32, None)"),
        (
            {"input_shape": (32, 32, 4), "include_preprocessing": True},
            "Received: shape=(None, 32, 32, 4)",
        ),
        ({"mixer": "random", "input_shape": (None, None, 3)}, "height and width"),
        ({"mixer": Halve}, "Received: Halve that makes (None, 4, 4, 16) of "),
    ],
)
def test_bad_input_says_what_was_expected_and_what_came(arguments, expected):
    with pytest.raises(ValueError) as error:
        metaformer(**arguments)
    assert expected in str(error.value)


@pytest.mark.parametrize("wrong", [3, None, lambda: 5])
def test_a_mixer_that_is_no_layer_is_refused(wrong):
    with pytest.raises(TypeError, match=r"mixer.*Received: "):
        metaformer(wrong)


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="mixers"):
        metaformer(mixers="pooling")
    with pytest.raises(TypeError, match="drop_path"):
        km.CAFormerS18(weights=None, drop_path=0.1)  # pyright: ignore[reportCallIssue]


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match=r"channels last.*'channels_first'"):
            metaformer()
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.backend_independent
def test_arguments_hold_the_blocks_of_their_stages():
    arguments = MetaFormerArguments(
        [1, 2], [8, 16], ("pooling", "random"), norm="affine"
    )
    assert [block.mixer for block in arguments.blocks] == ["pooling", "random"]
    assert [block.norm for block in arguments.blocks] == ["affine", "affine"]
    with pytest.raises(AttributeError):
        arguments.depths = (3,)  # type: ignore[misc]
