"""Downloads through the real clients, from loopback servers that misbehave."""

import email.utils
import errno
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keras_metaformer_lite.weights import download
from tests.weights.servers import (
    Answer,
    Fault,
    Server,
    as_hub,
    closed_address,
    drop_hub_client,
)

pytestmark = pytest.mark.backend_independent

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name in ("HF_HUB_OFFLINE", "KERAS_METAFORMER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with Server().running() as running:
        running.files["/file.pth"] = CONTENT
        yield running


def fetch(url: str, folder: Path) -> Path:
    return download.fetch(url, folder / "downloads", folder / "by_hand" / "file.pth")


def assert_says_what_to_do(error: download.DownloadError, url: str, folder: Path):
    message = str(error)
    assert url in message
    assert str(folder / "by_hand" / "file.pth") in message
    assert "HF_HUB_OFFLINE" in message
    assert message.endswith(f"Received: url={url!r}")


def count_transfers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    transfer, urls = download._transfer, []

    def counted(session, url, *arguments):
        urls.append(url)
        return transfer(session, url, *arguments)

    monkeypatch.setattr(download, "_transfer", counted)
    return urls


def start_of(range_header: str | None) -> int:
    assert range_header is not None
    return int(range_header.removeprefix("bytes=").removesuffix("-"))


# The state of a part with the right validator, but from another address.
ELSEWHERE = json.dumps(
    {
        "url": "http://127.0.0.1:1/file.pth",
        "validator": f'"{hashlib.sha256(CONTENT).hexdigest()}"',
    }
)


class TestPlainServer:
    def test_a_fresh_download_is_whole_and_leaves_nothing_else(self, server, tmp_path):
        path = fetch(server.url("/file.pth"), tmp_path)
        assert path.read_bytes() == CONTENT
        assert os.listdir(path.parent) == ["file.pth"]
        assert server.methods() == ["GET"]

    def test_a_second_use_sends_no_request(self, server, tmp_path):
        first = fetch(server.url("/file.pth"), tmp_path)
        server.requests.clear()
        assert fetch(server.url("/file.pth"), tmp_path) == first
        assert server.requests == []

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_a_refusal_is_final(self, server, tmp_path, status):
        server.answers["/file.pth"] = Answer(status)
        with pytest.raises(download.DownloadError, match=str(status)) as caught:
            fetch(server.url("/file.pth"), tmp_path)
        assert_says_what_to_do(caught.value, server.url("/file.pth"), tmp_path)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_busy_server_is_asked_a_bounded_number_of_times(
        self, server, tmp_path, status
    ):
        server.answers["/file.pth"] = Answer(status)
        with pytest.raises(download.DownloadError, match=str(status)):
            fetch(server.url("/file.pth"), tmp_path)
        assert len(server.requests) == download.ATTEMPTS

    @pytest.mark.parametrize("how", ["close", "reset"])
    def test_a_broken_transfer_is_resumed(self, server, tmp_path, how):
        server.faults = [Fault(1_500_000, how), Fault(500_000, how)]
        path = fetch(server.url("/file.pth"), tmp_path)
        assert path.read_bytes() == CONTENT
        first, second, third = server.ranges()
        assert first is None
        # What was underway is lost, what had come before is not.
        assert 0 < start_of(second) <= 1_500_000
        assert start_of(second) <= start_of(third) <= start_of(second) + 500_000

    def test_an_ever_truncated_body_is_never_taken_for_whole(self, server, tmp_path):
        server.faults = [Fault(200_000, "close")] * download.ATTEMPTS
        with pytest.raises(download.DownloadError, match="failed 5 times") as caught:
            fetch(server.url("/file.pth"), tmp_path)
        assert_says_what_to_do(caught.value, server.url("/file.pth"), tmp_path)
        assert not (tmp_path / "downloads" / "file.pth").exists()
        # The next run continues with what has come.
        server.requests.clear()
        assert fetch(server.url("/file.pth"), tmp_path).read_bytes() == CONTENT
        assert start_of(server.ranges()[0]) > 500_000

    def test_a_file_that_changed_meanwhile_is_not_mixed(self, server, tmp_path):
        part = tmp_path / "downloads" / "file.pth.part"
        part.parent.mkdir()
        part.write_bytes(b"other bytes")
        state = f'{{"url": "{server.url("/file.pth")}", "validator": "\\"old\\""}}'
        part.with_name(part.name + ".json").write_text(state)
        path = fetch(server.url("/file.pth"), tmp_path)
        assert path.read_bytes() == CONTENT
        assert server.requests[0].headers["if-range"] == '"old"'

    @pytest.mark.parametrize("state", [None, "", "[]", ELSEWHERE])
    def test_a_part_of_unknown_origin_is_dropped(self, server, tmp_path, state):
        part = tmp_path / "downloads" / "file.pth.part"
        part.parent.mkdir()
        part.write_bytes(b"other bytes")
        if state is not None:
            part.with_name(part.name + ".json").write_text(state)
        assert fetch(server.url("/file.pth"), tmp_path).read_bytes() == CONTENT
        assert server.ranges() == [None]

    def test_a_part_longer_than_the_file_is_dropped(self, server, tmp_path):
        server.faults = [Fault(200_000, "close")] * download.ATTEMPTS
        with pytest.raises(download.DownloadError):
            fetch(server.url("/file.pth"), tmp_path)
        part = tmp_path / "downloads" / "file.pth.part"
        part.write_bytes(CONTENT + b"more")
        assert fetch(server.url("/file.pth"), tmp_path).read_bytes() == CONTENT

    def test_a_part_of_another_file_is_not_appended(self, server, tmp_path):
        """A server may send the range although `If-Range` names another file."""
        server.faults = [Fault(200_000, "close")] * download.ATTEMPTS
        with pytest.raises(download.DownloadError):
            fetch(server.url("/file.pth"), tmp_path)
        part = tmp_path / "downloads" / "file.pth.part"
        start = part.stat().st_size
        other = bytes(len(CONTENT) - start)
        last = len(CONTENT) - 1
        server.answers["/file.pth"] = Answer(
            206,
            (
                ("Content-Range", f"bytes {start}-{last}/{len(CONTENT)}"),
                ("ETag", '"of another file"'),
            ),
            other,
        )
        with pytest.raises(download.DownloadError, match="part"):
            fetch(server.url("/file.pth"), tmp_path)
        assert not (tmp_path / "downloads" / "file.pth").exists()
        del server.answers["/file.pth"]
        assert fetch(server.url("/file.pth"), tmp_path).read_bytes() == CONTENT

    @pytest.mark.parametrize("length", ["-5", "1, 1", "abc", "9" * 30, "\u0664"])
    def test_an_odd_size(self, server, tmp_path, length):
        text = length.encode("utf-8").decode("latin-1")
        server.answers["/file.pth"] = Answer(200, (("Content-Length", text),), b"abc")
        with pytest.raises(download.DownloadError) as caught:
            fetch(server.url("/file.pth"), tmp_path)
        assert_says_what_to_do(caught.value, server.url("/file.pth"), tmp_path)
        assert not (tmp_path / "downloads" / "file.pth").exists()

    @pytest.mark.parametrize(
        "location", ["http://[/x", "http://a:b/x", "ftp://a/x", "http:///x", "//"]
    )
    def test_an_odd_redirection(self, server, tmp_path, location):
        server.answers["/file.pth"] = Answer(302, (("Location", location),))
        with pytest.raises(download.DownloadError) as caught:
            fetch(server.url("/file.pth"), tmp_path)
        assert_says_what_to_do(caught.value, server.url("/file.pth"), tmp_path)

    def test_an_insecure_redirection_is_not_followed_not_even_back(
        self, server, tmp_path, monkeypatch
    ):
        """https to http to https: whoever reads the middle chooses the end."""
        import requests
        from requests.adapters import BaseAdapter

        sent = []

        class Adapter(BaseAdapter):
            def send(self, request, **kwargs):
                sent.append(request.url)
                response = requests.Response()
                response.url, response.request = request.url, request
                response.raw = io.BytesIO(b"evil")
                response.status_code = 302 if len(sent) < 3 else 200
                target = {1: "http://one.invalid/x", 2: "https://two.invalid/x"}
                response.headers["Location"] = target.get(len(sent), "")
                return response

            def close(self):
                pass

        get_adapter = lambda session, url: Adapter()  # noqa: E731
        monkeypatch.setattr(requests.Session, "get_adapter", get_adapter)
        with pytest.raises(download.DownloadError, match="insecure http://one"):
            fetch("https://weights.invalid/file.pth", tmp_path)
        assert sent == ["https://weights.invalid/file.pth"]
        assert not (tmp_path / "downloads" / "file.pth").exists()

    @pytest.mark.parametrize("stated", [True, False])
    def test_more_than_any_weights_is_refused(
        self, server, tmp_path, monkeypatch, stated
    ):
        monkeypatch.setattr(download, "MOST_BYTES", len(CONTENT) - 1)
        if not stated:
            headers = (("Content-Length", ""), ("Connection", "close"))
            server.answers["/file.pth"] = Answer(200, headers, CONTENT)
        with pytest.raises(download.DownloadError, match="expected at most"):
            fetch(server.url("/file.pth"), tmp_path)
        assert not (tmp_path / "downloads" / "file.pth").exists()
        assert not (tmp_path / "downloads" / "file.pth.part").exists()

    def test_bytes_that_come_one_by_one(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(download, "SLOW_SECONDS", -1)
        monkeypatch.setattr(download, "SLOW_BYTES_PER_SECOND", 10**18)
        with pytest.raises(download.DownloadError, match="bytes came in"):
            fetch(server.url("/file.pth"), tmp_path)
        assert len(server.requests) == download.ATTEMPTS

    def test_a_busy_server_is_left_as_long_as_it_asks(
        self, server, tmp_path, monkeypatch
    ):
        waits: list[float] = []
        monkeypatch.setattr(time, "sleep", waits.append)
        server.answers["/file.pth"] = Answer(503, (("Retry-After", "17"),))
        with pytest.raises(download.DownloadError, match="503"):
            fetch(server.url("/file.pth"), tmp_path)
        assert waits.count(17) == download.ATTEMPTS - 1
        in_a_while = email.utils.formatdate(time.time() + 30, usegmt=True)
        server.answers["/file.pth"] = Answer(429, (("Retry-After", in_a_while),))
        waits.clear()
        with pytest.raises(download.DownloadError, match="429"):
            fetch(server.url("/file.pth"), tmp_path)
        assert max(waits) > 10
        # More than anybody waits for is said at once.
        server.requests.clear()
        server.answers["/file.pth"] = Answer(503, (("Retry-After", "86400"),))
        with pytest.raises(download.DownloadError, match="in 86400 seconds"):
            fetch(server.url("/file.pth"), tmp_path)
        assert len(server.requests) == 1

    def test_a_server_that_sends_another_range_is_not_believed(self, server, tmp_path):
        server.faults = [Fault(200_000, "close")] * download.ATTEMPTS
        with pytest.raises(download.DownloadError):
            fetch(server.url("/file.pth"), tmp_path)
        server.answers["/file.pth"] = Answer(
            206, (("Content-Range", "bytes 7-9/3000000"),), b"abc"
        )
        with pytest.raises(download.DownloadError, match="Content-Range"):
            fetch(server.url("/file.pth"), tmp_path)
        # Neither is one that sends the right range, but not up to the end.
        del server.answers["/file.pth"]
        server.faults = [Fault(200_000, "close")] * download.ATTEMPTS
        with pytest.raises(download.DownloadError):
            fetch(server.url("/file.pth"), tmp_path)
        start = (tmp_path / "downloads" / "file.pth.part").stat().st_size
        server.answers["/file.pth"] = Answer(
            206, (("Content-Range", f"bytes {start}-{start + 2}/3000000"),), b"abc"
        )
        with pytest.raises(download.DownloadError):
            fetch(server.url("/file.pth"), tmp_path)
        assert not (tmp_path / "downloads" / "file.pth").exists()
        server.faults = []
        del server.answers["/file.pth"]
        assert fetch(server.url("/file.pth"), tmp_path).read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("headers", "message"),
        [
            ((("Content-Type", "text/html; charset=utf-8"),), "web page"),
            ((("Content-Encoding", "gzip"),), "compressed"),
        ],
    )
    def test_what_is_no_checkpoint_is_refused(self, server, tmp_path, headers, message):
        server.answers["/file.pth"] = Answer(200, headers, b"<html>log in</html>")
        with pytest.raises(download.DownloadError, match=message):
            fetch(server.url("/file.pth"), tmp_path)
        assert not (tmp_path / "downloads" / "file.pth").exists()

    def test_no_network(self, server, tmp_path, monkeypatch):
        url = closed_address() + "/file.pth"
        attempts = count_transfers(monkeypatch)
        with pytest.raises(download.DownloadError, match="be reached") as caught:
            fetch(url, tmp_path)
        assert len(attempts) == download.ATTEMPTS_TO_REACH
        assert_says_what_to_do(caught.value, url, tmp_path)

    @pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "KERAS_METAFORMER_OFFLINE"])
    def test_offline_sends_no_request(self, server, tmp_path, monkeypatch, name):
        monkeypatch.setenv(name, "1")
        with pytest.raises(download.DownloadError, match="offline mode") as caught:
            fetch(server.url("/file.pth"), tmp_path)
        assert_says_what_to_do(caught.value, server.url("/file.pth"), tmp_path)
        assert server.requests == []

    def test_a_proxy_of_the_environment_is_used(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", server.address)
        url = "http://weights.invalid/file.pth"
        server.files[url] = CONTENT
        assert fetch(url, tmp_path).read_bytes() == CONTENT

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_a_full_disk(self, server, tmp_path, monkeypatch, number):
        fsync = os.fsync

        def fail_for_much(descriptor: int) -> None:
            if os.fstat(descriptor).st_size > 100_000:
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail_for_much)
            reason = download.DISK_ERRORS[number]
            with pytest.raises(download.DownloadError, match=reason) as caught:
                fetch(server.url("/file.pth"), tmp_path)
        assert_says_what_to_do(caught.value, server.url("/file.pth"), tmp_path)
        # The room that the part took is given back.
        assert os.listdir(tmp_path / "downloads") == ["file.pth.part.json"]
        assert fetch(server.url("/file.pth"), tmp_path).read_bytes() == CONTENT

    def test_a_read_only_folder(self, server, tmp_path, monkeypatch):
        # Patched, since the superuser may write to any folder of a writable disk.
        def fail(path: str, mode: int = 0o777) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(os, "mkdir", fail)
        with pytest.raises(download.DownloadError, match="read-only") as caught:
            fetch(server.url("/file.pth"), tmp_path)
        assert str(tmp_path / "downloads") in str(caught.value)
        assert server.requests == []

    def test_the_progress_bar_is_for_terminals(self, server, tmp_path, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        for stream, expected in ((Terminal(), True), (io.StringIO(), False)):
            monkeypatch.setattr(sys, "stderr", stream)
            fetch(server.url("/file.pth"), tmp_path / str(expected))
            assert ("file.pth" in stream.getvalue()) is expected


HUB_URL = "https://huggingface.co/timm/model.tag/resolve/main/folder/model.safetensors"
HUB_PATH = "/timm/model.tag/resolve/main/folder/model.safetensors"


@pytest.fixture
def hub(server, monkeypatch, tmp_path) -> Iterator[Server]:
    """A server at HF_ENDPOINT."""
    server.files[HUB_PATH] = CONTENT
    with as_hub(server, monkeypatch, tmp_path / "hub"):
        yield server


class TestHub:
    def test_a_fresh_download_lands_in_the_hubs_cache(self, hub, tmp_path):
        path = fetch(HUB_URL, tmp_path)
        assert path.read_bytes() == CONTENT
        assert path.is_relative_to(tmp_path / "hub")
        assert hub.methods() == ["HEAD", "HEAD", "GET"]
        # The second time, the hub is only asked whether the file is still the same.
        assert fetch(HUB_URL, tmp_path) == path
        assert hub.methods() == ["HEAD", "HEAD", "GET", "HEAD", "HEAD"]

    def test_a_file_larger_than_any_weights(self, hub, tmp_path, monkeypatch):
        monkeypatch.setattr(download, "MOST_BYTES", len(CONTENT) - 1)
        with pytest.raises(download.DownloadError, match="expected at most"):
            fetch(HUB_URL, tmp_path)
        assert "GET" not in hub.methods()

    def test_a_busy_hub(self, hub, tmp_path):
        hub.answers[HUB_PATH] = Answer(503, (("Retry-After", "1"),))
        with pytest.raises(download.DownloadError, match="503"):
            fetch(HUB_URL, tmp_path)
        assert hub.methods() == ["HEAD"] * download.ATTEMPTS

    def test_the_token_is_sent(self, hub, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        fetch(HUB_URL, tmp_path)
        assert hub.requests[0].headers["authorization"] == "Bearer hf_secret"

    @pytest.mark.parametrize(
        ("status", "code", "message"),
        [
            (404, "EntryNotFound", "404"),
            (404, "RevisionNotFound", "404"),
            (401, "RepoNotFound", "hf auth login"),
            (403, "GatedRepo", "hf auth login"),
            (401, "", "401"),
            (403, "", "403"),
        ],
    )
    def test_a_refusal(self, hub, tmp_path, status, code, message):
        hub.answers[HUB_PATH] = Answer(status, (("X-Error-Code", code),))
        with pytest.raises(download.DownloadError, match=message) as caught:
            fetch(HUB_URL, tmp_path)
        assert_says_what_to_do(caught.value, HUB_URL, tmp_path)
        assert len(hub.requests) == 1

    def test_a_truncated_body_is_resumed(self, hub, tmp_path, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500_000)
        hub.faults = [Fault(1_500_000, "close")]
        assert fetch(HUB_URL, tmp_path).read_bytes() == CONTENT
        assert hub.ranges() == [None, "bytes=1500000-"]

    def test_a_reset_transfer_is_repeated(self, hub, tmp_path):
        hub.faults = [Fault(1_500_000, "reset")]
        assert fetch(HUB_URL, tmp_path).read_bytes() == CONTENT
        assert len(hub.ranges()) == 2

    def test_resets_without_end(self, hub, tmp_path):
        hub.faults = [Fault(10, "reset")] * 100
        with pytest.raises(download.DownloadError, match="broke 5 times") as caught:
            fetch(HUB_URL, tmp_path)
        assert_says_what_to_do(caught.value, HUB_URL, tmp_path)

    def test_no_network(self, hub, tmp_path, monkeypatch):
        address = closed_address()
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(download.DownloadError, match="cannot be reached") as caught:
            fetch(HUB_URL, tmp_path)
        assert_says_what_to_do(caught.value, HUB_URL, tmp_path)
        assert address in str(caught.value)

    @pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "KERAS_METAFORMER_OFFLINE"])
    def test_offline(self, hub, tmp_path, monkeypatch, name):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            with pytest.raises(download.DownloadError, match="offline mode") as caught:
                fetch(HUB_URL, tmp_path)
            assert_says_what_to_do(caught.value, HUB_URL, tmp_path)
        drop_hub_client()
        path = fetch(HUB_URL, tmp_path)
        drop_hub_client()
        hub.requests.clear()
        monkeypatch.setenv(name, "1")
        assert fetch(HUB_URL, tmp_path) == path
        assert hub.requests == []

    def test_a_full_disk(self, hub, tmp_path, monkeypatch):
        import huggingface_hub.file_download

        def fail(*args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(huggingface_hub.file_download, "http_get", fail)
        with pytest.raises(download.DownloadError, match="the disk is full") as caught:
            fetch(HUB_URL, tmp_path)
        assert str(tmp_path / "hub") in str(caught.value)
