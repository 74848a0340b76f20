"""What is compared, and what is refused before anything is measured."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks import plan
from benchmarks.contender import (
    Contender,
    parse_contender,
)
from benchmarks.plan import find_peer_python, make_plan
from keras_metaformer_lite.weights.timm_names import timm_name

pytestmark = pytest.mark.backend_independent


@pytest.fixture
def no_timm(monkeypatch):
    monkeypatch.delenv(plan.PEER_PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(plan, "_has_timm", lambda python: False)
    find_peer_python.cache_clear()
    yield
    find_peer_python.cache_clear()


@pytest.fixture
def timm(monkeypatch):
    """As if this interpreter had timm."""
    monkeypatch.setattr(plan, "_has_timm", lambda python: True)
    find_peer_python.cache_clear()
    yield sys.executable
    find_peer_python.cache_clear()


def _labels(contenders):
    return [contender.label for contender in contenders]


def test_contenders_by_name():
    both = ["jax", "torch"]
    assert parse_contender("ours+folded@jax", both) == [
        Contender("ours", "jax", ("folded",))
    ]
    assert _labels(parse_contender("stock", both)) == ["stock@jax", "stock@torch"]
    assert _labels(parse_contender("ours+compile", both)) == ["ours+compile@torch"]
    # timm runs on torch, whatever the backends of Keras.
    assert _labels(parse_contender("timm+compile+channels_last", ["jax"])) == [
        "timm+compile+channels_last"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("theirs", "must be one of ours, stock"),
        ("ours+", "is written KIND"),
        ("ours+channels_last", "options of ours are: folded"),
        ("roofline+folded", "options of roofline are: none"),
        ("ours+folded+folded", "options of ours"),
        ("ours+xla@torch", "runs on tensorflow"),
        ("ours+xla+compile", "runs on no backend"),
        ("ours@caffe", "runs on tensorflow or jax or torch"),
        ("timm@jax", "timm runs on torch"),
    ],
)
def test_contenders_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        parse_contender(text, ["tensorflow", "jax", "torch"])
    assert f"Received: contender={text!r}" in str(error.value)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("CAFormerS18", "caformer_s18"),
        ("ConvFormerB36", "convformer_b36"),
        ("PoolFormerV2S12", "poolformerv2_s12"),
        ("PoolFormerM48", "poolformer_m48"),
        ("MLPMixerB16", "mixer_b16_224"),
        ("ResMLP12", "resmlp_12_224"),
        ("ResMLPB24", "resmlp_big_24_224"),
        ("GMLPTi16", "gmlp_ti16_224"),
        ("RandFormerS12", None),
        ("FFNet1", None),
    ],
)
def test_names_in_timm(ours, theirs):
    assert timm_name(ours) == theirs


def test_a_plan(timm):
    found = make_plan(
        ["caformers18", "FFNet?"],
        backends=["jax"],
        modes=["inference", "training"],
        resolution=128,
        peer_python=timm,
    )
    assert [
        (case.model, case.mode, case.batch)
        for case in found.cases
        if case.model in ("CAFormerS18", "FFNet1")
    ] == [
        ("CAFormerS18", "inference", 1),
        ("CAFormerS18", "inference", 4),
        ("CAFormerS18", "training", 8),
        ("FFNet1", "inference", 1),
        ("FFNet1", "inference", 4),
        ("FFNet1", "training", 8),
    ]
    assert {case.resolution for case in found.cases} == {128}
    inference, training = (
        _labels(contenders)
        for case, contenders in found.cases.items()
        if case.model == "CAFormerS18" and case.batch in (4, 8)
    )
    assert inference == [
        *("ours@jax", "ours+folded@jax", "stock@jax"),
        *("timm", "timm+compile", "timm+compile+channels_last"),
        *("convnext@jax", "roofline@jax"),
    ]
    assert training == [each for each in inference if "folded" not in each]
    assert found.baseline == "timm*"
    assert found.peer_python == timm
    assert "timm is left out for FFNet1: timm has no such model" in found.notes


def test_resolution_and_baseline_where_nothing_is_said(no_timm):
    found = make_plan(["CAFormerS18"], ["stock", "ours"], backends=["jax"])
    assert {case.resolution for case in found.cases} == {224}
    assert found.baseline == "stock@jax"
    assert found.notes == []


def test_timm_is_left_out_with_a_line(no_timm):
    found = make_plan(["CAFormerS18"], backends=["jax"])
    kinds = {each.kind for contenders in found.cases.values() for each in contenders}
    assert kinds == {"ours", "stock", "convnext", "roofline"}
    assert any("make peers" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": ["NoFormerS18"]}, "Unknown model"),
        ({"models": ["no*"]}, "No model matches"),
        ({"modes": ["sleeping"]}, "`mode` must be one of inference, training"),
        ({"dtypes": ["int8"]}, "`dtype` must be one of float32"),
        ({"devices": ["tpu"]}, "`device` must be one of cpu, gpu"),
        ({"backends": ["theano"]}, "`backend` must be one of"),
        ({"contenders": ["timm"]}, "timm and torch are not installed"),
        ({"contenders": ["ours"], "baseline": "stock"}, "`baseline` must be one of"),
        ({"contenders": ["ours+folded"], "modes": ["training"]}, "Nothing is left"),
        ({"peer_python": "/no/python"}, "must be the path of a Python interpreter"),
    ],
)
def test_refused(arguments, message, no_timm):
    arguments = {"models": ["CAFormerS18"], "backends": ["jax"], **arguments}
    with pytest.raises(ValueError, match=re.escape(message)):
        make_plan(**arguments)


def test_a_backend_that_is_not_installed(monkeypatch):
    present = plan.importlib.util.find_spec
    monkeypatch.setattr(
        plan.importlib.util,
        "find_spec",
        lambda name: None if name == "jax" else present(name),
    )
    with pytest.raises(ValueError, match="jax is not installed: pip install"):
        make_plan(["CAFormerS18"], ["ours"], backends=["jax"])
    with pytest.raises(ValueError, match="jax is not installed"):
        make_plan(["CAFormerS18"], ["ours@jax"], backends=["torch"])
    found = make_plan(["CAFormerS18"], ["ours"])
    assert _labels(next(iter(found.cases.values()))) == [
        "ours@tensorflow",
        "ours@torch",
    ]


def test_a_model_that_timm_has_not(timm):
    with pytest.raises(ValueError, match="timm has no FFNet1"):
        make_plan(["FFNet1"], ["timm"], peer_python=timm)


def test_gpus(monkeypatch):
    monkeypatch.setattr(plan, "_counts_gpus", lambda python, backend: backend == "jax")
    with pytest.raises(ValueError, match=r"torch in .* sees no GPU"):
        make_plan(["CAFormerS18"], ["ours"], backends=["torch"], devices=["gpu"])
    found = make_plan(["CAFormerS18"], ["ours"], backends=["jax"], devices=["gpu"])
    assert {case.device for case in found.cases} == {"gpu"}
    monkeypatch.setattr(plan, "_counts_gpus", lambda python, backend: False)
    monkeypatch.setattr(plan, "_has_timm", lambda python: False)
    find_peer_python.cache_clear()
    with pytest.raises(ValueError, match="No backend sees a GPU"):
        make_plan(["CAFormerS18"], devices=["gpu"])
    find_peer_python.cache_clear()


def test_an_interpreter_without_timm_is_known_as_such(tmp_path, monkeypatch):
    assert not plan._has_timm(tmp_path / "python")
    (tmp_path / "timm.py").write_text("")
    monkeypatch.chdir(tmp_path)  # where it is not looked for
    assert not plan._has_timm(Path(sys.executable)) or _timm_is_installed()


def _timm_is_installed():
    import importlib.util

    return importlib.util.find_spec("timm") is not None
