"""Every mixer, by its name, in both builders and at any stage."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers.mixers.table import TOKEN_MIXERS
from tests.backend_gradients import gradients
from tests.layer_checks import randomize

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
# A bias per token is the same for all channels: a layer norm takes it away again, and
# its gradient would rightly be zero.
NORM = {"norm": "affine", "output_norm": "affine"}


def _metaformer(mixer, **arguments) -> Any:
    """The mixer in the first stage and in the last."""
    return km.MetaFormer(
        depths=(1, 1),
        widths=(32, 64),
        mixer=mixer,
        input_shape=(32, 32, 3),
        classes=5,
        downsampling_norm="affine",
        **NORM,
        **arguments,
    )


def _isotropic(mixer, **arguments) -> Any:
    return km.IsotropicMetaFormer(
        depth=2,
        width=32,
        patch_size=8,
        mixer=mixer,
        input_shape=(32, 32, 3),
        classes=5,
        **NORM,
        **arguments,
    )


BUILDERS = {"hierarchical": _metaformer, "isotropic": _isotropic}
every_combination = pytest.mark.parametrize(
    ("mixer", "build"),
    [
        pytest.param(
            mixer,
            build,
            id=f"{mixer}-{name}",
            # In the other builder the same layers have another number.
            marks=() if name == "hierarchical" else pytest.mark.one_backend,
        )
        for mixer in TOKEN_MIXERS
        for name, build in BUILDERS.items()
    ],
)


@every_combination
def test_outputs_and_gradients(mixer, build):
    model = build(mixer, classifier_activation=None)
    randomize(model)
    outputs = to_numpy(model(IMAGES, training=False))
    assert outputs.shape == (2, 5)
    assert np.isfinite(outputs).all()
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    found = gradients(model, IMAGES)
    assert len(found) == len(model.trainable_weights)
    largest = {path: np.abs(gradient).max() for path, gradient in found.items()}
    dead = {path for path, size in largest.items() if not 1e-5 < size < 1e6}
    # Pooling subtracts its input, and with it what was added to all tokens alike.
    assert dead == (_offsets_before_mixing(model) if mixer == "pooling" else set())


def _offsets_before_mixing(model):
    return {
        layer.token_mixing.norm.offset.path
        for layer in model.layers
        if isinstance(layer, km.blocks.MetaFormerBlock)
        and layer.token_mixing.norm.use_bias
    }


# As a layer, and in one family of each builder, each mixer is trained, saved and run in
# half precision on each backend; what a builder makes of it is the same everywhere.
@pytest.mark.one_backend
@every_combination
def test_training_and_the_saved_file(mixer, build, tmp_path):
    model = build(mixer)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = [to_numpy(weight) for weight in model.trainable_weights]
    history = model.fit(IMAGES, np.array([1, 3]), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    changed = [
        not np.array_equal(old, to_numpy(weight))
        for old, weight in zip(before, model.trainable_weights, strict=True)
    ]
    assert np.mean(changed) > 0.8  # A tiny step may be rounded away.

    path = tmp_path / "model.keras"
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    assert type(loaded) is type(model)
    assert loaded.pyramid_level_inputs == model.pyramid_level_inputs
    np.testing.assert_array_equal(
        to_numpy(loaded(IMAGES, training=False)),
        to_numpy(model(IMAGES, training=False)),
    )


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield keras.DTypePolicy(request.param)
    keras.config.set_dtype_policy(before)


@pytest.mark.one_backend
@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_mixed_precision(mixer, policy):
    model = _metaformer(mixer, include_top=False)
    outputs = model(IMAGES, training=False)
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    assert dtype == policy.compute_dtype
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert np.isfinite(to_numpy(keras.ops.cast(outputs, "float32"))).all()


@pytest.mark.one_backend
@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
@pytest.mark.parametrize("build", [_metaformer, _isotropic])
def test_sizes_that_no_stride_divides(mixer, build):
    image = keras.Input((37, 45, 3))
    mixers: Any = ("identity", mixer)
    model = (
        km.IsotropicMetaFormer(1, 32, 8, mixer, include_top=False, input_tensor=image)
        if build is _isotropic
        else km.MetaFormer(
            (1, 1),
            (32, 64),
            mixers,
            include_top=False,
            input_tensor=image,
        )
    )
    expected = (4, 5, 32) if build is _isotropic else (5, 6, 64)
    images = np.ones((1, 37, 45, 3), "float32")
    assert tuple(model(images).shape) == (1, *expected)
    assert model.output_shape == (None, *expected)


NEED_A_SIZE = {"random", "token_mlp", "cross_patch_linear", "gated_mlp"}


@pytest.mark.backend_independent
@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_which_mixers_are_tied_to_a_size(mixer):
    """Without the top the image's size is open, unless there is a weight per token."""
    tied = mixer in NEED_A_SIZE
    size = 224 if tied else None
    isotropic = km.IsotropicMetaFormer(1, 32, 32, mixer, include_top=False)
    assert isotropic.input_shape == (None, size, size, 3)
    mixers: Any = ("identity", mixer)
    model = km.MetaFormer((1, 1), (8, 32), mixers, include_top=False)
    assert model.input_shape == (None, size, size, 3)
    if tied:
        for build in (
            lambda: km.IsotropicMetaFormer(
                1, 32, 8, mixer, input_shape=(None, None, 3), include_top=False
            ),
            lambda: km.MetaFormer(
                (1,), (32,), mixer, input_shape=(None, 32, 3), include_top=False
            ),
        ):
            with pytest.raises(ValueError, match="height and width"):
                build()


@pytest.mark.backend_independent
@pytest.mark.parametrize("mixer", sorted(NEED_A_SIZE))
def test_a_tied_model_refuses_another_size(mixer):
    model = _isotropic(mixer)
    with pytest.raises(ValueError, match=r"expected shape=\(None, 32, 32, 3\)"):
        model(np.ones((1, 40, 40, 3), "float32"))
