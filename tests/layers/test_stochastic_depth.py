import keras
import numpy as np
import pytest

from keras_metaformer.layers import StochasticDepth
from tests.layer_checks import to_numpy

ONES = np.ones((4000, 2, 3), "float32")


def _draw(layer):
    return to_numpy(layer(ONES, training=True))


def test_whole_samples_are_dropped_and_the_others_scaled_up():
    outputs = _draw(StochasticDepth(0.25, seed=1)).reshape(len(ONES), -1)
    assert (outputs == outputs[:, :1]).all()
    assert {0.0, np.float32(1 / 0.75)} == set(np.unique(outputs))


def test_the_rate_is_met_and_the_mean_kept():
    outputs = _draw(StochasticDepth(0.25, seed=1))
    dropped = np.mean(outputs[:, 0, 0] == 0)
    # 4,000 draws: the standard deviation of the fraction is 0.007.
    assert abs(dropped - 0.25) < 0.035
    assert abs(outputs.mean() - 1.0) < 0.05


def test_nothing_happens_outside_training_or_at_rate_zero():
    np.testing.assert_array_equal(to_numpy(StochasticDepth(0.9)(ONES)), ONES)
    np.testing.assert_array_equal(_draw(StochasticDepth(0.0)), ONES)


def test_the_seed_reproduces_a_sequence_of_different_draws():
    first, second = StochasticDepth(0.5, seed=5), StochasticDepth(0.5, seed=5)
    draws = [_draw(first), _draw(first)]
    np.testing.assert_array_equal(draws[0], _draw(second))
    np.testing.assert_array_equal(draws[1], _draw(second))
    assert (draws[0] != draws[1]).any()
    assert (draws[0] != _draw(StochasticDepth(0.5, seed=6))).any()


def test_without_a_seed_keras_global_seed_decides():
    keras.utils.set_random_seed(3)
    first = _draw(StochasticDepth(0.5))
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(first, _draw(StochasticDepth(0.5)))


def test_draws_differ_from_step_to_step_inside_a_compiled_model():
    image = keras.Input((2, 3))
    model = keras.Model(image, StochasticDepth(0.5, seed=2)(image))
    state = [to_numpy(variable) for variable in model.non_trainable_variables]
    model.compile(optimizer="sgd", loss="mse")
    model.fit(ONES[:8], ONES[:8], verbose=0, epochs=2)
    after = [to_numpy(variable) for variable in model.non_trainable_variables]
    assert state
    assert any((a != b).any() for a, b in zip(state, after, strict=True))


@pytest.mark.parametrize("rate", [1.0, -0.1, 1.5, float("nan")])
def test_rates_outside_the_range_are_refused(rate):
    with pytest.raises(ValueError, match=r"\[0, 1\).*Received: rate="):
        StochasticDepth(rate)
