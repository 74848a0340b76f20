"""`keras-metaformer predict` and `evaluate`: tables, and what they refuse."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import keras_metaformer as km
from keras_metaformer_lite.cli import app
from tests.training.photographs import small_model, write_digits

runner = CliRunner()
pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_digits(folder, classes=3, each=6)
    small_model(folder / "small.keras")
    return folder


@pytest.fixture(scope="module")
def named(photographs):
    """The model with names for its classes, in another order than the folders'."""
    import dataclasses
    from typing import Any

    import keras

    model: Any = keras.saving.load_model(photographs / "small.keras")
    model.image_description = dataclasses.replace(
        model.image_description, class_names=("digit_2", "digit_0", "digit_1")
    )
    model.save(photographs / "named.keras")
    return photographs / "named.keras"


@pytest.fixture
def images(photographs, tmp_path):
    """Seven digits and a file that is no picture."""
    folder = tmp_path / "images"
    folder.mkdir()
    for place, path in enumerate(sorted((photographs / "train").rglob("*.png"))[:7]):
        shutil.copy(path, folder / f"{place}.png")
    (folder / "3 broken.png").write_text("hello")
    return folder


def _predict(*arguments, stdin=None):
    return runner.invoke(
        app,
        ["predict", *map(str, arguments), "--workers", "0", "--batch", "4"],
        input=stdin,
    )


def test_every_form_of_table_has_the_same_numbers(images, named, tmp_path):
    import pyarrow.parquet as parquet

    expected = km.predict(named, sorted(images.glob("?.png")), workers=0)
    assert expected.values.shape == (7, 3)
    np.testing.assert_allclose(expected.values.sum(axis=1), 1, atol=1e-5)
    tables = []
    for suffix in (".jsonl", ".csv", ".parquet"):
        output = tmp_path / f"found{suffix}"
        result = _predict(images, "--model", named, "--output", output)
        assert result.exit_code == 1  # one could not be read
        assert "3 broken.png" in result.stderr
        if suffix == ".jsonl":
            rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
        elif suffix == ".csv":
            rows = list(csv.DictReader(output.open(encoding="utf-8", newline="")))
        else:
            rows = parquet.read_table(output).to_pylist()
        assert [row["image"] for row in rows] == expected.names
        tables.append(
            [
                [float(row[name]) for name in ("digit_2", "digit_0", "digit_1")]
                for row in rows
            ]
        )
        lost = output.with_name(f"{output.name}.unreadable.csv")
        (row,) = csv.DictReader(lost.open(encoding="utf-8", newline=""))
        assert row["image"].endswith("3 broken.png")
        assert "Expected an image file" in row["reason"]
    for table in tables:
        np.testing.assert_allclose(table, expected.values, atol=1e-6)


def test_a_list_on_standard_input_and_the_best_classes(images, named):
    files = sorted(images.glob("?.png"))
    result = _predict(
        "-", "--model", named, "--top", 2, stdin="\n".join(map(str, files)) + "\n\n"
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    expected = km.predict(named, files, workers=0)
    for row, scores in zip(rows, expected.values, strict=True):
        assert row["class_1"] == expected.class_names[scores.argmax()]
        assert row["probability_1"] == pytest.approx(scores.max(), abs=1e-6)
        assert row["probability_2"] <= row["probability_1"]
        assert len(row) == 5


def test_embeddings(images, named):
    result = _predict(
        images / "?.png", "--model", named, "--embeddings", "--format", "csv"
    )
    assert result.exit_code == 0, result.output
    rows = list(csv.reader(io.StringIO(result.stdout)))
    assert rows[0] == ["image", *(f"e{place}" for place in range(32))]
    expected = km.predict(
        named, sorted(images.glob("?.png")), embeddings=True, batch_size=3, workers=2
    )
    found = np.array([list(map(float, row[1:])) for row in rows[1:]])
    np.testing.assert_allclose(found, expected.values, atol=1e-5)


def test_a_table_of_lost_images_does_not_outlive_them(images, named, tmp_path):
    output = tmp_path / "found.csv"
    lost = tmp_path / "found.csv.unreadable.csv"
    assert _predict(images, "--model", named, "--output", output).exit_code == 1
    assert lost.is_file()
    (images / "3 broken.png").unlink()
    assert _predict(images, "--model", named, "--output", output).exit_code == 0
    assert not lost.exists()


def test_classes_are_found_by_their_names(photographs, named):
    """The folders' order is another one than that of the model's outputs."""
    found = km.evaluate(named, photographs / "val", batch_size=4, workers=0)
    assert found.class_names == ("digit_2", "digit_0", "digit_1")
    assert found.class_images.tolist() == [3, 3, 3]
    files = sorted((photographs / "val").rglob("*.png"))
    answers = km.predict(named, files, workers=0)
    right = sum(
        answers.class_names[scores.argmax()] in name
        for name, scores in zip(answers.names, answers.values, strict=True)
    )
    assert found.top1 == right
    result = runner.invoke(
        app,
        ["evaluate", str(photographs / "val"), "--model", str(named), "--workers", "0"],
    )
    assert result.exit_code == 0, result.output
    assert "9 images" in result.stdout and "calibration error" in result.stdout
    assert f"{right}" in result.stdout and "digit_1" in result.stdout


def test_what_evaluate_refuses(photographs, named, tmp_path):
    def said(*arguments, code=2):
        result = runner.invoke(
            app, ["evaluate", *map(str, arguments), "--workers", "0"]
        )
        assert result.exit_code == code, result.output
        return result.output

    data = photographs / "val"
    assert "no such folder" in said(tmp_path / "nothing", "--model", named)
    assert "no such file" in said(data, "--model", "mine.keras")
    assert "CAFormerS18" in said(data, "--model", "CAFormerS81")
    assert "folder of a training run" in said(data, "--model", tmp_path)
    assert "without --weights" in said(data, "--model", named, "--weights", "imagenet")
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model")
    assert "TFL3" in said(data, "--model", broken, code=3)
    other = tmp_path / "other"
    shutil.copytree(data / "digit_0", other / "digit_7")
    shutil.copytree(data / "digit_1", other / "digit_8")
    assert "digit_7" in said(other, "--model", named)
    plain = photographs / "small.keras"  # which does not name its classes
    assert "3 classes" in said(other, "--model", plain)


def test_what_predict_refuses(images, named, tmp_path):
    def said(*arguments, code=2):
        result = _predict(*arguments)
        assert result.exit_code == code, result.output
        return result.output

    model = ("--model", named)
    assert "--format" in said(images, *model, "--output", tmp_path / "found.xlsx")
    assert "needs --output" in said(images, *model, "--format", "parquet")
    assert "--embeddings" in said(images, *model, "--top", 2, "--embeddings")
    assert "directory with image files" in said(tmp_path / "images" / "..", *model)
    assert "folder that exists" in said(
        images, *model, "--output", tmp_path / "no" / "x.csv", code=1
    )
