"""Settings for every test: backend, quiet logs, a home of its own, seeds."""

import gc
import os
import tempfile

import pytest

# Read when Keras is imported, so set before any test module is.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The user's keras.json and weight cache neither steer the tests nor are touched.
_home = tempfile.TemporaryDirectory(prefix="keras-metaformer-tests-")
os.environ["KERAS_HOME"] = _home.name


@pytest.fixture(autouse=True)
def _seed() -> None:
    import keras

    keras.utils.set_random_seed(20111418)


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
