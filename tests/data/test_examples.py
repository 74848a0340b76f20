import numpy as np
import pytest

from keras_metaformer_lite.examples import example_photographs, photograph_files

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize("shape", [(224, 224, 3), (32, 48, 3), (64, 32, 1)])
def test_a_dozen_different_photographs(shape):
    images = example_photographs(*shape)

    assert images.shape == (12, *shape)
    assert images.dtype == np.float32
    assert np.array_equal(images, images.clip(0, 255).round())
    differences = [
        np.abs(one - other).mean()
        for index, one in enumerate(images)
        for other in images[:index]
    ]
    assert min(differences) > 5
    # No empty image, and none that is noise: neighbours are alike.
    assert images.std(axis=(1, 2, 3)).min() > 8
    assert np.abs(np.diff(images, axis=2)).mean() < images.std() / 3


def test_the_first_ones_are_of_different_files():
    images = example_photographs(32, 32)

    assert len(photograph_files()) == 3
    np.testing.assert_array_equal(images[6:], images[:6, :, ::-1])


def test_photographs_have_one_or_three_channels():
    with pytest.raises(ValueError, match=r"Received: channels=4"):
        example_photographs(8, 8, 4)
