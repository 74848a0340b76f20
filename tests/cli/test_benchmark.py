"""`keras-metaformer benchmark`: forms of a model, measured and made up."""

import json
from typing import Any

import keras
import pytest
from typer.testing import CliRunner

from keras_metaformer_lite.benchmark import forms, turns
from keras_metaformer_lite.benchmark.forms import FORMS, Job
from keras_metaformer_lite.cli import app
from tests.small_models import build_small

BACKEND = keras.backend.backend()


def _run(*arguments):
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.keras"
    build_small("poolformerv2").save(path)
    return path


QUICK = ("--repetitions", 2, "--minimum-seconds", 0)


@pytest.mark.one_backend
def test_a_file_on_the_active_backend(model_file):
    patterns = [f"{BACKEND}-eager"]
    if BACKEND != "torch":  # whose compiler is slow, and asks for one of C++
        patterns.append(f"{BACKEND}-comp*")
    chosen = [word for pattern in patterns for word in ("-f", pattern)]
    result = _run(
        *("--model", model_file, *chosen, *QUICK),
        *("--batch", 1, "--batch", 3, "--threads", 1, "--json"),
    )
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["model"] == str(model_file)
    rows = printed["rows"]
    assert [(row["form"], row["batch"]) for row in rows] == [
        (f"{BACKEND}-{how}", batch)
        for batch in (1, 3)
        for how in ("eager", "compiled")[: len(patterns)]
    ]
    for row in rows:
        assert row["status"] == "ok"
        assert row["threads"] == 1
        assert 0 < row["q1_ms"] <= row["median_ms"] <= row["q3_ms"]
        assert row["images_per_s"] == pytest.approx(
            1e3 * row["batch"] / row["median_ms"]
        )
        assert row["ratio"] > 0 and row["memory_mib"] > 10 and row["prepare_s"] > 0
    assert printed["recommendation"].startswith("Fastest with batch 1: ")
    assert "; with batch 3: " in printed["recommendation"]


@pytest.mark.large
def test_exported_files_of_a_model_of_the_list():
    result = _run(
        *("--model", "poolformerv2s12", "--resolution", 32, *QUICK),
        *("-f", "litert", "-f", "onnxruntime", "--batch", 2, "--json"),
    )
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["model"] == "PoolFormerV2S12"
    assert [(row["form"], row["resolution"]) for row in printed["rows"]] == [
        ("litert", 32),
        ("onnxruntime", 32),
    ]
    assert all(row["median_ms"] > 0 for row in printed["rows"])


@pytest.mark.large
@pytest.mark.parametrize("form", ["openvino", "saved-model", "pt2", "stablehlo"])
def test_other_exported_forms(model_file, form):
    options = ("--threads", 1, "--json", *QUICK)
    result = _run("--model", model_file, "-f", form, *options)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert row["status"] == "ok", row
    assert row["median_ms"] > 0


def _outcome(form, milliseconds, threads=None, batch=1, status="ok", message=""):
    return turns.Outcome(
        Job(form, "CAFormerS18", batch, threads),
        status,
        message,
        {"build_s": 1.0, "compile_s": 2.0},
        [{"seconds": 1e-3 * each} for each in milliseconds],
        {"peak_memory": 2**20, "resolution": 224},
    )


def _print(monkeypatch, *outcomes, missing=()):
    """What the command prints of these outcomes, without those in `missing`."""
    monkeypatch.setattr(turns, "compare", lambda jobs, *_, **__: outcomes)
    monkeypatch.setattr(
        forms,
        "missing_modules",
        lambda form: list(FORMS[form].needs)[-1:] if form in missing else [],
    )
    return _run()


@pytest.mark.backend_independent
def test_the_table_and_the_last_line(monkeypatch):
    result = _print(
        monkeypatch,
        _outcome("tensorflow-compiled", [40.0, 44.0, 42.0]),
        _outcome("torch-compiled", [21.0, 19.0, 20.5], threads=2),
        _outcome("litert", [20.0, 20.0, 20.0], threads=2),
        missing=("onnxruntime", "jax-eager", "jax-compiled"),
    )
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["tensorflow-compiled", "all", "42.0", "41.0-43.0"] in [x[:4] for x in lines]
    (litert,) = (line for line in lines if line[:1] == ["litert"])
    assert litert == ["litert", "2", *("20.0", "20.0-20.0", "50", "1.00", "3.0", "1")]
    assert "not installed: onnxruntime: pip install" in result.stdout
    assert '"keras-metaformer[jax]"' in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "Fastest with batch 1: litert on 2 threads, 20.0 ms (keras-metaformer export, "
        "km.export.LiteRTModel), no faster than torch-compiled on 2 threads for sure"
    )


@pytest.mark.backend_independent
def test_a_form_that_fails_is_in_the_table(monkeypatch):
    lost = _outcome("jax-eager", [], status="failed", message="ValueError: lost")
    result = _print(monkeypatch, lost, _outcome("litert", [2.0]))
    assert result.exit_code == 1
    assert "failed: ValueError: lost" in result.stdout
    assert "Fastest with batch 1: litert, 2.0 ms" in result.stdout
    assert "1 of 2 forms failed" in result.stderr


@pytest.mark.backend_independent
def test_where_nothing_is_installed(monkeypatch):
    result = _print(monkeypatch, missing=FORMS)
    assert result.exit_code == 1
    assert "not installed: torch: pip install" in result.stdout
    assert "No form could be measured" in result.stderr


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "NoFormerS12"], "Unknown model"),
        (["--model", "nothing.keras"], "There is no such file"),
        (["--form", "caffe"], "A form must be one of tensorflow-eager,"),
        (["--repetitions", "0"], "repetitions"),
        (["--threads", "0"], "threads"),
    ],
)
def test_errors(arguments, message):
    result = _run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.backend_independent
def test_a_worker_gets_its_backend_and_its_threads(monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(
        forms, "WorkerProcess", lambda *arguments: seen.append(arguments)
    )
    forms.start_worker(7.0)(Job("jax-compiled", "CAFormerS18", 1, threads=3))
    ((_, environment, timeout),) = seen
    assert environment["KERAS_BACKEND"] == "jax"
    assert environment["NPROC"] == "3"
    assert timeout == 7


@pytest.mark.backend_independent
def test_a_model_of_open_size_needs_a_resolution(tmp_path):
    image = keras.Input((None, None, 3))
    outputs = keras.layers.GlobalAveragePooling2D()(image)
    path = str(tmp_path / "open.keras")
    keras.Model(image, outputs).save(path)
    job = {"form": f"{BACKEND}-eager", "model": path, "batch": 1}
    with pytest.raises(ValueError, match="needs a resolution"):
        forms.make(job)
    call, about = forms.make(job | {"resolution": 8})
    assert call().shape == (1, 3)
    assert about() == {"resolution": 8}


def test_folded():
    job = {"form": f"{BACKEND}-eager", "model": "FFNet1", "batch": 1, "fold": True}
    model = forms._model(Job(**job, resolution=32))
    assert not any(
        isinstance(layer, keras.layers.BatchNormalization)
        for layer in model._flatten_layers()
    )
