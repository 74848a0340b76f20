"""Randomised models: likeness falls, and the model is what it was."""

from typing import Any

import numpy as np
import pytest

from keras_metaformer.explain import grad_cam, sanity
from keras_metaformer.explain.sanity import rank_correlation
from tests.layer_checks import randomize, to_numpy
from tests.small_models import metaformer

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")


def weights_of(model: Any) -> list[np.ndarray]:
    return [np.array(to_numpy(variable)) for variable in model.variables]


def test_what_ignores_the_model_stays_alike_and_the_model_is_restored():
    model = metaformer()
    randomize(model)
    before = weights_of(model)

    class Edges:
        def __init__(self, images):
            self.maps = np.abs(np.diff(images.mean(-1), axis=1, append=0))

    def edges(probe, images, target, batch_size):
        return Edges(images)

    found = sanity(model, IMAGES, edges)
    np.testing.assert_allclose(found.correlations, 1, atol=1e-6)
    assert found.method == "edges"

    of_a_part = sanity(model, IMAGES, grad_cam, layers=["stem"])
    assert of_a_part.layers == ("(none)", "stem")
    for now, then in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_model_is_restored_after_an_error():
    model = metaformer()
    randomize(model)
    before = weights_of(model)
    calls = []

    def failing(probe, images, target, batch_size):
        calls.append(target)
        if len(calls) == 3:
            raise RuntimeError("the third time")
        return grad_cam(probe, images, target)

    with pytest.raises(RuntimeError, match="the third time"):
        sanity(model, IMAGES, failing)
    for now, then in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(now, then)
    # The class that the model as it is answers is asked for throughout.
    assert calls[0] == calls[1] == calls[2]


@pytest.mark.backend_independent
def test_rank_correlation():
    one = np.array([[1.0, 2.0], [3.0, 10.0]])
    assert rank_correlation(one, one**3) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert rank_correlation(one, np.ones((2, 2))) == 0
    # With ties, from the definition: the correlation of mean ranks.
    tied = np.array([1.0, 1.0, 2.0, 3.0])
    ranks = np.array([1.5, 1.5, 3, 4])
    expected = np.corrcoef(ranks, [1, 2, 3, 4])[0, 1]
    assert rank_correlation(tied, np.arange(4.0)) == pytest.approx(expected)


def test_errors():
    with pytest.raises(ValueError, match=r"there is none.*layer='P9'"):
        sanity(metaformer(), IMAGES, grad_cam, layers=["P9"])
