"""That what is trained by the command has learned: all the digits, on each backend."""

import json
from typing import Any

import keras
import pytest
from typer.testing import CliRunner

import keras_metaformer as km
from keras_metaformer.demo.models import build_model
from keras_metaformer_lite.cli import app
from tests.training.photographs import write_digits

pytestmark = [pytest.mark.large, pytest.mark.timeout(3600)]
#: The least share of held-out digits that is read right. Each backend has to have it,
#: so that no two of them are more than a point apart where all have 99 %.
LEAST = 0.98
SETTINGS = {
    "layer_decay": "none",
    "horizontal_flip": 0,
    "random_erasing": 0,
    "rand_augment": "none",
    "random_resized_crop_scale": "0.7,1",
}


def _train(data, model, output, epochs, rate=2e-3):
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    arguments = ["train", data, "--model", model, "--output", output, "--json"]
    arguments += ["--epochs", epochs, "--batch", 64, "--accumulate", 1]
    arguments += ["--learning-rate", rate]
    arguments += [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_digits_are_read_from_a_folder_of_pictures(tmp_path):
    write_digits(tmp_path / "digits")
    build_model(0).save(tmp_path / "small.keras")
    found = _train(tmp_path / "digits", tmp_path / "small.keras", tmp_path / "run", 20)
    assert found["evaluation"]["images"] == 360
    assert found["evaluation"]["accuracy"] >= LEAST


def test_half_of_the_classes_help_with_the_others(tmp_path):
    """Fine-tuned from a run on five digits, beside training from scratch."""
    write_digits(tmp_path / "half", classes=5)
    write_digits(tmp_path / "all", each=24)
    scratch = tmp_path / "small.keras"
    build_model(0).save(scratch)
    _train(tmp_path / "half", scratch, tmp_path / "first", 8)
    model: Any = keras.saving.load_model(tmp_path / "first" / "best.keras")
    assert model.output_shape == (None, 5)

    accuracies = [
        _train(tmp_path / "all", start, tmp_path / f"run_{place}", 6)["evaluation"][
            "accuracy"
        ]
        for place, start in enumerate((scratch, tmp_path / "first"))
    ]
    assert accuracies[1] > accuracies[0]


def test_the_device_reads_what_the_run_reads(tmp_path):
    """Training, `evaluate`, the `.tflite` and LiteRTModel on all held-out digits."""
    from keras_metaformer.export import LiteRTModel, to_litert

    write_digits(tmp_path / "digits")
    build_model(0).save(tmp_path / "small.keras")
    run = tmp_path / "run"
    found = _train(tmp_path / "digits", tmp_path / "small.keras", run, 3)
    model: Any = keras.saving.load_model(run / "best.keras")
    exported = tmp_path / "digits.tflite"
    names = model.image_description.names()
    to_litert(model, exported, labels=names, check_gpu=False, verbose=False)
    held_out = tmp_path / "digits" / "val"
    top1 = found["evaluation"]["top1"]
    for name in (run, run / "best.keras", exported):
        assert km.evaluate(name, held_out).top1 == top1
    files = sorted(held_out.rglob("*.png"))
    answers = LiteRTModel(exported).classify(list(map(str, files)), top=1)
    right = [
        row[0][0] == file.parent.name for row, file in zip(answers, files, strict=True)
    ]
    assert sum(right) == top1
