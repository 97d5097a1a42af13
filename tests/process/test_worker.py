"""The real worker process, through the same launcher as the server: handshake, answers, cancel, death."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.processes import launch
from scribewire.engine.processes.child import EXIT_PARENT_GONE, ChildProcess
from scribewire.engine.processes.launch import start_worker
from scribewire.engine.protocol.config import EngineConfig, TranscribeOptions
from scribewire.engine.protocol.messages import (
    AudioEnded,
    AudioSource,
    Cancel,
    Completed,
    Failed,
    FromWorker,
    Heartbeat,
    LoadFailed,
    Progress,
    Ready,
    SegmentDone,
    Shutdown,
    Started,
    TextDelta,
    Transcribe,
)
from tests.fakes.clips import babbling
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def worker(folder: Path) -> Iterator[ChildProcess]:
    handle = start_worker(EngineConfig(model=str(folder), device="cpu"))
    yield handle
    handle.close()
    assert not handle.is_alive


def receive(handle: ChildProcess) -> FromWorker:
    """The next message that is not a heartbeat."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while isinstance(message := receive_any(handle), Heartbeat):
        assert time.monotonic() < deadline, "the worker said nothing but that it lives"
    return message


def receive_any(handle: ChildProcess) -> FromWorker:
    assert handle.pipe.poll(PATIENCE_SECONDS), "the worker said nothing"
    message: FromWorker = handle.pipe.recv()
    return message


def receive_end(handle: ChildProcess) -> Completed | Failed:
    while not isinstance(message := receive(handle), Completed | Failed):
        pass
    return message


def iter_started(handle: ChildProcess, count: int) -> Iterator[Started]:
    while count:
        message = receive(handle)
        if isinstance(message, Started):
            count -= 1
            yield message


def pcm_file(tmp_path: Path, seconds: float) -> AudioSource:
    """A new recording; none is written twice, for the worker may be reading it."""
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}-{seconds}.pcm"
    babbling(f"worker/{seconds}", seconds).tofile(path)
    return AudioSource(str(path), kind="pcm_float32")


def test_request_runs_from_started_over_partials_to_exactly_one_end(
    worker: ChildProcess, tmp_path: Path
) -> None:
    ready = receive(worker)
    assert isinstance(ready, Ready)
    assert ready.process_id == worker.process_id
    options = TranscribeOptions(language="English", max_tokens=5)
    worker.pipe.send(Transcribe("one", pcm_file(tmp_path, 40.0), options, wants_segments=True))
    messages = [receive(worker)]
    while not isinstance(messages[-1], Completed | Failed):
        messages.append(receive(worker))
    assert isinstance(messages[0], Started)
    end = messages[-1]
    assert isinstance(end, Completed)
    partials = tuple(message.segment for message in messages if isinstance(message, SegmentDone))
    assert partials == end.transcript.segments
    assert any(isinstance(message, Progress) for message in messages)
    worker.pipe.send(Shutdown())
    worker.wait(PATIENCE_SECONDS)
    assert worker.exit_code == 0


def test_error_of_one_request_is_answered_and_the_next_is_served(
    worker: ChildProcess, tmp_path: Path
) -> None:
    assert isinstance(receive(worker), Ready)
    garbage = tmp_path / "garbage.wav"
    garbage.write_text("this is not audio")
    worker.pipe.send(Transcribe("bad", AudioSource(str(garbage))))
    worker.pipe.send(Transcribe("good", pcm_file(tmp_path, 1.0), TranscribeOptions(max_tokens=3)))
    bad = receive_end(worker)
    assert isinstance(bad, Failed)
    assert bad.code == "audio_format_unsupported"
    assert isinstance(receive_end(worker), Completed)


def test_cancel_reaches_running_and_waiting_work(worker: ChildProcess, tmp_path: Path) -> None:
    assert isinstance(receive(worker), Ready)
    endless = TranscribeOptions(max_tokens=60_000)
    rows = 8
    for number in range(rows):
        worker.pipe.send(Transcribe(f"running {number}", pcm_file(tmp_path, 29.0), endless))
    started = {message.request_id for message in iter_started(worker, rows)}
    worker.pipe.send(Transcribe("waiting", pcm_file(tmp_path, 28.0), endless))
    worker.pipe.send(Cancel("waiting"))
    worker.pipe.send(Cancel("unknown"))
    for request_id in started:
        worker.pipe.send(Cancel(request_id))
    ends = [receive_end(worker) for _ in range(rows + 1)]
    assert {end.request_id for end in ends} == {*started, "waiting"}
    assert {end.code for end in ends if isinstance(end, Failed)} == {"cancelled"}
    assert len(started) == rows


