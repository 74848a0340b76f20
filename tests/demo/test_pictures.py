import numpy as np
import pytest
from PIL import Image

from keras_metaformer.demo.pictures import draw_curves, draw_digits

pytestmark = pytest.mark.backend_independent

RED = np.array([0xC6, 0x28, 0x28])


def red_pixels(path) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - RED).max(axis=-1) < 8).sum())


def digits(wrong: int, number: int = 70):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, 8, 8, 3), "uint8")
    labels = random.integers(0, 9, number)
    answers = labels.copy()
    answers[:wrong] += 1
    return images, labels, np.eye(10)[answers]


@pytest.mark.backend_independent
def test_wrong_answers_are_marked_in_red(tmp_path):
    none, one, two = (tmp_path / name for name in ("none.png", "one.png", "two.png"))

    draw_digits(*digits(wrong=0), none)
    draw_digits(*digits(wrong=1), one)
    draw_digits(*digits(wrong=2), two)

    assert red_pixels(none) == 0
    # Each wrong answer adds a frame and a title of the same kind.
    assert red_pixels(two) == pytest.approx(2 * red_pixels(one), rel=0.2)
    assert red_pixels(one) > 100


@pytest.mark.backend_independent
@pytest.mark.parametrize("number", [1, 7, 61])
def test_any_number_of_digits_can_be_drawn(tmp_path, number):
    path = tmp_path / "digits.png"

    draw_digits(*digits(wrong=1, number=number), path)

    assert Image.open(path).size[0] > 800
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.backend_independent
@pytest.mark.parametrize("epochs", [1, 12])
def test_curves_of_any_length_can_be_drawn(tmp_path, epochs):
    path = tmp_path / "curves.png"
    falling = list(np.linspace(2, 1, epochs))
    rising = list(np.linspace(0.1, 0.9, epochs))
    history = {
        "loss": falling,
        "val_loss": falling,
        "accuracy": rising,
        "val_accuracy": rising,
    }

    draw_curves(history, path)

    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[1] > 800
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
