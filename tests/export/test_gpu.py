"""A small model of each family on LiteRT's GPU accelerator."""

import pytest

from keras_metaformer.demo.models import FAMILIES, build_model
from keras_metaformer.export import to_litert
from keras_metaformer.export.report import gpu_verdict
from tests.export.models import shake

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize("family", FAMILIES)
def test_compiles_whole(family, vulkan, tmp_path):
    path = tmp_path / "model.tflite"
    model = shake(build_model(family=family))
    to_litert(model, path, check_gpu=False, latency_runs=0, verbose=False)
    verdict = gpu_verdict(path)
    if verdict.startswith("not tested"):
        pytest.skip(f"{verdict}; apt-get install chromium brings one")
    assert verdict.startswith("compiled whole")
    difference = float(verdict.rpartition(" ")[2])
    assert difference < 1e-4
