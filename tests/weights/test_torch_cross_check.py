"""Files that PyTorch itself has written, where PyTorch is installed."""

from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from keras_metaformer.weights.files.errors import CheckpointError
from keras_metaformer.weights.files.readers import read_checkpoint
from tests.weights import torch_files

torch = pytest.importorskip(
    "torch", reason="compares with torch.save itself; the others need no PyTorch"
)
layouts = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path, contents, zipped, **options):
    torch.save(contents, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def as_numpy(tensor) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def assert_equal(arrays, tensors) -> None:
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        expected = as_numpy(tensor)
        assert arrays[name].dtype == expected.dtype
        assert arrays[name].shape == expected.shape
        assert arrays[name].tobytes() == expected.tobytes()


def sample_tensors() -> OrderedDict:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=generator)
    tensors = OrderedDict(
        (f"of_{name}", (base * 50).to(getattr(torch, name)))
        for name in torch_files.STORAGE_NAMES
    )
    tensors["whole"] = base
    tensors["transposed"] = base.t()
    tensors["part"] = base[1::2, 2:7:3]
    tensors["expanded"] = base[:1].expand(4, 8)
    tensors["scalar"] = base[3, 3]
    tensors["parameter"] = torch.nn.Parameter(base[2])
    tensors["channels_last"] = torch.randn(2, 3, 4, 5, generator=generator).to(
        memory_format=torch.channels_last
    )
    tensors["bfloat16_part"] = base.to(torch.bfloat16)[:, 1]
    tensors["empty"] = torch.zeros(0, 3)
    tensors["steps"] = torch.tensor(3)
    return tensors


@layouts
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_of_every_kind(tmp_path, zipped, protocol):
    tensors = sample_tensors()
    path = save(tmp_path / "f.pth", tensors, zipped, pickle_protocol=protocol)
    assert_equal(read_checkpoint(path), tensors)


@layouts
def test_a_training_checkpoint(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    wrapped = torch.nn.DataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 1, 2])
    contents = {
        "epoch": 1,
        "state_dict": wrapped.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "metric": np.float64(0.5),
        "random": np.random.default_rng(0).normal(size=3),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "size": torch.Size([1, 2]),
    }
    path = save(tmp_path / "f.pth.tar", contents, zipped)
    assert_equal(read_checkpoint(path), model.state_dict())


@layouts
def test_a_whole_model_is_refused(tmp_path, zipped):
    path = save(tmp_path / "f.pth", torch.nn.Linear(1, 1), zipped)
    with pytest.raises(CheckpointError, match=r"linear\.Linear"):
        read_checkpoint(path)


def test_a_torchscript_program_is_refused(tmp_path):
    path = tmp_path / "f.pt"
    torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)).save(path)
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(path)


@layouts
def test_pytorch_reads_what_these_tests_write(tmp_path, zipped):
    arrays = torch_files.sample_arrays()
    layout = torch_files.zip_bytes if zipped else torch_files.legacy_bytes
    path = torch_files.write(tmp_path / "f.pth", layout(torch_files.tensors(arrays)))
    assert_equal(arrays, torch.load(path, weights_only=True))
