"""TensorFlow Datasets through its own API, with TensorFlow and without."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_metaformer
from keras_metaformer.data import DataError, open_source
from keras_metaformer_lite.data.tfds import TFDSSource
from tests.data import tiny_dataset

pytestmark = [
    pytest.mark.backend_independent,
    pytest.mark.skipif(sys.platform == "win32", reason="array_record has no wheels"),
]

ROOT = Path(keras_metaformer.__file__).parents[1]
FORMS = [("array_record", False), ("array_record", True), ("tfrecord", False)]


def _run(*arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0]}-{form[1]}")
def prepared(request, tmp_path_factory) -> Path:
    """The data set, written as ArrayRecord without TensorFlow too."""
    file_format, without = request.param
    folder = tmp_path_factory.mktemp("tfds")
    hidden = ["without-tensorflow"] if without else []
    _run(tiny_dataset.__file__, file_format, str(folder), *hidden)
    return folder


def _rows(index: int, source: TFDSSource) -> int:
    """Which of the images, whose order TensorFlow Datasets shuffles, this is."""
    return source.load(index).height - tiny_dataset.ROWS


def test_the_examples_by_index(prepared):
    source = open_source("tfds:tiny", data_dir=prepared)
    assert isinstance(source, TFDSSource)
    assert source.class_names == ("ant", "bee", "cow")
    numbers = [_rows(index, source) for index in range(len(source))]
    assert sorted(numbers) == list(range(12))
    assert source.labels.tolist() == [number % 3 for number in numbers]
    for index in (11, 0, 5):
        pixels = np.asarray(source.load(index))
        assert pixels.shape == (tiny_dataset.ROWS + numbers[index], 7, 3)
        assert (pixels == 10 * numbers[index]).all()
    assert source.name(3) == "tiny train record 3"
    copy = pickle.loads(pickle.dumps(source))
    assert copy.content(7) == source.content(7)


def test_parts(prepared):
    whole = open_source("tfds:tiny", data_dir=prepared)
    test = open_source("tfds:tiny", split="test", data_dir=prepared)
    last = open_source("tfds:tiny", split="train[75%:]", data_dir=prepared)
    assert len(test) == 5
    assert [last.content(i) for i in range(3)] == [
        whole.content(i) for i in (9, 10, 11)
    ]
    with pytest.raises(DataError, match=r"parts \['test', 'train'\].*split='val'"):
        open_source("tfds:tiny", split="val", data_dir=prepared)


def test_the_same_without_tensorflow_and_without_importing_it(prepared):
    code = (
        "import json, sys\n"
        "from tests.data.tiny_dataset import hide_tensorflow\n"
        "if {hide}: hide_tensorflow()\n"
        "from keras_metaformer_lite.data.sources import open_source\n"
        f"source = open_source('tfds:tiny', data_dir={str(prepared)!r})\n"
        "found = [[source.label(i), source.load(i).height] for i in range(12)]\n"
        "print(json.dumps([found, sorted({{'tensorflow', 'jax', 'torch', 'keras'}}"
        " & set(sys.modules))]))\n"
    )
    source = open_source("tfds:tiny", data_dir=prepared)
    expected = [[source.label(i), source.load(i).height] for i in range(12)]
    for hide in (False, True):
        found = json.loads(_run("-c", code.format(hide=hide)).splitlines()[-1])
        assert found == [expected, []]


def test_a_file_that_is_cut_off(prepared):
    files = list(prepared.rglob("*train.tfrecord*"))
    if not files:
        return
    content = files[0].read_bytes()
    try:
        files[0].write_bytes(content[:-10])
        with pytest.raises(DataError, match=r"Expected 12 records.*ends in record 11"):
            len(open_source("tfds:tiny", data_dir=prepared))
    finally:
        files[0].write_bytes(content)


def test_an_unknown_data_set(tmp_path):
    with pytest.raises(DataError, match=r"Did you mean 'mnist'.*Received: 'mnits'"):
        open_source("tfds:mnits", data_dir=tmp_path)