def test_growing_audio_is_read_until_the_front_says_that_it_is_over(
    worker: ChildProcess, tmp_path: Path
) -> None:
    assert isinstance(receive(worker), Ready)
    whole = pcm_file(tmp_path, 40.0)
    data = Path(whole.path).read_bytes()
    path = tmp_path / "growing.pcm"
    path.write_bytes(data[: len(data) // 2])
    source = AudioSource(str(path), kind="pcm_float32", is_growing=True, expected_seconds=40.0)
    options = TranscribeOptions(language="English", max_tokens=5)
    worker.pipe.send(Transcribe("growing", source, options))
    worker.pipe.send(Transcribe("whole", whole, options))
    # The other one ends first, because this one's audio is not reported as complete yet.
    end = receive_end(worker)
    assert isinstance(end, Completed)
    assert end.request_id == "whole"
    with path.open("ab") as file:
        file.write(data[len(data) // 2 :])
    worker.pipe.send(AudioEnded("growing", len(data) // 4))
    grown = receive_end(worker)
    assert isinstance(grown, Completed)
    assert grown.transcript.duration_seconds == 40.0
    assert grown.transcript.text == end.transcript.text


def test_failure_while_audio_grows_is_the_requests_end(worker: ChildProcess, tmp_path: Path) -> None:
    assert isinstance(receive(worker), Ready)
    source = AudioSource(pcm_file(tmp_path, 2.0).path, kind="pcm_float32", is_growing=True)
    worker.pipe.send(Transcribe("broken", source))
    worker.pipe.send(AudioEnded("broken", 0, ("audio_undecodable", "damaged from here on", "file")))
    worker.pipe.send(AudioEnded("unknown", 0))
    failed = receive_end(worker)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.message, failed.parameter) == (
        "audio_undecodable",
        "damaged from here on",
        "file",
    )


def test_deltas_over_the_pipe_are_the_text(worker: ChildProcess, tmp_path: Path) -> None:
    assert isinstance(receive(worker), Ready)
    options = TranscribeOptions(language="English", max_tokens=40, temperature=0.8, seed=7)
    worker.pipe.send(Transcribe("live", pcm_file(tmp_path, 35.0), options, wants_deltas=True))
    deltas = []
    while not isinstance(message := receive(worker), Completed | Failed):
        if isinstance(message, TextDelta):
            deltas.append(message.delta)
    assert isinstance(message, Completed)
    assert len(deltas) > 3
    assert "".join(deltas) == message.transcript.text


def test_shutdown_cancels_what_outlasts_the_drain_and_refuses_new_work(
    worker: ChildProcess, tmp_path: Path
) -> None:
    assert isinstance(receive(worker), Ready)
    worker.pipe.send(Transcribe("long", pcm_file(tmp_path, 29.0), TranscribeOptions(max_tokens=60_000)))
    assert isinstance(receive(worker), Started)
    worker.pipe.send(Shutdown(drain_seconds=0.5))
    worker.pipe.send(Transcribe("late", pcm_file(tmp_path, 1.0)))
    ends = {end.request_id: end for end in (receive_end(worker), receive_end(worker))}
    late, long = ends["late"], ends["long"]
    assert isinstance(late, Failed)
    assert isinstance(long, Failed)
    assert (late.code, long.code) == ("engine_unavailable", "cancelled")
    worker.wait(PATIENCE_SECONDS)
    assert worker.exit_code == 0


def test_worker_ends_at_once_when_the_front_is_gone(worker: ChildProcess, tmp_path: Path) -> None:
    assert isinstance(receive(worker), Ready)
    worker.pipe.send(Transcribe("long", pcm_file(tmp_path, 29.0), TranscribeOptions(max_tokens=60_000)))
    assert isinstance(receive(worker), Started)
    worker.pipe.close()
    worker.wait(PATIENCE_SECONDS)
    assert worker.exit_code == EXIT_PARENT_GONE


def test_unusable_model_is_reported_before_the_process_ends(tmp_path: Path) -> None:
    handle = start_worker(EngineConfig(model=str(tmp_path / "nowhere"), offline=True))
    message = receive(handle)
    assert isinstance(message, LoadFailed)
    assert message.code == "model_missing"
    handle.wait(PATIENCE_SECONDS)
    assert handle.exit_code == 1
    handle.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only there another allocator is loaded, and /proc tells")
def test_allocator_that_suits_the_device_is_loaded_into_the_worker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for jemalloc: part of the system's C library, and not loaded into Python by itself everywhere.
    monkeypatch.setattr(
        launch, "allocator_environment", lambda device: {**os.environ, "LD_PRELOAD": "libBrokenLocale.so.1"}
    )
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    handle = start_worker(EngineConfig(model=str(folder), device="cpu"))
    try:
        assert isinstance(receive(handle), Ready)
        asked = Path(f"/proc/{handle.process_id}/environ").read_bytes().split(b"\0")
        assert b"LD_PRELOAD=libBrokenLocale.so.1" in asked
        assert "libBrokenLocale" in Path(f"/proc/{handle.process_id}/maps").read_text(encoding="utf-8")
    finally:
        handle.close()
        handle.wait(PATIENCE_SECONDS)


def test_heartbeats_carry_counters_that_grow_with_work(worker: ChildProcess, tmp_path: Path) -> None:
    assert isinstance(receive(worker), Ready)
    # Long enough to outlast two heartbeats on any machine: forty recordings, each with as many tokens as it may have.
    source = pcm_file(tmp_path, 29.0)
    ids = [f"long {number}" for number in range(40)]
    for request_id in ids:
        worker.pipe.send(Transcribe(request_id, source, TranscribeOptions(max_tokens=60_000)))
    counts: list[int] = []
    active: list[int] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while np.unique(counts).size < 2 and time.monotonic() < deadline:
        message = receive_any(worker)
        if isinstance(message, Heartbeat):
            counts.append(message.tokens_done)
            active.append(message.active_requests)
    assert counts == sorted(counts)
    assert np.unique(counts).size > 1
    assert max(active) > 0
    for request_id in ids:
        worker.pipe.send(Cancel(request_id))
    for _ in ids:
        receive_end(worker)
