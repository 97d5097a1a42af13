"""Waits of tests end, and say what they waited for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.fakes.waiting import in_time, join, run, wait_until, wait_until_async, waits_for_event


def test_first_true_value_is_returned() -> None:
    values = iter([0, "", "found"])
    assert wait_until(lambda: next(values)) == "found"


def test_condition_that_stays_false_fails_with_its_words() -> None:
    with pytest.raises(AssertionError, match=r"not true within 0\.01 s: .*lambda: threading is None"):
        wait_until(lambda: threading is None, seconds=0.01)


def test_condition_may_be_asked_on_the_event_loop() -> None:
    async def story() -> None:
        values = iter([False, True])

        async def value() -> bool:
            return next(values)

        assert await wait_until_async(value) is True
        with pytest.raises(AssertionError, match="lambda: threading is None"):
            await wait_until_async(lambda: threading is None, seconds=0.01)

    run(story())


def test_coroutine_without_an_end_fails_with_the_line_that_it_waits_at() -> None:
    async def story() -> None:
        await asyncio.Event().wait()

    with pytest.raises(
        AssertionError, match=r"not over within 0\.01 s; .*await asyncio\.Event\(\)\.wait\(\)"
    ):
        run(story(), seconds=0.01)


def test_error_of_a_coroutine_or_a_call_is_its_own() -> None:
    async def fails() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        run(fails())
    with pytest.raises(TimeoutError, match="its own"):
        in_time(asyncio.run, fails())


def test_call_and_thread_that_go_on_fail() -> None:
    is_over = threading.Event()
    with pytest.raises(AssertionError, match=r"took longer than 0\.01 s"):
        in_time(is_over.wait, 60, seconds=0.01)
    thread = threading.Thread(target=is_over.wait, args=(60,), name="the long one", daemon=True)
    thread.start()
    with pytest.raises(AssertionError, match="the long one was not over"):
        join(thread, seconds=0.01)
    is_over.set()
    join(thread)


def test_task_is_seen_to_wait_for_an_event() -> None:
    async def story() -> None:
        asked, event = asyncio.get_running_loop().create_future(), asyncio.Event()

        async def ask_and_wait() -> None:
            await asked
            await event.wait()

        task = asyncio.create_task(ask_and_wait())
        await asyncio.sleep(0)
        assert not waits_for_event(task)
        asked.set_result(None)
        await wait_until_async(lambda: waits_for_event(task))
        event.set()
        await task
        assert not waits_for_event(task)

    run(story())
