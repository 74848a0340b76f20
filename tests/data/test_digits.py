from typing import Any

import numpy as np
import pytest

from keras_metaformer.data.digits import load_digits

pytestmark = pytest.mark.backend_independent


def test_a_fifth_of_every_class_is_held_out():
    digits = load_digits()

    assert digits.train_images.shape == (1437, 32, 32, 3)
    assert digits.test_images.shape == (360, 32, 32, 3)
    assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
    assert digits.train_labels.dtype == np.int64
    held_out = np.bincount(digits.test_labels)
    everything = held_out + np.bincount(digits.train_labels)
    assert everything.sum() == 1797
    assert np.abs(held_out - everything / 5).max() <= 1


def test_values_fill_the_range_and_the_picture_is_the_original():
    from sklearn import datasets

    originals: Any = datasets.load_digits()

    # At the original size nothing is interpolated, so the pixels can be found again.
    digits = load_digits(size=8)
    seen = np.concatenate([digits.train_images, digits.test_images])
    expected = np.rint(originals.images * 255 / 16)

    assert seen.max() == 255 and seen.min() == 0
    assert (seen[..., 0] == seen[..., 1]).all() and (seen[..., 0] == seen[..., 2]).all()
    sort = lambda images: np.sort(images.reshape(1797, -1).astype("uint8"), axis=0)  # noqa: E731
    np.testing.assert_array_equal(sort(seen[..., 0]), sort(expected))


def test_the_split_depends_on_the_seed_alone():
    first, again, other = load_digits(seed=3), load_digits(seed=3), load_digits(seed=4)

    np.testing.assert_array_equal(first.test_images, again.test_images)
    assert (first.test_images != other.test_images).any()


def test_parts_do_not_overlap():
    digits = load_digits()

    train = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in train for image in digits.test_images)


@pytest.mark.parametrize("arguments", [{"size": 7}, {"test_fraction": 1.0}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="Received: "):
        load_digits(**arguments)
