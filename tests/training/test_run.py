"""`km.train` and the commands around it, on a few digits."""

import csv
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import keras_metaformer as km
from keras_metaformer.training import checkpoint, loop, run, run_folder
from keras_metaformer.training.memory import give_back_freed_memory
from keras_metaformer_lite.cli import app
from tests.training.photographs import SETTINGS, small_model, write_digits

EPOCHS, BATCH = 3, 16


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_digits(folder, classes=3, each=24)
    small_model(folder / "small.keras")
    return folder


def _command(photographs, output, *more, **settings):
    settings = {**SETTINGS, **settings}
    return [
        "train",
        str(photographs),
        "--model",
        str(photographs / "small.keras"),
        "--output",
        str(output),
        "--epochs",
        str(EPOCHS),
        "--batch",
        str(BATCH),
        "--accumulate",
        "1",
        "--workers",
        "0",
        *(
            part
            for key, value in settings.items()
            for part in ("--set", f"{key}={value}")
        ),
        *more,
    ]


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    result = CliRunner().invoke(app, _command(photographs, output))
    assert result.exit_code == 0, result.output
    return output, result.output


def test_the_folder_of_a_run(trained):
    folder, said = trained
    assert {path.name for path in folder.iterdir()} == {
        "best.keras",
        "best_average.keras",
        "checkpoint.safetensors",
        "config.json",
        "confusions.png",
        "curves.png",
        "environment.json",
        "evaluation.json",
        "last.keras",
        "last_average.keras",
        "log.csv",
        "mistakes.png",
        "tensorboard",
    }
    for picture in ("confusions", "curves", "mistakes"):
        with Image.open(folder / f"{picture}.png") as image:
            assert image.width > 300
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["recipe"]["learning_rate"] == 3e-3
    assert config["training_data"]["images"] == 72
    assert config["training_data"]["classes"] == ["digit_0", "digit_1", "digit_2"]
    environment = json.loads((folder / "environment.json").read_text("utf-8"))
    assert environment["backend"] == keras.backend.backend()
    assert environment["versions"]["keras"] == keras.__version__
    with (folder / "log.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])
    assert {"loss", "val_loss", "average_val_accuracy", "learning_rate"} <= set(rows[0])
    assert "72 training and 36 validation images of 3 classes" in said
    assert said.count("images/s") == EPOCHS

    events = list((folder / "tensorboard").iterdir())
    assert len(events) == 1 and events[0].stat().st_size > 500


@pytest.mark.one_backend
def test_every_command_gives_what_training_gave(trained, photographs, tmp_path):
    """The run, its best model and its `.tflite`, image by image."""
    from keras_metaformer.export import to_litert

    folder, _ = trained
    found = json.loads((folder / "evaluation.json").read_text("utf-8"))
    best = folder / found.pop("model")
    model: Any = keras.saving.load_model(best)
    names = ["digit_0", "digit_1", "digit_2"]
    assert list(model.image_description.names()) == names
    assert not model.compiled and model.dtype_policy.name == "float32"
    exported = tmp_path / "digits.tflite"
    to_litert(model, exported, labels=names, check_gpu=False, verbose=False)

    answers = {}
    for name in (folder, folder / "checkpoint.safetensors", best, exported):
        result = CliRunner().invoke(
            app,
            ["evaluate", str(photographs / "val"), "--model", str(name), "--json"],
        )
        assert result.exit_code == 0, result.output
        evaluation = json.loads(result.stdout)
        exact = ("images", "top1", "top5", "classes", "confusions")
        assert {key: evaluation[key] for key in exact} == {
            key: found[key] for key in exact
        }
        assert evaluation["loss"] == pytest.approx(found["loss"], abs=1e-4)

        files = sorted((photographs / "val").rglob("*.png"))
        said = km.predict(name, files, batch_size=8, workers=0)
        assert said.names == list(map(str, files))
        answers[name] = said.values
    for values in answers.values():
        np.testing.assert_allclose(values, answers[best], atol=1e-5)
    classified = CliRunner().invoke(
        app,
        ["classify", *map(str, files), "--model", str(best), "--json", "--top", "1"],
    )
    assert classified.exit_code == 0, classified.output
    assert [row["classes"][0]["name"] for row in json.loads(classified.stdout)] == [
        names[place] for place in answers[best].argmax(axis=1)
    ]
    litert = km.export.LiteRTModel(exported)
    assert [row[0][0] for row in litert.classify(list(map(str, files)), top=1)] == [
        names[place] for place in answers[best].argmax(axis=1)
    ]


def test_the_same_command_of_a_finished_run_says_so(trained, photographs):
    folder, _ = trained
    before = (folder / "log.csv").read_bytes(), (folder / "best.keras").read_bytes()
    result = CliRunner().invoke(app, _command(photographs, folder))
    assert result.exit_code == 0, result.output
    assert "finished" in result.output
    after = (folder / "log.csv").read_bytes(), (folder / "best.keras").read_bytes()
    assert before == after


@pytest.mark.one_backend
def test_a_run_that_was_killed_after_its_last_epoch_is_finished(
    trained, photographs, tmp_path
):
    folder, _ = trained
    output = tmp_path / "run"
    shutil.copytree(folder, output)
    lost = ("evaluation.json", "last.keras", "last_average.keras", "mistakes.png")
    for name in lost:
        (output / name).unlink()
    result = CliRunner().invoke(app, _command(photographs, output))
    assert result.exit_code == 0, result.output
    assert {path.name for path in output.iterdir()} == {
        path.name for path in folder.iterdir()
    }
    name = "evaluation.json"
    assert (output / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.one_backend
def test_another_configuration_is_shown(trained, photographs):
    folder, _ = trained
    result = CliRunner().invoke(
        app, _command(photographs, folder, "--seed", "1", learning_rate=1e-3)
    )
    assert result.exit_code == 2
    assert "recipe.learning_rate: 0.003 in the run, 0.001 now" in result.output
    assert "seed: 0 in the run, 1 now" in result.output
    assert "recipe.epochs" not in result.output


@pytest.mark.one_backend
def test_a_stopped_run_goes_on_with_another_number_of_workers(
    trained, photographs, tmp_path
):
    output = tmp_path / "run"
    command = _command(photographs, output, "--time", "0.001s")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "the same command goes on" in result.output
    command = _command(photographs, output)
    command[command.index("--workers") + 1] = "2"
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    folder, _ = trained
    assert (output / "log.csv").read_bytes() == (folder / "log.csv").read_bytes()
    arrays, about = checkpoint.read_state(output / "checkpoint.safetensors")
    others, other = checkpoint.read_state(folder / "checkpoint.safetensors")
    assert about == other
    for name, other_name in zip(sorted(arrays), sorted(others), strict=True):
        np.testing.assert_array_equal(arrays[name], others[other_name])


@pytest.mark.one_backend
def test_a_dry_run_goes_through_everything(photographs, tmp_path):
    output = tmp_path / "run"
    for _ in range(2):  # what the first one left is no hindrance
        result = CliRunner().invoke(app, _command(photographs, output, "--dry-run"))
        assert result.exit_code == 0, result.output
    assert "Everything works" in result.output
    with Image.open(output / "dry_run" / "augmented.png") as image:
        assert image.width > 800
    assert [path.name for path in output.iterdir()] == ["dry_run"]


@pytest.mark.one_backend
def test_a_loss_that_is_not_finite_is_explained(photographs, tmp_path):
    output = tmp_path / "run"
    result = CliRunner().invoke(
        app, _command(photographs, output, learning_rate=1e30, warmup_rate=1e30)
    )
    assert result.exit_code == 1, result.output
    assert "The loss is nan" in result.output or "The loss is inf" in result.output
    assert ".png" in result.output and "lower learning rate" in result.output
    assert "not finite" in result.output
    arrays, _ = checkpoint.read_state(output / "checkpoint.safetensors")
    assert all(np.isfinite(value.astype("float64")).all() for value in arrays.values())


@pytest.mark.one_backend
def test_freezing_trains_the_last_layer_alone(photographs, tmp_path):
    result = km.train(
        photographs,
        photographs / "small.keras",
        output=tmp_path / "run",
        overrides={**SETTINGS, "epochs": 1, "batch_size": 16, "freeze": "backbone"},
        workers=0,
        say=lambda _: None,
    )
    before: Any = keras.saving.load_model(photographs / "small.keras")
    # Averages of what does not move differ from it by a rounding.
    after: Any = keras.saving.load_model(result.folder / "last.keras")
    changed = [
        new.path
        for old, new in zip(before.weights, after.weights, strict=True)
        if not np.array_equal(
            keras.ops.convert_to_numpy(old), keras.ops.convert_to_numpy(new)
        )
    ]
    assert changed and all("predictions" in path for path in changed)
    frozen = [layer.path for layer in after.layers if not layer.trainable]
    assert after.trainable and not frozen


@pytest.mark.one_backend
def test_a_model_learns_classes_and_sizes_that_it_has_not_seen(photographs, tmp_path):
    wide = small_model(tmp_path / "wide.keras", classes=7)
    result = km.train(
        photographs,
        wide,
        output=tmp_path / "run",
        overrides={**SETTINGS, "epochs": 1, "batch_size": 16, "image_size": 24},
        workers=0,
        dtype="bfloat16",
        say=lambda _: None,
    )
    model: Any = result.load_model()
    assert model.output_shape == (None, 3)
    assert model.input_shape == (None, 24, 24, 3)
    assert model.image_description.transform.resolution == 24
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert result.evaluation is not None and result.evaluation.images == 36


@pytest.mark.one_backend
def test_the_batch_size_that_is_best_is_measured(photographs, tmp_path, monkeypatch):
    from keras_metaformer.training import batch_probe

    rates = {8: 100.0, 16: 180.0, 32: 185.0}
    tried = []

    def probe(model, recipe, policy, size):
        tried.append(size)
        return {"rate": rates[size], "bytes": 1, "memory": 100}

    monkeypatch.setattr(batch_probe, "_tried", probe)
    said = []
    result = km.train(
        photographs,
        photographs / "small.keras",
        output=tmp_path / "run",
        overrides={**SETTINGS, "epochs": 1, "batch_size": "auto"},
        workers=0,
        say=said.append,
    )
    assert tried == [8, 16, 32]
    config = json.loads((result.folder / "config.json").read_text("utf-8"))
    assert config["recipe"]["batch_size"] == 16
    # It is kept: the same call does not measure again.
    km.train(
        photographs,
        photographs / "small.keras",
        output=tmp_path / "run",
        overrides={**SETTINGS, "epochs": 1, "batch_size": "auto"},
        workers=0,
        say=said.append,
    )
    assert tried == [8, 16, 32]


@pytest.mark.one_backend
def test_the_probe_of_a_batch_size_trains_in_a_process_of_its_own(photographs):
    from keras_metaformer.training.batch_probe import _tried

    recipe = km.training.load_recipe("finetune", None, {"image_size": 16})
    found = _tried(str(photographs / "small.keras"), recipe, "float32", 8)
    assert found["rate"] > 0 and found["bytes"] > 1e7 and found["memory"] > 1e8


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90 min", 5400), ("1h 30m", 5400), ("0.5s", 0.5), (3, 3)],
)
def test_times(text, seconds):
    assert run.parse_seconds(text) == seconds


@pytest.mark.backend_independent
@pytest.mark.parametrize("text", ["", "2", "h", "2 weeks", "2h!", "0s", -1])
def test_times_that_are_none(text):
    with pytest.raises(ValueError, match="Received"):
        run.parse_seconds(text)


@pytest.mark.backend_independent
def test_intervals():
    assert run.parse_interval("10m") == loop.Interval(seconds=600)
    assert run.parse_interval(500) == loop.Interval(steps=500)
    with pytest.raises(ValueError, match="positive number of steps"):
        run.parse_interval(0)


@pytest.mark.backend_independent
def test_messages_of_the_command(photographs, tmp_path):
    def said(*arguments):
        result = CliRunner().invoke(app, ["train", *map(str, arguments)])
        assert result.exit_code == 2, result.output
        return result.output

    assert "Name the data" in said()
    assert "no such folder" in said(tmp_path / "nothing")
    assert "no such folder" in said(photographs, "--validation", tmp_path / "nothing")
    assert "CAFormerS18" in said(photographs, "--model", "CAFormerS81")
    assert "no such file" in said(photographs, "--model", "mine.keras")
    assert "number or auto" in said(photographs, "--batch", "many")
    assert "NAME=VALUE" in said(photographs, "--set", "epochs")
    assert "given twice" in said(photographs, "--epochs", 3, "--set", "epochs=4")
    assert "epohcs" in said(photographs, "--print", "--set", "epohcs=4")
    assert "Unknown recipe" in said(photographs, "--print", "--recipe", "finetnue")
    model = photographs / "small.keras"
    output = ("--output", tmp_path / "run")
    assert "Expected a time" in said(photographs, "--time", "soon", *output)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").touch()
    assert "letter.txt" in said(photographs, "--model", model, "--output", full)
    blocked = tmp_path / "full" / "letter.txt"
    assert "Expected a folder" in said(photographs, "--output", blocked)
    assert "more than there are" in said(
        photographs, "--model", model, *output, "--batch", 4096, "--workers", 0
    )
    one = tmp_path / "one"
    (one / "single").mkdir(parents=True)
    for place in range(4):
        shutil.copy(next((photographs / "train").rglob("*.png")), one / "single")
        os.rename(
            next((one / "single").glob("0*.png")), one / "single" / f"x{place}.png"
        )
    assert "two classes" in said(one, "--model", model, *output, "--workers", 0)


@pytest.mark.backend_independent
def test_recipes_are_listed_and_printed():
    listed = CliRunner().invoke(app, ["train", "--recipe", "list"])
    assert "caformer-s18" in listed.stdout.splitlines()
    printed = CliRunner().invoke(
        app, ["train", "--recipe", "caformer-s18", "--print", "--batch", "64"]
    )
    assert printed.exit_code == 0
    assert "lamb" in printed.stdout and "accumulate" in printed.stdout


@pytest.mark.backend_independent
def test_unreadable_images_are_left_out_and_named(photographs, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(photographs / "train", data / "train")
    shutil.copytree(photographs / "val", data / "val")
    for place in range(60):
        first = next((photographs / "train" / "digit_1").iterdir())
        picture = np.asarray(Image.open(first)) ^ np.uint8(place + 1)
        Image.fromarray(picture).save(data / "train" / "digit_1" / f"x{place}.png")
    (data / "train" / "digit_0" / "broken.png").write_bytes(b"no picture")
    said = []
    parts = run._open_parts(data, None, 0.2, None, None, 0)
    folder = run_folder.RunFolder(tmp_path)
    report = run._checked(parts, None, True, 0, folder, said.append)
    assert len(report.training) == 132
    assert "broken.png" in (tmp_path / "unreadable.csv").read_text("utf-8")
    assert any("unreadable.csv" in line for line in said)
    # A run that goes on leaves the same out, without reading.
    about = {"unreadable": [list(pair) for pair in report.unreadable]}
    again = run._checked(parts, about, True, 0, folder, said.append)
    assert run._data_identity(again.training) == run._data_identity(report.training)


@pytest.mark.one_backend
def test_fewer_images_than_a_batch_of_the_recipe(photographs, tmp_path):
    """What a first try looks like: a few photographs, and no option."""
    few = tmp_path / "few"
    for name in ("digit_0", "digit_1"):
        (few / name).mkdir(parents=True)
        for path in sorted((photographs / "train" / name).iterdir())[:10]:
            shutil.copy(path, few / name)
    said = []
    for _ in range(2):  # the second goes on
        result = km.train(
            few,
            photographs / "small.keras",
            output=tmp_path / "run",
            overrides={**SETTINGS, "epochs": 1},
            workers=0,
            say=said.append,
        )
        assert result.finished
    assert any("Batches of 8 images" in line for line in said)
    config = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert (config["recipe"]["batch_size"], config["recipe"]["accumulate"]) == (8, 1)


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("images", "multiple", "size"),
    [(64, 1, None), (63, 1, 16), (3, 1, 1), (1, 1, 1), (40, 3, 15), (4, 4, None)],
)
def test_the_batch_for_few_images(images, multiple, size):
    recipe = km.training.load_recipe("finetune")
    fields = run._for_few_images(recipe, images, multiple)
    assert fields.get("batch_size") == size


@pytest.mark.one_backend
def test_images_that_were_not_checked_end_the_run_when_their_turn_comes(
    photographs, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(photographs, data, ignore=shutil.ignore_patterns("*.keras"))
    for path in (data / "train" / "digit_1").iterdir():
        path.write_bytes(b"no picture")
    command = _command(photographs, tmp_path / "run", "--no-check-images")
    command[1] = str(data)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.output
    assert "digit_1" in result.output and "72 training and 36" in result.output
    assert not list((tmp_path / "run").glob("unreadable.csv"))


@pytest.mark.one_backend
def test_a_model_of_the_list_without_weights(photographs, tmp_path):
    output = tmp_path / "run"
    command = _command(photographs, output, "--weights", "none", "--image-size", "32")
    command[command.index("--model") + 1] = "GMLPTi16"
    command[command.index("--epochs") + 1] = "1"
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["finished"] and found["evaluation"]["images"] == 36
    model: Any = keras.saving.load_model(output / "best.keras")
    assert model.input_shape == (None, 32, 32, 3)
    assert model.image_description.includes_preprocessing


@pytest.mark.backend_independent
def test_two_processes_do_not_train_in_one_folder(tmp_path):
    folder = run_folder.RunFolder(tmp_path)
    (tmp_path / ".checkpoint.0123.tmp.safetensors").touch()
    with folder.taken():
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        with (
            pytest.raises(run_folder.ConfigurationError, match="Another process"),
            run_folder.RunFolder(tmp_path).taken(),
        ):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.backend_independent
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="about glibc, whose memory lies in pieces"
)
def test_freed_memory_is_given_back():
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    # Smaller than what glibc maps apart, and between others that stay.
    pieces = [np.ones(100_000, "uint8") for _ in range(2000)]
    kept = pieces[::2]
    pieces.clear()
    before = resident()
    give_back_freed_memory()
    assert before - resident() > 50_000_000
    assert len(kept) == 1000
