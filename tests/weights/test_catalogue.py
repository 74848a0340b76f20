"""The catalogue's promises, row by row."""

import re
from collections import Counter

import pytest

from keras_metaformer_lite.weights import catalogue

pytestmark = pytest.mark.backend_independent

ROWS = catalogue.all_checkpoints()
FAMILY_SIZES = {
    "identityformer": 5,
    "randformer": 5,
    "poolformerv2": 5,
    "convformer": 20,
    "caformer": 20,
    "poolformer": 5,
    "poolformer_hybrids": 5,
    "mlp_mixer": 13,
    "resmlp": 11,
    "gmlp": 1,
    "ffnet": 8,
}


def test_every_published_checkpoint_is_there_once():
    assert Counter(row.family for row in ROWS) == FAMILY_SIZES
    assert len({(row.constructor, row.tag) for row in ROWS}) == len(ROWS)
    urls = [url for row in ROWS for url in row.urls]
    assert len(set(urls)) == len(urls)
    hub_ids = [row.hub_id for row in ROWS if row.hub_id]
    assert len(set(hub_ids)) == len(hub_ids)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.constructor}-{row.tag}")
def test_row(row: catalogue.Checkpoint):
    assert all(url.startswith("https://") for url in row.urls)
    suffixes = {"google-research/vision_transformer": ".npz"}
    assert row.urls[0].endswith(suffixes.get(row.naming, (".pth", ".pth.tar")))
    assert (row.hub_id is None) == (row.hub_file is None)
    assert row.hub_id is None or row.hub_id.startswith("timm/")
    assert row.resolution == (384 if row.tag.endswith("_384") else row.resolution)
    heads = {"imagenet21k": {21841, 21843}, "imagenet21k_miil": {11221}}
    assert row.classes in heads.get(row.tag, {1000})
    assert row.resize in ("shorter_side", "exact")
    assert 0.8 < row.crop_fraction <= 1
    assert row.interpolation in ("bicubic", "bilinear")
    assert len(row.mean) == len(row.std) == 3
    assert row.top1 is None or 70 < row.top1 < 90
    assert row.licence == "Apache-2.0"
    assert catalogue.find(row.constructor.upper(), row.tag) is row
    assert row.url("official") == row.urls[0]
    if row.hub_id is None:
        assert row.url() == row.urls[0]
    else:
        assert re.fullmatch(
            r"https://huggingface\.co/timm/[\w.]+/resolve/main/model\.safetensors",
            row.url(),
        )


def test_known_facts():
    row = catalogue.find("CAFormerS18", "imagenet21k_ft1k_384")
    assert row.top1 == 85.4
    assert row.hub_id == "timm/caformer_s18.sail_in22k_ft_in1k_384"
    assert row.urls[0].endswith(
        "/sail/dl/resolve/main/caformer/caformer_s18_384_in21ft1k.pth"
    )
    # Evaluated as its authors do, not as timm does.
    assert catalogue.find("ResMLP12", "imagenet").crop_fraction == 0.9
    google = catalogue.find("MLPMixerB16", "imagenet")
    assert (google.resize, google.crop_fraction, google.interpolation) == (
        "exact",
        1.0,
        "bilinear",
    )
    # The hub's PoolFormer has another naming and another function.
    assert catalogue.find("PoolFormerS12", "imagenet").hub_id is None


def test_hash_prefixes():
    found = {catalogue.hash_prefix(url) for row in ROWS for url in row.urls}
    assert found - {None} == {
        "76587d61",
        "617b3de2",
        "9229a591",
        "2a558a71",
        "92f9adc4",
        "846aa33c",
        "10536d42",
    }


def test_tags_and_defaults():
    assert catalogue.list_weights("convformers18") == [
        "imagenet",
        "imagenet_384",
        "imagenet21k_ft1k",
        "imagenet21k_ft1k_384",
        "imagenet21k",
    ]
    assert catalogue.default_tag("ConvFormerS18") == "imagenet"
    assert catalogue.default_tag("FFNet4") == "imagenet_384"
    assert catalogue.default_tag("MLPMixerS32") == "imagenet_gsam"
    assert catalogue.default_tag("GMLPB16") is None
    assert catalogue.for_constructor("MLPMixerL32") == ()


def test_an_unknown_tag_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'imagenet', 'imagenet_384'.*weights='in1k'"):
        catalogue.find("FFNet3", "in1k")
    with pytest.raises(ValueError, match="Known: none"):
        catalogue.find("GMLPTi16", "imagenet")


def test_an_unknown_constructor_names_close_ones():
    with pytest.raises(ValueError, match=r"ConvFormerS18.*constructor='ConvFormerS81'"):
        catalogue.list_weights("ConvFormerS81")
    with pytest.raises(ValueError, match="constructor='zzz'"):
        catalogue.list_weights("zzz")


def test_an_unknown_source():
    with pytest.raises(ValueError, match="source='timm'"):
        ROWS[0].url("timm")  # pyright: ignore[reportArgumentType]
