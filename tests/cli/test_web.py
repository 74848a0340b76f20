"""The command `keras-metaformer web` and its server."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest
from typer.testing import CliRunner

from keras_metaformer.export import to_litert
from keras_metaformer_lite.cli import app, web_server
from keras_metaformer_lite.cli.web_server import (
    PageMissingError,
    PageServer,
    page_files,
)
from keras_metaformer_lite.examples import photograph_files

pytestmark = pytest.mark.backend_independent

#: Of which `make page` makes what is served.
SOURCE = Path(__file__).resolve().parents[2] / "applications/web/page"


@pytest.fixture
def page(tmp_path):
    """The page with stand-ins for what npm installs."""
    folder = tmp_path / "page"
    shutil.copytree(SOURCE, folder)
    for name in ("litert/litert_wasm_internal.wasm", "build/worker.js"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"\0asm")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return _exported(tmp_path_factory.mktemp("model") / "a model.tflite")


def _exported(path, size=(4, 4, 3), **options):
    image = keras.Input(size)
    pixels = keras.layers.Rescaling(1 / 255)(image)
    pooled = keras.layers.GlobalAveragePooling2D()(pixels)
    keras_model = keras.Model(image, keras.layers.Dense(2)(pooled))
    if not options.pop("preprocessing", True):
        keras_model = keras.Sequential(
            [keras.Input(size), keras.layers.Flatten(), keras.layers.Dense(2)]
        )
    quick = {"check_gpu": False, "latency_runs": 0, "verbose": False}
    to_litert(keras_model, path, **quick, **options)
    return path


@contextlib.contextmanager
def _serving(*models, page, host="127.0.0.1"):
    server = PageServer(host, 0, models, page)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    connection = http.client.HTTPConnection(host, server.server_address[1], timeout=30)
    try:
        yield server, connection
    finally:
        connection.close()
        server.shutdown()
        thread.join()
        server.server_close()


def _get(connection, path, method="GET", **headers):
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


def test_what_is_served(page, model):
    with _serving(model, page=page) as (server, connection):
        response, _ = _get(connection, "/")
        assert (response.status, response.headers["Location"]) == (302, "/metaformer/")
        assert server.url.endswith("/metaformer/")
        response, content = _get(connection, "/metaformer/models.json")
        (listed,) = json.loads(content)
        assert listed == {"name": "a model.tflite", "url": "models/0/a%20model.tflite"}
        for path, file, kind in [
            ("", page / "index.html", "text/html; charset=utf-8"),
            ("app.js", page / "app.js", "text/javascript; charset=utf-8"),
            ("style.css", page / "style.css", "text/css; charset=utf-8"),
            ("icon.svg", page / "icon.svg", "image/svg+xml"),
            ("samples/cat.jpg", photograph_files()[0], "image/jpeg"),
            ("samples/digit.png", page / "samples/digit.png", "image/png"),
            (
                "build/worker.js",
                page / "build/worker.js",
                "text/javascript; charset=utf-8",
            ),
            (
                "litert/litert_wasm_internal.wasm",
                page / "litert/litert_wasm_internal.wasm",
                "application/wasm",
            ),
            (listed["url"], model, "application/octet-stream"),
        ]:
            response, content = _get(connection, f"/metaformer/{path}?query=1")
            assert response.status == 200
            assert content == file.read_bytes()
            assert response.headers["Content-Type"] == kind
            assert response.headers["Content-Length"] == str(len(content))
            # Threads in WebAssembly need these two.
            assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            response, content = _get(connection, f"/metaformer/{path}", method="HEAD")
            assert (response.status, content) == (200, b"")


def test_unchanged_files_are_not_sent_again(page, model):
    path = "/metaformer/models/0/a%20model.tflite"
    with _serving(model, page=page) as (_, connection):
        response, _ = _get(connection, path)
        tag = response.headers["ETag"]
        assert response.headers["Cache-Control"] == "no-cache"
        response, content = _get(connection, path, **{"If-None-Match": f'"x", {tag}'})
        assert (response.status, content) == (304, b"")
        os.utime(model, ns=(1, 1))
        response, content = _get(connection, path, **{"If-None-Match": tag})
        assert (response.status, content) == (200, model.read_bytes())
        # A server may answer a part's request with the whole.
        response, content = _get(connection, path, Range="bytes=0-3")
        assert (response.status, content) == (200, model.read_bytes())


@pytest.mark.parametrize(
    "path",
    [
        "/metaformer/none.js",
        "/metaformer/../../../pyproject.toml",
        "/metaformer/%2e%2e/package.json",
        "/metaformer/..%2fpackage.json",
        "/metaformer//etc/passwd",
        "/metaformer/models/1/a%20model.tflite",
        "/metaformer/index.html%00",
        "/models.json",
        "/app.js",
    ],
)
def test_nothing_else_is_served(path, page, model):
    with _serving(model, page=page) as (_, connection):
        response, content = _get(connection, path)
        assert response.status == 404
        assert b"keras" not in content.lower()
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        response, _ = _get(connection, "/metaformer/", method="POST")
        assert response.status == 501
    with _serving(model, page=page) as (_, connection):
        (page / "app.js").unlink()
        response, _ = _get(connection, "/metaformer/app.js")
        assert response.status == 404


@pytest.fixture
def addressed(page, model):
    """What status a request with these `Host` headers gets."""
    with _serving(model, page=page) as (server, _):
        port = server.server_address[1]

        def status(*hosts, target="/metaformer/models.json"):
            headers = "".join(f"Host: {host}\r\n" for host in hosts)
            answer = _exchange(port, f"GET {target} HTTP/1.1\r\n{headers}\r\n")
            assert (b"a model.tflite" in answer) == (b" 200 OK" in answer)
            return int(answer.split()[1])

        status.port = port
        yield status


def _exchange(port, *parts):
    """All that the server answers until it closes the connection, or has no more."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part.encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:{port}", "localhost:{port}", "LocalHost", "127.0.0.1", "[::1]:8",
        "localhost:9000",  # forwarded, by ssh for example
    ],
)  # fmt: skip
def test_hosts_that_are_served(addressed, host):
    assert addressed(host.format(port=addressed.port)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example", "attacker.example:{port}", "127.0.0.1.attacker.example",
        "localhost.attacker.example", "attacker.localhost", "192.0.2.1:{port}", "",
        "localhost@attacker.example", "[::1", "localhost:80:80", "[localhost]",
    ],
)  # fmt: skip
def test_a_foreign_page_reads_nothing_after_dns_rebinding(addressed, host):
    assert addressed(host.format(port=addressed.port)) == 421
    # A whole address in the first line says the host, too.
    if "." in host:
        target = f"http://{host.format(port=1)}/metaformer/models.json"
        assert addressed("localhost", target=target) == 421


