"""Predictions for collections that are too large for one process, as a Ray Data job."""

import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_metaformer.training.callbacks import duration
from keras_metaformer.training.classifiers import open_classifier
from keras_metaformer.training.prediction import predictions_of
from keras_metaformer_lite.data.collections import (
    Collection,
    ItemReader,
    file_system,
    in_tasks,
    is_address,
    open_collection,
)
from keras_metaformer_lite.data.predicted import as_table, table_row
from keras_metaformer_lite.data.worker_pool import WorkerPool
from keras_metaformer_lite.weights.disk import replacement

PART = 1024
_TASK = 8
_JOB = "job.json"


def predict_with_ray(
    model: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    embeddings: bool = False,
    top: int | None = None,
    batch_size: int = 32,
    part: int = PART,
    actors: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes the predictions of a collection, part by part, on all of a Ray cluster.

    Part after part of the collection goes to one of the actors, which hold the model,
    and comes to be a file `predictions/part-00000.parquet` of `output` with a row for
    each image that could be read, and `unreadable/part-00000.parquet` with the others
    and why. A file is there whole or not at all; what is there is not done again, so
    that the same call goes on where a job ended, and each image is there once.

    The cluster is that of RAY_ADDRESS, which `ray job submit` sets, or one on this
    machine. On several machines `output` is a folder or an address that all of them
    see, and `model` and `images` too.

    Args:
        model: a constructor's name, a `.keras` or `.tflite` file, or the folder of a
            run.
        images: files, folders, patterns, `.parquet` tables, addresses
            (`keras_metaformer_lite.data.collections.open_collection`).
        output: folder or address, such as `s3://bucket/found`.
        weights: tag or file for a constructor.
        embeddings: bool. Whether to write embeddings instead of probabilities.
        top: only so many classes, the most probable ones; None for all.
        batch_size: int. Images of a batch.
        part: int. Images of a file.
        actors: int. Processes with a copy of the model each.
        cpus: of each actor, what Ray is to reserve; torch, JAX and TensorFlow use as
            many threads.
        gpus: likewise GPUs, parts of one as well.
        workers: processes that read images, for each actor; 0 for the actor itself.
        say: called with each line of progress.

    Returns:
        Counts of this call and of all: `images`, `unreadable`, `parts`, `parts_before`,
        `seconds`, `bytes` (the most memory of an actor), `output`.

    Raises:
        ValueError: if an argument is out of range, or `output` has another job.
        DataError: if there are no images.
        ImportError: if Ray, pyarrow or what an address needs is missing.
    """
    import ray

    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("part", part, 1),
        ("actors", actors, 1),
        ("workers", workers, 0),
    ):
        if value < least:
            raise ValueError(
                f"`{name}` must be at least {least}. Received: {name}={value}"
            )
    if top is not None and (top < 1 or embeddings):
        raise ValueError(
            "`top` is a positive number of classes, of probabilities. "
            f"Received: top={top}, embeddings={embeddings}"
        )
    store = _Store(os.fspath(output))
    collection = open_collection(images)
    # Absolute, because actors run elsewhere.
    path = Path(model)
    source = os.fspath(path.resolve() if path.exists() else model)
    job = {
        "model": source,
        "weights": None if weights is None else os.fspath(weights),
        "images": collection.fingerprint(),
        "embeddings": embeddings,
        "top": top,
        "part": part,
    }
    store.begin(job)
    starts = range(0, len(collection), part)
    done = store.parts()
    missing = [number for number in range(len(starts)) if number not in done]
    say(
        f"{len(collection):,} images in {len(starts):,} parts, of which "
        f"{len(starts) - len(missing):,} are there"
    )
    totals = {"images": 0, "unreadable": 0, "bytes": 0}
    began = time.monotonic()
    if missing:
        environment = {"KERAS_BACKEND": keras.backend.backend()}
        ray.init(
            ignore_reinit_error=True,
            include_dashboard=False,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": environment},
        )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        settings = _Settings(
            source, job["weights"], embeddings, top, batch_size, part, workers
        )
        results = ray.data.from_items(
            [{"number": number} for number in missing],
            override_num_blocks=len(missing),
        ).map_batches(
            _Predictor,
            fn_constructor_args=(settings, collection, store),
            batch_size=1,
            concurrency=min(actors, len(missing)),
            num_cpus=cpus,
            num_gpus=gpus or None,
        )
        _follow(results.iter_rows(), len(missing), totals, began, say)
    seconds = time.monotonic() - began
    return {
        **totals,
        "parts": len(missing),
        "parts_before": len(starts) - len(missing),
        "seconds": seconds,
        "output": os.fspath(output),
    }


def _follow(
    results: Iterable[Any],
    parts: int,
    totals: dict[str, int],
    began: float,
    say: Callable[[str], None],
) -> None:
    """Counts the parts as they come, and says so every few seconds."""
    said = began
    for number, row in enumerate(results, 1):
        for name in ("images", "unreadable"):
            totals[name] += int(row[name])
        totals["bytes"] = max(totals["bytes"], int(row["bytes"]))
        now = time.monotonic()
        if now - said < 5 and number < parts:
            continue
        said = now
        passed = now - began
        count = totals["images"] + totals["unreadable"]
        say(
            f"part {number}/{parts}  {count:,} images, {totals['unreadable']:,} of "
            f"them unreadable  {count / passed:.4g} images/s  "
            f"{totals['bytes'] / 1e9:.1f} GB an actor  "
            f"{duration((parts - number) * passed / number)} left"
        )


class _Settings:
    """What an actor is to do; pickled."""

    def __init__(
        self,
        model: str,
        weights: str | None,
        embeddings: bool,
        top: int | None,
        batch_size: int,
        part: int,
        workers: int,
    ) -> None:
        self.model, self.weights, self.embeddings = model, weights, embeddings
        self.top, self.batch_size, self.part = top, batch_size, part
        self.workers = workers


class _Predictor:
    """An actor: the model, called with the numbers of parts."""

    def __init__(
        self, settings: _Settings, collection: Collection, store: "_Store"
    ) -> None:
        self._settings, self._collection, self._store = settings, collection, store
        self._classifier = open_classifier(settings.model, settings.weights)
        reader = ItemReader(self._classifier.description)
        self._pool = WorkerPool(reader, settings.workers)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        from keras_metaformer.training.memory import peak_bytes

        found = [self._part(int(number)) for number in batch["number"]]
        return {
            "images": [images for images, _ in found],
            "unreadable": [unreadable for _, unreadable in found],
            "bytes": [peak_bytes()[0]] * len(found),
        }

    def _part(self, number: int) -> tuple[int, int]:
        settings = self._settings
        start = number * settings.part
        stop = min(start + settings.part, len(self._collection))
        tasks = in_tasks(self._collection.items(start, stop), _TASK)
        rows: list[dict[str, Any]] = []
        lost: list[dict[str, Any]] = []
        for found in predictions_of(
            self._classifier,
            self._pool.run(tasks),
            settings.embeddings,
            settings.batch_size,
        ):
            rows += [
                table_row(
                    name, values, found.class_names, settings.top, settings.embeddings
                )
                for name, values in zip(found.names, found.values, strict=True)
            ]
            lost += [
                {"image": name, "reason": reason} for name, reason in found.unreadable
            ]
        # The predictions come last: they say that the part is done.
        self._store.write("unreadable", number, lost, ("image", "reason"))
        self._store.write("predictions", number, rows, ("image",))
        return len(rows), len(lost)


class _Store:
    """The files of a job, in a folder or at an address."""

    def __init__(self, output: str) -> None:
        self._remote = is_address(output)
        self._root = output.rstrip("/") if self._remote else os.path.abspath(output)

    def begin(self, job: dict[str, Any]) -> None:
        """Note what the job is.

        Raises:
            ValueError: if another one is there.
        """
        content = self._read(_JOB)
        if content is None:
            self._write(_JOB, json.dumps(job, indent=2).encode())
            return
        there = json.loads(content)
        different = [name for name in job if there.get(name) != job[name]]
        if different:
            shown = "; ".join(
                f"{name}: {there.get(name)!r} there, {job[name]!r} now"
                for name in different
            )
            raise ValueError(
                f"The output is that of another job ({shown}): give another folder. "
                f"Received: output={self._root!r}"
            )

    def parts(self) -> set[int]:
        """The parts that are done."""
        if self._remote:
            system, path = file_system(self._root)
            names = [
                each.rsplit("/", 1)[-1]
                for each in system.glob(f"{path}/predictions/part-*.parquet")
            ]
        else:
            folder = Path(self._root, "predictions")
            names = [each.name for each in folder.glob("part-*.parquet")]
        return {int(name.removeprefix("part-").split(".")[0]) for name in names}

    def write(
        self,
        table: str,
        number: int,
        rows: Sequence[dict[str, Any]],
        columns: tuple[str, ...],
    ) -> None:
        """Write a part of a table, whole or not at all.

        Args:
            table: its name.
            number: int. Of the part.
            rows: as `table_row` gives them.
            columns: texts that a part without rows has.
        """
        import pyarrow as pa
        import pyarrow.parquet as parquet

        empty = pa.schema([(name, pa.string()) for name in columns]).empty_table()
        content = io.BytesIO()
        parquet.write_table(as_table(rows) if rows else empty, content)
        self._write(f"{table}/part-{number:05}.parquet", content.getvalue())

    def _read(self, name: str) -> bytes | None:
        if self._remote:
            system, path = file_system(f"{self._root}/{name}")
            return system.cat_file(path) if system.exists(path) else None
        path = Path(self._root, name)
        return path.read_bytes() if path.is_file() else None

    def _write(self, name: str, content: bytes) -> None:
        if self._remote:
            system, path = file_system(f"{self._root}/{name}")
            # Object stores show a file when all of it is there.
            system.pipe_file(path, content)
            return
        path = Path(self._root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacement(path) as temporary:
            temporary.write_bytes(content)
