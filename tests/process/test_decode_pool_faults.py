"""Whatever becomes of a decode child, it is one recording's matter, and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from scribewire.engine.protocol.errors import AudioUndecodable, EngineUnavailable
from scribewire.server.transcode import process as decode_process
from tests.fakes import lying_child
from tests.fakes.waiting import is_gone, run, wait_until, wait_until_async
from tests.process.pools import SHORT, pool_of, samples_beside, upload

pytestmark = pytest.mark.process


# ---- what becomes of a child ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_killed_child_ends_its_recording_only_and_is_replaced(
    tmp_path: Path, long_recording: Path, how: signal.Signals
) -> None:
    path, short = upload(tmp_path, long_recording), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with pool_of(begins_after_seconds=1e6) as pool:
            await wait_until_async(lambda: pool.process_ids)
            child = pool.process_ids[0]
            failing = asyncio.create_task(pool.transcode(path, is_interactive=True))
            await wait_until_async(lambda: any(one.stat().st_size for one in samples_beside(path)))
            os.kill(child, how)
            with pytest.raises(AudioUndecodable, match="within the limits"):
                await failing
            assert samples_beside(path) == []
            # Not before: the long recording gives way to one that waits, and then has another turn.
            (await pool.transcode(short, is_interactive=True)).close()
            assert child not in pool.process_ids

    run(work())


def test_death_after_the_recording_has_begun_is_told_to_who_reads_it(
    tmp_path: Path, long_recording: Path
) -> None:
    path = upload(tmp_path, long_recording)

    async def work() -> None:
        async with pool_of(begins_after_seconds=1) as pool:
            decoded = await pool.transcode(path, is_interactive=True)
            os.kill(pool.process_ids[0], signal.SIGKILL)
            assert decoded.ended is not None
            assert isinstance((await decoded.ended).failure, AudioUndecodable)
            assert isinstance(decoded.failure, AudioUndecodable)
            decoded.close()

    run(work())


def test_child_that_hangs_is_killed_when_its_time_is_over(tmp_path: Path, long_recording: Path) -> None:
    path, short = upload(tmp_path, long_recording), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with pool_of(timeout_seconds=2, begins_after_seconds=1e6) as pool:
            await wait_until_async(lambda: pool.process_ids)
            child = pool.process_ids[0]
            failing = asyncio.create_task(pool.transcode(path, is_interactive=True))
            await wait_until_async(lambda: any(one.stat().st_size for one in samples_beside(path)))
            os.kill(child, signal.SIGSTOP)
            with pytest.raises(AudioUndecodable):
                await failing
            (await pool.transcode(short, is_interactive=True)).close()
            assert not psutil.pid_exists(child)

    run(work())


def test_recording_that_takes_too_much_processor_time_is_undecodable(
    tmp_path: Path, long_recording: Path
) -> None:
    path = upload(tmp_path, long_recording)

    async def work() -> None:
        async with pool_of(timeout_seconds=1, begins_after_seconds=1e6) as pool:
            with pytest.raises(AudioUndecodable):
                await pool.transcode(path, is_interactive=True)

    run(work())


def test_idle_child_that_hangs_costs_no_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = upload(tmp_path, SHORT)
    monkeypatch.setattr(decode_process, "TAKE_SECONDS", 1.0)

    async def work() -> None:
        async with pool_of() as pool:
            (await pool.transcode(path, is_interactive=True)).close()
            child = pool.process_ids[0]
            os.kill(child, signal.SIGSTOP)
            (await pool.transcode(path, is_interactive=False)).close()
            assert not psutil.pid_exists(child)

    run(work())


def test_idle_child_that_dies_costs_no_recording(tmp_path: Path) -> None:
    path = upload(tmp_path, SHORT)

    async def work() -> None:
        async with pool_of() as pool:
            for _ in range(3):
                await wait_until_async(lambda: pool.process_ids)
                (await pool.transcode(path, is_interactive=True)).close()
                child = psutil.Process(pool.process_ids[0])
                child.kill()
                wait_for_death(child)

    run(work())


def wait_for_death(child: psutil.Process) -> None:
    """Blocks the event loop, so that the pool cannot have heard of the death when the next recording comes."""
    wait_until(lambda: is_gone(child.pid))


# ---- children that are not to be trusted ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        lying_child.LIE % (1, 16_000, "false"),
        lying_child.LIE % (1, 0, "false"),
        lying_child.LIE % (7, 16_000, "false"),
        "\x80\x04not a message\n",
        "a" * 200_000,
        '{"type": "TranscodeTaken", "task_id": 1}\n',
        '{"type": "TranscodeFailed", "task_id": 1, "code": "engine_fault", "message": "", "parameter": null, '
        '"detail": "", "is_last": true}\n',
    ],
    ids=[
        "more samples",
        "no samples",
        "another task",
        "no message",
        "no end of line",
        "taken twice",
        "another's error",
    ],
)
def test_child_that_lies_is_believed_nothing_and_killed(tmp_path: Path, answer: str) -> None:
    path = upload(tmp_path, answer.encode("latin-1"))

    async def work() -> None:
        async with pool_of(module=lying_child.__name__) as pool:
            await wait_until_async(lambda: pool.process_ids)
            child = pool.process_ids[0]
            with pytest.raises(AudioUndecodable):
                await pool.transcode(path, is_interactive=True)
            await wait_until_async(lambda: not psutil.pid_exists(child))

    run(work())


def test_recording_that_no_child_takes_up_is_not_offered_for_ever(tmp_path: Path) -> None:
    path = upload(tmp_path, lying_child.LEAVE)

    async def work() -> None:
        async with pool_of(module=lying_child.__name__) as pool:
            with pytest.raises(EngineUnavailable, match="cannot be decoded now"):
                await pool.transcode(path, is_interactive=True)
            assert samples_beside(path) == []

    run(work())


def test_who_waits_is_told_when_no_child_can_be_started(tmp_path: Path) -> None:
    path = upload(tmp_path, SHORT)

    async def work() -> None:
        async with pool_of(module="engine.no_such_module") as pool:
            with pytest.raises(EngineUnavailable, match="cannot be decoded now"):
                await pool.transcode(path, is_interactive=True)
            assert samples_beside(path) == []

    run(work())
