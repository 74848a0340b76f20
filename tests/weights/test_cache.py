"""The cache of published files: whole or not there, whatever happens."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

from keras_metaformer.weights import cache, catalogue, download
from tests.weights.servers import (
    COMMIT,
    Answer,
    Fault,
    Server,
    closed_address,
    start_child,
)

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


def ensure(checkpoint: catalogue.Checkpoint, folder: Path) -> bytes:
    return cache.ensure_source(checkpoint, folder=folder).read_bytes()


def files_in(folder: Path) -> list[str]:
    """All files but the locks, which are empty and stay."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


RECORD = "ConvFormerS18-imagenet.json"
DOWNLOAD = "downloads/ConvFormerS18-imagenet/weights.pth"
FETCHED = [RECORD, DOWNLOAD]


class TestFolder:
    def test_it_follows_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.delenv("KERAS_METAFORMER_CACHE", raising=False)
        monkeypatch.setenv("KERAS_HOME", "/keras")
        assert cache.cache_folder() == Path("/keras/keras_metaformer")
        monkeypatch.setenv("KERAS_METAFORMER_CACHE", str(tmp_path))
        assert cache.cache_folder() == tmp_path
        assert cache.cache_folder("elsewhere") == Path("elsewhere")
        # Set to nothing is not set, and never the current folder.
        monkeypatch.setenv("KERAS_METAFORMER_CACHE", "")
        assert cache.cache_folder() == Path("/keras/keras_metaformer")
        monkeypatch.setenv("KERAS_HOME", "")
        assert cache.cache_folder() == Path("~/.keras/keras_metaformer").expanduser()
        monkeypatch.delenv("KERAS_METAFORMER_CACHE")
        monkeypatch.delenv("KERAS_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache.cache_folder() == tmp_path / ".keras" / "keras_metaformer"

    def test_each_checkpoint_has_paths_of_its_own(self):
        rows = catalogue.all_checkpoints()
        for path in (cache.record_path, cache.hand_placed_path):
            found = {(path(row, s), row.url(s)) for row in rows for s in SOURCES}
            assert len({p for p, _ in found}) == len({url for _, url in found})

    def test_the_original_has_a_name_of_its_own_where_it_is_another_file(self):
        row = catalogue.find("ConvFormerS18", "imagenet")
        assert cache.record_path(row).name == RECORD
        name = cache.record_path(row, "official").name
        assert name == "ConvFormerS18-imagenet-official.json"
        row = catalogue.find("FFNet1", "imagenet")
        assert cache.record_path(row) == cache.record_path(row, "official")


SOURCES: tuple[catalogue.Source, ...] = ("auto", "official")


class TestUse:
    def test_first_and_second_use(self, server, checkpoint, tmp_path):
        path = cache.ensure_source(checkpoint, folder=tmp_path)
        assert path.read_bytes() == CONTENT
        assert files_in(tmp_path) == FETCHED
        assert json.loads((tmp_path / RECORD).read_text("utf-8")) == {
            "constructor": "ConvFormerS18",
            "tag": "imagenet",
            "licence": "Apache-2.0",
            "url": server.url("/weights.pth"),
            "sha256": SHA256,
            "bytes": len(CONTENT),
        }
        assert len(server.requests) == 1
        server.requests.clear()
        assert cache.ensure_source(checkpoint, folder=tmp_path) == path
        assert server.requests == []
        assert cache.verify(checkpoint, folder=tmp_path) == path

    @pytest.mark.parametrize(
        "damage",
        [
            lambda record, file: record.unlink(),
            lambda record, file: record.write_bytes(record.read_bytes()[:-9]),
            lambda record, file: record.write_text("[]"),
            lambda record, file: record.write_text("[" * 100_000),
            lambda record, file: record.write_text("{}"),
            lambda record, file: record.write_bytes(
                record.read_bytes().replace(b'"bytes"', b'"size"')
            ),
            lambda record, file: (record.unlink(), record.mkdir()),
            lambda record, file: file.unlink(),
            lambda record, file: file.write_bytes(file.read_bytes()[:-1]),
        ],
        ids=[
            "no record",
            "cut",
            "list",
            "brackets",
            "empty",
            "incomplete",
            "folder",
            "no file",
            "short file",
        ],
    )
    def test_what_is_not_whole_is_made_anew(self, checkpoint, tmp_path, damage):
        file = cache.ensure_source(checkpoint, folder=tmp_path)
        record = tmp_path / RECORD
        damage(record, file)
        assert cache.cached_source(checkpoint, folder=tmp_path) is None
        with pytest.raises(cache.CacheError, match=record.stem):
            cache.verify(checkpoint, folder=tmp_path)
        if record.is_dir():
            with pytest.raises(OSError):
                ensure(checkpoint, tmp_path)
            record.rmdir()
        assert ensure(checkpoint, tmp_path) == CONTENT
        cache.verify(checkpoint, folder=tmp_path)

    def test_verify_finds_a_flipped_bit(self, checkpoint, tmp_path):
        path = cache.ensure_source(checkpoint, folder=tmp_path)
        content = bytearray(path.read_bytes())
        content[1234] ^= 1
        path.write_bytes(content)
        with pytest.raises(cache.CacheError, match="weights clear ConvFormerS18 image"):
            cache.verify(checkpoint, folder=tmp_path)

    def test_clear(self, checkpoint, tmp_path):
        assert cache.clear(checkpoint, tmp_path) == []
        ensure(checkpoint, tmp_path)
        hand_placed = cache.hand_placed_path(checkpoint, folder=tmp_path)
        hand_placed.parent.mkdir(parents=True)
        hand_placed.touch()
        assert cache.cached_checkpoints(tmp_path) == [
            (catalogue.find("ConvFormerS18", "imagenet"), "auto")
        ]
        leftover = f".{RECORD}.0123.tmp"
        (tmp_path / leftover).touch()
        removed = cache.clear(checkpoint, tmp_path)
        expected = [leftover, RECORD, "weights.pth"]
        assert sorted(path.name for path in removed) == expected
        assert cache.cached_checkpoints(tmp_path) == []
        assert files_in(tmp_path) == ["sources/ConvFormerS18-imagenet/weights.pth"]


class TestContent:
    @pytest.mark.parametrize("known", ["in its name", "in the catalogue"])
    def test_a_known_hash_is_checked(self, server, tmp_path, known):
        name = f"/weights-{SHA256[:8]}.pth" if known == "in its name" else "/w.pth"
        server.files[name] = CONTENT[1:]
        checkpoint = official(server.url(name))
        if known == "in the catalogue":
            hashes = {server.url(name): SHA256}
            checkpoint = dataclasses.replace(checkpoint, sha256=hashes)
        with pytest.raises(download.DownloadError, match="wrong content") as caught:
            ensure(checkpoint, tmp_path)
        assert SHA256[:8] in str(caught.value)
        assert files_in(tmp_path) == []
        server.files[name] = CONTENT
        assert ensure(checkpoint, tmp_path) == CONTENT

    def test_content_that_changed_under_its_name_is_refused(
        self, server, checkpoint, tmp_path
    ):
        cache.ensure_source(checkpoint, folder=tmp_path).unlink()
        server.files["/weights.pth"] = b"something else"
        for _ in range(2):
            with pytest.raises(download.DownloadError, match="changed") as caught:
                ensure(checkpoint, tmp_path)
        assert SHA256 in str(caught.value)
        command = "keras-metaformer weights clear ConvFormerS18 imagenet"
        assert command in str(caught.value)
        cache.clear(checkpoint, tmp_path)
        assert ensure(checkpoint, tmp_path) == b"something else"

    def test_a_refused_download_leaves_nothing(self, server, checkpoint, tmp_path):
        server.answers["/weights.pth"] = Answer(404)
        with pytest.raises(download.DownloadError) as caught:
            ensure(checkpoint, tmp_path)
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
        for _ in range(2):
            assert cache.ensure_source(checkpoint, folder=tmp_path) == file
        assert server.requests == []

    def test_the_path_that_an_error_names_is_the_right_one(self, tmp_path):
        checkpoint = official(closed_address() + "/weights.pth")
        file = cache.hand_placed_path(checkpoint, folder=tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(download, "BACKOFF_SECONDS", 0)
            with pytest.raises(download.DownloadError) as caught:
                ensure(checkpoint, tmp_path)
        assert str(file) in str(caught.value)
        file.parent.mkdir(parents=True)
        file.write_bytes(CONTENT)
        assert ensure(checkpoint, tmp_path) == CONTENT

    def test_a_wrong_one_is_named_and_left_alone(self, server, tmp_path):
        checkpoint = official(server.url(f"/weights-{SHA256[:8]}.pth"))
        file = cache.hand_placed_path(checkpoint, folder=tmp_path)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"wrong")
        with pytest.raises(download.DownloadError, match="wrong content") as caught:
            ensure(checkpoint, tmp_path)
        assert f"the file is {file}" in str(caught.value)
        assert file.read_bytes() == b"wrong"


HUB_PATHS = {
    "auto": "/timm/convformer_s18.sail_in1k/resolve/main/model.safetensors",
    "official": "/sail/dl/resolve/main/convformer/convformer_s18.pth",
}


class TestHub:
    """The hub's client runs in children, where it sees HF_ENDPOINT from the start."""

    CHILD = """
import dataclasses, zlib
from keras_metaformer.weights import cache, catalogue, download

download.BACKOFF_SECONDS = 0
row = catalogue.find("ConvFormerS18", "imagenet")
row = dataclasses.replace(row, hub_revision=sys.argv[2] or None)
for source in sys.argv[3:]:
    try:
        print(zlib.crc32(cache.ensure_source(row, source, sys.argv[1]).read_bytes()))
    except download.DownloadError as error:
        print(error)
"""

    def run(
        self, server: Server, folder: Path, monkeypatch, *sources: str, revision=""
    ) -> str:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HOME", str(folder / "hub"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        child = start_child(self.CHILD, folder / "ours", revision, *sources)
        output, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
        return output

    def test_both_sources_come_through_the_mirror(self, server, tmp_path, monkeypatch):
        for path in HUB_PATHS.values():
            server.files[path] = path.encode()
        output = self.run(server, tmp_path, monkeypatch, "auto", "official", "auto")
        auto, original = (str(zlib.crc32(path.encode())) for path in HUB_PATHS.values())
        assert output.split() == [auto, original, auto]
        assert server.methods() == ["HEAD", "HEAD", "GET"] * 2
        # Ours holds what was seen, the hub's own cache the files.
        stem = "ConvFormerS18-imagenet"
        assert files_in(tmp_path / "ours") == [f"{stem}-official.json", RECORD]
        # Both folders are enough to go without a network, and need not be writable.
        server.requests.clear()
        (tmp_path / "hub").rename(tmp_path / "copied")
        (tmp_path / "hub").mkdir()
        shutil.move(tmp_path / "copied" / "hub", tmp_path / "hub" / "hub")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        again = self.run(server, tmp_path, monkeypatch, "auto", "official")
        assert again.split() == [auto, original]
        assert server.requests == []

    def test_content_unlike_its_hash_is_refused(self, server, tmp_path, monkeypatch):
        server.files[HUB_PATHS["auto"]] = CONTENT
        server.wrong_hash = True
        output = self.run(server, tmp_path, monkeypatch, "auto")
        assert "wrong content" in output
        assert files_in(tmp_path / "ours") == []

    def test_the_revision_of_the_row_is_asked_for(self, server, tmp_path, monkeypatch):
        path = HUB_PATHS["auto"].replace("/main/", f"/{COMMIT}/")
        server.files[path] = CONTENT
        output = self.run(server, tmp_path, monkeypatch, "auto", revision=COMMIT)
        assert output.split() == [str(zlib.crc32(CONTENT))]
        asked = {r.path for r in server.requests if "/resolve/" in r.path}
        assert asked == {path}


class TestOthersWriteToTheFolder:
    """Nothing is written, removed or shortened through links that are put there."""

    def test_a_record_in_the_making(self, checkpoint, tmp_path, monkeypatch):
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        folder = tmp_path / "cache"
        folder.mkdir()
        os.symlink(victim, folder / f".{RECORD}.tmp")  # the name of old
        os.symlink(victim, folder / RECORD)
        os.symlink(victim, folder / f".{RECORD}.{'0' * 16}.tmp")
        names = iter(["0" * 16])
        token_hex = secrets.token_hex
        monkeypatch.setattr(
            secrets, "token_hex", lambda size: next(names, None) or token_hex(size)
        )
        for _ in range(2):  # the second time the name is free
            with contextlib.suppress(OSError):
                ensure(checkpoint, folder)
        assert ensure(checkpoint, folder) == CONTENT
        assert victim.read_bytes() == b"precious"
        assert not (folder / RECORD).is_symlink()

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    @pytest.mark.parametrize("ending", [".part", ".part.json"])
    def test_a_download_in_the_making(self, server, checkpoint, tmp_path, link, ending):
        victim = tmp_path / "victim"
        state = {"url": server.url("/weights.pth"), "validator": f'"{SHA256}"'}
        precious = json.dumps(state).encode()
        victim.write_bytes(precious)
        part = tmp_path / "cache" / (DOWNLOAD + ".part")
        part.parent.mkdir(parents=True)
        part.with_name(part.name + ".json").write_bytes(precious)
        planted = tmp_path / "cache" / (DOWNLOAD + ending)
        planted.unlink(missing_ok=True)
        link(victim, planted)
        assert ensure(checkpoint, tmp_path / "cache") == CONTENT
        assert victim.read_bytes() == precious

    def test_folders_that_lead_elsewhere(self, checkpoint, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "precious").touch()
        downloads = tmp_path / "cache" / "downloads" / "ConvFormerS18-imagenet"
        downloads.parent.mkdir(parents=True)
        os.symlink(elsewhere, downloads)
        with pytest.raises(cache.CacheError, match="is a link to"):
            cache.clear(checkpoint, tmp_path / "cache")
        with pytest.raises(cache.CacheError, match="is a link to"):
            ensure(checkpoint, tmp_path / "cache")
        assert os.listdir(elsewhere) == ["precious"]


class TestDisk:
    def test_a_read_only_cache_serves_what_it_has(
        self, checkpoint, tmp_path, monkeypatch
    ):
        path = cache.ensure_source(checkpoint, folder=tmp_path)
        self.make_read_only(monkeypatch)
        assert cache.ensure_source(checkpoint, folder=tmp_path) == path

    def test_a_read_only_cache_without_it(self, checkpoint, tmp_path, monkeypatch):
        self.make_read_only(monkeypatch)
        with pytest.raises(cache.CacheError, match="read-only") as caught:
            ensure(checkpoint, tmp_path)
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
                ensure(checkpoint, folder)
        assert server.requests == []

    # The limit on the size of a process' files stands for the end of the disk.
    FULL = """
import dataclasses, resource
from keras_metaformer.weights import cache, catalogue, download

limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
row = catalogue.find("ConvFormerS18", "imagenet")
row = dataclasses.replace(row, urls=(sys.argv[2],), hub_id=None)
try:
    cache.ensure_source(row, folder=sys.argv[1])
except download.DownloadError as error:
    print(error)
"""

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
    def test_the_disk_fills_up(self, server, checkpoint, tmp_path):
        child = start_child(
            self.FULL, tmp_path, server.url("/weights.pth"), str(len(CONTENT) // 2)
        )
        output, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
        assert f"cannot write to {tmp_path / 'downloads'}" in output
        assert "size limit" in output
        # The room that the download took is given back.
        assert files_in(tmp_path) == [DOWNLOAD + ".part.json"]
        assert ensure(checkpoint, tmp_path) == CONTENT

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_the_disk_fills_up_at_the_end(
        self, server, checkpoint, tmp_path, monkeypatch, call
    ):
        """The file is whole, its record is not."""
        ensure(checkpoint, tmp_path)
        (tmp_path / RECORD).unlink()
        server.requests.clear()

        def fail(*args: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(cache.CacheError, match="the disk is full"):
                ensure(checkpoint, tmp_path)
        assert files_in(tmp_path) == [DOWNLOAD]
        assert ensure(checkpoint, tmp_path) == CONTENT
        assert server.requests == []


class TestProcesses:
    # Tells its parent when it asks for the lock.
    CHILD = """
import dataclasses, filelock
from keras_metaformer.weights import cache, catalogue

def acquire(lock, acquire=filelock.FileLock.acquire):
    print("locking", flush=True)
    return acquire(lock)

filelock.FileLock.acquire = acquire
row = catalogue.find("ConvFormerS18", "imagenet")
row = dataclasses.replace(row, urls=(sys.argv[2],), hub_id=None)
print(cache.ensure_source(row, folder=sys.argv[1]), flush=True)
"""

    def start(self, folder: Path, server: Server) -> subprocess.Popen[str]:
        return start_child(self.CHILD, folder, server.url("/weights.pth"))

    def test_two_at_once_make_one_download(self, server, checkpoint, tmp_path):
        children = [self.start(tmp_path, server) for _ in range(2)]
        outputs = [child.communicate(timeout=120) for child in children]
        assert [child.returncode for child in children] == [0, 0], outputs
        assert len(server.requests) == 1
        for output, _ in outputs:
            assert Path(output.splitlines()[-1]).read_bytes() == CONTENT
        assert files_in(tmp_path) == FETCHED

    def test_a_second_one_waits_for_the_first(self, server, checkpoint, tmp_path):
        lock = filelock.FileLock(tmp_path / ".ConvFormerS18-imagenet.lock")
        with lock:
            child = self.start(tmp_path, server)
            assert child.stdout is not None
            assert child.stdout.readline() == "locking\n"
            assert server.requests == []
        output, _ = child.communicate(timeout=120)
        assert output.splitlines() == [str(tmp_path / DOWNLOAD)]

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
    def test_killed_during_the_download(self, server, checkpoint, tmp_path):
        server.faults = [Fault(600_000, "stall")]
        child = self.start(tmp_path, server)
        part = tmp_path / (DOWNLOAD + ".part")
        while not (server.stalled.is_set() and part.exists() and part.stat().st_size):
            time.sleep(0.01)
            assert child.poll() is None, child.communicate()
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=120)
        assert part.stat().st_size < len(CONTENT)
        server.requests.clear()
        assert ensure(checkpoint, tmp_path) == CONTENT
        assert server.ranges()[0] is not None  # continued where it was killed
        assert files_in(tmp_path) == FETCHED

    @pytest.mark.parametrize("renames", range(4))
    def test_killed_before_each_rename(
        self, server, checkpoint, tmp_path, monkeypatch, renames
    ):
        class Killed(BaseException):
            pass

        replace = os.replace
        allowed = renames

        def replace_some(source, target) -> None:
            # In order: the state of the download, the download, its record.
            nonlocal allowed
            if allowed == 0:
                raise Killed
            allowed -= 1
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_some)
            with pytest.raises(Killed) if renames < 3 else contextlib.nullcontext():
                ensure(checkpoint, tmp_path)
        cached = cache.cached_source(checkpoint, folder=tmp_path)
        assert (cached is not None) is (renames == 3)
        assert ensure(checkpoint, tmp_path) == CONTENT
        cache.verify(checkpoint, folder=tmp_path)
