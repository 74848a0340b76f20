"""`keras-metaformer web`: a page that runs a model in the browser."""

import errno
import ipaddress
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from keras_metaformer.cli.output import FAILED, WEIGHTS, say, stop


def web(
    model: Annotated[
        list[Path],
        typer.Option(
            help="A .tflite file of `keras-metaformer export`; may be repeated."
        ),
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")
    ] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; as a rule this computer only.")
    ] = "127.0.0.1",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name under which browsers may ask for the page, such as "
            "that of a proxy; may be repeated."
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Serve a page that classifies photographs and the camera's picture.

    The model runs in the browser, on WebAssembly or WebGPU: no picture leaves the
    device. After its first load the page works without a network. Ctrl-C ends it.

    Examples:

        keras-metaformer web --model caformer.tflite --open

        keras-metaformer web --model float32.tflite --model int8.tflite --port 8080
    """
    from keras_metaformer.cli.web_server import PageMissingError, PageServer

    for path in model:
        _check(path)
    try:
        server = PageServer(host, port, model, names=allowed_host or ())
    except PageMissingError as error:
        stop(error, FAILED)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            stop(
                f"Port {port} is in use. Choose another one with --port, or any that "
                "is free with --port 0",
                FAILED,
            )
        stop(f"{host} port {port} cannot be listened on: {error}", FAILED)
    say(f"The page is at {server.url} (Ctrl-C ends it)")
    if not _is_this_computer(host):
        say(
            "From other computers browsers give the camera, WebGPU, threads and use "
            "without a network to https pages only: put a proxy with https before it."
        )
    if open_page:
        webbrowser.open(server.url)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")


def _check(path: Path) -> None:
    """End the program if the page could not give photographs to the model."""
    from keras_metaformer.export import LiteRTModel, ModelFileError

    try:
        LiteRTModel(path).check_takes_photographs()
    except ModelFileError as error:
        stop(error, WEIGHTS)
    except ImportError as error:
        stop(error, FAILED)


def _is_this_computer(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
