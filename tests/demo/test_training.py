import keras
import numpy as np
import pytest

from keras_metaformer.data.digits import Digits, load_digits
from keras_metaformer.demo.models import build_model
from keras_metaformer.demo.training import (
    BATCH_SIZE,
    AugmentedDigits,
    augment,
    one_hot,
    train,
)
from keras_metaformer.layers.mixers.self_attention_mixer import SelfAttentionMixer
from keras_metaformer.layers.mixers.separable_convolution_mixer import (
    SeparableConvolutionMixer,
)


def test_the_model_is_a_small_caformer():
    model = build_model()

    mixers = [
        type(layer.token_mixing.transform)
        for layer in model.layers
        if "block" in layer.name
    ]
    assert mixers == [SeparableConvolutionMixer] * 2 + [SelfAttentionMixer] * 2
    assert model.input_shape == (None, 32, 32, 3)
    assert 300_000 < model.count_params() < 1_000_000


def test_the_model_takes_pixels_and_gives_probabilities():
    images = load_digits().test_images[:4].astype("float32")

    result = np.asarray(build_model().predict_on_batch(images))

    np.testing.assert_allclose(result.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.one_backend
def test_training_learns_and_reports_every_epoch():
    keras.utils.set_random_seed(0)
    # Black or white: what a few steps can learn.
    labels = np.arange(128) % 2
    images = np.zeros((128, 32, 32, 3), "uint8")
    images[labels == 1] = 255

    history = train(build_model(0), Digits(images, labels, images, labels), epochs=4)

    assert set(history) >= {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(history["loss"]) == 4
    assert history["loss"][-1] < 0.8 * history["loss"][0]


@pytest.mark.backend_independent
def test_an_epoch_shows_each_image_at_most_once_in_another_order():
    images = np.zeros((200, 8, 8, 3), "uint8")
    images[:] = np.arange(200, dtype="uint8")[:, None, None, None]
    batches = AugmentedDigits(images, np.zeros(200, "int64"), seed=1)

    def epoch() -> list[int]:
        # The middle is what a shift or turn leaves in place.
        return [int(v) for i in range(len(batches)) for v in batches[i][0][:, 4, 4, 0]]

    first = epoch()
    batches.on_epoch_end()
    second = epoch()

    assert len(batches) == 200 // BATCH_SIZE
    assert len(first) == len(set(first)) == len(set(second)) == 192
    assert first != second


@pytest.mark.backend_independent
def test_batches_depend_on_the_seed_alone():
    digits = load_digits()

    def first(seed: int) -> np.ndarray:
        return AugmentedDigits(digits.train_images, digits.train_labels, seed)[0][0]

    np.testing.assert_array_equal(first(1), first(1))
    assert (first(1) != first(2)).any()


@pytest.mark.backend_independent
def test_labels_stay_with_their_images():
    images = np.zeros((64, 8, 8, 3), "uint8")
    labels = np.arange(64) % 10
    images[:] = labels[:, None, None, None]

    batch, targets = AugmentedDigits(images, labels, seed=0)[0]

    np.testing.assert_array_equal(batch[:, 4, 4, 0], targets.argmax(axis=-1))


@pytest.mark.backend_independent
def test_augmenting_moves_the_digit_a_little():
    image = load_digits().train_images[0]
    moved = [augment(image, np.random.default_rng(seed)) for seed in range(20)]

    for result in moved:
        assert result.shape == (32, 32, 3) and result.dtype == np.float32
        assert result.min() >= 0 and result.max() <= 255
        # Most ink stays in the picture and about where it was.
        overlap = np.minimum(result, image).sum() / image.sum(dtype="float32")
        assert 0.4 < overlap <= 1
    assert len({result.tobytes() for result in moved}) == 20


@pytest.mark.backend_independent
def test_one_hot():
    np.testing.assert_array_equal(one_hot(np.array([2, 0]))[:, :3], np.eye(3)[[2, 0]])
