"""`km.fold`: the same function, in fewer operations, beside the untouched original."""

import gc
from decimal import Decimal
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer import blocks
from keras_metaformer.arrays import to_numpy
from keras_metaformer.models import families
from keras_metaformer.models.complexity import count_macs
from keras_metaformer_lite.weights import catalogue
from tests.layer_checks import randomize
from tests.small_models import build_small, every_family

layers: Any = km.layers
IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
TOLERANCE = 1e-5  # of the largest output


def _moderate(model: Any) -> Any:
    """Weights for which no term is negligible and no activation large.

    Batch norms have statistics and scales of their own, some scales negative: with a
    fresh norm's 0 and 1 many a mistake would not show.
    """
    randomize(model)
    for number, weight in enumerate(model.weights):
        value = to_numpy(weight)
        if weight.name == "gamma":
            value = 0.5 * value * np.where(np.arange(value.size) % 3 == 1, -1, 1)
        elif "layer_scale" in weight.path:
            value = 0.3 * value
        elif weight.name == "moving_variance":
            value = value + 0.01 * (number % 7)
        weight.assign(value)
    return model


def _outputs(model: Any, images: np.ndarray = IMAGES) -> Any:
    return keras.tree.map_structure(to_numpy, model(images, training=False))


def _assert_folds(model: Any, images: np.ndarray = IMAGES) -> Any:
    """The folded model, after comparing it with the original."""
    before = [to_numpy(weight).copy() for weight in model.weights]
    expected = keras.tree.flatten(_outputs(model, images))
    merged: Any = km.fold(model)

    for result, output in zip(
        keras.tree.flatten(_outputs(merged, images)), expected, strict=True
    ):
        assert output.std() > 1e-3  # a constant answer would agree by chance
        error = np.abs(result.astype("float64") - output).max()
        assert error <= TOLERANCE * np.abs(output).max()
    # The original is as it was, and shares nothing with the result.
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, to_numpy(weight), weight.path)
    ours = {id(weight) for weight in model.weights}
    assert not any(id(weight) in ours for weight in merged.weights)
    return merged


def _small(family: str = "ffnet", fields: Any = None, **arguments: Any) -> Any:
    settings = {"classifier_activation": None, **arguments}
    return _moderate(build_small(family, (64, 64, 3), fields, **settings))


def _parts(layer: Any) -> list[Any]:
    return [layer, *layer._flatten_layers(include_self=False)]


def _kinds(model: Any) -> set[str]:
    """Names of the classes of all layers, those within layers included."""
    return {type(part).__name__ for layer in model.layers for part in _parts(layer)}


MERGED_AWAY = {
    "BatchNormalization",
    "BatchNormalized",
    "BatchNormalizedSkip",
    "ReparameterizableDepthwise",
    "LayerScale",
}


@every_family
def test_every_family_computes_the_same(family):
    model = _small(family)
    merged = _assert_folds(model)
    assert type(merged) is type(model)
    assert merged.name == model.name
    assert merged.pyramid_level_inputs == model.pyramid_level_inputs
    assert len(merged.weights) <= len(model.weights)
    if "StarReLU" not in _kinds(model):  # Its bias becomes one for each channel.
        assert merged.count_params() <= model.count_params()


def test_ffnet_is_left_with_convolutions_and_linear_layers():
    model = _small(fields={"layer_scale_initial_value": 0.5})
    assert _kinds(model) >= MERGED_AWAY
    merged = _assert_folds(model)
    assert not _kinds(merged) & MERGED_AWAY
    assert not merged.non_trainable_weights


def test_layer_scale_is_merged_where_a_linear_layer_ends_the_branch():
    scales = {"residual_scaling": "layer", "layer_scale_initial_value": 0.5}
    convformer = _small("convformer", scales)
    assert "LayerScale" in _kinds(convformer)
    assert "LayerScale" not in _kinds(_assert_folds(convformer))
    attention = _small("caformer", {**scales, "residual_scaling": "branch"})
    merged = _assert_folds(attention)
    assert "LayerScale" not in _kinds(merged)
    assert "ResScale" in _kinds(merged)
    # A linear layer over the tokens cannot take a scale per channel, nor can pooling.
    for family in ("resmlp", "poolformer"):
        merged = _assert_folds(_small(family))
        block = next(x for x in merged.layers if isinstance(x, blocks.MetaFormerBlock))
        assert block.token_mixing.layer_scale is not None
        assert block.channel_mixing.layer_scale is None


