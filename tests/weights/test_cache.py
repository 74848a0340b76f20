"""The cache of converted weights: whole or not there, whatever happens."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import h5py
import numpy as np
import pytest

from keras_metaformer.weights import cache, catalogue, download
from tests.weights.servers import Answer, Fault, Server, closed_address, start_child

pytestmark = pytest.mark.backend_independent

CONTENT = os.urandom(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_HUB_OFFLINE", "KERAS_METAFORMER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0)
    with Server().running() as running:
        running.files["/weights.pth"] = CONTENT
        yield running


@pytest.fixture
def checkpoint(server: Server) -> catalogue.Checkpoint:
    return official(server.url("/weights.pth"))


def official(*urls: str, hub_id: str | None = None) -> catalogue.Checkpoint:
    """A row of the catalogue that is served from somewhere else."""
    row = catalogue.find("ConvFormerS18", "imagenet")
    return dataclasses.replace(row, urls=urls, hub_id=hub_id)


def convert(source: Path, target: Path) -> None:
    """Stands for porting: any function of the content will do."""
    with h5py.File(target, "w") as file:
        file["layer/kernel"] = np.frombuffer(source.read_bytes(), "uint8")


def converted(path: Path) -> bytes:
    """The content of the source that `convert` made `path` of."""
    with h5py.File(path) as file:
        kernel = file["layer/kernel"]
        assert isinstance(kernel, h5py.Dataset)
        return kernel[()].tobytes()


def refuse(source: Path, target: Path) -> None:
    raise AssertionError("converted although it was cached")


def files_in(folder: Path) -> list[str]:
    """All files but the locks, which are empty and stay."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


CONVERTED = ["ConvFormerS18-imagenet.json", "ConvFormerS18-imagenet.weights.h5"]


