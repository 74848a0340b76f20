"""Who computes when, and what becomes of those who fail."""

import dataclasses
import os
import sys
from pathlib import Path

import pytest

from keras_metaformer_lite.benchmark.turns import (
    WorkerProcess,
    compare,
    order_of_turns,
    quartiles,
    worker_command,
)

pytestmark = pytest.mark.backend_independent

SCRIPT = Path(__file__).with_name("scripted_worker.py")


@dataclasses.dataclass
class _Job:
    label: str
    behaviour: str = "good"
    minimum_seconds: float = 0.0


def _compare(behaviours, tmp_path, repetitions=3, timeout=30.0, **options):
    """Contenders named by their options, which say how they behave."""
    log = tmp_path / "log"
    jobs = [_Job(f"{number}", each) for number, each in enumerate(behaviours)]

    def start(job):
        command = [sys.executable, str(SCRIPT), job.label, str(log), job.behaviour]
        return WorkerProcess(command, dict(os.environ), timeout)

    outcomes = compare(jobs, start, repetitions, **options)
    return outcomes, [line.split() for line in log.read_text().splitlines()]


def test_each_compiles_by_itself(tmp_path):
    program = (
        "import json, os; input(); "
        "print(json.dumps({'folder': os.environ['TORCHINDUCTOR_CACHE_DIR']}))"
    )
    folders = set()
    for given in ({}, {}, {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}):
        environment = dict(os.environ) | given
        if not given:
            environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
        worker = WorkerProcess([sys.executable, "-c", program], environment, 30)
        folder = Path(worker.ask("turn")["folder"])
        assert folder.is_dir()
        worker.close()
        assert folder.exists() == bool(given)
        folders.add(folder)
    assert len(folders) == 3 and tmp_path in folders


def test_one_at_a_time_and_each_once_per_round(tmp_path):
    outcomes, log = _compare(["good"] * 3, tmp_path, repetitions=4)
    assert [name for name, what in log[:3]] == ["0", "1", "2"]
    assert {what for _, what in log[:3]} == {"prepared"}
    turns = log[3:]
    # Every start is followed by the end of the same one.
    for begun, ended in zip(turns[::2], turns[1::2], strict=True):
        assert (begun[1], ended[1]) == ("start", "end")
        assert begun[0] == ended[0]
    names = [name for name, _ in turns[::2]]
    rounds = [names[i : i + 3] for i in range(0, 12, 3)]
    assert [sorted(each) for each in rounds] == [["0", "1", "2"]] * 4
    assert rounds == [[str(i) for i in order] for order in order_of_turns(3, 4)]
    assert all(outcome.status == "ok" for outcome in outcomes)
    assert [turn["seconds"] for turn in outcomes[0].turns] == [0.01, 0.02, 0.03, 0.04]
    assert outcomes[0].ready["calls"] == 3
    assert outcomes[0].memory["peak_memory"] == 2**30


def test_some_prepare_together_before_the_others(tmp_path):
    said: list[str] = []
    outcomes, log = _compare(
        ["good"] * 3,
        tmp_path,
        together=lambda job: job.label != "0",
        progress=said.append,
    )
    assert said[:2] == ["preparing 1, 2", "preparing 0"]
    assert sorted(name for name, _ in log[:2]) == ["1", "2"] and log[2][0] == "0"
    assert [outcome.job.label for outcome in outcomes] == ["0", "1", "2"]
    assert all(outcome.ready["calls"] == 3 for outcome in outcomes)


def test_the_order_changes_and_is_reproducible():
    orders = order_of_turns(5, 9)
    assert orders == order_of_turns(5, 9)
    assert len({tuple(order) for order in orders}) > 5


@pytest.mark.parametrize(
    ("behaviour", "status", "message", "turns"),
    [
        ("dies", "failed", "status 3: Fatal: lost my way", 1),
        ("killed", "out of memory", "signal 9", 1),
        ("hangs", "timed out", "within 1 seconds", 1),
        ("refuses", "out of memory", "no room", 0),
    ],
)
def test_the_rest_goes_on(behaviour, status, message, turns, tmp_path):
    outcomes, _ = _compare(
        ["good", behaviour, "good"],
        tmp_path,
        timeout=1.0 if behaviour == "hangs" else 30.0,
    )
    assert [outcome.status for outcome in outcomes] == ["ok", status, "ok"]
    assert message in outcomes[1].message
    assert [len(outcome.turns) for outcome in outcomes] == [3, turns, 3]


MODULE = """
import decimal
def make(job):
    return lambda: None, lambda: {"decimal": decimal.__file__, "label": job["label"]}
"""


def test_a_worker_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "decimal.py").write_text("raise ImportError('wrong one')")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "some_calls.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path / "here")

    def start(job):
        command = worker_command("some_calls", tmp_path / "there")
        return WorkerProcess(command, dict(os.environ), 30)

    (outcome,) = compare([_Job("some")], start, 1)
    assert (outcome.status, outcome.message) == ("ok", "")
    assert outcome.turns[0]["seconds"] >= 0
    assert outcome.memory["label"] == "some"
    assert str(tmp_path) not in outcome.memory["decimal"]


def test_quartiles():
    assert quartiles([3.0]) == (3, 3, 3)
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2, 3, 4)
