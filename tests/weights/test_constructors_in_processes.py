"""Real constructors in child processes: from the hub, races, kills, no PyTorch."""

import importlib.util
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import keras_metaformer as km
from keras_metaformer.weights import catalogue
from tests.golden import cases
from tests.weights import synthetic, torch_files
from tests.weights.servers import Fault, Server

pytestmark = pytest.mark.backend_independent

ROOT = Path(km.__path__[0]).parent
# Says the checksum of the weights that it ends up with.
CHILD = """
import sys, zlib
import keras_metaformer as km

arrays = km.to_state_dict(km.PoolFormerV2S12(), "timm")
print(zlib.crc32(b"".join(arrays[key].tobytes() for key in sorted(arrays))))
"""


def start(script: str, folder: Path, *arguments: str | Path, **variables: str):
    """Starts Python with a cache in `folder` and a home of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "KERAS_METAFORMER_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        **variables,
    }
    for name in ("HF_HUB_OFFLINE", "KERAS_METAFORMER_OFFLINE", "HF_HUB_CACHE"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
    )


@pytest.fixture(scope="module")
def content() -> dict[str, np.ndarray]:
    row = catalogue.find("PoolFormerV2S12", "imagenet")
    return synthetic.make(row, "auto").state_dict


@pytest.fixture
def hub(content) -> Iterator[Server]:
    with Server().running() as server:
        path = "/timm/poolformerv2_s12.sail_in1k/resolve/main/model.safetensors"
        server.files[path] = safetensors.numpy.save(content)
        yield server


def checksum(content: dict[str, np.ndarray]) -> str:
    data = b"".join(content[key].tobytes() for key in sorted(content))
    return str(zlib.crc32(data))


def finish(child: subprocess.Popen[str]) -> list[str]:
    output, errors = child.communicate(timeout=600)
    assert child.returncode == 0, errors
    return output.split()


def test_two_at_once_make_one_download_and_two_good_models(hub, content, tmp_path):
    children = [start(CHILD, tmp_path, HF_ENDPOINT=hub.address) for _ in range(2)]
    assert [finish(child) for child in children] == [[checksum(content)]] * 2
    assert hub.methods() == ["HEAD", "HEAD", "GET"]
    # A third asks nobody.
    hub.requests.clear()
    assert finish(start(CHILD, tmp_path, HF_ENDPOINT=hub.address)) == [
        checksum(content)
    ]
    assert hub.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_during_the_download(hub, content, tmp_path):
    hub.faults = [Fault(2_000_000, "stall")]
    child = start(CHILD, tmp_path, HF_ENDPOINT=hub.address)
    assert hub.stalled.wait(300)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    again = start(CHILD, tmp_path, HF_ENDPOINT=hub.address)
    assert finish(again) == [checksum(content)]


WITHOUT_TORCH = """
import sys

class NoTorch:
    @staticmethod
    def find_spec(name, *_):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch)
import numpy as np
import keras_metaformer as km

for path in sys.argv[1:]:
    state_dict = km.to_state_dict(km.ResMLP12(weights=path), "official")
    arrays = km.read_checkpoint(path)
    assert arrays.keys() == state_dict.keys()
    assert all(np.array_equal(arrays[key], state_dict[key]) for key in arrays)
    print(len(arrays))
assert "torch" not in sys.modules
"""


def test_a_pytorch_file_needs_no_pytorch(tmp_path):
    backends = [
        name
        for name in (os.environ["KERAS_BACKEND"], "tensorflow", "jax")
        if name != "torch" and importlib.util.find_spec(name) is not None
    ]
    assert backends, "neither TensorFlow nor JAX is installed"
    case = next(c for c in cases.all_cases() if c["name"] == "resmlp_12")
    arrays = cases.state_dict(case)
    tensors = torch_files.tensors(arrays)
    paths = [
        torch_files.write(tmp_path / "zip.pth", torch_files.zip_bytes(tensors)),
        torch_files.write(tmp_path / "legacy.pth", torch_files.legacy_bytes(tensors)),
    ]
    child = start(WITHOUT_TORCH, tmp_path, *paths, KERAS_BACKEND=backends[0])
    assert finish(child) == [str(len(arrays))] * 2
