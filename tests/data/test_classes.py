import json

import pytest

from keras_metaformer_lite.classes import DATASETS, class_names, dataset_of

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, ("n01440764", "tench")),
        (2, ("n01484850", "great_white_shark")),
        (281, ("n02123045", "tabby")),
        (850, ("n04399382", "teddy")),
        (999, ("n15075141", "toilet_tissue")),
    ],
)
def test_imagenet_classes_are_in_the_known_order(index, expected):
    assert class_names("imagenet")[index] == expected


@pytest.mark.parametrize("dataset", DATASETS)
def test_identifiers_are_sorted_and_unique(dataset):
    identifiers = [identifier for identifier, _ in class_names(dataset)]

    assert len(identifiers) == DATASETS[dataset]
    assert identifiers == sorted(set(identifiers))


def test_imagenet21k_agrees_with_the_map_that_sail_sg_publishes():
    # Rows of in21k_to_1k_class_map.json in sail-sg/metaformer, which maps class
    # 0, 1, 2 ... of ImageNet-1k to its 21k class; 850 has none.
    published = {0: 359, 1: 368, 2: 460, 10: 547, 195: 2245, 998: 21367, 999: 21815}
    small, large = class_names("imagenet"), class_names("imagenet21k")

    assert {index: large.index(small[index]) for index in published} == published
    assert [name for name in small if name not in large] == [small[850]]


def test_googles_order_has_two_classes_more():
    sail, google = class_names("imagenet21k"), class_names("imagenet21k_google")

    assert set(google) - set(sail) == {
        ("n03931044", "picture"),
        ("n09859684", "bleacher"),
    }
    known = set(sail)
    assert [name for name in google if name in known] == sail


def test_miil_keeps_some_of_the_classes_in_the_same_order():
    google, miil = class_names("imagenet21k_google"), class_names("imagenet21k_miil")

    # Lines of imagenet21k_miil_synsets.txt in timm 1.0.31.
    lines = {0: "n00005787", 1: "n00006484", 5000: "n03764736", 11220: "n15102894"}
    assert {index: miil[index][0] for index in lines} == lines
    known = set(miil)
    assert [name for name in google if name in known] == miil


def test_names_are_written_as_in_keras_applications():
    for dataset in DATASETS:
        for _, name in class_names(dataset):
            assert name and " " not in name and "," not in name


def test_the_cached_list_cannot_be_spoilt_by_a_caller():
    class_names("imagenet").clear()

    assert len(class_names("imagenet")) == 1000


def test_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match=r"imagenet21k.*Received: dataset='cifar'"):
        class_names("cifar")


def test_data_set_of_a_number_of_classes():
    assert dataset_of(1000) == "imagenet"
    assert dataset_of(21843) == "imagenet21k_google"
    assert dataset_of(11221) == "imagenet21k_miil"
    assert dataset_of(10) is None


def test_the_files_name_their_source():
    from importlib import resources

    for name in ("imagenet_classes.json", "imagenet21k_classes.json"):
        text = resources.files("keras_metaformer_lite").joinpath(name).read_text()
        assert "WordNet" in json.loads(text)["source"]
