"""Waits of tests: each is for a condition, ends in time, and says in its failure what was awaited.

A test never sleeps: it waits for what it needs (`wait_until`, `wait_until_async`), runs its coroutines with an end
(`run`), and makes blocking calls that know no deadline with one (`in_time`, `join`). tests/rules/waits.py sees to it.
"""

from __future__ import annotations

import asyncio
import linecache
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import psutil

PATIENCE_SECONDS = 60.0
"""No test is judged by its speed: what takes so long on any machine will not happen."""

STORY_SECONDS = 2 * PATIENCE_SECONDS
"""For a whole coroutine, so that a wait inside it fails first and says more. Less than HANG_SECONDS of the conftest."""

_POLL_SECONDS = 0.005

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, seconds: float = PATIENCE_SECONDS) -> T:
    """The first true value of the condition; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, _missed(condition, seconds)
        time.sleep(_POLL_SECONDS)
    return value


async def wait_until_async(
    condition: Callable[[], T | Coroutine[Any, Any, T]], *, seconds: float = PATIENCE_SECONDS
) -> T:
    """Twin of wait_until on an event loop, where others run meanwhile; the condition may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, _missed(condition, seconds)
        await asyncio.sleep(_POLL_SECONDS)


async def let_others_run() -> None:
    """Let every task that is ready take its next steps; what waits for threads or the clock goes on waiting."""
    for _ in range(20):
        await asyncio.sleep(0)


def waits_for_event(task: asyncio.Task[Any]) -> bool:
    """True while a task waits for an asyncio.Event, having done all that it does before."""
    return any(getattr(step, "__qualname__", "") == asyncio.Event.wait.__qualname__ for step in _steps(task))


def run(story: Coroutine[Any, Any, T], *, seconds: float = STORY_SECONDS) -> T:
    """The result of a coroutine on an event loop of its own; fails when it is not over in time."""

    async def bounded() -> T:
        task = asyncio.ensure_future(story)
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            place = _place(task)
            task.cancel()
            await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
            raise AssertionError(f"not over within {seconds:g} s; it waited at {place}")
        return task.result()

    return asyncio.run(bounded())


def in_time(call: Callable[..., T], *arguments: Any, seconds: float = PATIENCE_SECONDS) -> T:
    """Result of a blocking call, made in a thread that is left behind when the call takes too long."""
    answer: Future[T] = Future()

    def make() -> None:
        try:
            answer.set_result(call(*arguments))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=make, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():
            raise
        raise AssertionError(f"{call} took longer than {seconds:g} s") from None


def join(*threads: threading.Thread, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for the end of threads; fails when one of them goes on."""
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), f"{thread.name} was not over within {seconds:g} s"


def is_gone(process_id: int) -> bool:
    """True once a process has ended, also while its parent has not asked for its end."""
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _missed(condition: Callable[[], Any], seconds: float) -> str:
    code = getattr(condition, "__code__", None)
    words = linecache.getline(code.co_filename, code.co_firstlineno).strip() if code else ""
    return f"not true within {seconds:g} s: {words or condition}"


def _place(task: asyncio.Task[Any]) -> str:
    """Innermost line of the tests that a task waits at."""
    place = "its beginning"
    for step in _steps(task):
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
        if frame is not None and "/tests/" in frame.f_code.co_filename:
            file, line = frame.f_code.co_filename, frame.f_lineno
            place = f"{file}:{line}: {linecache.getline(file, line).strip()}"
    return place


def _steps(task: asyncio.Task[Any]) -> Iterator[Any]:
    """The coroutines of a task from the outside in, each awaiting the next one."""
    step: Any = task.get_coro()
    while step is not None:
        yield step
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)
