"""The smallest constructor of every family, at its full size, in three formats."""

import os

import keras
import pytest

import keras_metaformer as km
from keras_metaformer.export import to_litert

SMALLEST = [
    "IdentityFormerS12",
    "RandFormerS12",
    "PoolFormerS12",
    "PoolFormerV2S12",
    "ConvFormerS18",
    "CAFormerS18",
    "MLPMixerS32",
    "ResMLP12",
    "GMLPTi16",
    "FFNet1",
]


@pytest.mark.large
@pytest.mark.parametrize("name", SMALLEST)
def test_family(name, vulkan, tmp_path):
    keras.utils.set_random_seed(0)
    model = getattr(km, name)(weights=None, include_preprocessing=True)
    sizes = {}
    for quantize in (None, "float16", "dynamic"):
        # The GPU is asked wherever there is a Vulkan driver.
        report = to_litert(
            model,
            tmp_path / "model.tflite",
            quantize,
            latency_runs=1,
            report_path=tmp_path / "report.json",
        )
        assert report.xnnpack_partitions == 1
        assert report.outside_xnnpack == []
        assert report.maximal_rank <= 4
        assert report.gpu_obstacles == []
        if "VK_ICD_FILENAMES" in os.environ:
            assert report.gpu.startswith("compiled whole")
        assert not any("Flex" in operator for operator in report.operators)
        sizes[quantize] = report.size_bytes
    assert sizes["float16"] == pytest.approx(sizes[None] / 2, rel=0.1)
    assert sizes["dynamic"] == pytest.approx(sizes[None] / 4, rel=0.2)
