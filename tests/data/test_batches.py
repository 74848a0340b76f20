"""Batches from worker processes: the same bytes whatever their number."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_metaformer as km
from keras_metaformer.data import (
    Augmentation,
    DataError,
    EvaluationBatches,
    EvaluationTransform,
    ImageDescription,
    Source,
    TrainingBatches,
    WorkerError,
    open_source,
)
from keras_metaformer_lite.data.worker_pool import WorkerPool, default_workers
from keras_metaformer_lite.processes import python_command

SIZE, CLASSES = 16, 3


@pytest.fixture(scope="module")
def source() -> Source:
    images = np.random.default_rng(0).integers(0, 256, (50, 20, 24, 3)).astype("uint8")
    return open_source((images, np.arange(50) % CLASSES))


def _description(**fields) -> ImageDescription:
    return ImageDescription(EvaluationTransform(SIZE, 0.9), **fields)


def _epoch(source, *, epoch=0, start=0, workers=0, batch=20, seed=5, **options):
    augmentation = options.pop("augmentation", Augmentation())
    description = options.pop("description", _description())
    with TrainingBatches(
        source, description, augmentation, batch, seed, workers
    ) as batches:
        return list(batches.epoch(epoch, start))


def _bytes(batches) -> list[bytes]:
    return [images.tobytes() + targets.tobytes() for images, targets in batches]


@pytest.mark.backend_independent
def test_a_batch_is_a_function_of_seed_epoch_and_step(source):
    first = _epoch(source)
    assert len(first) == 2
    for images, targets in first:
        assert images.shape == (20, SIZE, SIZE, 3)
        assert images.dtype == targets.dtype == "float32"
        np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    # Another number of workers, and a start in the middle.
    for workers in (1, 3):
        assert _bytes(_epoch(source, workers=workers)) == _bytes(first)
    assert _bytes(_epoch(source, start=1, workers=2)) == _bytes(first[1:])
    assert _epoch(source, start=2) == []
    later, other = _epoch(source, epoch=1), _epoch(source, seed=6)
    assert len({*_bytes(first), *_bytes(later), *_bytes(other)}) == 6


@pytest.mark.backend_independent
def test_an_epoch_has_every_image_once_but_those_of_the_last_batch(source):
    batches = TrainingBatches(source, _description(), Augmentation(), 20, workers=0)
    assert batches.steps_per_epoch == 2
    seen = np.concatenate([batches.indices(3, step) for step in range(2)])
    assert len(set(seen.tolist())) == 40
    assert seen.tolist() != sorted(seen.tolist())
    assert not np.array_equal(batches.indices(3, 0), batches.indices(4, 0))
    with pytest.raises(ValueError, match="Received: step=2"):
        batches.indices(3, 2)


@pytest.mark.backend_independent
@pytest.mark.parametrize("batch", [7, 20, 33])
def test_without_augmentation_training_sees_what_evaluation_sees(source, batch):
    description = _description()
    plain = {"augmentation": Augmentation.none(), "batch": batch}
    batches = TrainingBatches(source, description, Augmentation.none(), batch, 5, 0)
    for step, (images, targets) in enumerate(_epoch(source, workers=2, **plain)):
        indices = batches.indices(0, step)
        expected = [description.prepare(source.load(index)) for index in indices]
        assert np.array_equal(images, expected)
        assert np.array_equal(targets, np.eye(CLASSES)[source.labels[indices]])


@pytest.mark.backend_independent
@pytest.mark.parametrize("batch", [7, 20, 33])
def test_images_are_mixed_with_the_mirrored_ones(source, batch):
    augmentation = Augmentation(
        crop_scale=None,
        horizontal_flip=0,
        rand_augment=None,
        color_jitter=0,
        random_erasing=0,
        cutmix=0,
        label_smoothing=0,
    )
    description = _description(includes_preprocessing=True)
    options = {"augmentation": augmentation, "description": description}
    batches = TrainingBatches(source, description, augmentation, batch, 5, 0)
    mixing = batches.mixing(0, 0)
    assert 0 < mixing.factor < 1
    indices = batches.indices(0, 0)
    plain = np.stack([description.prepare(source.load(i)) for i in indices])
    images, targets = _epoch(source, batch=batch, **options)[0]
    factor = mixing.factor
    expected = factor * plain + (1 - factor) * plain[::-1]
    assert np.abs(images - expected).max() <= 0.51  # rounded, as timm does
    labels = np.eye(CLASSES)[source.labels[indices]]
    np.testing.assert_allclose(
        targets, factor * labels + (1 - factor) * labels[::-1], rtol=1e-6
    )


@pytest.mark.backend_independent
def test_pixels_for_a_model_that_normalises_by_itself(source):
    augmentation = Augmentation(random_erasing=0)
    pixels = _epoch(
        source,
        augmentation=augmentation,
        description=_description(includes_preprocessing=True),
    )
    normalised = _epoch(source, augmentation=augmentation)
    transform = _description().transform
    for (one, _), (other, _) in zip(pixels, normalised, strict=True):
        assert 0 <= one.min() < one.max() <= 255
        assert np.array_equal(transform.normalised(one), other)
    # What is erased has the mean of the data, in either form.
    erased = Augmentation(random_erasing=1)
    description = _description(includes_preprocessing=True)
    one = _epoch(source, augmentation=erased, description=description)[0][0]
    other = _epoch(source, augmentation=erased)[0][0]
    np.testing.assert_allclose(transform.normalised(one), other, atol=1e-5)


@pytest.mark.backend_independent
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_padded_and_masked(source, workers):
    description = _description()
    with EvaluationBatches(source, description, 32, workers) as batches:
        assert len(batches) == 2
        for _ in range(2):  # as often as wanted
            (first, _, ones), (last, labels, mask) = batches
    assert first.shape == last.shape == (32, SIZE, SIZE, 3)
    assert ones.all()
    assert mask.tolist() == [1.0] * 18 + [0.0] * 14
    assert labels[:18].tolist() == source.labels[32:].tolist()
    assert not last[18:].any()
    assert np.array_equal(last[17], description.prepare(source.load(49)))


class _Failing(Source):
    """The last image cannot be read; `kind` says how."""

    def __init__(self, kind: type[Exception] | None) -> None:
        self.class_names = ("a", "b")
        self.labels = np.arange(12) % 2
        self.kind = kind

    def load(self, index: int) -> Image.Image:
        if index == 11:
            if self.kind is None:
                os._exit(7)
            raise self.kind("broken.jpg")
        return Image.new("RGB", (9, 9))


@pytest.mark.backend_independent
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named(workers):
    with (
        EvaluationBatches(_Failing(OSError), _description(), 4, workers) as batches,
        pytest.raises(DataError, match=r"An image cannot be read: broken.jpg"),
    ):
        list(batches)


@pytest.mark.backend_independent
def test_other_errors_and_ends_of_workers():
    description = _description()
    with (
        EvaluationBatches(_Failing(KeyError), description, 4, 2) as batches,
        pytest.raises(WorkerError, match=r"(?s)KeyError in a worker.*broken.jpg"),
    ):
        list(batches)
    with (
        EvaluationBatches(_Failing(None), description, 4, 1) as batches,
        pytest.raises(WorkerError, match=r"ended before its work.*exit code 7"),
    ):
        list(batches)


@pytest.mark.backend_independent
def test_an_epoch_that_is_left_early(source):
    with TrainingBatches(source, _description(), Augmentation(), 20, 5, 2) as batches:
        expected = _bytes(_epoch(source))
        for _ in range(3):
            epoch = batches.epoch(0)
            assert _bytes([next(epoch)]) == expected[:1]
            epoch.close()  # type: ignore[attr-defined]
        assert _bytes(batches.epoch(0)) == expected


@pytest.mark.backend_independent
def test_two_epochs_at_once(source):
    with TrainingBatches(source, _description(), Augmentation(), 4, 5, 1) as batches:
        first = batches.epoch(0)
        next(first)
        with pytest.raises(RuntimeError, match="one iterator at a time"):
            next(batches.epoch(1))
        assert len(list(first)) == batches.steps_per_epoch - 1


@pytest.mark.backend_independent
def test_arguments_out_of_range(source):
    make = lambda **options: TrainingBatches(  # noqa: E731
        **{
            "source": source,
            "description": _description(),
            "augmentation": Augmentation(),
            "batch_size": 4,
            "workers": 0,
            **options,
        }
    )
    with pytest.raises(DataError, match=r"fewer images than one batch: 50.*=51"):
        make(batch_size=51)
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="Received: seed=-1"):
        make(seed=-1)
    with pytest.raises(ValueError, match="Received: workers=-1"):
        make(workers=-1)
    with pytest.raises(ValueError, match=r"classes must stand in modules"):
        WorkerPool(lambda task: task, 1)


@pytest.mark.backend_independent
def test_one_worker_for_each_core_but_one(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert default_workers() == 7
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert default_workers() == 1


# Worker processes, seen from outside

_SCRIPT = """
import os, signal, sys, numpy as np
# What a script starts in its background ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from keras_metaformer_lite.data.augmentation import Augmentation
from keras_metaformer_lite.data.batches import TrainingBatches
from keras_metaformer_lite.data.sources import ArraySource
from keras_metaformer_lite.data.worker_pool import WorkerPool
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import EvaluationTransform
source = ArraySource(np.zeros((64, 9, 9, 3), "uint8"), np.arange(64) % 2)
description = ImageDescription(EvaluationTransform(16))
batches = TrainingBatches(source, description, Augmentation(), 8, workers=2)
pids = [process._process.pid for process in batches._pool._processes]
epoch = batches.epoch(0)
next(epoch)
print(*pids, flush=True)
sys.stdin.read()
"""


def _is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    return False


@pytest.mark.backend_independent
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(how, tmp_path):
    """Started without a `__main__` guard, in a folder with misleading modules."""
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    for name in ("numpy", "pickle", "PIL"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    root = str(Path(km.__file__).parents[1])
    with subprocess.Popen(
        python_command(script),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        pids = list(map(int, parent.stdout.readline().split()))
        assert len(pids) == 2
        assert all(map(_is_running, pids))
        parent.send_signal(how)
        parent.wait(60)
    end = time.monotonic() + 60
    while any(map(_is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_is_running, pids))


class _Imported:
    def __call__(self, task: str) -> list[str]:
        return [name for name in task.split() if name in sys.modules]


@pytest.mark.backend_independent
def test_workers_import_no_backend():
    names = "tensorflow jax torch keras keras_metaformer numpy"
    with WorkerPool(_ImportedByBatches(), 1) as pool:
        assert list(pool.run([names])) == [["numpy"]]


class _ImportedByBatches(_Imported):
    """What a worker has imported when it has made a batch."""

    def __call__(self, task: str) -> list[str]:
        # This module itself imports Keras: a fresh process tells.
        code = (
            "import sys\n"
            "import keras_metaformer_lite.data.batches\n"
            "import keras_metaformer_lite.data.checks\n"
            f"print(*[name for name in {task.split()} if name in sys.modules])"
        )
        found = subprocess.run(
            python_command("-c", code), capture_output=True, text=True, check=True
        )
        return found.stdout.split()


def test_training_and_evaluation_on_a_backend_with_threads(source):
    """Workers start when the backend's threads are there already."""
    model = km.MetaFormer([1], [8], input_shape=(SIZE, SIZE, 3), classes=CLASSES)
    model.compile("adam", "categorical_crossentropy")
    model.train_on_batch(np.zeros((4, SIZE, SIZE, 3)), np.eye(CLASSES)[[0, 1, 2, 0]])
    description = model.image_description
    assert description is not None
    with TrainingBatches(source, description, Augmentation(), 10, workers=2) as batches:
        history = model.fit(
            batches.epoch(0), steps_per_epoch=batches.steps_per_epoch, verbose=0
        )
    assert np.isfinite(history.history["loss"]).all()
    with EvaluationBatches(source, description, 16, workers=2) as held_out:
        outputs = [model.predict_on_batch(images) for images, _, _ in held_out]
    assert np.concatenate(outputs).shape == (64, CLASSES)
    keras.utils.clear_session()
