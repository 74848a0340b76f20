"""Loopback servers with the faults of real networks, and child processes to kill."""

import hashlib
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote

import pytest

import keras_metaformer_lite

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one GET once `after` bytes of its body are sent."""

    after: int
    how: Literal["close", "reset", "stall"]


@dataclass(frozen=True)
class Answer:
    """Replaces every answer for a path."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]


class Server:
    """Serves `files` with ranges, and those under `/ORG/REPO/resolve/` as the hub does.

    Attributes:
        files: Path to content. Hub files are held under `/ORG/REPO/resolve/main/PATH`.
        answers: Path to a fixed answer instead.
        faults: Each GET of a file takes the first of them.
        requests: What was asked so far, but for the hub's own statistics (`/api`).
        wrong_hash: Whether the hub names a hash that is not its file's.
        uploads_break: Whether every connection is closed before its PUT is read.
        stalled: Set once a GET has come to its "stall".
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Answer] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.wrong_hash = False
        self.uploads_break = False
        self.stalled = threading.Event()
        self.released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def url(self, path: str) -> str:
        return self.address + path

    def commit_of(self, path: str) -> str:
        """The commit that a file of the hub is of."""
        return COMMIT

    def refusal(self, path: str, headers: dict[str, str]) -> Answer | None:
        """What a request gets that is not let in."""
        return None

    def receive(self, method: str, path: str, body: bytes) -> Answer:
        """The answer to a request that has a body; `path` with its query."""
        return Answer(404)

    def methods(self) -> list[str]:
        return [request.method for request in self.requests]

    def ranges(self) -> list[str | None]:
        """The Range header of every GET."""
        return [r.headers.get("range") for r in self.requests if r.method == "GET"]

    @contextmanager
    def running(self) -> Iterator[Self]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._take()

            def do_PUT(self) -> None:
                self._take()

            def _take(self) -> None:
                """Answers a request with a body."""
                path = unquote(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                if server.uploads_break and self.command == "PUT":
                    self.close_connection = True
                    return
                body = self.rfile.read(int(headers.get("content-length", 0)))
                server.requests.append(Request(self.command, path, headers))
                answer = (
                    server.answers.get(path)
                    or server.refusal(path, headers)
                    or server.receive(self.command, path, body)
                )
                self._send(answer.status, dict(answer.headers), answer.body)

            def _answer(self) -> None:
                path = unquote(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                if not path.startswith("/api/"):
                    server.requests.append(Request(self.command, path, headers))
                refusal = server.refusal(path, headers)
                if path in server.answers or refusal is not None:
                    answer = server.answers.get(path) or refusal
                    assert answer is not None
                    self._send(answer.status, dict(answer.headers), answer.body)
                elif path.startswith("/api/"):
                    answer = server.receive(self.command, path, b"")
                    self._send(answer.status, dict(answer.headers), answer.body)
                elif path not in server.files:
                    self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
                elif "/resolve/" in path and self.command == "HEAD":
                    self._point_to_content(path)
                else:
                    self._send_file(server.files[path], headers)

            def _point_to_content(self, path: str) -> None:
                """The hub keeps large files on another host and redirects there."""
                content = server.files[path]
                elsewhere = "/content" + path.replace("/resolve/", "/")
                server.files[elsewhere] = content
                digest = hashlib.sha256(content + b"x" * server.wrong_hash).hexdigest()
                self._send(
                    302,
                    {
                        "X-Repo-Commit": server.commit_of(path),
                        "X-Linked-Etag": f'"{digest}"',
                        "X-Linked-Size": str(len(content)),
                        "Location": server.url(elsewhere).replace(
                            "127.0.0.1", "localhost"
                        ),
                    },
                    b"",
                )

            def _send_file(self, content: bytes, asked: dict[str, str]) -> None:
                etag = f'"{hashlib.sha256(content).hexdigest()}"'
                headers = {"ETag": etag, "Content-Type": "application/octet-stream"}
                status, start = 200, 0
                match = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
                if match and asked.get("if-range", etag) == etag:
                    status, start = 206, int(match[1])
                    if start >= len(content):
                        self._send(416, {}, b"")
                        return
                    end = len(content) - 1
                    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                fault = server.faults.pop(0) if server.faults else None
                self._send(status, headers, content[start:], fault)

            def _send(
                self,
                status: int,
                headers: dict[str, str],
                body: bytes,
                fault: Fault | None = None,
            ) -> None:
                self.send_response(status)
                for name, value in {
                    "Content-Length": str(len(body)),
                    **headers,
                }.items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                self.wfile.write(body if fault is None else body[: fault.after])
                self.wfile.flush()
                if "Content-Length" in headers:  # maybe none: the end says the size
                    self.close_connection = True
                if fault is None:
                    return
                if fault.how == "stall":
                    server.stalled.set()
                    server.released.wait(60)
                elif fault.how == "reset":
                    # Closing a socket that lingers for 0 seconds sends a reset.
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, linger
                    )
                    self.rfile.close()
                    self.connection.close()
                self.close_connection = True

        return Handler


def drop_hub_client() -> dict:
    """Takes the hub's client out of `sys.modules`: it reads the environment once."""
    names = [n for n in sys.modules if n.partition(".")[0] == "huggingface_hub"]
    return {name: sys.modules.pop(name) for name in names}


@contextmanager
def as_hub(
    server: Server, patch: pytest.MonkeyPatch, cache: Path, token: str | None = None
) -> Iterator[None]:
    """Makes a server the hub of the hub's client, which is imported anew.

    Args:
        server: at `HF_ENDPOINT`.
        patch: undone by the caller.
        cache: the client's folder.
        token: that the client finds, or None.
    """
    patch.setenv("NO_PROXY", "127.0.0.1,localhost")
    patch.setenv("HF_ENDPOINT", server.address)
    patch.setenv("HF_HOME", str(cache))
    patch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in (
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "KERAS_METAFORMER_OFFLINE",
    ):
        patch.delenv(name, raising=False)
    if token is not None:
        patch.setenv("HF_TOKEN", token)
    patch.setattr(time, "sleep", lambda seconds: None)
    kept = drop_hub_client()
    try:
        yield
    finally:
        drop_hub_client()
        sys.modules.update(kept)


def closed_address() -> str:
    """An address of this machine at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def start_child(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Starts another Python that runs `script` with `arguments` in `sys.argv`."""
    root = str(Path(keras_metaformer_lite.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r})\n{script}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
