"""A killed run goes on as if nothing had happened, process by process."""

import signal

import pytest

from tests.training import kills


# On each backend test_loop.py goes on from any step within one process.
@pytest.mark.one_backend
def test_a_run_that_is_killed_goes_on_bit_for_bit(tmp_path):
    found = kills.compare(tmp_path, kills=1, epochs=1, seed=0, numbers=[signal.SIGKILL])
    assert found["kills"] == 1
    assert found["different"] == []


@pytest.mark.one_backend
def test_ctrl_c_and_sigterm_end_the_process_with_a_checkpoint(tmp_path):
    numbers = [signal.SIGINT, signal.SIGTERM]
    found = kills.compare(tmp_path, kills=2, epochs=2, seed=1, numbers=numbers)
    assert found["different"] == [] and found["left behind"] == []


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_moments(tmp_path):
    found = kills.compare(
        tmp_path, kills=20, epochs=kills.EPOCHS, seed=2, numbers=[signal.SIGKILL]
    )
    assert found["kills"] == 20
    assert found["different"] == [] and found["left behind"] == []