class TestFolder:
    def test_it_follows_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.delenv("KERAS_METAFORMER_CACHE", raising=False)
        monkeypatch.setenv("KERAS_HOME", "/keras")
        assert cache.cache_folder() == Path("/keras/keras_metaformer")
        monkeypatch.setenv("KERAS_METAFORMER_CACHE", str(tmp_path))
        assert cache.cache_folder() == tmp_path
        assert cache.cache_folder("elsewhere") == Path("elsewhere")
        monkeypatch.delenv("KERAS_METAFORMER_CACHE")
        monkeypatch.delenv("KERAS_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache.cache_folder() == tmp_path / ".keras" / "keras_metaformer"

    def test_each_checkpoint_has_paths_of_its_own(self):
        rows = catalogue.all_checkpoints()
        for path in (cache.converted_path, cache.hand_placed_path):
            found = {(path(row, s), row.url(s)) for row in rows for s in SOURCES}
            assert len({p for p, _ in found}) == len({url for _, url in found})

    def test_the_original_has_a_name_of_its_own_where_it_is_another_file(self):
        row = catalogue.find("ConvFormerS18", "imagenet")
        assert cache.converted_path(row).name == CONVERTED[1]
        name = cache.converted_path(row, "official").name
        assert name == "ConvFormerS18-imagenet-official.weights.h5"
        row = catalogue.find("FFNet1", "imagenet")
        assert cache.converted_path(row) == cache.converted_path(row, "official")


SOURCES: tuple[catalogue.Source, ...] = ("auto", "official")


class TestConversion:
    def test_first_and_second_use(self, server, checkpoint, tmp_path):
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        assert converted(path) == CONTENT
        assert files_in(tmp_path) == CONVERTED
        record = json.loads((tmp_path / CONVERTED[0]).read_text())
        assert record["source"] == {
            "url": server.url("/weights.pth"),
            "sha256": SHA256,
            "bytes": len(CONTENT),
        }
        assert record["converted"] == {
            "file": CONVERTED[1],
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        assert record["licence"] == "Apache-2.0"
        assert set(record["versions"]) == {"keras", "keras_metaformer"}
        assert len(server.requests) == 1
        server.requests.clear()
        assert cache.ensure_converted(checkpoint, refuse, folder=tmp_path) == path
        assert server.requests == []
        cache.verify(checkpoint, folder=tmp_path)

    def test_a_failed_conversion_leaves_nothing(self, server, checkpoint, tmp_path):
        def fail(source: Path, target: Path) -> None:
            target.write_bytes(b"half")
            raise ValueError("no such key")

        with pytest.raises(ValueError, match="no such key") as caught:
            cache.ensure_converted(checkpoint, fail, folder=tmp_path)
        assert server.url("/weights.pth") in caught.value.__notes__[0]
        assert files_in(tmp_path) == []
        # Nor is the next run bound to the file that could not be converted.
        server.files["/weights.pth"] = b"repaired"
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        assert converted(path) == b"repaired"

    @pytest.mark.parametrize(
        "damage",
        [
            lambda record, path: record.unlink(),
            lambda record, path: record.write_text(record.read_text()[:-9]),
            lambda record, path: record.write_text("[]"),
            lambda record, path: record.write_text('{"format": 1}'),
            lambda record, path: record.write_text(
                record.read_text().replace('"bytes"', '"size"')
            ),
            lambda record, path: path.unlink(),
            lambda record, path: path.write_bytes(path.read_bytes()[:-1]),
            lambda record, path: record.write_text(
                record.read_text().replace(
                    f'"format": {cache.FORMAT_VERSION}', '"format": 0'
                )
            ),
        ],
        ids=[
            "no record",
            "cut",
            "list",
            "empty",
            "incomplete",
            "no weights",
            "short",
            "old format",
        ],
    )
    def test_what_is_not_whole_is_made_anew(self, checkpoint, tmp_path, damage):
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        damage(tmp_path / CONVERTED[0], path)
        assert not cache.is_cached(checkpoint, folder=tmp_path)
        with pytest.raises(cache.CacheError, match=path.name):
            cache.verify(checkpoint, folder=tmp_path)
        cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        assert converted(path) == CONTENT
        cache.verify(checkpoint, folder=tmp_path)

    def test_verify_finds_a_flipped_bit(self, checkpoint, tmp_path):
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        content = bytearray(path.read_bytes())
        content[1234] ^= 1
        path.write_bytes(content)
        with pytest.raises(cache.CacheError, match="weights clear ConvFormerS18 image"):
            cache.verify(checkpoint, folder=tmp_path)

    def test_clear(self, checkpoint, tmp_path):
        assert cache.clear(checkpoint, tmp_path) == []
        cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        hand_placed = cache.hand_placed_path(checkpoint, folder=tmp_path)
        hand_placed.parent.mkdir(parents=True)
        hand_placed.touch()
        assert cache.cached_checkpoints(tmp_path) == [
            (catalogue.find("ConvFormerS18", "imagenet"), "auto")
        ]
        leftover = ".ConvFormerS18-imagenet.tmp.weights.h5"
        (tmp_path / leftover).touch()
        removed = cache.clear(checkpoint, tmp_path)
        assert sorted(path.name for path in removed) == [leftover, *CONVERTED]
        assert cache.cached_checkpoints(tmp_path) == []
        assert files_in(tmp_path) == ["sources/ConvFormerS18-imagenet/weights.pth"]


class TestContent:
    def test_the_hash_in_a_file_name_is_checked(self, server, tmp_path):
        good = f"/weights-{SHA256[:8]}.pth"
        server.files[good] = CONTENT[1:]
        checkpoint = official(server.url(good))
        with pytest.raises(download.DownloadError, match="wrong content") as caught:
            cache.ensure_converted(checkpoint, refuse, folder=tmp_path)
        assert SHA256[:8] in str(caught.value)
        assert files_in(tmp_path) == []
        server.files[good] = CONTENT
        cache.ensure_converted(checkpoint, convert, folder=tmp_path)

    def test_content_that_changed_under_its_name_is_refused(
        self, server, checkpoint, tmp_path
    ):
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        path.unlink()
        server.files["/weights.pth"] = b"something else"
        for _ in range(2):
            with pytest.raises(download.DownloadError, match="changed") as caught:
                cache.ensure_converted(checkpoint, refuse, folder=tmp_path)
        assert SHA256 in str(caught.value)
        command = "keras-metaformer weights clear ConvFormerS18 imagenet"
        assert command in str(caught.value)
        cache.clear(checkpoint, tmp_path)
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        assert converted(path) == b"something else"

    def test_a_refused_download_leaves_nothing(self, server, checkpoint, tmp_path):
        server.answers["/weights.pth"] = Answer(404)
        with pytest.raises(download.DownloadError) as caught:
            cache.ensure_converted(checkpoint, refuse, folder=tmp_path)
        hand_placed = cache.hand_placed_path(checkpoint, folder=tmp_path)
        assert str(hand_placed) in str(caught.value)
        assert files_in(tmp_path) == []


class TestHandPlaced:
    @pytest.mark.parametrize("name", ["weights.pth", "twin.pth", "model.safetensors"])
    def test_it_is_used_without_a_request(self, server, tmp_path, monkeypatch, name):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        checkpoint = official(
            server.url("/weights.pth"), server.url("/twin.pth"), hub_id="timm/model"
        )
        file = cache.hand_placed_path(checkpoint, folder=tmp_path).with_name(name)
        file.parent.mkdir(parents=True)
        file.write_bytes(CONTENT)
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        assert converted(path) == CONTENT
        assert server.requests == []
        assert file.exists()

    def test_the_path_that_an_error_names_is_the_right_one(self, tmp_path):
        checkpoint = official(closed_address() + "/weights.pth")
        file = cache.hand_placed_path(checkpoint, folder=tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(download, "BACKOFF_SECONDS", 0)
            with pytest.raises(download.DownloadError) as caught:
                cache.ensure_converted(checkpoint, refuse, folder=tmp_path)
        assert str(file) in str(caught.value)
        file.parent.mkdir(parents=True)
        file.write_bytes(CONTENT)
        cache.ensure_converted(checkpoint, convert, folder=tmp_path)

    def test_a_wrong_one_is_named_and_left_alone(self, server, tmp_path):
        checkpoint = official(server.url(f"/weights-{SHA256[:8]}.pth"))
        file = cache.hand_placed_path(checkpoint, folder=tmp_path)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"wrong")
        with pytest.raises(download.DownloadError, match="wrong content") as caught:
            cache.ensure_converted(checkpoint, refuse, folder=tmp_path)
        assert f"the file is {file}" in str(caught.value)
        assert file.read_bytes() == b"wrong"


HUB_PATHS = {
    "auto": "/timm/convformer_s18.sail_in1k/resolve/main/model.safetensors",
    "official": "/sail/dl/resolve/main/convformer/convformer_s18.pth",
}


class TestHub:
    """The hub's client runs in children, where it sees HF_ENDPOINT from the start."""

    CHILD = """
import dataclasses, json
import h5py, numpy
from keras_metaformer.weights import cache, catalogue, download

download.BACKOFF_SECONDS = 0
row = catalogue.find("ConvFormerS18", "imagenet")
def convert(source, target):
    with h5py.File(target, "w") as file:
        file["layer/kernel"] = numpy.frombuffer(source.read_bytes(), "uint8")

for source in sys.argv[2:]:
    try:
        print(cache.ensure_converted(row, convert, source, sys.argv[1]).name)
    except download.DownloadError as error:
        print(error)
"""

    def run(self, server: Server, folder: Path, monkeypatch, *sources: str) -> str:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HOME", str(folder / "hub"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        child = start_child(self.CHILD, folder / "ours", *sources)
        output, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
        return output

    def test_both_sources_come_through_the_mirror(self, server, tmp_path, monkeypatch):
        for path in HUB_PATHS.values():
            server.files[path] = path.encode()
        output = self.run(server, tmp_path, monkeypatch, "auto", "official", "auto")
        auto, original, again = output.split()
        assert auto == again == "ConvFormerS18-imagenet.weights.h5"
        assert original == "ConvFormerS18-imagenet-official.weights.h5"
        for source, name in (("auto", auto), ("official", original)):
            expected = HUB_PATHS[source].encode()
            assert converted(tmp_path / "ours" / name) == expected
        assert server.methods() == ["HEAD", "GET"] * 2
        server.requests.clear()
        self.run(server, tmp_path, monkeypatch, "auto", "official")
        assert server.requests == []

    def test_content_unlike_its_hash_is_refused(self, server, tmp_path, monkeypatch):
        server.files[HUB_PATHS["auto"]] = CONTENT
        server.wrong_hash = True
        output = self.run(server, tmp_path, monkeypatch, "auto")
        assert "wrong content" in output
        assert files_in(tmp_path / "ours") == []


class TestDisk:
    def test_a_read_only_cache_serves_what_it_has(
        self, checkpoint, tmp_path, monkeypatch
    ):
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        self.make_read_only(monkeypatch)
        assert cache.ensure_converted(checkpoint, refuse, folder=tmp_path) == path

    def test_a_read_only_cache_without_it(self, checkpoint, tmp_path, monkeypatch):
        self.make_read_only(monkeypatch)
        with pytest.raises(cache.CacheError, match="read-only") as caught:
            cache.ensure_converted(checkpoint, refuse, folder=tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "KERAS_HOME" in str(caught.value)

    def make_read_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Patched, since the superuser may write to any folder of a writable disk."""
        open_file = os.open

        def open_to_read(path, flags: int, *args, **kwargs) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return open_file(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", open_to_read)

    def test_a_file_in_the_place_of_the_folder(self, server, checkpoint, tmp_path):
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
            with pytest.raises(cache.CacheError, match="place of a folder"):
                cache.ensure_converted(checkpoint, refuse, folder=folder)
        assert server.requests == []

    # The limit on the size of a process' files stands for the end of the disk. The
    # source has room, and what is made of it: as much, or a lot more than is expected.
    FULL = """
import dataclasses, resource
import h5py, numpy
from keras_metaformer.weights import cache, catalogue

def convert(source, target):
    print("converting")
    with h5py.File(target, "w") as file:
        file["kernel"] = numpy.zeros(1_000_000)

limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
row = catalogue.find("ConvFormerS18", "imagenet")
row = dataclasses.replace(row, urls=(sys.argv[2],), hub_id=None)
try:
    cache.ensure_converted(row, convert, folder=sys.argv[1])
except cache.CacheError as error:
    print(error)
"""

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
    @pytest.mark.parametrize(
        ("limit", "begun"), [(1_500_000, False), (3_000_000, True)]
    )
    def test_the_disk_fills_up(self, server, checkpoint, tmp_path, limit, begun):
        url = server.url("/weights.pth")
        child = start_child(self.FULL, tmp_path, url, str(limit))
        output, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
        assert output.startswith("converting\n") is begun
        assert f"Cannot write to the cache folder {tmp_path}" in output
        assert "size limit" in output
        # No weights; the download is whole and stays, so it is not repeated.
        assert files_in(tmp_path) == [
            CONVERTED[0],
            "downloads/ConvFormerS18-imagenet/weights.pth",
        ]
        assert not cache.is_cached(checkpoint, folder=tmp_path)
        server.requests.clear()
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        assert converted(path) == CONTENT
        assert server.requests == []

    @pytest.mark.parametrize("reserve", ["missing", "unsupported"])
    def test_room_is_asked_for_where_it_cannot_be_reserved(
        self, checkpoint, tmp_path, monkeypatch, reserve
    ):
        def fail(descriptor: int, offset: int, size: int) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        if reserve == "missing":
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        else:
            monkeypatch.setattr(os, "posix_fallocate", fail, raising=False)
        usage = shutil.disk_usage(tmp_path)._replace(free=len(CONTENT))
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: usage)
            with pytest.raises(cache.CacheError, match="the disk is full"):
                cache.ensure_converted(checkpoint, refuse, folder=tmp_path)
        cache.ensure_converted(checkpoint, convert, folder=tmp_path)

    def test_an_error_that_hdf5_only_words(self, checkpoint, tmp_path):
        def fail(source: Path, target: Path) -> None:
            raise RuntimeError(
                "Can't decrement id ref count (file write failed: file descriptor = 3, "
                "errno = 28, error message = 'No space left on device')"
            )

        with pytest.raises(cache.CacheError, match="the disk is full"):
            cache.ensure_converted(checkpoint, fail, folder=tmp_path)

    def test_an_error_that_hdf5_lost(self, checkpoint, tmp_path):
        def convert_in_part(source: Path, target: Path) -> None:
            convert(source, target)
            os.truncate(target, target.stat().st_size // 2)

        with pytest.raises(cache.CacheError, match="not written whole"):
            cache.ensure_converted(checkpoint, convert_in_part, folder=tmp_path)
        assert not any(name.endswith(".weights.h5") for name in files_in(tmp_path))
        assert any(name.startswith("downloads") for name in files_in(tmp_path))

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_the_disk_fills_up_at_the_end(
        self, checkpoint, tmp_path, monkeypatch, call
    ):
        real = getattr(os, call)

        def convert_then_fail(source: Path, target: Path) -> None:
            def fail(*args: object) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            convert(source, target)
            monkeypatch.setattr(os, call, fail)

        with pytest.raises(cache.CacheError, match="the disk is full"):
            cache.ensure_converted(checkpoint, convert_then_fail, folder=tmp_path)
        monkeypatch.setattr(os, call, real)
        assert CONVERTED[1] not in files_in(tmp_path)
        assert not any("tmp" in name for name in files_in(tmp_path))
        cache.ensure_converted(checkpoint, convert, folder=tmp_path)


class TestProcesses:
    # Tells its parent when it asks for the lock and when it converts, in which it then
    # waits for a line if told to.
    CHILD = """
import dataclasses, filelock, h5py, numpy
from keras_metaformer.weights import cache, catalogue

def convert(source, target):
    with h5py.File(target, "w") as file:
        file["layer/bias"] = numpy.zeros(3)
        file.flush()
        print("converting", flush=True)
        if sys.argv[3] == "wait":
            sys.stdin.readline()
        file["layer/kernel"] = numpy.frombuffer(source.read_bytes(), "uint8")

def acquire(lock, acquire=filelock.FileLock.acquire):
    print("locking", flush=True)
    return acquire(lock)

filelock.FileLock.acquire = acquire
row = catalogue.find("ConvFormerS18", "imagenet")
row = dataclasses.replace(row, urls=(sys.argv[2],), hub_id=None)
print(cache.ensure_converted(row, convert, folder=sys.argv[1]), flush=True)
"""

    def start(
        self, folder: Path, server: Server, mode: str = "go"
    ) -> subprocess.Popen[str]:
        return start_child(self.CHILD, folder, server.url("/weights.pth"), mode)

    def wait_for(self, child: subprocess.Popen[str], *lines: str) -> None:
        assert child.stdout is not None
        for line in lines:
            assert child.stdout.readline() == line + "\n"

    def test_two_at_once_make_one_conversion(self, server, checkpoint, tmp_path):
        children = [self.start(tmp_path, server) for _ in range(2)]
        outputs = [child.communicate(timeout=120) for child in children]
        assert [child.returncode for child in children] == [0, 0], outputs
        assert sorted("converting" in output for output, _ in outputs) == [False, True]
        assert len(server.requests) == 1
        for output, _ in outputs:
            path = Path(output.splitlines()[-1])
            assert converted(path) == CONTENT
        assert files_in(tmp_path) == CONVERTED

    def test_a_second_one_waits_for_the_first(self, server, checkpoint, tmp_path):
        first = self.start(tmp_path, server, "wait")
        self.wait_for(first, "locking", "converting")
        lock = filelock.FileLock(tmp_path / ".ConvFormerS18-imagenet.lock")
        with pytest.raises(filelock.Timeout):
            lock.acquire(timeout=0)
        assert not cache.is_cached(checkpoint, folder=tmp_path)
        second = self.start(tmp_path, server)
        self.wait_for(second, "locking")
        first.communicate("go on\n", timeout=120)
        output, _ = second.communicate(timeout=120)
        assert output.splitlines() == [str(tmp_path / CONVERTED[1])]
        assert len(server.requests) == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
    def test_killed_during_the_download(self, server, checkpoint, tmp_path):
        server.faults = [Fault(600_000, "stall")]
        child = self.start(tmp_path, server)
        part = tmp_path / "downloads/ConvFormerS18-imagenet/weights.pth.part"
        while not (server.stalled.is_set() and part.exists() and part.stat().st_size):
            time.sleep(0.01)
            assert child.poll() is None, child.communicate()
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=120)
        assert part.stat().st_size < len(CONTENT)
        server.requests.clear()
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        assert converted(path) == CONTENT
        assert server.ranges()[0] is not None  # continued where it was killed
        assert files_in(tmp_path) == CONVERTED

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
    def test_killed_during_the_conversion(self, server, checkpoint, tmp_path):
        child = self.start(tmp_path, server, "wait")
        self.wait_for(child, "locking", "converting")
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=120)
        assert ".ConvFormerS18-imagenet.tmp.weights.h5" in files_in(tmp_path)
        assert not cache.is_cached(checkpoint, folder=tmp_path)
        server.requests.clear()
        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        assert converted(path) == CONTENT
        assert server.requests == []  # the download had been whole
        assert files_in(tmp_path) == CONVERTED

    @pytest.mark.parametrize("moment", ["before", "between", "after"])
    def test_killed_while_the_files_are_put_in_place(
        self, checkpoint, tmp_path, monkeypatch, moment
    ):
        """A reconversion is interrupted before, between and after both renames."""

        class Killed(BaseException):
            pass

        path = cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        path.write_bytes(b"damaged")
        replace = os.replace
        allowed = {"before": 2, "between": 3, "after": 4}[moment]

        def replace_some(source, target) -> None:
            # In order: the download, the record of it, the weights, their record.
            nonlocal allowed
            if allowed == 0:
                raise Killed
            allowed -= 1
            replace(source, target)

        monkeypatch.setattr(os, "replace", replace_some)
        if moment == "after":
            cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        else:
            with pytest.raises(Killed):
                cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        assert cache.is_cached(checkpoint, folder=tmp_path) is (moment == "after")
        monkeypatch.setattr(os, "replace", replace)
        cache.ensure_converted(checkpoint, convert, folder=tmp_path)
        cache.verify(checkpoint, folder=tmp_path)