@pytest.mark.parametrize("use_bias", [False, True])
def test_star_relu_is_merged_into_the_linear_layer_behind_it(use_bias):
    merged = _assert_folds(_small("poolformerv2", {"use_bias": use_bias}))
    blocks_ = [x for x in merged.layers if isinstance(x, blocks.MetaFormerBlock)]
    for block in blocks_:
        mlp = block.channel_mixing.transform
        assert type(mlp.activation) is layers.SquaredReLU
        assert (mlp.expand.use_bias, mlp.project.use_bias) == (use_bias, True)
    # Where zeros are put around its map before the next layer, its bias must stay.
    assert "StarReLU" in _kinds(_assert_folds(_small("convformer")))


def test_star_relu_stays_in_float16():
    # Without the scale the square of 256 is more than float16 holds.
    image = keras.Input((2, 2, 8), dtype="float16")
    model = keras.Model(image, blocks.ChannelMLP(dtype="mixed_float16")(image))
    assert "StarReLU" in _kinds(km.fold(model))


def test_star_relu_stays_before_dropout():
    fields = {"mlp_dropout": 0.1}
    assert "StarReLU" in _kinds(_assert_folds(_small("poolformerv2", fields)))


@pytest.mark.parametrize("use_bias", [False, True])
def test_an_affine_layer_is_merged_into_the_linear_layer_behind_it(use_bias):
    image = keras.Input((8, 8, 6))
    step = blocks.ResidualBranch(
        blocks.ChannelMLP(2, "gelu", use_bias), layers.Affine()
    )
    merged = _assert_folds(
        _moderate(keras.Model(image, step(image))), np.ones((1, 8, 8, 6), "float32")
    )
    # Without a bias the linear layer has no place for the offset.
    assert ("Affine" in _kinds(merged)) != use_bias


def test_an_affine_layer_without_offset_is_merged_into_any_linear_layer():
    image = keras.Input((8, 8, 6))
    step = blocks.ResidualBranch(
        blocks.ChannelMLP(2, "gelu"), layers.Affine(use_bias=False)
    )
    merged = _assert_folds(
        _moderate(keras.Model(image, step(image))), np.ones((1, 8, 8, 6), "float32")
    )
    assert "Affine" not in _kinds(merged)


def _unit(number: Decimal) -> Decimal:
    """One unit of a number's last digit."""
    return Decimal(1).scaleb(int(number.as_tuple().exponent))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("FFNet1", "13.7"),
        ("FFNet2", "26.9"),
        pytest.param("FFNet3", "48.3", marks=pytest.mark.large),
        pytest.param("FFNet4", "79.2", marks=pytest.mark.large),
    ],
)
def test_merged_ffnets_are_as_published(name, parameters):
    resolutions = {row.resolution for row in catalogue.for_constructor(name)}
    model = families.get(name).constructor(
        weights=None, input_shape=(64, 64, 3), classifier_activation=None
    )
    merged = _assert_folds(_moderate(model), IMAGES[:1])
    million = Decimal(merged.count_params()) / 10**6
    assert round(million, 1) == Decimal(parameters)
    for resolution in resolutions:
        # Convolutions and linear layers go by position, so that the count follows the
        # image's area; the classifier alone does not.
        classifier = merged.get_layer("predictions").kernel.shape
        on_maps = count_macs(merged) - classifier[0] * classifier[1]
        macs = on_maps * (resolution // 64) ** 2 + classifier[0] * classifier[1]
        published = next(
            Decimal(str(row.macs_billions))
            for row in catalogue.for_constructor(name)
            if row.resolution == resolution and row.macs_billions
        )
        assert abs(Decimal(macs) / 10**9 - published) <= _unit(published)
    keras.backend.clear_session()
    gc.collect()


def test_a_merged_model_saves_and_loads(tmp_path):
    merged: Any = km.fold(_small(fields={"squeeze_excitation": True}))
    path = tmp_path / "merged.keras"
    merged.save(path)
    loaded: Any = keras.saving.load_model(path)
    np.testing.assert_array_equal(_outputs(loaded), _outputs(merged))
    assert loaded.count_params() == merged.count_params()
    assert loaded.pyramid_level_inputs == merged.pyramid_level_inputs

    other: Any = km.fold(build_small("ffnet", fields={"squeeze_excitation": True}))
    weights = tmp_path / "merged.weights.h5"
    merged.save_weights(weights)
    other.load_weights(weights)
    for ours, theirs in zip(merged.weights, other.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


@pytest.mark.one_backend
def test_a_merged_model_can_be_fine_tuned():
    merged: Any = km.fold(_small(classifier_activation="softmax"))
    before = [to_numpy(weight).copy() for weight in merged.weights]
    merged.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    history = merged.fit(IMAGES, np.array([1, 4]), epochs=4, verbose=0)
    losses = history.history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    for old, weight in zip(before, merged.weights, strict=True):
        assert not np.array_equal(old, to_numpy(weight)), weight.path


@pytest.mark.one_backend
def test_a_folded_model_can_be_folded_again():
    merged = _assert_folds(_small())
    again = _assert_folds(merged)
    assert again.count_params() == merged.count_params()


@pytest.mark.one_backend
def test_squeeze_excitation_is_kept():
    merged = _assert_folds(_small(fields={"squeeze_excitation": True}))
    assert "SqueezeExcitation" in _kinds(merged)


@pytest.mark.one_backend
@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_without_the_top(pooling):
    model = _small(include_top=False, pooling=pooling)
    # Some scales of the last norm are negative: their maximum is a minimum before it.
    assert (to_numpy(model.get_layer("output_norm").gamma) < 0).any()
    merged = _assert_folds(model)
    norm = merged.get_layer("output_norm")
    assert isinstance(norm, keras.layers.BatchNormalization)


@pytest.mark.one_backend
def test_any_image_size():
    model = _moderate(
        build_small("ffnet", input_shape=(None, None, 3), include_top=False)
    )
    merged = _assert_folds(model)
    assert _outputs(merged, IMAGES[:, :37, :45]).shape == (2, 2, 2, 64)


@pytest.mark.one_backend
def test_input_preprocessing_is_kept():
    model = _small(include_preprocessing=True)
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 3))
    merged = _assert_folds(model, pixels.astype("float32"))
    assert merged.get_layer("preprocessing").built


