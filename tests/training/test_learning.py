"""That what is trained by the command has learned: all the digits, on each backend."""

import json
from typing import Any

import keras
import pytest
from typer.testing import CliRunner

import keras_metaformer as km
from keras_metaformer.models.pyramid_model import described
from keras_metaformer_lite.cli import app
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import EvaluationTransform
from keras_metaformer_lite.processes import run_python
from tests.training import kills
from tests.training.photographs import write_digits

pytestmark = [pytest.mark.large, pytest.mark.timeout(3600)]
BACKENDS = ("tensorflow", "jax", "torch")
#: The least share of the held-out digits that the last model of a run reads, and the
#: most that two backends may differ by.
LEAST, APART = 0.98, 0.01
EPOCHS = 16
#: The digits' originals have 8 x 8 pixels.
SIZE = 16
SETTINGS = {
    "layer_decay": "none",
    "horizontal_flip": 0,
    "random_erasing": 0,
    "rand_augment": "none",
    "random_resized_crop_scale": "0.7,1",
    "average_decay": 0.98,
}


def _reader(path):
    """An untrained model of 8 x 8 and 4 x 4 tokens."""
    keras.utils.set_random_seed(1)
    model = km.MetaFormer(
        depths=(1, 2),
        widths=(48, 96),
        mixer="separable_convolution",
        stem_kernel_size=3,
        stem_strides=2,
        stem_padding=1,
        input_shape=(SIZE, SIZE, 3),
        classes=10,
        include_preprocessing=True,
        stochastic_depth_rate=0.1,
        seed=5,
    )
    described(model, ImageDescription(EvaluationTransform(SIZE), True)).save(path)
    return path


def _arguments(data, model, output, epochs):
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    arguments = ["train", data, "--model", model, "--output", output, "--json"]
    arguments += ["--epochs", epochs, "--batch", 64, "--accumulate", 1]
    arguments += ["--learning-rate", 2e-3]
    arguments += [part for setting in settings for part in ("--set", setting)]
    return list(map(str, arguments))


def _train(data, model, output, epochs):
    result = CliRunner().invoke(app, _arguments(data, model, output, epochs))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _train_on(backend, *arguments):
    environment = kills.environment(backend)
    done = run_python("-c", kills.MAIN, *_arguments(*arguments), env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.backend_independent  # It starts all three.
def test_every_backend_reads_the_digits_from_a_folder_of_pictures(tmp_path):
    write_digits(tmp_path / "digits")
    model = _reader(tmp_path / "small.keras")
    accuracies = {}
    for backend in BACKENDS:
        run = tmp_path / backend
        found = _train_on(backend, tmp_path / "digits", model, run, EPOCHS)
        assert found["evaluation"]["images"] == 360
        # Not of the epoch that is best on these very digits, but of the last one.
        accuracies[backend] = found["history"][-1]["average_val_accuracy"]
    assert min(accuracies.values()) >= LEAST, accuracies
    assert max(accuracies.values()) - min(accuracies.values()) <= APART, accuracies


def test_half_of_the_classes_help_with_the_others(tmp_path):
    """Fine-tuned from a run on five digits, beside training from scratch."""
    write_digits(tmp_path / "half", classes=5)
    write_digits(tmp_path / "all", each=24)
    scratch = _reader(tmp_path / "small.keras")
    _train(tmp_path / "half", scratch, tmp_path / "first", 8)
    model: Any = keras.saving.load_model(tmp_path / "first" / "last.keras")
    assert model.output_shape == (None, 5)

    accuracies = [
        _train(tmp_path / "all", start, tmp_path / f"run_{place}", 6)["history"][-1][
            "val_accuracy"
        ]
        for place, start in enumerate((scratch, tmp_path / "first"))
    ]
    assert accuracies[1] > accuracies[0], accuracies


def test_the_device_reads_what_the_run_reads(tmp_path):
    """Training, the commands, the `.tflite` and LiteRTModel on all held-out digits."""
    from keras_metaformer.export import LiteRTModel, to_litert

    write_digits(tmp_path / "digits")
    run = tmp_path / "run"
    found = _train(tmp_path / "digits", _reader(tmp_path / "small.keras"), run, 3)
    path = run / json.loads((run / "evaluation.json").read_text("utf-8"))["model"]
    model: Any = keras.saving.load_model(path)
    exported = tmp_path / "digits.tflite"
    names = model.image_description.names()
    to_litert(model, exported, labels=names, check_gpu=False, verbose=False)
    held_out = tmp_path / "digits" / "val"
    top1 = found["evaluation"]["top1"]
    for name in (run, run / "checkpoint.safetensors", path, exported):
        assert km.evaluate(name, held_out).top1 == top1
    files = sorted(held_out.rglob("*.png"))
    assert len(files) == found["evaluation"]["images"] == 360

    def classified(option, name):
        command = ["classify", *map(str, files), option, str(name)]
        result = CliRunner().invoke(app, [*command, "--json", "--top", "1"])
        assert result.exit_code == 0, result.output
        return [row["classes"][0]["name"] for row in json.loads(result.stdout)]

    answers = classified("--model", path)
    assert sum(a == f.parent.name for a, f in zip(answers, files, strict=True)) == top1
    assert classified("--tflite", exported) == answers
    litert = LiteRTModel(exported).classify(list(map(str, files)), top=1)
    assert [row[0][0] for row in litert] == answers
