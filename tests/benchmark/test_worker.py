"""What a worker answers."""

import io
import json

import pytest

from keras_metaformer.benchmark.worker import Worker, describe_error, peak_memory, serve

pytestmark = pytest.mark.backend_independent


def _make(job):
    """Counts its calls; `lost` is one that cannot be prepared."""
    if job.get("lost"):
        raise MemoryError("no more")
    calls = []
    return lambda: calls.append(1), lambda: {"calls_in_all": len(calls)}


def _serve(*requests):
    lines = [json.dumps(request) + "\n" for request in requests]
    answers = io.StringIO()
    serve(_make, lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_turns():
    ready, first, second, end = _serve(
        {"minimum_seconds": 0.0}, "turn", "turn", "finish"
    )
    assert ready["calls"] == 1
    assert ready["build_s"] >= 0
    assert ready["versions"]["numpy"]
    assert first["seconds"] > 0
    assert second["processor_seconds"] >= 0
    # Three to prepare; in each turn one to wake up and one that is timed.
    assert end == {"peak_memory": peak_memory(), "calls_in_all": 7}


def test_calls_fill_the_time_asked_for():
    assert Worker(_make, {"minimum_seconds": 0.05}).calls > 1


def test_an_error_is_an_answer():
    assert _serve({"lost": True}, "turn") == [
        {"error": {"status": "out of memory", "message": "MemoryError: no more"}}
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("[enforce fail] can't allocate memory"), "out of memory"),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory"), "out of memory"),
        (ValueError("OOM when allocating tensor"), "out of memory"),
        (ValueError("no room in the table"), "failed"),
    ],
)
def test_kinds_of_errors(error, status):
    assert describe_error(error)["status"] == status


def test_a_message_is_one_short_line():
    message = describe_error(
        ValueError("\x1b[1mlost\x1b[0m\n\n here " + "and so on " * 99)
    )
    assert message["message"].startswith("ValueError: lost here and so on")
    assert message["message"].endswith("[...]")
    assert len(message["message"]) <= 300
