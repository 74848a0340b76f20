"""Which backend Keras will take, and which are installed."""

import importlib.util
import json
import os
from pathlib import Path

VARIABLE = "KERAS_BACKEND"
#: What computes for Keras, by the name of its package; Keras takes the first by itself.
BACKENDS = ("tensorflow", "jax", "torch", "openvino")


def keras_home() -> Path:
    """The folder of Keras' configuration and cache: `$KERAS_HOME`, else `~/.keras`."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()


def chosen_backend() -> str:
    """What Keras takes: of `KERAS_BACKEND`, of its configuration, or TensorFlow."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    try:
        configuration = json.loads((keras_home() / "keras.json").read_bytes())
        return str(configuration["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return BACKENDS[0]


def installed_backends() -> tuple[str, ...]:
    """Those that can be imported, in Keras' order."""
    return tuple(name for name in BACKENDS if importlib.util.find_spec(name))


def check_backend() -> None:
    """See that the backend which Keras will take is there.

    Raises:
        ImportError: if it is one of `BACKENDS`, and not installed.
    """
    chosen, installed = chosen_backend(), installed_backends()
    if chosen not in BACKENDS or chosen in installed:
        return
    raise ImportError(
        f"Expected a backend of Keras that is installed: set {VARIABLE}, before Keras "
        f"is imported, to one of {list(installed)}"
        + ("" if installed else ', or pip install "keras-metaformer[jax]"')
        + f". Received: {VARIABLE}={os.environ.get(VARIABLE)!r}, with which Keras "
        f"takes {chosen!r}"
    )


def choose_installed_backend() -> None:
    """Have Keras take a backend that is installed, where nothing names another.

    For processes of our own, before Keras is imported.
    """
    if VARIABLE in os.environ:
        return
    installed = installed_backends()
    if installed and chosen_backend() not in installed:
        os.environ[VARIABLE] = installed[0]
