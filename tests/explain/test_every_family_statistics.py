"""Receptive fields, memories, sparsity and the like on every family."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from tests.golden import explained
from tests.layer_checks import randomize
from tests.small_models import FAMILIES, build_small, opposites, smallest

OTHER_SIZE = (96, 64, 3)


def _results(model: keras.Model | km.explain.Probe, images: Any) -> dict[str, Any]:
    """Everything that the model has, on one batch."""
    probe = km.explain.Probe.of(model)
    found: dict[str, Any] = {
        "sparsity": km.explain.sparsity(probe, images),
        "memory": km.explain.memory(probe, images, mixer=_mixer(probe)),
        "receptive_field": km.explain.receptive_field(probe, images),
    }
    if km.explain.has_attention(probe):
        found["attention"] = km.explain.attention_maps(probe, images)
        found["rollout"] = found["attention"].rollout()
    if km.explain.has_token_matrices(probe):
        found["matrices"] = km.explain.token_matrices(probe)
    return found


def _mixer(probe: km.explain.Probe) -> str:
    """The half of the last block that is an MLP: gMLP has one half."""
    has_channel = any("channel_mixing" in path for path in probe.layers)
    return "channel" if has_channel else "token"


def _check(found: dict[str, Any], images: np.ndarray) -> None:
    for result in found.values():
        for name, array in result.arrays().items():
            if array.dtype.kind == "f":
                assert np.isfinite(array).all(), (type(result), name)
    assert len(found["sparsity"].active) == len(images)
    assert ((found["sparsity"].active >= 0) & (found["sparsity"].active <= 1)).all()
    assert found["memory"].maps.shape[:2] == (len(images), 5)
    assert found["receptive_field"].contributions.shape == images.shape[1:3]
    for weights in found["attention"].weights.values() if "attention" in found else ():
        np.testing.assert_allclose(weights.sum(-1), 1, atol=0.05)


def _has_by_name(family: str) -> set[str]:
    found = {"sparsity", "memory", "receptive_field"}
    if family in ("caformer", "poolformer_hybrids"):
        found |= {"attention", "rollout"}
    if family in ("mlp_mixer", "resmlp", "gmlp", "randformer"):
        found |= {"matrices"}
    return found


@pytest.mark.one_backend  # One of each builder is compared on each, below.
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read(family):
    model = build_small(family)
    randomize(model)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")

    found = _results(model, images)

    assert set(found) == _has_by_name(family)
    _check(found, images)


@pytest.mark.parametrize("name", explained.NAMES)
def test_results_agree_across_backends(name):
    recorded = explained.recorded(name)

    found = explained.results(name)

    assert set(found) == set(recorded)
    for key, expected in recorded.items():
        assert found[key].shape == expected.shape
        scale = max(float(np.abs(expected).max()), 1e-6)
        np.testing.assert_allclose(
            found[key] / scale, expected / scale, atol=1e-4, err_msg=key
        )


@pytest.mark.large
@pytest.mark.parametrize("family", FAMILIES)
def test_in_many_sizes_batches_and_precisions_folded_and_not(family):
    sizes, batches = ((64, 64, 3), OTHER_SIZE), (1, 8)
    precisions, folded = ("float32", "mixed_bfloat16"), (False, True)
    for number in range(4):
        forms = opposites(number, sizes, batches, precisions, folded)
        for shape, batch, dtype, fold in forms:
            model = build_small(family, shape, dtype=dtype)
            randomize(model)
            if fold:
                model = km.fold(model)
            images = np.random.default_rng(0).normal(size=(batch, *shape))
            found = _results(model, images.astype("float32"))
            assert set(found) == _has_by_name(family)
            _check(found, images)


@pytest.mark.large
@pytest.mark.one_backend
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("top", [True, False])
def test_full_models_at_224(family, top):
    variant = smallest(family)
    model = getattr(km, variant.name)(weights=None, include_top=top)
    size = model.input_shape[1] or 224
    shape = (1, size, size, 3)
    images = np.random.default_rng(0).normal(size=shape).astype("float32")
    found = _results(model, images)
    _check(found, images)
    for result in found.values():
        assert result.png()[:4] == b"\x89PNG"
