import csv
import itertools

import keras
import numpy as np
import pytest
from PIL import Image

from examples import ablations
from scripts import draw_ablations


@pytest.mark.one_backend
def test_a_table_is_trained_written_and_drawn(tmp_path):
    rows = ablations.measure("biases", seeds=2, epochs=1, samples=64)
    assert [row.form.name for row in rows] == ["without", "with"]
    assert [len(row.accuracies) for row in rows] == [2, 2]
    assert rows[0].parameters < rows[1].parameters
    said = ablations.text(rows)
    assert "83.6" in said and "83.5" in said and " ± " in said
    ablations.write_csv(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["seed"] for row in found] == ["0", "1", "0", "1"]
    (read,) = ablations.read_csv(tmp_path / "rows.csv")
    assert [(row.table, row.form, row.parameters) for row in read] == [
        (row.table, row.form, row.parameters) for row in rows
    ]
    for row, again in zip(rows, read, strict=True):
        assert again.accuracies == pytest.approx(row.accuracies, abs=1e-4)
    ablations.draw([rows], tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        assert image.width > 500 and len(set(image.convert("L").tobytes())) > 20


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ablations.TABLES)
def test_forms_of_a_table_are_different_models(name):
    """In what is trained or, from the same weights, in their answers."""
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    answers = []
    for form in ablations.TABLES[name].forms:
        keras.utils.set_random_seed(0)
        model = form.build(0)
        # What starts at zero or one is moved, so that all that acts is seen to.
        model.set_weights([each + 0.05 for each in model.get_weights()])
        trained = [(each.name, each.shape, each.trainable) for each in model.weights]
        # Logits: probabilities of such weights may all be 0 or 1.
        model.layers[-1].activation = keras.activations.linear
        answers.append((trained, model.predict(images, verbose=0)))
    for (one, first), (other, second) in itertools.combinations(answers, 2):
        assert one != other or not np.allclose(first, second, atol=1e-7)


@pytest.mark.backend_independent
def test_nothing_is_said_that_the_seeds_do_not_allow():
    form = ablations.TABLES["biases"].forms[0]

    def row(*accuracies):
        return ablations.Measured("biases", form, 1, accuracies)

    first = row(0.90, 0.92, 0.94)
    surely = row(0.80, 0.821, 0.839)
    difference, half = surely.difference(first, 1)
    assert difference == pytest.approx(-0.1) and 0 < half < 0.01
    assert ablations.verdict(difference, half) == "worse"
    # The more is compared, the wider.
    assert surely.difference(first, 4)[1] > half
    hardly = row(0.95, 0.91, 0.93)
    assert ablations.verdict(*hardly.difference(first, 1)) == "not told apart"
    assert ablations.verdict(*row(0.1).difference(row(0.9), 1)) == "not told apart"


@pytest.mark.backend_independent
def test_the_page_has_the_tables_of_its_file():
    page = draw_ablations.PAGE.read_text("utf-8")
    assert page == draw_ablations.wanted(), "run python -m scripts.draw_ablations"
    tables = ablations.read_csv(draw_ablations.ROWS)
    assert [rows[0].table for rows in tables] == list(ablations.TABLES)
    for rows in tables:
        assert len(rows) == len(ablations.TABLES[rows[0].table].forms)
        assert {len(row.accuracies) for row in rows} == {5}
        assert ablations.text(rows) in page


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("table,form", "a,b"),
        ("table,form", "\ufefftable,form"),
        ("biases,with,", "biases,odd,"),
        ("biases,with,", "odd,with,"),
        ("biases,with,2,1,0.7000,83.5\n", ""),
        ("biases,with,2,1,0.7000,83.5\n", "biases,with,2,1\n"),
        ("biases,with,2,1,0.7000,83.5\n", "biases,with,2,1,0.7000,83.5\n" * 2),
        ("with,2,1,", "with,2,3,"),
        ("0.7000", "nan"),
        ("0.7000", "70.0000"),
        ("83.5", "12.3"),
    ],
)
def test_a_file_that_was_not_written_so_is_refused(tmp_path, old, new):
    forms = ablations.TABLES["biases"].forms
    pairs = zip(forms, (1, 2), ((0.5, 0.6), (0.8, 0.7)), strict=True)
    rows = [ablations.Measured("biases", *pair) for pair in pairs]
    path = tmp_path / "rows.csv"
    ablations.write_csv(rows, path)
    assert ablations.read_csv(path) == [rows]
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ValueError, match=r"whole tables .* Received: .*rows\.csv"):
        ablations.read_csv(path)


@pytest.mark.backend_independent
@pytest.mark.parametrize("content", [b"", b"table,form\n", "\xfc".encode("utf-16")])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"whole tables .* Received: .*rows\.csv"):
        ablations.read_csv(tmp_path / "rows.csv")
