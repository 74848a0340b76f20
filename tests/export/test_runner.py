"""`LiteRTModel` on damaged files and images, and files whose writing was killed."""

import json
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_metaformer.data.images import ImageError
from keras_metaformer.export import LiteRTModel, ModelFileError, to_litert

pytestmark = pytest.mark.backend_independent

LABELS = ["one", "two", "three"]


def _export(path, **options):
    image = keras.Input((4, 4, 3))
    pixels = keras.layers.Rescaling(1 / 255)(image)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(pixels))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(pooled))
    quick = {"check_gpu": False, "latency_runs": 0, "verbose": False}
    to_litert(model, path, labels=LABELS, **quick, **options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("runner") / "model.tflite"
    _export(path)
    return path


def test_damaged_files_raise_and_never_crash(exported, tmp_path):
    """Bytes changed anywhere: tables, weights, metadata, the archive of labels."""
    content = exported.read_bytes()
    path = tmp_path / "model.tflite"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            runner = LiteRTModel(path)
            scores = runner.predict(np.zeros(runner.input_shape, "float32"))
        except ModelFileError as error:
            assert str(path) in str(error)
            refused += 1
        else:  # a weight was hit
            assert scores.shape[0] == 1
    assert 100 < refused < 400


def test_files_cut_off_anywhere(exported, tmp_path):
    content = exported.read_bytes()
    model_ends = content.index(b"PK\3\4")
    path = tmp_path / "model.tflite"
    for length in range(0, model_ends, 97):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="Received: path="):
            LiteRTModel(path)


def test_damaged_labels_and_metadata(exported, tmp_path):
    content = exported.read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(content.replace(b'"takes_pixels"', b'"takes_pixels?'))
    with pytest.raises(ModelFileError, match="metadata cannot be read"):
        LiteRTModel(path)

    model = content[: content.index(b"PK\3\4")]
    for labels, message in [
        (b"one\ntwo\n", "Received: 2 labels"),
        (b"one\ntwo\nthr\xff\xff\n", "labels or metadata cannot be read"),
    ]:
        path.write_bytes(model)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("labels.txt", labels)
        with pytest.raises(ModelFileError, match=message):
            LiteRTModel(path)


def test_enormous_tensors_are_refused(exported, tmp_path):
    """The runtime would try to allocate them, and take the machine's memory."""
    content = exported.read_bytes()
    shape = np.array([4, 1, 4, 4, 3], "<i4").tobytes()
    enormous = np.array([4, 1, 40_000, 40_000, 3], "<i4").tobytes()
    assert shape in content
    path = tmp_path / "model.tflite"
    path.write_bytes(content.replace(shape, enormous))
    with pytest.raises(ModelFileError, match="40000"):
        LiteRTModel(path)


def test_images_that_cannot_be_read(exported, tmp_path):
    runner = LiteRTModel(exported)
    for name, content in [
        ("empty.jpg", b""),
        ("text.png", b"hello, world"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\4\0\0\0\4\x08\2\0\0\0"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=name):
            runner.predict(tmp_path / name)
    with pytest.raises(ImageError, match="there is none"):
        runner.predict(tmp_path / "none.jpg")


def test_probabilities_of_files_that_give_logits(exported):
    runner = LiteRTModel(exported)
    image = np.zeros(runner.input_shape, "float32")
    probabilities = runner.predict(image)
    assert runner.gives == "probabilities"
    np.testing.assert_array_equal(runner.probabilities(image), probabilities)
    runner.gives = None  # as in files of others
    np.testing.assert_array_equal(runner.probabilities(image), probabilities)
    runner.gives = "logits"
    powers = np.exp(probabilities)
    np.testing.assert_allclose(
        runner.probabilities(image), powers / powers.sum(-1, keepdims=True), rtol=1e-6
    )


PROGRAM = """
import sys, time
from pathlib import Path
from keras_metaformer.export import litert
from tests.export.test_runner import _export

path = Path(sys.argv[1])
_export(path)
print("exported", flush=True)

def hang(*_):
    print("writing", flush=True)
    time.sleep(600)

litert.os.fsync = hang
_export(path, input_type="uint8")
"""


def test_killed_while_writing(tmp_path):
    """kill -9 between writing and renaming: the file is the whole earlier one."""
    path = tmp_path / "model.tflite"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "exported\n"
        before = path.read_bytes()
        assert child.stdout.readline() == "writing\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
    assert path.read_bytes() == before
    runner = LiteRTModel(path)
    assert runner.labels == LABELS
    assert runner.input_dtype == np.float32
    # What was being written stands under another name.
    assert list(tmp_path.glob("*.tflite")) == [path]


@pytest.mark.parametrize(
    "name", ["keras_metaformer.export.LiteRTModel", "LiteRTModel"], ids=["km", "from"]
)
def test_the_runner_brings_in_no_keras_and_no_backend(name, exported):
    program = f"""
import json, sys
import keras_metaformer
from keras_metaformer.data.examples import photograph_files
from keras_metaformer.export import LiteRTModel

results = {name}({str(exported)!r}).classify(photograph_files(), top=1)
heavy = {{"keras", "tensorflow", "jax", "torch"}} & set(sys.modules)
print(json.dumps([results, sorted(heavy)]))
"""
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    results, heavy = json.loads(child.stdout.splitlines()[-1])
    assert heavy == []
    assert [len(best) for best in results] == [1, 1, 1]
    assert all(label in LABELS and score > 1 / 3 for ((label, score),) in results)
