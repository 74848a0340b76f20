"""Every row of the catalogue, from a file in its naming and container to logits.

The files hold the weights of the golden cases (see tests/golden/README.md):

* rows with more classes than any golden case have heads made of the case's own;
* rows for 384 pixels without a golden case there are loaded for the case's image size,
  which these architectures allow; `test_tags.py` checks the default resolution;
* the one architecture without any golden case, MLPMixerS8, is compared with a model
  that `port_weights` filled from the same arrays.
"""

import gc
import json
import tempfile

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.models import families
from keras_metaformer_lite.weights import cache, catalogue
from keras_metaformer_lite.weights.catalogue import Checkpoint, Source
from tests.golden import cases
from tests.golden.seeded import seeded_images
from tests.weights import synthetic

TOLERANCE = 2e-5  # of the largest logit, from the golden README


@pytest.fixture
def cache_folder(monkeypatch):
    """A cache that goes at once: all rows together are many gigabytes."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("KERAS_METAFORMER_CACHE", folder)
        monkeypatch.setenv("KERAS_METAFORMER_OFFLINE", "1")
        yield folder
    keras.backend.clear_session()
    gc.collect()


def _files() -> list[tuple[Checkpoint, Source]]:
    files: list[tuple[Checkpoint, Source]] = []
    for row in catalogue.all_checkpoints():
        files.append((row, "auto"))
        if synthetic.is_hub_file(row, "auto"):
            files.append((row, "official"))
    return files


def _parametrise() -> list:
    """All files; the smallest of each family in each naming is for every day."""

    def size(file: tuple[Checkpoint, Source]) -> tuple:
        row, source = file
        return (
            synthetic.has_known_hash(row, source),
            families.get(row.constructor).parameters,
            row.classes,
            row.resolution,
        )

    smallest: dict[tuple[str, str], tuple[Checkpoint, Source]] = {}
    for file in _files():
        key = (file[0].family, synthetic.naming_of(*file))
        smallest[key] = min(smallest.get(key, file), file, key=size)
    return [
        pytest.param(
            row,
            source,
            id=f"{row.constructor}-{row.tag}-{source}",
            marks=() if (row, source) in smallest.values() else pytest.mark.large,
        )
        for row, source in _files()
    ]


# The golden cases are computed on each backend; the way there is NumPy's.
@pytest.mark.one_backend
@pytest.mark.parametrize(("row", "source"), _parametrise())
def test_golden_logits_come_out(row, source, cache_folder, monkeypatch):
    if synthetic.has_known_hash(row, source):
        monkeypatch.setattr(Checkpoint, "known_sha256", lambda row, url: None)
    content = synthetic.make(row, source)
    synthetic.write(row, source, content.state_dict)
    case = content.case
    if case is not None:
        content.state_dict.clear()  # The largest are 800 MB.
    size = row.resolution if case is None else case["height"]

    model = getattr(km, row.constructor)(
        weights=row.tag,
        source=source,
        classifier_activation=None,
        input_shape=(size, size, 3),
        **content.keywords,
    )

    assert model.output_shape == (None, row.classes)
    images = seeded_images(1, size, size, 3) if case is None else cases.images(case)
    outputs = to_numpy(model(images, training=False))
    if case is None:
        direct = getattr(km, row.constructor)(weights=None, classifier_activation=None)
        km.port_weights(direct, content.state_dict)
        expected = to_numpy(direct(images, training=False))
    else:
        expected = cases.logits(case)
        if content.classes_of is not None:
            expected = expected[:, content.classes_of]
    assert outputs.shape == expected.shape
    assert np.std(expected) > 0.2  # a constant answer would agree by chance
    error = np.abs(outputs.astype("float64") - expected).max()
    assert error <= TOLERANCE * max(1.0, np.abs(expected).max())

    record = json.loads(cache.record_path(row, source).read_text("utf-8"))
    assert record["url"] == row.url(source)
    assert cache.cached_source(row, source)


@pytest.mark.backend_independent
def test_the_everyday_files_span_families_and_namings():
    everyday = [parameter.values for parameter in _parametrise() if not parameter.marks]
    found = {(row.family, synthetic.naming_of(row, source)) for row, source in everyday}
    assert found == {
        ("identityformer", "sail-sg/metaformer"),
        ("randformer", "sail-sg/metaformer"),
        ("poolformerv2", "sail-sg/metaformer"),
        ("poolformerv2", "timm"),
        ("convformer", "sail-sg/metaformer"),
        ("convformer", "timm"),
        ("caformer", "sail-sg/metaformer"),
        ("caformer", "timm"),
        ("poolformer", "sail-sg/poolformer"),
        ("poolformer_hybrids", "sail-sg/poolformer"),
        ("mlp_mixer", "google-research/vision_transformer"),
        ("mlp_mixer", "timm"),
        ("resmlp", "facebookresearch/deit"),
        ("resmlp", "timm"),
        ("gmlp", "timm"),
        ("ffnet", "ysj9909/FFNet"),
    }
    assert len(everyday) == len(found)
    assert {source for row, source in everyday} == {"auto", "official"}


@pytest.mark.backend_independent
def test_a_stand_in_with_a_known_hash_is_refused(cache_folder):
    row = catalogue.find("GMLPS16", "imagenet")
    synthetic.write(row, "official", {"head.bias": np.zeros(3, "float32")})
    with pytest.raises(OSError, match="SHA-256 should start with 10536d42"):
        km.GMLPS16(weights="imagenet", source="official")
