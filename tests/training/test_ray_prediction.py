"""`predict --ray`: every image once, whatever happens in between."""

import http.server
import io
import json
import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from typer.testing import CliRunner

import keras_metaformer as km
from keras_metaformer_lite.cli import app
from keras_metaformer_lite.data import collections
from keras_metaformer_lite.data.errors import DataError
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import EvaluationTransform, ImageError
from keras_metaformer_lite.processes import python_command
from tests.training.photographs import SIZE, small_model, write_digits

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Digits, of which two are no pictures, and a model."""
    folder = tmp_path_factory.mktemp("photographs")
    write_digits(folder, classes=3, each=6)
    images = folder / "images"
    images.mkdir()
    for place, path in enumerate(sorted((folder / "train").rglob("*.png"))):
        shutil.copy(path, images / f"{place:02}.png")
    (images / "05 broken.png").write_text("hello")
    (images / "17 broken.png").write_bytes(b"")
    small_model(folder / "small.keras")
    return folder


def _written(output):
    rows = parquet.read_table(output / "predictions").to_pylist()
    lost = parquet.read_table(output / "unreadable").to_pylist()
    return rows, lost


def _predict(photographs, output, *arguments):
    return CliRunner().invoke(
        app,
        [
            *("predict", str(photographs / "images")),
            *("--model", str(photographs / "small.keras")),
            *("--ray", "--output", str(output), "--part", "6", "--batch", "4"),
            *arguments,
        ],
    )


@pytest.mark.timeout(600)
def test_a_job_writes_each_image_once_and_goes_on(photographs, tmp_path):
    import ray

    output = tmp_path / "found"
    try:
        result = _predict(photographs, output)
        assert result.exit_code == 1, result.output  # two cannot be read
        rows, lost = _written(output)
        files = sorted((photographs / "images").iterdir())
        assert [row["image"] for row in rows] + [row["image"] for row in lost] == [
            str(path) for path in files if "broken" not in path.name
        ] + [str(path) for path in files if "broken" in path.name]
        assert "image file" in lost[0]["reason"]
        # The same numbers as of `predict`.
        expected = km.predict(photographs / "small.keras", files, workers=0)
        values = [list(row.values())[1:] for row in rows]
        np.testing.assert_allclose(values, expected.values, atol=1e-6)

        # A job that was killed has not written this part.
        parts = sorted((output / "predictions").iterdir())
        assert len(parts) == 4
        before = {path: path.stat().st_mtime_ns for path in parts}
        parts[1].unlink()
        result = _predict(photographs, output)
        assert "3 are there" in result.stderr
        assert _written(output) == (rows, lost)
        changed = [path for path in parts if path.stat().st_mtime_ns != before[path]]
        assert changed == [parts[1]]
        assert _predict(photographs, output).exit_code == 0  # nothing is left to do

        result = _predict(photographs, output, "--top", "1")
        assert result.exit_code == 2 and "another job (top: None there" in result.stderr
    finally:
        ray.shutdown()


@pytest.mark.backend_independent
def test_collections_are_files_tables_and_addresses(photographs, tmp_path):
    images = photographs / "images"
    files = sorted(images.iterdir())
    contents = [path.read_bytes() for path in files]
    names = [str(path) for path in files]

    folder = collections.open_collection([images])
    assert [item.name for item in folder.items(0, len(folder))] == names
    assert [item.name for item in folder.items(3, 5)] == names[3:5]
    assert folder.fingerprint() != collections.open_collection(names[1:]).fingerprint()
    pattern = collections.open_collection([f"{images}/0*.png"])
    assert len(pattern) == 11

    both = [{"bytes": content, "path": None} for content in contents]
    for column, values, known in (
        ("image", both, True),
        ("bytes", contents, True),
        ("path", names, False),
    ):
        path = tmp_path / f"{column}.parquet"
        parquet.write_table(pa.table({column: values}), path, row_group_size=4)
        found = collections.open_collection([path, path])
        assert len(found) == 2 * len(files)
        some = list(found.items(5, len(files) + 2))
        expected = [*range(5, len(files)), 0, 1]
        if known:
            assert [item.content for item in some] == [contents[i] for i in expected]
            assert some[0].name.endswith(f"{column}.parquet#5")
        else:
            assert some == [collections.Item(names[i], None) for i in expected]


@pytest.mark.backend_independent
def test_images_are_read_at_addresses(photographs, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    serve = partial(Quiet, directory=photographs)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        top = f"http://127.0.0.1:{server.server_port}"
        names = [f"{top}/images/{place:02}.png" for place in (0, 1, 99)]
        found = collections.open_collection(names)
        description = ImageDescription(EvaluationTransform(SIZE), True)
        read = collections.ItemReader(description)(list(found.items(0, 3)))
        parquet.write_table(pa.table({"url": names}), photographs / "urls.parquet")
        table = collections.open_collection([f"{top}/urls.parquet"])
        assert list(table.items(0, 3)) == list(found.items(0, 3))
        server.shutdown()
    for place in (0, 1):
        image = Image.open(photographs / "images" / f"{place:02}.png")
        np.testing.assert_array_equal(read[place][1], description.prepare(image))
    assert read[2][1] is None and "99.png" in read[2][2]


@pytest.fixture
def bucket(photographs, monkeypatch):
    """The photographs in a bucket of a server on this machine."""
    import fsspec
    import fsspec.config
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        for name, value in {
            "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        files = fsspec.filesystem("s3")
        files.mkdir("bucket")
        files.put(str(photographs / "images"), "bucket/photos", recursive=True)
        yield files
    finally:
        fsspec.config.conf.pop("s3", None)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        server.stop()


@pytest.mark.timeout(600)
def test_a_job_reads_and_writes_a_bucket(bucket, photographs):
    import ray

    job = ["predict", "s3://bucket/photos/", "--output", "s3://bucket/found", "--ray"]
    job += ["--model", str(photographs / "small.keras"), "--part", "8", "--batch", "4"]
    ray.shutdown()  # its processes have the environment that it was started in
    try:
        result = CliRunner().invoke(app, job)
        assert result.exit_code == 1, result.output  # two cannot be read
        tables = {
            name: [
                row
                for part in sorted(bucket.glob(f"bucket/found/{name}/part-*"))
                for row in parquet.read_table(part, filesystem=bucket).to_pylist()
            ]
            for name in ("predictions", "unreadable")
        }
        names = [row["image"].rpartition("/")[2] for row in tables["predictions"]]
        assert names == [f"{place:02}.png" for place in range(18)]
        assert len(tables["unreadable"]) == 2
        again = CliRunner().invoke(app, job)
        assert "3 parts, of which 3 are there" in again.output
    finally:
        ray.shutdown()


@pytest.mark.backend_independent
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_refused_as_elsewhere(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    description = ImageDescription(EvaluationTransform(SIZE), True)
    items = [collections.Item(str(tmp_path / "pipe.png"), None)]
    ((name, image, why),) = collections.ItemReader(description)(items)
    assert name == items[0].name and image is None and "a pipe or a device" in why


@pytest.mark.backend_independent
def test_what_is_no_collection_is_said(tmp_path):
    with pytest.raises(ImageError, match="directory with image files"):
        collections.open_collection([tmp_path])
    table = tmp_path / "numbers.parquet"
    parquet.write_table(pa.table({"number": [1, 2]}), table)
    with pytest.raises(DataError, match=r"called one of image, .* \['number'\]"):
        collections.open_collection([table])
    with pytest.raises(DataError, match="not both"):
        collections.open_collection([table, "cat.jpg"])
    with pytest.raises(DataError, match="nowhere"):
        collections.open_collection(["nowhere://bucket/photos"])
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"(?s)a Parquet table.*text\.parquet"):
        collections.open_collection([tmp_path / "text.parquet"])


def write_jpegs(folder: Path, count: int, spoilt: int) -> None:
    """Noise as JPEGs, of which every so many is cut off."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for place in range(count):
        pixels = chance.integers(0, 256, (6, 8, 3), "uint8")
        content = io.BytesIO()
        Image.fromarray(pixels).resize((80, 60)).save(content, "JPEG")
        data = content.getvalue()
        cut = len(data) // 2 if place % spoilt == 0 else len(data)
        (folder / f"{place:06}.jpg").write_bytes(data[:cut])


@pytest.mark.large
@pytest.mark.timeout(7200)
def test_twenty_thousand_images_survive_a_kill(photographs, tmp_path):
    import subprocess

    images, output = tmp_path / "images", tmp_path / "found"
    write_jpegs(images, 20_000, spoilt=500)
    main = "from keras_metaformer_lite.cli import main; main()"
    command = python_command(
        "-c",
        main,
        *("predict", images, "--model", photographs / "small.keras", "--ray"),
        *("--output", output, "--actors", "2", "--part", "500"),
    )
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    first = subprocess.Popen(command, env=environment, start_new_session=True)
    while len(list((output / "predictions").glob("part-*"))) < 10:
        assert first.poll() is None
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = len(list((output / "predictions").glob("part-*")))
    assert done < 40
    second = subprocess.run(command, env=environment, check=False)
    assert second.returncode == 1
    rows, lost = _written(output)
    names = [row["image"] for row in rows] + [row["image"] for row in lost]
    assert sorted(names) == sorted(str(path) for path in images.iterdir())
    assert len(lost) == 40
    assert json.loads((output / "job.json").read_text())["part"] == 500
