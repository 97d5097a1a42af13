"""The speaker child in the server's care: every death is told, and the next recording has another child."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.protocol.errors import EngineUnavailable, SpeakersFailed
from scribewire.engine.protocol.speakers import DiarizationConfig, SpeakerOptions
from scribewire.server.speakers.child import Speakers
from tests.fakes import babbling_child
from tests.fakes.speaker_stand_in import MODULE
from tests.fakes.waiting import is_gone, run, wait_until_async

pytestmark = pytest.mark.process


@contextlib.asynccontextmanager
async def speakers_of(**options: Any) -> AsyncIterator[Speakers]:
    speakers = Speakers(DiarizationConfig(), **{"timeout_seconds": 60.0, "module": MODULE, **options})
    try:
        yield speakers
    finally:
        await speakers.stop()
        assert speakers.process_id is None


def scripted(folder: Path, **script: object) -> str:
    path = folder / "script"
    path.write_text(json.dumps(script))
    return str(path)


def quick(folder: Path) -> str:
    path = folder / "quick"
    path.write_text(json.dumps({"turns": [[0, 1, "x"]]}))
    return str(path)


def read_end_opened(pipe: Path) -> int | None:
    """A descriptor to write to a named pipe once a process reads it, which waits for as long as that stays open."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def send(speakers: Speakers, number: signal.Signals) -> None:
    assert speakers.process_id is not None
    os.kill(speakers.process_id, number)


def deaths(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [one.scribewire_event for one in caplog.records if one.getMessage() == "speaker_child_died"]


def test_an_idle_child_that_is_killed_is_told_at_once_and_the_next_recording_has_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with speakers_of() as speakers:
            await speakers.check()
            first = speakers.process_id
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await wait_until_async(lambda: deaths(caplog))
            assert speakers.process_id is None
            assert (await speakers.diarize(quick(tmp_path), SpeakerOptions())).turns
            assert speakers.process_id != first

    run(story())
    (death,) = deaths(caplog)
    assert (death["exit_code"], death["reason"]) == (-9, "killed by signal 9 (SIGKILL)")


def test_a_child_that_is_killed_at_work_ends_the_recording_with_its_exit_in_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with speakers_of() as speakers:
            await speakers.check()
            path = tmp_path / "script"
            os.mkfifo(path)
            working = asyncio.create_task(speakers.diarize(str(path), SpeakerOptions()))
            # Killed sooner, an idle child would only be replaced by another.
            writing = await wait_until_async(lambda: read_end_opened(path))
            assert writing is not None
            send(speakers, signal.SIGKILL)
            with pytest.raises(SpeakersFailed, match=r"died \(killed by signal 9 \(SIGKILL\)\)"):
                await working
            os.close(writing)
            assert (await speakers.diarize(quick(tmp_path), SpeakerOptions())).turns

    run(story())
    assert len(deaths(caplog)) == 1


def test_last_words_of_a_child_that_dies_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with speakers_of() as speakers:
            with pytest.raises(SpeakersFailed, match="exit code 3"):
                await speakers.diarize(scripted(tmp_path, speakers="dies"), SpeakerOptions())

    run(story())
    assert deaths(caplog)[0]["last_words"] == ["last words"]


def test_a_child_that_hangs_is_ended_long_before_the_recordings_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with speakers_of(silence_seconds=1.5, timeout_seconds=3600.0) as speakers:
            await speakers.check()
            send(speakers, signal.SIGSTOP)
            with pytest.raises(SpeakersFailed, match=r"said nothing for 1.5 s \(killed by signal 9"):
                await speakers.diarize(quick(tmp_path), SpeakerOptions())
            await wait_until_async(lambda: deaths(caplog))

    run(story())


def test_a_child_that_sends_nonsense_is_ended(tmp_path: Path) -> None:
    async def story() -> None:
        async with speakers_of(module=babbling_child.__name__) as speakers:
            with pytest.raises(SpeakersFailed, match="died"):
                await speakers.check()
            assert speakers.process_id is None

    run(story())


def test_an_idle_child_is_ended_after_a_while_and_that_is_no_death(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with speakers_of(idle_seconds=0.05) as speakers:
            await speakers.diarize(quick(tmp_path), SpeakerOptions())
            await wait_until_async(lambda: speakers.process_id is None)
            await speakers.diarize(quick(tmp_path), SpeakerOptions())

    run(story())
    assert deaths(caplog) == []


def test_stopping_ends_the_child_and_all_who_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with speakers_of() as speakers:
            await speakers.check()
            child = speakers.process_id
            assert child is not None
            works = [
                asyncio.create_task(speakers.diarize(scripted(tmp_path, speakers="hangs"), SpeakerOptions()))
                for _ in range(2)
            ]
            await asyncio.sleep(0)
            await speakers.stop()
            for ended in await asyncio.gather(*works, return_exceptions=True):
                assert isinstance(ended, EngineUnavailable)
            assert is_gone(child)

    run(story())
    assert deaths(caplog) == []
