import keras
import numpy as np
import pytest

from keras_metaformer import layers
from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.factories import make_layer
from keras_metaformer.layers.mixers.table import TOKEN_MIXERS, make_token_mixer
from keras_metaformer.layers.norms.table import make_norm
from tests.layer_checks import randomize, to_numpy

MAP = np.random.default_rng(0).normal(size=(2, 5, 4, 8)).astype("float32")


def _matrix(seed, shape=(None, 5, 4, 8)):
    layer = layers.RandomMixer(seed=seed)
    layer.build(shape)
    return to_numpy(layer.random_matrix)


def test_random_matrices_are_row_softmaxes_of_uniform_numbers():
    matrix = _matrix(1)
    assert matrix.shape == (20, 20)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=1e-5)
    # exp(u) / sum(exp(u)) with u in [0, 1): no two entries of a row differ by more.
    assert matrix.min() > 0
    assert matrix.max() / matrix.min() <= np.e**2
    assert matrix.std() > 0.005


def test_random_matrices_follow_the_seed():
    np.testing.assert_array_equal(_matrix(1), _matrix(1))
    assert (_matrix(1) != _matrix(2)).any()
    assert (_matrix(None) != _matrix(None)).any()


def test_random_mixer_needs_a_known_size():
    with pytest.raises(ValueError, match=r"height and width.*Received: input_shape="):
        layers.RandomMixer().build((None, None, 4, 8))


@pytest.mark.parametrize(
    ("arguments", "channels", "heads"),
    [
        ({}, 64, 2),
        ({}, 80, 2),  # As in the official code: heads that fit, the rest left over.
        ({}, 16, 1),
        ({"num_heads": 3}, 48, 3),
        ({"num_heads": 3, "head_dim": 16}, 48, 3),
    ],
)
def test_heads_of_attention(arguments, channels, heads):
    mixer = layers.SelfAttentionMixer(**arguments)
    mixer.build((None, 5, 4, channels))
    width = heads * arguments.get("head_dim", 32)
    assert mixer.qkv.kernel.shape == (channels, 3 * width)
    assert mixer.output_projection.kernel.shape == (width, channels)


def test_attention_biases_apart():
    mixer = layers.SelfAttentionMixer(4, use_bias=(True, False))
    mixer.build((None, 5, 4, 8))
    assert mixer.qkv.use_bias and not mixer.output_projection.use_bias


def test_attention_dropout_keeps_the_mean():
    images = np.random.default_rng(0).normal(size=(1, 2, 2, 8)).astype("float32")
    mixer = layers.SelfAttentionMixer(4, attention_dropout=0.3, seed=1)
    mixer.build(images.shape)
    randomize(mixer)
    expected = to_numpy(mixer(images, training=False))
    many = to_numpy(mixer(np.repeat(images, 4000, 0), training=True))
    assert many.std(axis=0).min() > 0.01
    error = 5 * many.std(axis=0) / 4000**0.5
    assert (np.abs(many.mean(axis=0) - expected[0]) < error).all()


def test_projection_dropout():
    mixer = layers.SelfAttentionMixer(4, projection_dropout=0.25, seed=1)
    dropped = to_numpy(mixer(np.ones((50, 5, 4, 8), "float32"), training=True)) == 0
    assert 0.22 < dropped.mean() < 0.28


