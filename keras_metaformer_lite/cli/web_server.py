"""The server behind `keras-metaformer web`: the page, LiteRT.js and the models."""

import email.utils
import ipaddress
import json
import os
import re
import socket
from collections.abc import Collection, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from keras_metaformer_lite.examples import photograph_files

#: Below a path of its own, so that the service worker, which outlives this server,
#: has no say in what else is served on the same port some day.
BASE = "/metaformer/"
#: What `make page` builds of applications/web; a part of the wheel.
PAGE = Path(__file__).resolve().parents[1] / "page"

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tflite": "application/octet-stream",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
_HEADERS = {
    # These two make the page "cross-origin isolated", which WebAssembly's threads need.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The browser itself sees to it that no photograph leaves the page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
        "connect-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for anew each time, and answered with 304 if nothing changed.
    "Cache-Control": "no-cache",
}


#: `name`, `name:port`, `1.2.3.4:port` or `[::1]:port`.
_AUTHORITY = re.compile(
    r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^:@/?#\[\]\s]+))(:[0-9]*)?",
    re.ASCII | re.IGNORECASE,
)


class PageMissingError(RuntimeError):
    """The page was not built."""


def page_files(page: Path = PAGE) -> dict[str, Path]:
    """What the page consists of, by path below `BASE`.

    Args:
        page: the folder that `make page` makes, as a whole or not at all.

    Raises:
        PageMissingError: if it is not there.
    """
    if not (page / "index.html").is_file():
        raise PageMissingError(
            "The page is part of the wheel; in a clone of the repository `make page` "
            f"builds it, with Node.js 18 or newer. Received: no {str(page)!r}"
        )
    files = {
        path.relative_to(page).as_posix(): path
        for path in sorted(page.rglob("*"))
        if path.is_file()
    }
    files[""] = files.pop("index.html")
    for path in photograph_files():
        files[f"samples/{path.name}"] = path
    return files


class PageServer(ThreadingHTTPServer):
    """Serves the page and models; nothing else can be asked for.

    Args:
        host: name or address to listen on.
        port: port, or 0 for any that is free.
        models: .tflite files, the first of which the page loads.
        page: the folder that `make page` makes.
        names: further names under which browsers may ask for the page, such as a
            proxy's. Others are refused: a foreign page whose name is made to lead here
            (DNS rebinding) could read the models.

    Raises:
        OSError: if the address cannot be listened on.
        PageMissingError: if the page is not installed.
    """

    daemon_threads = True

    def __init__(
        self,
        host: str,
        port: int,
        models: Sequence[Path],
        page: Path = PAGE,
        names: Collection[str] = (),
    ) -> None:
        files = page_files(page)
        listed = []
        for index, model in enumerate(models):
            url = f"models/{index}/{model.name}"
            files[url] = model
            listed.append({"name": model.name, "url": quote(url)})
        self.files = files
        self.models_json = json.dumps(listed).encode()
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[
            0
        ][0]
        super().__init__((host, port), _Handler)
        self._names = {"localhost", host.lower(), *(name.lower() for name in names)}
        self._address = ipaddress.ip_address(str(self.server_address[0]))
        if not self._address.is_loopback:
            own = socket.gethostname().lower()
            self._names |= {own, f"{own}.local"}

    def serves(self, authority: str) -> bool:
        """Whether a `Host` header, such as `localhost:8000`, names this server.

        Any port will do, for those who forward one.
        """
        match = _AUTHORITY.fullmatch(authority.strip())
        if match is None:
            return False
        host = (match["address"] or match["name"]).lower().removesuffix(".")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host in self._names
        # No name leads to an address in figures; and what is bound to all addresses
        # does not know them, behind a container's ports for example.
        if self._address.is_unspecified:
            return True
        both_here = address.is_loopback and self._address.is_loopback
        return both_here or address == self._address or host in self._names

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        host = host.decode() if isinstance(host, bytes | bytearray) else str(host)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{BASE}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    timeout = 60  # of a connection on which nothing comes
    server_version = "keras-metaformer"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        assert isinstance(self.server, PageServer)
        try:
            target = urlsplit(self.path)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        # Nothing here takes a body, and one left unread would be the next request.
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or set(lengths) - {"0"}:
            self.send_error(HTTPStatus.BAD_REQUEST, "A request with a body")
            return
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1:
            self.send_error(HTTPStatus.BAD_REQUEST, "Not one Host header")
            return
        authorities = [hosts[0], *filter(None, [target.netloc])]
        if not all(map(self.server.serves, authorities)):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        path = unquote(target.path)
        if path in ("/", BASE.rstrip("/")):
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", BASE)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        name = path.removeprefix(BASE) if path.startswith(BASE) else None
        if name == "models.json":
            self._send_bytes(self.server.models_json, with_body)
        elif name in self.server.files:
            self._send_file(self.server.files[name], with_body)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send_bytes(self, content: bytes, with_body: bool) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES[".json"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _send_file(self, path: Path, with_body: bool) -> None:
        try:
            stream = path.open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)  # gone since the start
            return
        with stream:
            about = os.fstat(stream.fileno())
            tag = f'"{about.st_mtime_ns:x}-{about.st_size:x}"'
            if tag in re.findall(r'"[^"]*"', self.headers.get("If-None-Match", "")):
                self.send_response(HTTPStatus.NOT_MODIFIED)
                self.send_header("ETag", tag)
                self.end_headers()
                return
            kind = _TYPES.get(path.suffix, "application/octet-stream")
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(about.st_size))
            self.send_header("Last-Modified", email.utils.formatdate(about.st_mtime))
            self.send_header("ETag", tag)
            self.end_headers()
            if with_body and about.st_size:
                # So much and no more, should the file have grown meanwhile.
                sent = self.connection.sendfile(stream, count=about.st_size)
                self.close_connection |= sent < about.st_size

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser went away

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing of what went well; errors come through `log_error`."""
