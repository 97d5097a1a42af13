"""The speaker child as its parent holds it: answers, progress, stops and deaths. The pipeline is a stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scribewire.engine.processes import speaker_process
from scribewire.engine.processes.speaker_process import SpeakerProcess
from scribewire.engine.protocol.errors import SpeakersFailed, SpeakersUnavailable
from scribewire.engine.protocol.speakers import DiarizationConfig, Diarize, DiarizeProgress, VoiceReference
from tests.fakes.speaker_stand_in import MODULE
from tests.fakes.waiting import PATIENCE_SECONDS, run, wait_until_async

pytestmark = pytest.mark.process


async def started(**config: object) -> SpeakerProcess:
    return await SpeakerProcess.start(DiarizationConfig(**config), module=MODULE)  # type: ignore[arg-type]  # by name


@contextlib.asynccontextmanager
async def ready() -> AsyncIterator[SpeakerProcess]:
    process = await started()
    try:
        await process.wait_ready(timeout_seconds=PATIENCE_SECONDS)
        yield process
    finally:
        await process.close()
        assert not process.child.is_alive


async def refused(**config: object) -> str:
    """What a child says that does not become ready."""
    process = await started(**config)
    try:
        with pytest.raises((SpeakersUnavailable, SpeakersFailed)) as error:
            await process.wait_ready(timeout_seconds=PATIENCE_SECONDS)
        return f"{type(error.value).__name__}: {error.value}"
    finally:
        await process.close()


def scripted(folder: Path, name: str = "script", **script: object) -> str:
    path = folder / name
    path.write_text(json.dumps(script))
    return str(path)


def test_turns_come_back_and_the_child_serves_again(tmp_path: Path):
    path = scripted(tmp_path, turns=[[0, 1, "x"], [1, 2, "y"]])
    steps: list[DiarizeProgress] = []

    async def story() -> None:
        async with ready() as process:
            for _ in range(2):
                found = await process.diarize(Diarize(0, path), timeout_seconds=60, on_progress=steps.append)
                assert [turn.speaker for turn in found.turns] == ["A", "B"]

    run(story())
    assert steps
    assert 0 <= steps[0].fraction <= 1


def test_known_voices_are_named_and_a_pipeline_without_embeddings_says_so(tmp_path: Path):
    ann = VoiceReference("Ann", scripted(tmp_path, "ann", voice=[0, 1]))
    turns = [[0, 1, "x"], [1, 2, "y"]]

    async def story() -> None:
        async with ready() as process:
            told = scripted(tmp_path, turns=turns, voices={"x": [1, 0], "y": [0, 1]})
            found = await process.diarize(Diarize(0, told, references=(ann,)), timeout_seconds=60)
            assert ([turn.speaker for turn in found.turns], found.notices) == (["A", "Ann"], ())
            plain = scripted(tmp_path, turns=turns)
            found = await process.diarize(Diarize(0, plain, references=(ann,)), timeout_seconds=60)
            assert [turn.speaker for turn in found.turns] == ["A", "B"]
            assert "embeddings" in found.notices[0]

    run(story())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("no-extra", r"SpeakersUnavailable.*pip install -e '\.\[speakers\]'.*HF_TOKEN"),
        ("no-terms", "SpeakersUnavailable.*accepted terms and a token"),
        ("dies", r"SpeakersFailed.*died \(exit code 3\)"),
    ],
)
def test_what_is_missing_at_the_start_is_told_on_one_line(model: str, words: str):
    assert re.search(words, run(refused(model=model)))


def test_the_real_child_without_pyannote_audio_says_what_to_install():
    async def story() -> None:
        process = await SpeakerProcess.start(DiarizationConfig())
        with pytest.raises(SpeakersUnavailable, match=r"pip install -e .\.\[speakers\]"):
            await process.wait_ready(timeout_seconds=PATIENCE_SECONDS)
        await process.close()

    run(story())


def test_a_child_that_dies_ends_its_recording_and_leaves_its_last_words(tmp_path: Path):
    async def story() -> None:
        async with ready() as process:
            with pytest.raises(SpeakersFailed, match=r"died \(exit code 3\)"):
                await process.diarize(Diarize(0, scripted(tmp_path, speakers="dies")), timeout_seconds=60)
            assert process.child.last_lines() == ["last words"]

    run(story())


def test_a_recording_that_fails_leaves_the_child_alive(tmp_path: Path):
    async def story() -> None:
        async with ready() as process:
            with pytest.raises(SpeakersFailed, match="ValueError"):
                await process.diarize(Diarize(0, scripted(tmp_path, speakers="fails")), timeout_seconds=60)
            path = scripted(tmp_path, turns=[])
            assert (await process.diarize(Diarize(0, path), timeout_seconds=60)).turns == ()

    run(story())


def test_a_child_that_takes_longer_than_it_may_is_ended(tmp_path: Path):
    async def story() -> None:
        async with ready() as process:
            with pytest.raises(SpeakersFailed, match="longer than it may"):
                await process.diarize(Diarize(0, scripted(tmp_path, speakers="hangs")), timeout_seconds=0.5)
            assert not process.child.is_alive

    run(story())


def test_a_long_step_without_progress_is_no_silence(tmp_path: Path):
    """The step lasts for ever; what ends it is the time of the recording, several times that of a silence."""

    async def story() -> None:
        process = await SpeakerProcess.start(DiarizationConfig(), module=MODULE, silence_seconds=1.9)
        await process.wait_ready()
        with pytest.raises(SpeakersFailed, match="longer than it may"):
            await process.diarize(Diarize(0, scripted(tmp_path, speakers="hangs")), timeout_seconds=6)
        await process.close()

    run(story())


@pytest.mark.parametrize(("manner", "survives"), [("waits", True), ("hangs", False)])
def test_a_stopped_recording_ends_and_a_child_that_does_not_listen_with_it(
    tmp_path: Path, manner: str, survives: bool, monkeypatch: pytest.MonkeyPatch
):
    if not survives:
        monkeypatch.setattr(speaker_process, "STOP_SECONDS", 0.5)

    async def story() -> None:
        async with ready() as process:
            begun = asyncio.Event()
            path = scripted(tmp_path, speakers=manner)

            def note(progress: DiarizeProgress) -> None:
                # At the first step any child still listens.
                if progress.step != "loading":
                    begun.set()

            task = asyncio.create_task(
                process.diarize(Diarize(0, path), timeout_seconds=60, on_progress=note)
            )
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if survives:
                path = scripted(tmp_path, turns=[])
                assert (await process.diarize(Diarize(0, path), timeout_seconds=60)).turns == ()
            else:
                await wait_until_async(lambda: not process.child.is_alive)

    run(story())


def test_a_child_over_its_memory_is_ended(tmp_path: Path):
    async def story() -> None:
        process = await started(memory_bytes=1)
        with contextlib.suppress(SpeakersFailed):  # it may be over before it is ready
            await process.wait_ready(timeout_seconds=PATIENCE_SECONDS)
        with pytest.raises(SpeakersFailed, match=r"exit code 71: it needed more memory than it may"):
            await process.diarize(Diarize(0, scripted(tmp_path, speakers="hangs")), timeout_seconds=60)
        assert "memory" in process.child.last_lines()[0]
        await process.close()

    run(story())
