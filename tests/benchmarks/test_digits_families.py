import pytest

from benchmarks import digits_families
from keras_metaformer.data import digits as data
from keras_metaformer.demo.models import build_model


@pytest.fixture
def _few_digits(monkeypatch):
    whole = data.load_digits()
    few = data.Digits(
        whole.train_images[:64],
        whole.train_labels[:64],
        whole.test_images[:20],
        whole.test_labels[:20],
    )
    monkeypatch.setattr(data, "load_digits", lambda *_, **__: few)
    # In this process, for the few digits to be seen.
    monkeypatch.setattr(digits_families, "measure_in_child", digits_families.measure)


@pytest.mark.one_backend
@pytest.mark.usefixtures("_few_digits")
def test_the_table_is_written_between_the_marks(tmp_path):
    page = tmp_path / "families.md"
    marks = f"{digits_families.BEGIN}\nold\n{digits_families.END}"
    page.write_text(f"# Above\n{marks}\nBelow\n", "utf-8")

    digits_families.main([str(page), "--epochs", "1", "--families", "resmlp", "gmlp"])

    text = page.read_text("utf-8")
    assert text.startswith("# Above\n") and text.endswith("\nBelow\n")
    assert "old" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| family", "| ResMLP", "| gMLP"]
    assert "`CrossPatchLinear`" in rows[1] and "`GatedMLP`" in rows[2]
    for row, family in zip(rows[1:], ("resmlp", "gmlp"), strict=True):
        assert f" {build_model(0, family).count_params():,} " in row
        accuracy = float(row.split(" | ")[2].rstrip("%"))
        # A part of twenty.
        assert accuracy % 5 == pytest.approx(0, abs=1e-3) and 0 <= accuracy <= 100
    assert "1 epochs, seed 0, 20 held-out digits" in text
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.backend_independent
@pytest.mark.parametrize("text", ["", "<!-- begin of the table -->"])
def test_a_page_without_marks_is_left_alone(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    with pytest.raises(SystemExit, match="needs the marks"):
        digits_families.main([str(page)])
    assert page.read_text("utf-8") == text


@pytest.mark.backend_independent
def test_a_page_must_be_named(capsys):
    with pytest.raises(SystemExit):
        digits_families.main([])
    assert "the page to write to is missing" in capsys.readouterr().err
