"""Images as vectors."""

import numpy as np
import pytest
from PIL import Image

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.data import EvaluationTransform, ImageDescription
from keras_metaformer.models.pyramid_model import described
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


def test_images_are_prepared_as_the_model_says(tmp_path):
    transform = EvaluationTransform(32, crop_fraction=1.0)
    model = described(metaformer(), ImageDescription(transform))
    pictures = np.random.default_rng(1).integers(0, 256, (3, 40, 48, 3), "uint8")
    Image.fromarray(pictures[2]).save(tmp_path / "third.png")
    found = km.embeddings(
        model, [pictures[0], pictures[1], tmp_path / "third.png"], batch_size=2
    )
    expected = km.embeddings(model, np.stack([transform(p) for p in pictures]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        km.embeddings(metaformer(), pictures[:0], transform=transform), found[:0]
    )
    unknown = metaformer()
    unknown.image_description = None
    with pytest.raises(ValueError, match="image_description"):
        km.embeddings(unknown, pictures)


def test_a_model_that_pools_nothing_has_none():
    with pytest.raises(ValueError, match="pooling='avg'"):
        km.embeddings(metaformer(include_top=False), IMAGES)
