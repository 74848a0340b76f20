"""The fuzzer of the checkpoint readers: that it passes, and that it can fail."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_metaformer.weights.files.errors import CheckpointError
from keras_metaformer.weights.files.readers import read_checkpoint
from tests.weights.fuzz_readers import fuzz

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize(
    ("mutations", "seed"),
    [
        (3_000, 1),
        # Four minutes of one core; a busy machine may take several times that.
        pytest.param(100_000, 2, marks=[pytest.mark.large, pytest.mark.timeout(3600)]),
    ],
)
def test_mutated_files_are_read_or_refused(mutations, seed):
    # In a process of its own: a crash is then a failure of this test alone.
    script = Path(__file__).with_name("fuzz_readers.py")
    result = subprocess.run(
        [sys.executable, script, f"--mutations={mutations}", f"--seed={seed}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    report = json.loads(result.stdout)
    assert report["read"] + report["refused"] == mutations
    # Neither all read nor all refused: the mutations reach beyond the first check.
    assert report["read"] > mutations / 50
    assert report["refused"] > mutations / 50
    assert report["resident_growth"] < 64 * 2**20


def test_the_fuzzer_notices_another_error():
    def reads_what_is_good(path):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            raise KeyError("not the error that is promised") from error

    report = fuzz(100, 3, reads_what_is_good, CheckpointError)
    assert "KeyError" in report["failures"][0]


def test_the_fuzzer_notices_an_allocation():
    def allocates(path):
        np.zeros(10_000_000, "uint8")
        return read_checkpoint(path)

    report = fuzz(10, 3, allocates, CheckpointError)
    assert len(report["failures"]) == 10
    assert "bytes for a file of" in report["failures"][0]
