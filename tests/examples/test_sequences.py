import keras
import numpy as np
import pytest

from examples import sequences

TOKENS = 16


def test_windows_are_of_the_text_and_hide_the_middle():
    texts, held_out = sequences.load_text(TOKENS, 64)
    assert texts.inputs.shape == (64, TOKENS) and held_out.inputs.shape == (16, TOKENS)
    assert (texts.inputs[:, TOKENS // 2] == sequences.MASK).all()
    assert (texts.targets <= sequences.RARE).all()
    assert len(np.unique(texts.inputs)) > 30


@pytest.mark.parametrize(
    "mixer",
    [
        pytest.param(
            mixer, marks=() if mixer == "attention" else pytest.mark.one_backend
        )
        for mixer in sequences.MIXERS
    ],
)
def test_mixers_learn_what_stands_between(mixer):
    """Those that mix tokens; the one that does not knows the commonest character."""
    keras.utils.set_random_seed(1)
    epochs = 1 if mixer == "identity" else 4
    model, accuracy = sequences.train(
        mixer, epochs, windows=8192, tokens=TOKENS, width=32, depth=1
    )
    assert model.output_shape == (None, sequences.CHARACTERS + 1)
    _, held_out = sequences.load_text(TOKENS, 8192)
    guessed = sequences.share_of_the_commonest(held_out)
    if mixer == "identity":
        assert accuracy == pytest.approx(guessed, abs=1e-6)
    else:
        assert accuracy > guessed + 0.05
