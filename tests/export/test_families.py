"""The smallest constructor of every family, at its full size, in three formats.

    KERAS_BACKEND=jax pytest tests/export/test_families.py --junitxml jax.xml

keeps the reports in `jax.xml`, from which `benchmarks/litert_files.py` writes a table.
"""

import functools
import os

import keras
import pytest

from keras_metaformer.export import litert, to_litert
from tests.export.models import shake
from tests.small_models import FAMILIES, smallest


@pytest.mark.large
@pytest.mark.parametrize("family", FAMILIES)
def test_family(family, vulkan, tmp_path, monkeypatch, record_testsuite_property):
    # The formats are made of one float32 file, and its conversion takes longest.
    monkeypatch.setattr(litert, "convert", functools.cache(litert.convert))
    variant = smallest(family)
    model = variant.constructor(weights=None, include_preprocessing=True)
    # As initialised, layer scales of 1e-5 would hide what the blocks compute.
    shake(model, kernels=1.0)
    reports = {}
    for quantize in (None, "float16", "dynamic"):
        report = to_litert(
            model,
            tmp_path / f"{variant.name}.tflite",
            quantize,
            latency_runs=0,
        )
        record_testsuite_property(
            f"{keras.backend.backend()} {variant.name} {quantize or 'float32'}",
            report.to_json(),
        )
        reports[quantize] = report
        assert report.exact
        assert report.images == "12 images, photographs"
        assert report.xnnpack_partitions == 1
        assert report.outside_xnnpack == []
        assert report.maximal_rank <= 4
        assert report.gpu_obstacles == []
        assert not any("Flex" in operator for operator in report.operators)
    floats = reports[None]
    assert floats.tolerance == 1e-4
    assert floats.top1_agreement == 1
    assert 4 * model.count_params() == pytest.approx(floats.size_bytes, rel=0.05)
    half, quarter = (
        reports[quantize].size_bytes / floats.size_bytes
        for quantize in ("float16", "dynamic")
    )
    assert half == pytest.approx(1 / 2, rel=0.05)
    assert quarter == pytest.approx(1 / 4, rel=0.15)
    if "VK_ICD_FILENAMES" not in os.environ:
        pytest.skip("all but the GPU is tested; apt-get install chromium brings one")
    for report in reports.values():
        assert report.gpu.startswith("compiled whole")
    assert float(floats.gpu.rpartition(" ")[2]) < 1e-4
