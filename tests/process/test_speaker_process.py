"""The speaker child as its parent holds it: answers, progress, stops and deaths. The pipeline is a stand-in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scribewire.engine.processes import speaker_process
from scribewire.engine.processes.speaker_process import SpeakerProcess
from scribewire.engine.protocol.errors import RequestCancelled, SpeakersFailed, SpeakersUnavailable
from scribewire.engine.protocol.speakers import DiarizationConfig, Diarize, VoiceReference
from tests.fakes.speaker_stand_in import MODULE
from tests.fakes.waiting import PATIENCE_SECONDS, in_time, is_gone, wait_until

pytestmark = pytest.mark.process


def started(**config: object) -> SpeakerProcess:
    return SpeakerProcess(DiarizationConfig(**config), module=MODULE)  # type: ignore[arg-type]  # by name


@pytest.fixture
def process() -> Iterator[SpeakerProcess]:
    child = started()
    child.wait_ready(timeout_seconds=PATIENCE_SECONDS)
    yield child
    child.close()
    assert not child.is_alive


def scripted(folder: Path, name: str = "script", **script: object) -> str:
    path = folder / name
    path.write_text(json.dumps(script))
    return str(path)


def test_turns_come_back_and_the_child_serves_again(process: SpeakerProcess, tmp_path: Path):
    path = scripted(tmp_path, turns=[[0, 1, "x"], [1, 2, "y"]])
    steps = []
    for _ in range(2):
        found = process.diarize(Diarize(0, path), timeout_seconds=60, on_progress=steps.append)
        assert [turn.speaker for turn in found.turns] == ["A", "B"]
    assert steps
    assert 0 <= steps[0].fraction <= 1


def test_known_voices_are_named_and_a_pipeline_without_embeddings_says_so(
    process: SpeakerProcess, tmp_path: Path
):
    ann = VoiceReference("Ann", scripted(tmp_path, "ann", voice=[0, 1]))
    turns = [[0, 1, "x"], [1, 2, "y"]]
    told = scripted(tmp_path, turns=turns, voices={"x": [1, 0], "y": [0, 1]})
    found = process.diarize(Diarize(0, told, references=(ann,)), timeout_seconds=60)
    assert ([turn.speaker for turn in found.turns], found.notices) == (["A", "Ann"], ())
    plain = scripted(tmp_path, turns=turns)
    found = process.diarize(Diarize(0, plain, references=(ann,)), timeout_seconds=60)
    assert [turn.speaker for turn in found.turns] == ["A", "B"]
    assert "embeddings" in found.notices[0]


def test_a_missing_extra_is_told_with_what_to_install():
    child = started(model="no-extra")
    with pytest.raises(SpeakersUnavailable, match=r"pip install 'scribewire\[speakers\]'.*HF_TOKEN"):
        child.wait_ready(timeout_seconds=PATIENCE_SECONDS)
    child.close()


def test_missing_terms_are_told_on_one_line():
    child = started(model="no-terms")
    with pytest.raises(SpeakersUnavailable, match="accepted terms and a token"):
        child.wait_ready(timeout_seconds=PATIENCE_SECONDS)
    child.close()


def test_the_real_child_without_pyannote_audio_says_what_to_install():
    child = SpeakerProcess(DiarizationConfig())
    with pytest.raises(SpeakersUnavailable, match=r"scribewire\[speakers\]"):
        child.wait_ready(timeout_seconds=PATIENCE_SECONDS)
    child.close()


def test_a_child_that_dies_ends_its_recording_and_leaves_its_last_words(
    process: SpeakerProcess, tmp_path: Path
):
    with pytest.raises(SpeakersFailed, match="died"):
        process.diarize(Diarize(0, scripted(tmp_path, speakers="dies")), timeout_seconds=60)
    assert not process.is_alive
    process.close()
    assert process.last_words() == ["last words"]


def test_a_child_that_dies_at_its_start_is_told():
    child = started(model="dies")
    with pytest.raises(SpeakersFailed, match="died"):
        child.wait_ready(timeout_seconds=PATIENCE_SECONDS)
    child.close()


def test_a_recording_that_fails_leaves_the_child_alive(process: SpeakerProcess, tmp_path: Path):
    with pytest.raises(SpeakersFailed, match="ValueError"):
        process.diarize(Diarize(0, scripted(tmp_path, speakers="fails")), timeout_seconds=60)
    assert process.diarize(Diarize(0, scripted(tmp_path, turns=[])), timeout_seconds=60).turns == ()


def test_a_child_that_takes_longer_than_it_may_is_ended(process: SpeakerProcess, tmp_path: Path):
    with pytest.raises(SpeakersFailed, match="longer than it may"):
        process.diarize(Diarize(0, scripted(tmp_path, speakers="hangs")), timeout_seconds=0.5)
    assert not process.is_alive


@pytest.mark.parametrize(("manner", "survives"), [("waits", True), ("hangs", False)])
def test_a_stopped_recording_ends_and_a_child_that_does_not_listen_with_it(
    process: SpeakerProcess, tmp_path: Path, manner: str, survives: bool, monkeypatch: pytest.MonkeyPatch
):
    if not survives:
        monkeypatch.setattr(speaker_process, "STOP_SECONDS", 0.5)
    path = scripted(tmp_path, speakers=manner)
    begun = threading.Event()
    threading.Thread(target=lambda: (begun.wait(PATIENCE_SECONDS), process.stop()), daemon=True).start()
    with pytest.raises(RequestCancelled):
        # Its first sign of life says that it has begun.
        process.diarize(Diarize(0, path), timeout_seconds=60, on_progress=lambda _: begun.set())
    assert process.is_alive is survives
    if survives:
        assert process.diarize(Diarize(0, scripted(tmp_path, turns=[])), timeout_seconds=60).turns == ()


def test_a_child_over_its_memory_is_ended(tmp_path: Path):
    child = started(memory_bytes=1)
    task = Diarize(0, scripted(tmp_path, speakers="hangs"))
    with contextlib.suppress(SpeakersFailed):  # it may be over before it is ready
        child.wait_ready(timeout_seconds=PATIENCE_SECONDS)
    with pytest.raises(SpeakersFailed):
        child.diarize(task, timeout_seconds=60)
    child.close()
    assert "memory" in child.last_words()[0]


def test_the_child_dies_with_its_parent(tmp_path: Path):
    program = textwrap.dedent(
        f"""
        import time
        from scribewire.engine.processes.speaker_process import SpeakerProcess
        from scribewire.engine.protocol.speakers import DiarizationConfig, Diarize
        child = SpeakerProcess(DiarizationConfig(), module={MODULE!r})
        child.wait_ready()
        print(child.process_id, flush=True)
        child.diarize(Diarize(0, {scripted(tmp_path, speakers="hangs")!r}), timeout_seconds=600)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(in_time(parent.stdout.readline)))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(PATIENCE_SECONDS)
    wait_until(lambda: is_gone(child.pid))
