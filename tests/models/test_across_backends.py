"""One `.keras` file, the same numbers on every backend."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.layer_checks import randomize, to_numpy
from tests.small_models import FAMILIES, build_small

ROOT = Path(__file__).parents[2]
BACKENDS = ("tensorflow", "jax", "torch")
#: Not square, odd, and no multiple of any stride.
ODD = (225, 193, 3)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """Every family's small model at odd sizes: file, images and outputs here."""
    directory = tmp_path_factory.mktemp("saved")
    backend = keras.backend.backend()
    for index, family in enumerate(FAMILIES):
        model = build_small(family, ODD, classifier_activation=None)
        randomize(model, seed=index)
        images = np.random.default_rng(index).normal(size=(1, *ODD))
        np.save(directory / f"{family}.images.npy", images.astype("float32"))
        outputs = to_numpy(model(images.astype("float32"), training=False))
        np.save(directory / f"{family}.{backend}.npy", outputs)
        model.save(directory / f"{family}.keras")
    return directory


# The others run in child processes; a file of theirs is the same file.
@pytest.mark.one_backend
@pytest.mark.parametrize(
    "other",
    [*BACKENDS, pytest.param("openvino", marks=pytest.mark.backend_independent)],
)
def test_a_file_written_here_gives_the_same_numbers_there(directory, other):
    here = keras.backend.backend()
    if other == here:  # The file itself is what the other two start from.
        load: Any = keras.saving.load_model
        other_outputs = {
            family: to_numpy(
                load(directory / f"{family}.keras")(
                    np.load(directory / f"{family}.images.npy"), training=False
                )
            )
            for family in FAMILIES
        }
    else:
        script = Path(__file__).with_name("predict_saved.py")
        finished = subprocess.run(
            [sys.executable, str(script), str(directory)],
            cwd=ROOT,
            # Compiling is what takes long on JAX.
            env=os.environ
            | {"KERAS_BACKEND": other, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert finished.returncode == 0, finished.stderr
        other_outputs = {
            family: np.load(directory / f"{family}.{other}.npy") for family in FAMILIES
        }
    for family in FAMILIES:
        expected = np.load(directory / f"{family}.{here}.npy")
        assert expected.shape == (1, 7)
        assert expected.std() > 0.05
        error = np.abs(other_outputs[family] - expected).max()
        assert error <= TOLERANCE * np.abs(expected).max(), family
