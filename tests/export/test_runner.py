"""`LiteRTModel` on damaged files and images, and files whose writing was killed."""

import concurrent.futures
import io
import json
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_metaformer.data.images import ImageError
from keras_metaformer.export import LiteRTModel, ModelFileError, to_litert
from keras_metaformer.export.flatbuffer import TFLiteFile

pytestmark = pytest.mark.backend_independent

LABELS = ["one", "two", "three"]


def _export(path, seed=0, **options):
    keras.utils.set_random_seed(seed)
    image = keras.Input((4, 4, 3))
    pixels = keras.layers.Rescaling(1 / 255)(image)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(pixels))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(pooled))
    quick = {"check_gpu": False, "latency_runs": 0, "verbose": False}
    to_litert(model, path, **{"labels": LABELS, **quick, **options})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("runner") / "model.tflite"
    _export(path)
    return path


def test_files_cut_off_anywhere(exported, tmp_path):
    content = exported.read_bytes()
    model_ends = content.index(b"PK\3\4")
    path = tmp_path / "model.tflite"
    for length in range(0, model_ends, 97):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="Received: path="):
            LiteRTModel(path)


def _with_labels(model, name, data, **options):
    """A model's bytes with an archive of one file behind them."""
    archive = io.BytesIO(model)
    with zipfile.ZipFile(archive, "a", **options) as writer:
        writer.writestr(name, data)
    return archive.getvalue()


def test_damaged_labels_and_metadata(exported, tmp_path):
    content = exported.read_bytes()
    path = tmp_path / "model.tflite"
    model = content[: content.index(b"PK\3\4")]
    for damaged, message in [
        (content.replace(b'"takes_pixels"', b'"takes_pixels?'), "metadata cannot be"),
        (_with_labels(model, "labels.txt", b"one\ntwo\n"), "Received: 2 labels"),
        (_with_labels(model, "labels.txt", b"1\n2\n3\xff\xff\n"), "cannot be read"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=message):
            LiteRTModel(path)
    path.write_bytes(_with_labels(model, "photograph.jpg", b"no labels"))
    assert LiteRTModel(path).labels is None


def test_labels_that_are_compressed_to_next_to_nothing(exported, tmp_path):
    """10 kB of bzip2 were 512 MB; deflate makes a thousandth of it."""
    content = exported.read_bytes()
    model = content[: content.index(b"PK\3\4")]
    path = tmp_path / "model.tflite"
    data = bytes(64 << 20)
    for method, message in [
        (zipfile.ZIP_BZIP2, "compression 12"),
        (zipfile.ZIP_DEFLATED, "labels of more than"),
    ]:
        path.write_bytes(_with_labels(model, "labels.txt", data, compression=method))
        tracemalloc.start()
        with pytest.raises(ModelFileError, match=message):
            LiteRTModel(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


def test_labels_come_back_as_they_were(tmp_path):
    """Only a line feed ends a label, whatever else Unicode ends lines with."""
    path = tmp_path / "model.tflite"
    labels = ["one\u2028two\x0b", "\x85three\x0cfour\x1c", ""]
    _export(path, labels=labels)
    assert LiteRTModel(path).labels == labels
    # Another's file, from Windows, and without an end of the last line.
    content = path.read_bytes()
    model = content[: content.index(b"PK\3\4")]
    path.write_bytes(_with_labels(model, "names.txt", b"one\r\n two\r\nthree"))
    assert LiteRTModel(path).labels == ["one", " two", "three"]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"crop_fraction": 1e-12}, "crop_fraction=1e-12"),
        ({"crop_fraction": float("nan")}, "crop_fraction=nan"),
        ({"crop_fraction": "1"}, "crop_fraction='1'"),
        ({"interpolation": "box"}, "interpolation='box'"),
        ({"resolution": 10**9}, "'resolution': 1000000000"),
    ],
)
def test_transforms_that_need_enormous_images(transform, message, exported, tmp_path):
    """Refused from a caller before any work, and from a stranger's file."""
    if transform != {"interpolation": "box"}:
        with pytest.raises(ValueError, match=message):
            _export(tmp_path / "model.tflite", transform=transform)
    assert list(tmp_path.iterdir()) == []
    file = TFLiteFile(exported.read_bytes())
    file.add_metadata("keras_metaformer", json.dumps({"transform": transform}).encode())
    path = tmp_path / "model.tflite"
    path.write_bytes(file.content())
    with pytest.raises(ModelFileError, match=message):
        LiteRTModel(path)


def test_metadata_that_is_too_deep_or_too_long(exported, tmp_path):
    path = tmp_path / "model.tflite"
    for data, message in [
        (b"[" * 50_000, "RecursionError"),
        (b" " * 100_000, "100000 bytes of metadata"),
        (b"[]", "metadata of type list"),
        (b'{"output": ["logits"]}', "output="),
    ]:
        file = TFLiteFile(exported.read_bytes())
        file.add_metadata("keras_metaformer", data)
        path.write_bytes(file.content())
        with pytest.raises(ModelFileError, match=message):
            LiteRTModel(path)


def test_devices_pipes_and_folders_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        (tmp_path, "directory|no regular file"),
        (tmp_path / "pipe", "no regular file"),
        ("/dev/zero", "no regular file"),
    ]:
        with pytest.raises(ModelFileError, match=f"({message}).*Received: path="):
            LiteRTModel(path)


def test_threads_take_turns(exported):
    """One model in four threads: every image gets its own answer."""
    runner = LiteRTModel(exported)
    images = np.random.default_rng(0).uniform(0, 255, (40, *runner.input_shape))
    images = images.astype("float32")
    expected = runner.predict(images)
    assert len(np.unique(expected, axis=0)) == len(images)
    places = np.random.default_rng(1).permutation(np.repeat(np.arange(40), 50))
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda place: runner.predict(images[place]), places))
    np.testing.assert_array_equal(np.concatenate(got), expected[places])


def test_weight_caches_are_of_one_file(exported, tmp_path):
    """Another model of the same architecture, and damaged caches, change nothing."""
    cache = tmp_path / "cache"
    other = tmp_path / "other.tflite"
    _export(other, seed=1)
    image = np.random.default_rng(0).uniform(0, 255, (4, 4, 3)).astype("float32")
    expected = {path: LiteRTModel(path).predict(image) for path in (exported, other)}
    assert np.abs(expected[exported] - expected[other]).max() > 1e-3

    def check():
        for path, probabilities in expected.items():
            got = LiteRTModel(path, weight_cache=cache).predict(image)
            np.testing.assert_allclose(got, probabilities, atol=1e-6)

    for _ in range(2):  # Made, then read.
        check()
    names = sorted(path.name for path in cache.iterdir())
    files = [path for path in cache.iterdir() if path.suffix == ".xnnpack"]
    assert len(names) == 4
    assert len(files) == 2
    before = [path.stat().st_mtime_ns for path in files]
    check()
    assert [path.stat().st_mtime_ns for path in files] == before
    for bit in np.random.default_rng(2).integers(0, 8 * files[0].stat().st_size, 6):
        for path in files:
            damaged = bytearray(path.read_bytes())
            damaged[bit // 8 % len(damaged)] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
        check()
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    check()
    for path in cache.glob("*.sha256"):
        path.write_bytes(b"")
    check()
    assert sorted(path.name for path in cache.iterdir()) == names


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
from keras_metaformer.export import files
from tests.export.test_runner import _export

path = Path(sys.argv[1])
_export(path)
print("exported", flush=True)

def hang(*_):
    print("writing", flush=True)
    time.sleep(600)

files.os.fsync = hang
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
