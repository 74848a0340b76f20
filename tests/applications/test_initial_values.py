"""Fresh models against the recorded starts of the reference implementations.

`tests/golden/initial_values.json.gz` holds one draw of each parameter; two draws differ
by chance, so that each bound here is that of sampling.
"""

import math
import re
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.blocks import MetaFormerBlock, ResidualBranch
from keras_metaformer.models import families
from tests.golden import cases

RATES = "stochastic depth of each module (0 where the reference puts an identity)"
PARAMETERS = "parameters [shape, mean, standard deviation, least, largest]"
#: The cut of timm's `trunc_normal_`.
CUT = 2.0
RECORDED = cases.initial_values()


def _constructor(model: str) -> str:
    """The name here of what the file calls `timm.mixer_s32_224.nlhb`, say."""
    name = re.sub(r"^timm\.|_224$|_224\.nlhb$|_", "", model)
    name = re.sub("^mixer", "mlpmixer", name)
    by_lower = {known.lower(): known for known in families.names()}
    return by_lower[name]


def _parametrise() -> list:
    """The smallest of each family; the others are marked large."""
    smallest: dict[str, tuple[int, str]] = {}
    for model in RECORDED:
        variant = families.get(_constructor(model))
        best = smallest.get(variant.family)
        if best is None or variant.parameters < best[0]:
            smallest[variant.family] = (variant.parameters, model)
    quick = {model for _, model in smallest.values()}
    return [
        pytest.param(model, marks=() if model in quick else pytest.mark.large)
        for model in RECORDED
    ]


# Drawn by NumPy.
@pytest.mark.one_backend
@pytest.mark.parametrize("model", _parametrise())
def test_a_fresh_model_starts_as_the_reference(model: str) -> None:
    record = RECORDED[model]
    keras.utils.set_random_seed(2)
    fresh = getattr(km, _constructor(model))(weights=None, stochastic_depth_rate=0.2)
    _check_rates(fresh, record[RATES])
    naming = "timm" if "timm" in record["source"] else record["source"]
    weights = km.to_state_dict(fresh, naming)
    parameters = record[PARAMETERS]
    buffers = {key for key in weights if re.search(r"\.running_(mean|var)$", key)}
    assert set(parameters) == set(weights) - buffers
    for key, statistics in parameters.items():
        _check_weight(key, weights[key].astype("float64"), *statistics)


def _check_rates(fresh: Any, recorded: list) -> None:
    """Stochastic depth block by block; an identity stands for a rate of zero."""
    expected: dict[str, set[float]] = {}
    for path, rate in recorded:
        block = re.match(r"\w+(\.\d+)+", path)
        assert block is not None
        expected.setdefault(block[0], set()).add(round(rate, 6))
    ours = []
    for layer in fresh.layers:
        branches = (
            [layer.token_mixing, layer.channel_mixing]
            if isinstance(layer, MetaFormerBlock)
            else [layer]
        )
        if isinstance(branches[0], ResidualBranch):
            ours.append({branch.stochastic_depth_rate for branch in branches})
    assert all(len(rates) == 1 for rates in (*ours, *expected.values()))
    given = [rate for (rate,) in ours if rate]
    np.testing.assert_allclose(
        given, [rate for (rate,) in expected.values()], atol=2e-6
    )
    # Linear rates start at zero, constant ones do not.
    assert len(ours) - len(given) in (0, 1)


def _check_weight(
    key: str,
    values: np.ndarray,
    shape: list[int],
    mean: float,
    stddev: float,
    least: float,
    largest: float,
) -> None:
    assert list(values.shape) == shape, key
    count = values.size
    if stddev == 0:
        np.testing.assert_allclose(values, mean, rtol=1e-6, err_msg=key)
        return
    if least == -CUT:
        # Single precision has no inverse of the error function at the least uniform
        # number: PyTorch gives minus infinity, timm cuts it off.
        stddev = math.sqrt(stddev**2 - (CUT + mean) ** 2 / count)
        least = -largest
    limit = 5 * math.sqrt(2 / count) * stddev
    assert abs(values.mean() - mean) < limit, key
    # Of a normal distribution, the widest of those here.
    limit = 5 / math.sqrt(count) * stddev
    assert abs(values.std() - stddev) < limit, key
    for ours, theirs in ((values.min(), least), (values.max(), largest)):
        ours, theirs = (abs(extreme - mean) / stddev for extreme in (ours, theirs))
        assert abs(ours - theirs) < _sampling_error_of_extremes(theirs, count), key


def _sampling_error_of_extremes(extreme: float, count: int) -> float:
    """Bound for the difference of two samples' extremes, in standard deviations.

    A uniform distribution ends at 1.73 and one cut at two standard deviations at 2.27,
    and large samples come close to that, the rows of a random matrix each with a sum
    of its own; those of a normal one go beyond 3.
    """
    if extreme < 2.5 and count > 2000:
        return 0.3 + 30 / math.sqrt(count)
    return 10 / math.sqrt(2 * math.log(count))