def test_defaults_are_those_of_the_papers():
    assert layers.SelfAttentionMixer().head_dim == 32
    separable = layers.SeparableConvolutionMixer()
    assert (separable.kernel_size, separable.expansion) == (7, 2)
    assert isinstance(separable.activation, layers.StarReLU)
    assert layers.PoolingMixer().pool_size == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.PoolingMixer(2), "`pool_size` must be odd. Received: pool"),
        (lambda: layers.PoolingMixer(0), "Received: pool_size=0"),
        (lambda: layers.DepthwiseConvolution(4), "Received: kernel_size=4"),
        (lambda: layers.DepthwiseConvolution(3, strides=0), "Received: strides=0"),
        (
            lambda: layers.DepthwiseConvolution(3, 2, dilation_rate=2),
            "Received: strides=2, dilation_rate=2",
        ),
        (lambda: layers.SeparableConvolutionMixer(2), "Received: kernel_size=2"),
        (
            lambda: layers.SeparableConvolutionMixer(expansion=-1),
            "Received: expansion=-1",
        ),
        (lambda: layers.SelfAttentionMixer(head_dim=0), "Received: head_dim=0"),
        (lambda: layers.SelfAttentionMixer(num_heads=0), "Received: num_heads=0"),
        (
            lambda: layers.SelfAttentionMixer(use_bias=(True,) * 3),
            "Received: use_bias=(True, True, True)",
        ),
        (
            lambda: layers.SelfAttentionMixer(attention_dropout=1.0),
            "Received: attention_dropout=1.0",
        ),
        (lambda: layers.SqueezeExcitation(divisor=0), "Received: divisor=0"),
        (lambda: layers.SelfAttentionMixer(head_dim=2.5), "Received: head_dim=2.5"),
        (lambda: layers.SelfAttentionMixer(head_dim=True), "Received: head_dim=True"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_mixing_works_on_maps_of_unknown_size():
    image = keras.Input((None, None, 8))
    x = layers.SelfAttentionMixer(4)(image)
    x = layers.SeparableConvolutionMixer(3)(layers.PoolingMixer()(x))
    model = keras.Model(image, x)
    assert model.output_shape == (None, None, None, 8)
    assert model.predict(MAP, verbose=0).shape == MAP.shape
    assert model.predict(MAP[:, :3], verbose=0).shape == (2, 3, 4, 8)


class TestSpecifications:
    """What may stand for a layer: name, class, instance, factory, serialised."""

    @pytest.mark.parametrize("name", TOKEN_MIXERS)
    def test_names(self, name):
        assert isinstance(make_token_mixer(name), keras.layers.Layer)

    def test_an_instance_is_copied(self):
        original = layers.PoolingMixer(5, name="mine")
        copies = [make_token_mixer(original), make_token_mixer(original)]
        assert all(copy.pool_size == 5 for copy in copies)
        assert len({id(layer) for layer in [original, *copies]}) == 3

    def test_a_class_a_factory_and_a_serialised_layer(self):
        assert isinstance(make_token_mixer(layers.IdentityMixer), layers.IdentityMixer)
        assert make_token_mixer(lambda: layers.PoolingMixer(7)).pool_size == 7
        saved = keras.saving.serialize_keras_object(layers.PoolingMixer(5))
        assert make_token_mixer(saved).pool_size == 5

    @pytest.mark.parametrize(
        ("make", "kind"),
        [
            (make_token_mixer, "mixer"),
            (make_activation, "activation"),
            (make_norm, "norm"),
        ],
    )
    def test_unknown_names_list_the_known_ones(self, make, kind):
        with pytest.raises(ValueError) as error:
            make("typo")
        message = str(error.value)
        assert f"Unknown {kind}" in message
        assert "'identity'" in message
        assert f"Received: {kind}='typo'" in message

    @pytest.mark.parametrize("wrong", [3, None, lambda: "no layer"])
    def test_other_things_are_refused(self, wrong):
        with pytest.raises(TypeError, match="Received: "):
            make_layer("mixer", wrong, {})


@pytest.mark.parametrize(
    ("name", "axes"),
    [("layer_norm", (-1,)), ("group_norm", (1, 2, 3))],
)
def test_norms_normalise_over_the_right_axes_with_a_scale_per_channel(name, axes):
    from tests.reference import formulas

    norm = make_norm(name, use_bias=False, epsilon=1e-3)
    outputs = to_numpy(norm(MAP * 3 + 1))
    assert [tuple(weight.shape) for weight in norm.weights] == [(8,)]
    expected = formulas.normalize(MAP.astype("float64") * 3 + 1, axes, 1e-3)
    np.testing.assert_allclose(outputs, expected, atol=2e-5)


def test_batch_norm_has_pytorchs_momentum():
    norm = make_norm("batch_norm", epsilon=1e-5)
    norm(MAP, training=True)
    np.testing.assert_allclose(
        to_numpy(norm.moving_mean), 0.1 * MAP.mean(axis=(0, 1, 2)), atol=1e-6
    )
