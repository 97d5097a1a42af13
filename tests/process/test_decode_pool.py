"""The pool of decode children at work: order, growing recordings, and callers that go away."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from scribewire.engine.audio.transcode import transcode_audio
from scribewire.engine.protocol.errors import AudioTooLong, EngineUnavailable
from scribewire.server.transcode.process import TranscodeProcess
from tests.fakes.media import LIMITS, riff, tones
from tests.fakes.waiting import run, wait_until_async
from tests.process.pools import RATE, SHORT, pool_of, samples_beside, upload

pytestmark = pytest.mark.process


# ---- ordinary work -------------------------------------------------------------------------------------------


def test_recording_comes_as_private_samples_that_go_when_it_is_closed(tmp_path: Path) -> None:
    recording = riff(np.int16(tones(2.0, 44_100) * 32_767).tobytes(), rate_hz=44_100)
    path = upload(tmp_path, recording)
    expected = transcode_audio(recording, limits=LIMITS).samples

    async def work() -> None:
        async with pool_of() as pool:
            decoded = await pool.transcode(path, is_interactive=True)
            assert (decoded.source.kind, decoded.source.is_growing) == ("pcm_float32", False)
            assert decoded.source.expected_seconds == pytest.approx(2.0, abs=0.01)
            assert decoded.ended is None
            assert decoded.lead_seconds == decoded.decode_seconds > 0
            samples = Path(decoded.source.path)
            assert samples.parent == path.parent
            assert samples.stat().st_mode & 0o777 == 0o600
            np.testing.assert_array_equal(np.fromfile(samples, "<f4"), expected)
            decoded.close()
            decoded.close()
            assert samples_beside(path) == []

    run(work())


def test_one_child_serves_one_recording_after_another(tmp_path: Path) -> None:
    path = upload(tmp_path, SHORT)

    async def work() -> None:
        async with pool_of() as pool:
            await wait_until_async(lambda: pool.process_ids)
            first = pool.process_ids
            for _ in range(5):
                (await pool.transcode(path, is_interactive=True)).close()
            assert pool.process_ids == first

    run(work())


def test_child_that_has_served_its_time_is_replaced(tmp_path: Path) -> None:
    path = upload(tmp_path, SHORT)

    async def work() -> None:
        async with pool_of(recordings_per_process=2) as pool:
            seen = set()
            for _ in range(5):
                (await pool.transcode(path, is_interactive=True)).close()
                seen.update(pool.process_ids)
            assert len(seen) == 3

    run(work())


def test_recordings_beyond_the_children_wait_their_turn(tmp_path: Path) -> None:
    paths = [upload(tmp_path, SHORT, str(number)) for number in range(12)]

    async def work() -> None:
        async with pool_of(processes=2) as pool:
            for decoded in await asyncio.gather(
                *(pool.transcode(path, is_interactive=True) for path in paths)
            ):
                decoded.close()
            assert len(pool.process_ids) == 2

    run(work())


def test_bad_recording_has_its_own_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = upload(tmp_path, riff(bytes(70 * 32_000)))

    async def work() -> None:
        async with pool_of(audio_limits=type(LIMITS)(max_duration_seconds=60)) as pool:
            with pytest.raises(AudioTooLong):
                await pool.transcode(path, is_interactive=True)
            assert samples_beside(path) == []

    run(work())


# ---- recordings that begin before they end -------------------------------------------------------------------


def test_long_recording_is_handed_over_while_its_child_goes_on(tmp_path: Path, hour: Path) -> None:
    path = upload(tmp_path, hour)

    async def work() -> None:
        async with pool_of(begins_after_seconds=40) as pool:
            decoded = await pool.transcode(path, is_interactive=True)
            assert decoded.source.is_growing
            assert decoded.source.expected_seconds == pytest.approx(3600, rel=0.05)
            early = Path(decoded.source.path).stat().st_size
            assert early >= 40 * RATE * 4
            assert decoded.ended is not None
            outcome = await decoded.ended
            assert outcome.failure is None
            assert outcome.sample_count == pytest.approx(3600 * RATE, rel=0.05)
            assert Path(decoded.source.path).stat().st_size == outcome.sample_count * 4 > early
            assert decoded.decode_seconds > decoded.lead_seconds > 0
            decoded.close()

    run(work())


def test_closing_a_growing_recording_frees_its_child_within_a_second(
    tmp_path: Path, long_recording: Path
) -> None:
    path, short = upload(tmp_path, long_recording), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with pool_of(begins_after_seconds=1) as pool:
            decoded = await pool.transcode(path, is_interactive=True)
            children = pool.process_ids
            decoded.close()
            assert samples_beside(path) == []
            (await pool.transcode(short, is_interactive=True)).close()
            assert decoded.ended is not None
            assert (await decoded.ended).failure is not None
            assert pool.process_ids == children

    run(work())


# ---- callers that go away ------------------------------------------------------------------------------------


def test_cancelled_caller_frees_the_child_and_leaves_nothing(tmp_path: Path, long_recording: Path) -> None:
    path, short = upload(tmp_path, long_recording), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with pool_of(begins_after_seconds=1e6) as pool:
            await wait_until_async(lambda: pool.process_ids)
            children = pool.process_ids
            leaving = asyncio.create_task(pool.transcode(path, is_interactive=True))
            await wait_until_async(lambda: any(one.stat().st_size for one in samples_beside(path)))
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert samples_beside(path) == []
            (await pool.transcode(short, is_interactive=True)).close()
            assert pool.process_ids == children

    run(work())


def test_child_that_does_not_hear_of_the_cancellation_is_killed(tmp_path: Path, long_recording: Path) -> None:
    path, short = upload(tmp_path, long_recording), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with pool_of(begins_after_seconds=1e6) as pool:
            await wait_until_async(lambda: pool.process_ids)
            child = pool.process_ids[0]
            leaving = asyncio.create_task(pool.transcode(path, is_interactive=True))
            await wait_until_async(lambda: any(one.stat().st_size for one in samples_beside(path)))
            os.kill(child, signal.SIGSTOP)
            leaving.cancel()
            (await pool.transcode(short, is_interactive=True)).close()
            assert not psutil.pid_exists(child)

    run(work())


def test_cancelled_caller_leaves_the_queue(tmp_path: Path, long_recording: Path) -> None:
    path, short = upload(tmp_path, long_recording), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with pool_of(begins_after_seconds=1) as pool:
            decoded = await pool.transcode(path, is_interactive=True)
            leaving = asyncio.create_task(pool.transcode(short, is_interactive=True))
            await wait_until_async(lambda: samples_beside(short))
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert samples_beside(short) == []
            decoded.close()
            (await pool.transcode(short, is_interactive=True)).close()

    run(work())


def test_stopping_ends_what_waits_and_what_is_in_hand(tmp_path: Path, long_recording: Path) -> None:
    path, short = upload(tmp_path, long_recording), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with pool_of(begins_after_seconds=1e6) as pool:
            await wait_until_async(lambda: pool.process_ids)
            child = pool.process_ids[0]
            works = [
                asyncio.create_task(pool.transcode(path, is_interactive=True)),
                asyncio.create_task(pool.transcode(short, is_interactive=True)),
            ]
            await wait_until_async(lambda: samples_beside(path) and samples_beside(short))
            await pool.stop()
            for ended in await asyncio.gather(*works, return_exceptions=True):
                assert isinstance(ended, EngineUnavailable)
            assert not psutil.pid_exists(child)
            with pytest.raises(EngineUnavailable):
                await pool.transcode(short, is_interactive=True)

    run(work())


# ---- turns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_interactive", [True, False], ids=["requests", "jobs"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_short_recording_does_not_wait_for_the_long_ones_of_others(
    tmp_path: Path, endless: Path, processes: int, is_interactive: bool
) -> None:
    """More long recordings than children, and all of them still go on when the short one is done."""
    paths = [upload(tmp_path, endless, f"long {number}") for number in range(processes + 2)]
    short = upload(tmp_path, SHORT)

    async def work() -> None:
        async with pool_of(processes=processes, begins_after_seconds=1) as pool:
            long = [await pool.transcode(path, is_interactive=is_interactive) for path in paths]
            for _ in range(3):
                (await pool.transcode(short, is_interactive=is_interactive)).close()
            assert not any(one.ended is None or one.ended.done() for one in long)
            assert len(pool.process_ids) == processes
            for one in long:
                one.close()

    run(work())


def test_a_recording_that_gave_way_has_the_samples_that_it_would_have_had(
    tmp_path: Path, hour: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = hour.read_bytes()[: hour.stat().st_size // 4]
    expected = hashlib.sha256(
        transcode_audio(recording, limits=LIMITS).samples.astype("<f4").tobytes()
    ).digest()
    paths = [upload(tmp_path, recording, f"{number}") for number in range(3)]
    interrupts: list[TranscodeProcess] = []
    interrupt = TranscodeProcess.interrupt
    monkeypatch.setattr(
        TranscodeProcess, "interrupt", lambda process: (interrupts.append(process), interrupt(process))
    )

    async def work() -> None:
        async with pool_of(processes=2, begins_after_seconds=1) as pool:
            found = [await pool.transcode(path, is_interactive=True) for path in paths]
            for one in found:
                assert one.ended is not None
                assert (await one.ended).failure is None
                assert hashlib.sha256(Path(one.source.path).read_bytes()).digest() == expected
                one.close()

    run(work())
    assert interrupts


def test_a_child_that_does_not_give_way_is_killed_and_its_recording_goes_on(
    tmp_path: Path, hour: Path
) -> None:
    path, short = upload(tmp_path, hour), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with pool_of(processes=1, begins_after_seconds=1) as pool:
            decoded = await pool.transcode(path, is_interactive=True)
            child = pool.process_ids[0]
            os.kill(child, signal.SIGSTOP)
            (await pool.transcode(short, is_interactive=True)).close()
            assert not psutil.pid_exists(child)
            assert decoded.ended is not None
            outcome = await decoded.ended
            assert (outcome.failure, outcome.sample_count) == (None, pytest.approx(3600 * RATE, rel=0.05))
            decoded.close()

    run(work())
