"""`keras-metaformer convert`: bit for bit between formats and namings."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner, Result

import keras_metaformer as km
from keras_metaformer.models import families
from keras_metaformer_lite.cli import app
from tests.weights import torch_files

SAIL = "sail-sg/metaformer"


def run(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def model(classes: int = 7) -> keras.Model:
    """Weights that no initialiser makes, so that none can be mistaken for loaded."""
    built = families.get("PoolFormerV2S12").constructor(weights=None, classes=classes)
    random = np.random.default_rng(classes)
    for weight in built.weights:
        weight.assign(random.normal(size=weight.shape).astype("float32"))
    return built


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.mark.one_backend
def test_there_and_back_bit_for_bit(tmp_path: Path) -> None:
    """One chain through all formats that are written, and two namings."""
    start = model()
    official, timm = (km.to_state_dict(start, name) for name in ("official", "timm"))
    start.save(tmp_path / "a.keras")

    run(tmp_path / "a.keras", tmp_path / "b.safetensors", "--naming", "timm")
    assert_equal(km.read_checkpoint(tmp_path / "b.safetensors"), timm)
    assert_equal(safetensors.numpy.load_file(tmp_path / "b.safetensors"), timm)

    # The number of classes is seen in the file.
    name = ("--model", "poolformerv2_s12")
    run(tmp_path / "b.safetensors", tmp_path / "c.npz", *name)
    assert_equal(km.read_checkpoint(tmp_path / "c.npz"), official)

    result = run(tmp_path / "c.npz", tmp_path / "d.weights.h5", *name)
    assert "d.weights.h5" in result.output
    assert f"{start.count_params():,} parameters" in result.output
    end = families.get("PoolFormerV2S12").constructor(
        weights=tmp_path / "d.weights.h5", classes=7
    )
    assert_equal(km.to_state_dict(end, "official"), official)

    run(tmp_path / "d.weights.h5", tmp_path / "e.npz", *name, "--classes", "7",
        "--naming", SAIL)  # fmt: skip
    assert_equal(km.read_checkpoint(tmp_path / "e.npz"), official)
    # Nothing temporary stays.
    assert sorted(os.listdir(tmp_path)) == [
        "a.keras", "b.safetensors", "c.npz", "d.weights.h5", "e.npz"
    ]  # fmt: skip


@pytest.mark.backend_independent
def test_a_pytorch_checkpoint_as_for_a_tag(tmp_path: Path) -> None:
    arrays = km.to_state_dict(model(1000), "official")
    source = tmp_path / "model.pth.tar"
    contents = {"state_dict": torch_files.tensors(arrays)}
    source.write_bytes(torch_files.zip_bytes(contents))
    target = tmp_path / "model.npz"
    target.write_bytes(b"to be replaced")
    run(source, target, "--model", "PoolFormerV2S12", "--tag", "imagenet",
        "--naming", "official")  # fmt: skip
    assert_equal(km.read_checkpoint(target), arrays)


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.npz", "b.onnx", "--model", "ResMLP12"), ".safetensors, .npz, .weights.h5"),
        (("no.npz", "b.npz", "--model", "ResMLP12"), "no such file"),
        (("a.npz", "b.npz"), "--model is needed"),
        (("a.npz", "b.npz", "--model", "ResMLP13"), "ResMLP12"),
        (("a.npz", "b.npz", "--model", "ResMLP12", "--tag", "in1k"), "imagenet_dino"),
        (("a.npz", "b.npz", "--model", "ResMLP12", "--naming", "jax"), "timm"),
        (
            ("a.npz", "b.weights.h5", "--model", "ResMLP12", "--naming", "timm"),
            "--naming is for the keys of .safetensors, .npz",
        ),
        (("a.keras", "b.npz", "--model", "ResMLP12"), "leave out --model"),
    ],
)
def test_a_command_line_without_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.npz", "a.keras"):
        Path(name).write_bytes(b"content")
    result = run(*arguments, status=2)
    assert words in result.output
    assert sorted(os.listdir()) == ["a.keras", "a.npz"]


@pytest.mark.backend_independent
def test_files_that_do_not_load_or_fit(tmp_path: Path) -> None:
    target = tmp_path / "b.npz"
    damaged = tmp_path / "a.keras"
    damaged.write_bytes(b"no zip archive")
    assert "a.keras" in run(damaged, target, status=3).output

    source = tmp_path / "a.npz"
    name = ("--model", "PoolFormerV2S12")
    source.write_bytes(b"content")
    assert "cannot be read" in run(source, target, *name, status=3).output
    np.savez(source, weight=np.zeros(3))
    assert "in no naming known" in run(source, target, *name, status=3).output

    arrays = km.to_state_dict(model(), "official")
    np.savez(source, allow_pickle=False, **arrays)
    output = run(source, target, *name, "--classes", "8", status=3).output
    assert "classes, not 8" in output
    np.savez(source, allow_pickle=False, **{**arrays, "extra": np.zeros(3)})
    assert "extra: unknown" in run(source, target, *name, status=3).output
    assert not target.exists()


@pytest.mark.backend_independent
def test_a_naming_or_folder_that_does_not_do(tmp_path: Path) -> None:
    source = tmp_path / "a.npz"
    np.savez(source, allow_pickle=False, **km.to_state_dict(model(), "official"))
    name = ("--model", "PoolFormerV2S12")
    output = run(source, tmp_path / "b.npz", *name, "--naming", "ysj9909/FFNet",
                 status=1).output  # fmt: skip
    assert "has no names for all weights" in output
    output = run(source, tmp_path / "missing" / "b.npz", *name, status=1).output
    assert "a folder that exists" in output
    assert os.listdir(tmp_path) == ["a.npz"]
