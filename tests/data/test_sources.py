"""Data sets by index: folders, tables, arrays."""

import csv
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_metaformer.data import (
    DataError,
    Source,
    load_image,
    open_source,
    split_source,
)
from keras_metaformer_lite.data.checks import check_sources

pytestmark = pytest.mark.backend_independent


def _save(path: Path, seed: int = 0, size: tuple[int, int] = (10, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype("uint8")
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes of 4, 3 and 2 images, one of them deeper down."""
    root = tmp_path / "photos"
    for label, (name, count) in enumerate([("cat", 4), ("dog", 3), ("emu", 2)]):
        for index in range(count):
            _save(root / name / f"{index}.png", 10 * label + index)
    (root / "dog" / "2.png").rename(_save(root / "dog" / "more" / "2.png"))
    _save(root / "dog" / "more" / "2.png", 12)
    (root / "cat" / "notes.txt").write_text("no image")
    _save(root / ".hidden" / "0.png")
    _save(root / "cat" / ".thumbnail.png")
    return root


def _table(path: Path, rows: list, columns=("image", "label"), **options) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **options).writerows([columns, *rows])
    return path


def test_a_folder_of_class_folders(folder):
    source = open_source(folder)
    assert len(source) == 9
    assert source.class_names == ("cat", "dog", "emu")
    assert source.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 2
    assert source.counts().tolist() == [4, 3, 2]
    assert source.name(6) == str(folder / "dog" / "more" / "2.png")
    assert source.label(6) == 1
    assert source.load(0).size == (8, 10)
    assert source.content(0) == (folder / "cat" / "0.png").read_bytes()
    assert open_source(os.fspath(folder)).labels.tolist() == source.labels.tolist()
    assert open_source(source) is source


def test_a_folder_with_the_classes_of_another(folder):
    names = ("emu", "cat", "dog", "fox")
    source = open_source(folder, class_names=names)
    assert source.class_names == names
    assert source.counts().tolist() == [2, 4, 3, 0]
    with pytest.raises(DataError, match=r"'emu' are none of the classes 'cat', 'dog'"):
        open_source(folder, class_names=("cat", "dog"))


def test_a_linked_folder_counts_once(folder):
    (folder / "cat" / "loop").symlink_to(folder / "cat", target_is_directory=True)
    assert open_source(folder).counts().tolist() == [4, 3, 2]


def test_parts_in_a_folder(folder, tmp_path):
    root = tmp_path / "parts"
    root.mkdir()
    folder.rename(root / "train")
    _save(root / "val" / "cat" / "9.png")
    assert len(open_source(root, split="train")) == 9
    assert len(open_source(root / "val", class_names=("cat", "dog", "emu"))) == 1
    with pytest.raises(DataError, match="train, val, which look like parts"):
        open_source(root)
    with pytest.raises(DataError, match="there is none"):
        open_source(root, split="test")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables_of_paths_and_labels(kind, folder):
    rows = [["cat/0.png", "cat"], ["dog/1.png", "dog"], ["cat/1.png", "cat"]]
    path = folder / f"table.{kind}"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        columns = list(map(list, zip(*rows, strict=True)))
        table = pyarrow.table({"label": columns[1], "image": columns[0]})
        parquet.write_table(table, path)
    else:
        _table(path, rows, delimiter="," if kind == "csv" else "\t")
    source = open_source(path)
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 1, 0]
    assert source.load(1).tobytes() == load_image(folder / "dog/1.png").tobytes()


def test_columns_and_paths_of_a_table(folder, tmp_path):
    """A mark at the start, other names, absolute paths, commas in a name."""
    _save(folder / "cat" / "a, b.png")
    path = tmp_path / "table.csv"
    _table(
        path,
        [["x", folder / "cat" / "a, b.png", 3], ["y", folder / "dog" / "0.png", 10]],
        ("id", "Photo", "kind"),
    )
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    source = open_source(path, image_column="Photo", label_column="kind")
    # Numbers in their own order, not that of their digits.
    assert source.class_names == ("3", "10")
    assert source.labels.tolist() == [0, 1]
    assert source.load(0).mode == "RGB"
    source = open_source(
        path,
        image_column="Photo",
        label_column="kind",
        class_names=tuple("abcdefghijk"),
    )
    assert source.labels.tolist() == [3, 10]
    with pytest.raises(DataError, match=r"Expected a column image.*`image_column`"):
        open_source(path)
    with pytest.raises(DataError, match=r"no column 'Photos'.*Did you mean 'Photo'"):
        open_source(path, image_column="Photos")


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        ([], None, "at least one row"),
        ([["a.png", ""]], None, "a label in every row; 1 rows have none: 1"),
        ([["", "cat"]], None, "a path in every row"),
        ([["a.png"]], None, "row 1 has 1"),
        ([["a.png", "cow"]], ("cat", "crow"), "'cow' are none.*Did you mean 'crow'"),
        ([["a.png", "7"]], ("cat", "dog"), r"from 0 to 1.*Received: labels 7"),
    ],
)
def test_tables_that_are_wrong(rows, names, message, tmp_path):
    path = _table(tmp_path / "table.csv", rows)
    with pytest.raises(DataError, match=message):
        open_source(path, class_names=names)


def test_arrays(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3)).astype("uint8")
    # Labels as `keras.datasets` has them.
    labels = np.array([[0], [1], [2], [0], [1], [2]], "uint8")
    source = open_source((images, labels))
    assert source.class_names == ("0", "1", "2")
    assert np.array_equal(np.asarray(source.load(3)), images[3])
    assert source.name(3) == "image 3"
    grey = open_source((images[..., 0], labels[:, 0]), class_names="abcd")
    assert grey.class_names == tuple("abcd")
    assert np.array_equal(np.asarray(grey.load(2))[..., 1], images[2, ..., 0])
    assert np.array_equal(
        np.asarray(open_source((images[..., :1], labels)).load(1))[..., 2],
        images[1, ..., 0],
    )
    np.savez(tmp_path / "data.npz", images=images, labels=labels, class_names=[*"xyz"])
    stored = open_source(tmp_path / "data.npz")
    assert stored.class_names == ("x", "y", "z")
    assert stored.content(5) == source.content(5)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3), "float32"), [0, 1], "must be uint8.*float32"),
        (np.zeros((2, 4, 4, 2), "uint8"), [0, 1], r"\(number, height, width, 3\)"),
        (np.zeros((2, 4, 4, 3), "uint8"), [0], r"one for each of the 2 images"),
        (np.zeros((2, 4, 4, 3), "uint8"), [0.0, 1.0], "must be integers.*float64"),
        (np.zeros((2, 4, 4, 3), "uint8"), [0, -1], r"from 0 to 0.*labels -1"),
    ],
)
def test_arrays_that_are_wrong(images, labels, message):
    with pytest.raises(DataError, match=message):
        open_source((images, labels))


def test_data_of_no_known_kind(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.parquet").write_text("hello")
    (tmp_path / "classes" / "a").mkdir(parents=True)
    for name, message in (
        ("none", "there is none"),
        ("empty", "it has no folders"),
        ("text.txt", "Expected a folder of class folders, or a .csv"),
        ("text.npz", "Expected an .npz file"),
        ("text.parquet", "Expected a Parquet file"),
        ("classes", "there are none"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            open_source(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(DataError, match="Received: int"):
        open_source(3)


def test_subsets(folder):
    source = open_source(folder)
    part = source.subset([8, 0, 5])
    assert part.labels.tolist() == [2, 0, 1]
    assert part.name(0) == source.name(8)
    again = part.subset([2])
    assert again.name(0) == source.name(5)
    assert again.class_names == source.class_names
    copy = pickle.loads(pickle.dumps(again))
    assert copy.content(0) == source.content(5)


def test_a_held_out_part(folder):
    images = np.arange(60, dtype="uint8")[:, None, None] * np.ones((1, 2, 2), "uint8")
    source = open_source((images, [0] * 40 + [1] * 19 + [2]))
    training, validation = split_source(source, 0.2, seed=1)
    assert validation.counts().tolist() == [8, 4, 0]
    contents = [
        {part.content(index) for index in range(len(part))}
        for part in (training, validation)
    ]
    assert not contents[0] & contents[1]
    assert len(contents[0] | contents[1]) == 60
    same = split_source(source, 0.2, seed=1)[1]
    other = split_source(source, 0.2, seed=2)[1]
    names = [[part.name(i) for i in range(12)] for part in (validation, same, other)]
    assert names[0] == names[1] != names[2]
    assert split_source(open_source(folder), 0.01, 0)[1].counts().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"Received: fraction=1.0"):
        split_source(source, 1.0, 0)
    with pytest.raises(DataError, match="Too few images"):
        split_source(source.subset([59]), 0.5, 0)


# Checks before training


def test_a_sound_data_set(folder):
    training, validation = split_source(open_source(folder), 0.3, 0)
    seen = []
    report = check_sources(
        training, validation, workers=0, progress=lambda *done: seen.append(done)
    )
    assert report.counts == {"cat": (3, 1), "dog": (2, 1), "emu": (1, 1)}
    assert not report.unreadable
    assert not report.duplicates
    assert not report.warnings
    assert report.training is training
    assert seen[-1] == (9, 9)
    assert check_sources(training, workers=0).counts["cat"] == (3, 0)


def test_a_class_without_an_image(folder):
    source = open_source(folder, class_names=("cat", "dog", "emu", "fox"))
    report = check_sources(source, workers=0)
    assert report.warnings == ["Classes without an image in training: 'fox'"]


def test_one_class_only(folder):
    source = open_source(folder).subset([0, 1, 2])
    with pytest.raises(DataError, match=r"at least two classes.*images of 'cat'"):
        check_sources(source, workers=0)


def test_the_same_image_in_both_parts(folder, tmp_path):
    # The same pixels, in another file.
    again = tmp_path / "other" / "cat" / "copy.bmp"
    again.parent.mkdir(parents=True)
    load_image(folder / "cat" / "1.png").save(again)
    _save(again.parent / "new.png", 99)
    names = ("cat", "dog", "emu")
    report = check_sources(
        open_source(folder), open_source(tmp_path / "other", class_names=names)
    )
    assert report.duplicates == [(str(folder / "cat" / "1.png"), str(again))]
    assert "in training too: 1 image, " in report.warnings[0]
    assert "Classes without an image in validation: 'dog', 'emu'" in report.warnings[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_named_and_left_out(workers, tmp_path):
    images = np.zeros((150, 3, 3), "uint8")
    images[:, 0, 0] = np.arange(150)
    for index, image in enumerate(images):
        path = tmp_path / "ab"[index % 2] / f"{index:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    broken = tmp_path / "a" / "004.png"
    broken.write_bytes(broken.read_bytes()[:45])
    report = check_sources(open_source(tmp_path), workers=workers)
    assert [name for name, _ in report.unreadable] == [str(broken)]
    assert len(report.training) == 149
    assert str(broken) not in map(report.training.name, range(149))
    assert report.counts == {"a": (74, 0), "b": (75, 0)}
    assert "Left out, as unreadable: 1 image, " in report.warnings[0]
    assert str(broken) in report.warnings[0]
    (tmp_path / "b" / "005.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 of 150 images cannot be read, more than 1%"
    ):
        check_sources(open_source(tmp_path), workers=workers)


def test_parts_of_other_classes(folder):
    source = open_source(folder)
    other = open_source(folder, class_names=("emu", "dog", "cat"))
    with pytest.raises(DataError, match="the same classes, in the same order"):
        check_sources(source, other, workers=0)


def test_labels_outside_the_classes_of_a_source_of_ones_own():
    class Own(Source):
        class_names = ("a", "b")
        labels = np.array([0, 1, 2])

    with pytest.raises(DataError, match=r"from 0 to 1.*Received: labels 2"):
        check_sources(Own(), workers=0)
