import numpy as np
import pytest

from keras_metaformer.layers import StarReLU
from tests.layer_checks import to_numpy


def _start(initial_values):
    layer = StarReLU(initial_values)
    layer.build((None, 4))
    return float(to_numpy(layer.scale)[0]), float(to_numpy(layer.bias)[0])


def test_initial_values_by_name():
    assert _start("code") == (1.0, 0.0)
    np.testing.assert_allclose(_start("paper"), (0.8944, -0.4472), atol=5e-5)
    assert _start((0.5, 0.25)) == (0.5, 0.25)
    assert _start([0.0, 0.0]) == (0.0, 0.0)  # zero is a value, not "unset"


def test_the_papers_values_normalise_a_standard_normal_input():
    inputs = np.random.default_rng(0).normal(size=(1000, 1000)).astype("float32")
    outputs = to_numpy(StarReLU("paper")(inputs)).astype("float64")
    assert abs(outputs.mean()) < 5e-3
    assert abs(outputs.var() - 1.0) < 2e-2


@pytest.mark.parametrize("wrong", ["papers", (1.0,), (1.0, 2.0, 3.0)])
def test_other_initial_values_are_refused(wrong):
    with pytest.raises(ValueError, match=r"initial_values.*Received: initial_values="):
        StarReLU(wrong)
