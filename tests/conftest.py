"""Settings for every test: backend, quiet logs, a home of its own, seeds."""

import gc
import getpass
import os
import tempfile
from typing import Any

import pytest

# Read when Keras is imported, so set before any test module is.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if _held_down_to := os.environ.get("ATEN_CPU_CAPABILITY"):
    # torch reads its cache of compiled models without regard to this setting, and what
    # was made for AVX-512 is wrong with AVX2 (torch 2.13, docs/project/tried.md).
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR",
        os.path.join(
            tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}_{_held_down_to}"
        ),
    )
# The user's keras.json and weight cache neither steer the tests nor are touched.
_home = tempfile.TemporaryDirectory(prefix="keras-metaformer-tests-")
os.environ["KERAS_HOME"] = _home.name


@pytest.fixture(autouse=True)
def _seed() -> None:
    import keras

    keras.utils.set_random_seed(20111418)


def pytest_collection_finish() -> None:
    """Leaves what imports and the list of tests have made out of the collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _free_memory():
    """Drops the models of a test module, which Keras' global state keeps alive."""
    yield
    import keras

    keras.backend.clear_session()
    # What backends have compiled stays for good. Keras collects garbage often, and
    # would look through all of it each time: seconds, after some thousand tests.
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(config: Any, val: Any, argname: str) -> str | None:
    """Names a case by what is in it, `classes=7`, where pytest would count: `options3`.

    None leaves texts and numbers, which are their own names, to pytest.
    """
    if isinstance(val, dict):
        return (
            ",".join(f"{key}={_name_of(value)}" for key, value in val.items()) or "{}"
        )
    if isinstance(val, (tuple, list)):
        return ",".join(map(_name_of, val)) or "()"
    return None


def _name_of(value: Any) -> str:
    """The same in every process: without addresses, sets in order."""
    if hasattr(value, "__name__"):
        return value.__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{tuple(value.shape)}"
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    text = str(value)
    is_name = len(text) <= 40 and " at 0x" not in text
    return text if is_name else type(value).__name__