@pytest.mark.parametrize(
    "policy",
    [pytest.param("mixed_float16", marks=pytest.mark.one_backend), "mixed_bfloat16"],
)
def test_mixed_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = _small(include_top=False, pooling="avg")
    finally:
        keras.config.set_dtype_policy(before)
    merged: Any = km.fold(model)
    result = merged(IMAGES, training=False)
    compute = keras.DTypePolicy(policy).compute_dtype
    assert keras.backend.standardize_dtype(result.dtype) == compute
    assert {weight.dtype for weight in merged.weights} == {"float32"}
    for layer in merged.layers[1:]:  # The image is no computation.
        for part in _parts(layer):
            assert part.dtype_policy.name == policy, part

    def single(tensor: Any) -> np.ndarray:
        return to_numpy(keras.ops.cast(tensor, "float32"))

    expected = single(model(IMAGES, training=False))
    # bfloat16 keeps eight bits, and the two round at different places.
    np.testing.assert_allclose(
        single(result), expected, rtol=0, atol=0.06 * np.abs(expected).max()
    )


@pytest.mark.one_backend
def test_a_compiled_model_stays_compiled():
    model = _small(classifier_activation="softmax")
    model.compile(
        keras.optimizers.SGD(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    labels = np.array([1, 4])
    expected = model.evaluate(IMAGES, labels, verbose=0)
    merged: Any = km.fold(model)
    np.testing.assert_allclose(
        merged.evaluate(IMAGES, labels, verbose=0), expected, rtol=1e-4
    )


@pytest.mark.one_backend
def test_frozen_layers_stay_frozen():
    model = _small()
    model.get_layer("stage_0_block_0").trainable = False
    merged: Any = km.fold(model)
    assert not merged.get_layer("stage_0_block_0").trainable_weights
    assert merged.get_layer("stage_1_block_0").trainable_weights


# Where a batch norm on the map may be moved into the classifier, and where not.


@pytest.mark.one_backend
@pytest.mark.parametrize("before_pooling", [False, True])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_batch_norm_before_the_head(before_pooling, head):
    model = _small(
        "convformer",
        {
            "output_norm": "batch_norm",
            "normalize_before_pooling": before_pooling,
            "head": head,
            "head_dropout": 0.1,
        },
    )
    merged = _assert_folds(model)
    norm = merged.get_layer("output_norm")
    assert not isinstance(norm, keras.layers.BatchNormalization)


@pytest.mark.one_backend
def test_the_norm_is_kept_where_its_output_is_wanted_too():
    model = _small()
    both = keras.Model(
        model.input, [model.get_layer("output_norm").output, model.output]
    )
    merged = _assert_folds(both)
    norm = merged.get_layer("output_norm")
    assert isinstance(norm, keras.layers.BatchNormalization)

    maps = model.get_layer("output_norm").output
    scaled = keras.ops.mean(maps, axis=(1, 2)) * 2.0
    merged = _assert_folds(
        keras.Model(model.input, keras.layers.Concatenate()([scaled, model.output]))
    )
    norm = merged.get_layer("output_norm")
    assert isinstance(norm, keras.layers.BatchNormalization)


@pytest.mark.one_backend
def test_the_norm_is_kept_where_something_else_stands_before_the_classifier():
    backbone = _small(include_top=False, pooling="avg")
    x = keras.layers.Dense(6, "relu", name="hidden")(backbone.output)
    model = keras.Model(backbone.input, keras.layers.Dense(4, name="predictions")(x))
    hidden = _assert_folds(_moderate(model)).get_layer("hidden")
    assert hidden.activation is keras.activations.relu


@pytest.mark.one_backend
def test_the_norm_is_kept_before_an_activation():
    image = keras.Input((64, 64, 3))
    x: Any = keras.layers.BatchNormalization()(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    merged = _assert_folds(_moderate(keras.Model(image, keras.layers.Dense(4)(x))))
    assert "BatchNormalization" in _kinds(merged)


@pytest.mark.one_backend
def test_a_classifier_without_bias():
    backbone = _small(include_top=False, pooling="avg")
    head = keras.layers.Dense(4, use_bias=False)
    merged = _assert_folds(
        _moderate(keras.Model(backbone.input, head(backbone.output)))
    )
    assert merged.layers[-1].use_bias


@pytest.mark.one_backend
def test_models_around_ours():
    backbone = _small(include_top=False, pooling="avg")
    image = keras.Input((64, 64, 3))
    nested = keras.Model(image, keras.layers.Dense(4)(backbone(image)))
    merged = _assert_folds(_moderate(nested))
    assert not _kinds(merged) & (MERGED_AWAY - {"BatchNormalization"})
    inside = next(x for x in merged.layers if isinstance(x, type(backbone)))
    assert "BatchNormalized" not in _kinds(inside)
    assert inside.count_params() < backbone.count_params()

    sequential = keras.Sequential([keras.Input((64, 64, 3)), backbone])
    sequential.add(keras.layers.Dense(4))
    merged = _assert_folds(_moderate(sequential))
    assert isinstance(merged, keras.Sequential)
    assert merged.count_params() < sequential.count_params()


@pytest.mark.one_backend
def test_operations_shared_layers_and_keywords_in_the_graph():
    image: Any = keras.Input((64, 64, 3))
    branch = layers.BatchNormalized(keras.layers.Conv2D(8, 3, use_bias=False))
    attention = keras.layers.MultiHeadAttention(2, 4)
    x = branch(image) + branch(image * 0.5)
    x = keras.layers.Reshape((-1, 8))(keras.layers.AveragePooling2D(8)(x))
    x = attention(query=x, value=keras.ops.flip(x, axis=1))
    merged = _assert_folds(_moderate(keras.Model(image, x)))
    assert "BatchNormalized" not in _kinds(merged)
    assert "MultiHeadAttention" in _kinds(merged)


@pytest.mark.one_backend
def test_layers_fixed_to_training_keep_their_norm():
    """Such a batch norm has no statistics that could be merged."""
    image = keras.Input((64, 64, 3))
    conv = layers.BatchNormalized(keras.layers.Conv2D(8, 3, use_bias=False))
    x = conv(image, training=True)
    x = keras.layers.BatchNormalization()(x, training=True)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    merged: Any = km.fold(_moderate(keras.Model(image, x)))
    assert {"BatchNormalized", "BatchNormalization"} <= _kinds(merged)


class _Doubling(blocks.ChannelMLP):
    def call(self, inputs, training=False):
        return 2 * super().call(inputs, training=training)


class _Shifted(km.MetaMixer):
    def call(self, inputs, training=False):
        return super().call(inputs, training=training) + 1.0


def _own_parts() -> dict[str, Any]:
    return {
        "query": layers.IdentityMixer(),
        "interaction": layers.DepthwiseConvolution(3),
        "activation": layers.GELU(),
        "aggregation": layers.DepthwiseConvolution(3),
    }


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "transform",
    [
        lambda: _Doubling(2),
        lambda: _Shifted(**_own_parts()),
        lambda: km.MetaMixer(**_own_parts(), projection=keras.layers.Dense(8, "tanh")),
        lambda: km.MetaMixer(**_own_parts(), projection=layers.GELU()),
        lambda: km.MetaMixer(**_own_parts()),
        lambda: km.MetaMixer.self_attention(8, head_dim=4),
        lambda: blocks.ChannelMLP(2, dropout=0.1),
        lambda: layers.GatedMLP(2),
        lambda: layers.TokenMLP(),
        lambda: layers.SelfAttentionMixer(3, (False, True), projection_dropout=0.1),
        lambda: layers.SeparableConvolutionMixer(
            3, output_activation="relu", dilation_rate=2
        ),
        lambda: layers.ConvNeXtChannelMixer(3, 2, dropout=0.1),
        lambda: layers.FFNifiedAttention(3, use_bias=False),
    ],
    ids=[
        "a-subclass",
        "a-subclass-of-metamixer",
        "activated",
        "activation-last",
        "depthwise-last",
        "attention",
        "dropout",
        "gated",
        "tokens",
        "heads",
        "dilated",
        "convnext-dropout",
        "no-bias",
    ],
)
def test_layer_scale_behind_any_transform(transform):
    """Only a plain linear layer at the end can take the scale."""
    image = keras.Input((8, 8, 8))
    step = blocks.ResidualBranch(
        transform(), keras.layers.LayerNormalization(), "layer"
    )
    maps = np.random.default_rng(2).normal(size=(2, 8, 8, 8)).astype("float32")
    with keras.saving.custom_object_scope(
        {"_Doubling": _Doubling, "_Shifted": _Shifted}
    ):
        _assert_folds(_moderate(keras.Model(image, step(image))), maps)


@keras.saving.register_keras_serializable(package="tests")
class _Mixer(layers.Composite):
    """A user's own: what it begins with and ends in follows from its flow."""

    def __init__(self, twice=False, **kwargs):
        super().__init__(**kwargs)
        self.twice = twice
        self.dense = keras.layers.Dense(8)
        self.activation = layers.GELU()
        self.end = self.dense if twice else keras.layers.Dense(8)

    def flow(self, run, x):
        return run(x, self.dense, self.activation, self.end)

    def get_config(self):
        return {**super().get_config(), "twice": self.twice}


@pytest.mark.one_backend
@pytest.mark.parametrize("twice", [False, True])
def test_scales_around_a_mixer_of_the_users_own(twice):
    image = keras.Input((8, 8, 8))
    step = blocks.ResidualBranch(_Mixer(twice), layers.Affine(), "layer")
    maps = np.random.default_rng(2).normal(size=(2, 8, 8, 8)).astype("float32")
    merged = _assert_folds(_moderate(keras.Model(image, step(image))), maps)
    # A layer that is used twice stands at an end once, and elsewhere too.
    assert (merged.layers[-1].layer_scale is None) != twice
    assert isinstance(merged.layers[-1].norm, layers.Affine) == twice


@pytest.mark.one_backend
def test_downsampling_between_two_norms():
    image = keras.Input((16, 16, 4))
    step = blocks.Downsampling(
        6,
        3,
        2,
        padding=1,
        pre_norm=keras.layers.BatchNormalization(),
        post_norm=keras.layers.BatchNormalization(),
    )
    maps = np.random.default_rng(2).normal(size=(2, 16, 16, 4)).astype("float32")
    merged = _assert_folds(_moderate(keras.Model(image, step(image))), maps)
    # The one before stands before the padding, whose zeros it does not change.
    assert isinstance(merged.layers[-1].pre_norm, keras.layers.BatchNormalization)
    assert merged.layers[-1].post_norm is None


@pytest.mark.one_backend
@pytest.mark.parametrize("size", [3, 5, 9])
def test_branches_of_any_size(size):
    image = keras.Input((8, 8, 4))
    branches = layers.ReparameterizableDepthwise(size, 2, 2)
    maps = np.random.default_rng(2).normal(size=(2, 8, 8, 4)).astype("float32")
    merged = _assert_folds(_moderate(keras.Model(image, branches(image))), maps)
    assert isinstance(merged.layers[-1], layers.DepthwiseConvolution)


def test_other_things_are_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    model: Any = Own()
    with pytest.raises(TypeError, match=r"Received: model=.*Own"):
        km.fold(model)
    with pytest.raises(ValueError, match="with weights"):
        km.fold(keras.Sequential([keras.layers.Dense(2)]))
