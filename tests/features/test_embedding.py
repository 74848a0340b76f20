"""Images as vectors."""

import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from tests.layer_checks import randomize
from tests.small_models import FAMILIES, build_small, metaformer

IMAGES = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype("float32")


@pytest.mark.one_backend
@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_what_the_model_without_its_top_gives(family):
    model = build_small(family)
    randomize(model)
    headless = build_small(family, include_top=False, pooling="avg")
    values = {weight.path: weight for weight in model.weights}
    for weight in headless.weights:
        weight.assign(to_numpy(values[weight.path]))

    vectors = km.embeddings(model, IMAGES, batch_size=2)

    assert vectors.dtype == np.float32
    np.testing.assert_allclose(
        vectors, headless.predict_on_batch(IMAGES), atol=1e-5, rtol=1e-5
    )
    np.testing.assert_allclose(
        vectors, km.embeddings(headless, IMAGES), atol=1e-5, rtol=1e-5
    )


def test_a_model_that_pools_nothing_has_none():
    with pytest.raises(ValueError, match="pooling='avg'"):
        km.embeddings(metaformer(include_top=False), IMAGES)
