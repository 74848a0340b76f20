"""The switch of the fast paths."""

import asyncio
import threading

import pytest

from keras_metaformer.layers import fast_paths

pytestmark = pytest.mark.backend_independent


def test_on_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv(fast_paths.ENVIRONMENT_VARIABLE, raising=False)
    assert fast_paths._from_environment()
    monkeypatch.setenv(fast_paths.ENVIRONMENT_VARIABLE, "1")
    assert fast_paths._from_environment()
    monkeypatch.setenv(fast_paths.ENVIRONMENT_VARIABLE, "0")
    assert not fast_paths._from_environment()


def test_other_values_of_the_variable_are_refused(monkeypatch):
    monkeypatch.setenv(fast_paths.ENVIRONMENT_VARIABLE, "off")
    with pytest.raises(ValueError, match=r"Received: .*'off'"):
        fast_paths._from_environment()


def test_switched_puts_back_what_was():
    with fast_paths.switched(True):
        with fast_paths.switched(False):
            assert not fast_paths.enabled()
            with fast_paths.switched(True):
                assert fast_paths.enabled()
            assert not fast_paths.enabled()
        assert fast_paths.enabled()


def test_switched_puts_back_after_an_error():
    with fast_paths.switched(True):
        with pytest.raises(KeyError), fast_paths.switched(False):
            raise KeyError
        assert fast_paths.enabled()


def test_set_enabled_stays():
    before = fast_paths.enabled()
    try:
        fast_paths.set_enabled(not before)
        assert fast_paths.enabled() is not before
    finally:
        fast_paths.set_enabled(before)


def test_blocks_that_overlap_in_two_threads_leave_no_trace():
    before = fast_paths.enabled()
    both_inside, first_left = threading.Barrier(3), threading.Barrier(2)
    seen = []

    def first():
        with fast_paths.switched(not before):
            both_inside.wait(60)
            seen.append(fast_paths.enabled())
        seen.append(not fast_paths.enabled())
        first_left.wait(60)

    def second():
        with fast_paths.switched(not before):
            both_inside.wait(60)
            first_left.wait(60)
            seen.append(fast_paths.enabled())
        seen.append(not fast_paths.enabled())

    threads = [threading.Thread(target=function) for function in (first, second)]
    for thread in threads:
        thread.start()
    both_inside.wait(60)
    assert fast_paths.enabled() is before  # In a thread beside them.
    for thread in threads:
        thread.join()
    assert seen == [not before] * 4
    assert fast_paths.enabled() is before


def test_blocks_that_overlap_in_two_tasks_leave_no_trace():
    before = fast_paths.enabled()

    async def inside(entered, leave):
        with fast_paths.switched(not before):
            entered.set()
            await leave.wait()
            assert fast_paths.enabled() is not before

    async def overlap():
        events = [asyncio.Event() for _ in range(4)]
        tasks = [
            asyncio.create_task(inside(*events[:2])),
            asyncio.create_task(inside(*events[2:])),
        ]
        for entered, leave in (events[:2], events[2:]):
            await entered.wait()
            assert fast_paths.enabled() is before
            leave.set()
        await asyncio.gather(*tasks)
        assert fast_paths.enabled() is before

    asyncio.run(overlap())


def test_what_is_set_for_all_holds_in_other_threads():
    before = fast_paths.enabled()
    seen = []
    try:
        fast_paths.set_enabled(not before)
        with fast_paths.switched(before):
            assert fast_paths.enabled() is before
            thread = threading.Thread(target=lambda: seen.append(fast_paths.enabled()))
            thread.start()
            thread.join()
        assert seen == [not before]
    finally:
        fast_paths.set_enabled(before)
