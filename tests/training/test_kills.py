"""A killed run goes on as if nothing had happened, process by process."""

import signal

import pytest

from tests.training import kills


# On each backend test_loop.py goes on from any step within one process.
@pytest.mark.one_backend
def test_a_run_goes_on_bit_for_bit_whatever_ended_it(tmp_path):
    """A kill, Ctrl-C and SIGTERM."""
    numbers = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]
    found = kills.compare(tmp_path, kills=3, epochs=3, seed=1, numbers=numbers)
    assert found["kills"] >= 2  # The last may come too late.
    assert found["different"] == [] and found["left behind"] == []


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_moments(tmp_path):
    found = kills.compare(
        tmp_path, kills=20, epochs=kills.EPOCHS, seed=2, numbers=[signal.SIGKILL]
    )
    assert found["kills"] == 20
    assert found["different"] == [] and found["left behind"] == []