def test_a_request_names_one_host(addressed):
    assert addressed() == 400
    assert addressed("localhost", "attacker.example") == 400


def test_names_that_were_allowed(page, model):
    server = PageServer("127.0.0.1", 0, [model], page, names=["Page.example"])
    with contextlib.closing(server.socket):
        assert server.serves("page.example:443")
        assert not server.serves("other.example")
    server = PageServer("0.0.0.0", 0, [model], page)
    with contextlib.closing(server.socket):
        assert server.serves(f"192.0.2.1:{server.server_address[1]}")
        assert server.serves(socket.gethostname())
        assert not server.serves("other.example")


@pytest.mark.parametrize(
    "header", ["Content-Length: 40", "Content-Length: 0, 40", "Transfer-Encoding: x"]
)
def test_a_body_is_not_taken_for_the_next_request(page, model, header):
    with _serving(model, page=page) as (server, _):
        answer = _exchange(
            server.server_address[1],
            f"GET /metaformer/ HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n"
            "GET /metaformer/models.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"a model.tflite" not in answer


def test_an_address_that_is_none(page, model, capfd):
    with _serving(model, page=page) as (server, _):
        answer = _exchange(
            server.server_address[1],
            "GET http://[/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("by", [1000, -1000])
def test_a_file_that_changes_its_size_while_it_is_sent(page, model, monkeypatch, by):
    """What follows in the same connection is answered, or the connection is closed."""
    file = page / "app.js"
    size = file.stat().st_size
    measure = os.fstat

    def measure_and_change(descriptor):
        found = measure(descriptor)
        if found.st_size == size:
            os.truncate(file, size + by)
        return found

    monkeypatch.setattr(web_server.os, "fstat", measure_and_change)
    with _serving(model, page=page) as (server, _):
        host = "HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = _exchange(
            server.server_address[1],
            f"GET /metaformer/app.js {host}GET /metaformer/models.json {host}",
        )
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {size}".encode() in head
    if by > 0:
        assert rest[size:].startswith(b"HTTP/1.1 200 ")
        assert rest.endswith(b"]")
    else:
        assert len(rest) == size + by


def test_the_service_worker_keeps_files_that_exist():
    """One missing file in its list would make it fail as a whole."""
    text = (SOURCE / "service_worker.js").read_text()
    listed = text.split("const PAGE = ")[1].split(";")[0].replace(",\n]", "\n]")
    kept = set(json.loads(listed)) - {"./", "models.json", "build/worker.js"}
    files = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.*")}
    files |= {f"samples/{file.name}" for file in photograph_files()}
    bundled = {"worker.js", "model_file.js", "resize.js"}
    assert kept == files - bundled - {"index.html", "service_worker.js", "icon.svg"}


def test_what_is_not_built(tmp_path):
    with pytest.raises(PageMissingError, match=r"`make page` builds it.*Received: no"):
        page_files(tmp_path / "page")


def _web(*arguments):
    return CliRunner().invoke(app, ["web", *map(str, arguments)])


def test_errors_before_anything_is_served(model, tmp_path, monkeypatch):
    (tmp_path / "empty.tflite").touch()
    (tmp_path / "text.tflite").write_text("hello, world")
    (tmp_path / "half.tflite").write_bytes(model.read_bytes()[:900])
    for name, message in [
        ("none", "No such file"),
        ("empty", "empty"),
        ("text", "TFL3"),
        ("half", "Received: path="),
    ]:
        result = _web("--model", model, "--model", tmp_path / f"{name}.tflite")
        assert result.exit_code == 3
        assert message in result.output
        assert f"{name}.tflite" in result.output
    oblong = _exported(tmp_path / "oblong.tflite", (4, 6, 3))
    result = _web("--model", oblong)
    assert result.exit_code == 3
    assert "square" in result.output
    normalised = _exported(tmp_path / "normalised.tflite", preprocessing=False)
    result = _web("--model", normalised)
    assert result.exit_code == 3
    assert "include_preprocessing=True" in result.output
    assert _web().exit_code == 2

    monkeypatch.setattr(web_server, "page_files", lambda *_: {"": Path()})
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = _web("--model", model, "--port", port)
    assert result.exit_code == 1
    assert f"Port {port} is in use" in result.output
    assert "--port" in result.output
    result = _web("--model", model, "--host", "host.invalid")
    assert result.exit_code == 1
    assert "host.invalid" in result.output


def test_the_command(model):
    """As a process: says where the page is, serves it, ends quietly on Ctrl-C."""
    try:
        page_files()
    except PageMissingError as error:
        pytest.skip(str(error))
    # Programs in the background of a shell script are started with Ctrl-C ignored.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from keras_metaformer_lite.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "web", "--port", "0", "--model", model]
    with subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = line.split()[4]
            host, port = url.split("/")[2].split(":")
            assert host == "127.0.0.1"
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            response, content = _get(connection, "/metaformer/")
            assert response.status == 200
            assert b"What is in the picture?" in content
            connection.close()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()  # Where it has not ended, this block would wait for it.
