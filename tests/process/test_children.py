"""What the four kinds of children have in common: started, watched to their end, stopped, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from scribewire.engine.audio.vad import DetectorProcess, SileroDetector
from scribewire.engine.audio.voice_frames import FRAME_SAMPLES
from scribewire.engine.processes.child import (
    EXIT_ENGINE_FAULT,
    EXIT_OVER_MEMORY,
    EXIT_PARENT_GONE,
    OUTPUT_BYTES,
    ChildProcess,
    exit_in_words,
)
from scribewire.engine.processes.launch import (
    start_speaker_child,
    start_transcode_child,
    start_voice_detector,
    start_worker,
)
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import EngineUnavailable
from scribewire.engine.protocol.speakers import DiarizationConfig
from scribewire.engine.protocol.transcoding import TranscodeLimits
from scribewire.server.engine.client import EngineClient
from scribewire.server.engine.restarts import RestartPolicy
from scribewire.server.engine.supervisor import EngineSupervisor
from tests.fakes import babbling_child, unruly_child
from tests.fakes.waiting import PATIENCE_SECONDS, in_time, is_gone, run, wait_until

pytestmark = pytest.mark.process

PROJECT = Path(__file__).resolve().parents[2]
UNRULY = unruly_child.__name__

STARTERS: dict[str, Callable[..., ChildProcess]] = {
    "worker": lambda **options: start_worker(EngineConfig(model="fake"), **options),
    "decoder": lambda **options: start_transcode_child(TranscodeLimits(), **options),
    "speakers": lambda **options: start_speaker_child(DiarizationConfig(), **options),
    "voices": lambda **options: start_voice_detector(**options),
}


@pytest.fixture(params=STARTERS)
def child(request: pytest.FixtureRequest) -> Iterator[ChildProcess]:
    started = STARTERS[request.param](module=UNRULY)
    yield started
    started.close()
    assert not started.is_alive


def obey(child: ChildProcess, **script: object) -> None:
    child.pipe.send_bytes(json.dumps(script).encode())


def done(child: ChildProcess) -> bool:
    return in_time(child.pipe.recv_bytes) == b"done"


# ---- a child's end -------------------------------------------------------------------------------------------


def test_a_childs_death_is_known_at_once_with_its_code_and_its_last_words(child: ChildProcess) -> None:
    obey(child, exit=70)
    assert child.ended.result(PATIENCE_SECONDS) == 70
    assert child.exit_in_words() == "exit code 70: its parent is gone"
    assert child.last_lines() == ["last words"]


def test_a_child_that_is_killed_says_by_what(child: ChildProcess) -> None:
    obey(child)
    assert done(child)
    os.kill(child.process_id, signal.SIGKILL)
    assert child.ended.result(PATIENCE_SECONDS) == -signal.SIGKILL
    assert child.exit_in_words() == "killed by signal 9 (SIGKILL)"


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (EXIT_OVER_MEMORY, "exit code 71: it needed more memory than it may"),
        (EXIT_ENGINE_FAULT, "exit code 75: the engine failed"),
        (-signal.SIGXCPU, f"killed by signal {int(signal.SIGXCPU)} (SIGXCPU)"),
        (-200, "killed by signal 200"),
        (None, "not even SIGKILL ended it"),
    ],
)
def test_every_exit_has_words(exit_code: int | None, words: str) -> None:
    assert exit_in_words(exit_code) == words


def test_a_child_that_floods_its_output_is_not_held_up_and_little_is_kept(child: ChildProcess) -> None:
    obey(child, flood=40 * OUTPUT_BYTES)
    assert done(child)
    obey(child, exit=1)
    assert child.wait(PATIENCE_SECONDS)
    lines = child.last_lines(1 << 20)
    assert (lines[-1], lines[-2]) == ("last words", unruly_child.LINE.strip())
    assert OUTPUT_BYTES // 2 < sum(map(len, lines)) <= OUTPUT_BYTES


def test_a_program_that_does_not_exist_ends_with_a_traceback_that_is_kept() -> None:
    child = start_voice_detector(module="tests.no_such_module")
    assert child.ended.result(PATIENCE_SECONDS) == 1
    assert "no_such_module" in child.last_lines()[-1]
    child.close()


def test_a_child_imports_no_module_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("scribewire", "multiprocessing"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    child = start_voice_detector(module=UNRULY)
    obey(child)
    assert done(child)
    child.close()


# ---- stopping ------------------------------------------------------------------------------------------------


def test_a_child_that_was_told_leaves_by_itself(child: ChildProcess) -> None:
    child.pipe.close()
    child.stop(word_seconds=PATIENCE_SECONDS)
    assert child.exit_code == 0


def test_a_child_that_does_not_leave_is_terminated(child: ChildProcess) -> None:
    obey(child)
    assert done(child)
    child.stop(word_seconds=0.0, terminate_seconds=PATIENCE_SECONDS)
    assert child.exit_code == -signal.SIGTERM


@pytest.mark.parametrize("how", ["deaf", "stopped"])
def test_a_child_that_hears_nothing_is_killed(child: ChildProcess, how: str) -> None:
    obey(child, deaf=how == "deaf")
    assert done(child)
    if how == "stopped":
        stopped(child)
    child.stop(word_seconds=0.0, terminate_seconds=0.1)
    assert child.exit_code == -signal.SIGKILL


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.process.test_children import PROGRAMS
child = PROGRAMS[sys.argv[2]]()
print(child.process_id, flush=True)
time.sleep(600)
"""

PROGRAMS: dict[str, Callable[[], ChildProcess]] = {
    "worker": lambda: STARTERS["worker"](module="tests.fakes.fake_worker"),
    "decoder": lambda: STARTERS["decoder"](),
    "speakers": lambda: STARTERS["speakers"](module="tests.fakes.speaker_stand_in"),
    "voices": lambda: STARTERS["voices"](),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_no_child_survives_a_parent_that_is_killed(kind: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(PROJECT), kind], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child_id = int(in_time(parent.stdout.readline))
    assert not is_gone(child_id)
    parent.kill()
    parent.wait(PATIENCE_SECONDS)
    parent.stdout.close()
    wait_until(lambda: is_gone(child_id))


@pytest.mark.parametrize("kind", ["decoder", "speakers", "voices"])
def test_a_child_whose_pipe_is_closed_leaves(kind: str) -> None:
    child = PROGRAMS[kind]()
    child.pipe.close()
    assert child.ended.result(PATIENCE_SECONDS) in (0, EXIT_PARENT_GONE)


# ---- nonsense ------------------------------------------------------------------------------------------------


def test_a_worker_that_sends_nonsense_counts_as_dead() -> None:
    async def story() -> None:
        supervisor = EngineSupervisor(
            EngineConfig(model="fake"),
            module=babbling_child.__name__,
            restarts=RestartPolicy(backoff_seconds=(0.0,)),
        )
        client = EngineClient(supervisor)
        client.start()
        await client.wait_settled()
        assert (client.state, supervisor.died_workers) == ("failed", 3)
        await client.stop(0.0)

    run(story())


# ---- the voice detector --------------------------------------------------------------------------------------


FRAMES = np.zeros((2, FRAME_SAMPLES), dtype=np.float32)


def killed(child: ChildProcess) -> None:
    os.kill(child.process_id, signal.SIGKILL)
    child.wait(PATIENCE_SECONDS)


def stopped(child: ChildProcess) -> None:
    os.kill(child.process_id, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(child.process_id).status() == psutil.STATUS_STOPPED)


@pytest.mark.parametrize("fault", [killed, stopped])
def test_a_detector_that_dies_or_hangs_fails_its_recordings_and_the_next_has_another(
    fault: Callable[[ChildProcess], None], caplog: pytest.LogCaptureFixture
) -> None:
    process = DetectorProcess(answer_seconds=PATIENCE_SECONDS)
    first = SileroDetector(process)
    try:
        assert len(first.probabilities(FRAMES)) == 2
        child, _ = process.open()
        fault(child)
        process.answer_seconds = 0.5
        with pytest.raises(EngineUnavailable, match=r"voice detector.*SIGKILL"):
            first.probabilities(FRAMES)
        first.close()
        assert not child.is_alive
        wait_until(lambda: "SIGKILL" in caplog.text)
        process.answer_seconds = PATIENCE_SECONDS
        assert len(SileroDetector(process).probabilities(FRAMES)) == 2
    finally:
        process.close()


def test_a_detector_that_sends_nonsense_is_ended() -> None:
    process = DetectorProcess(module=babbling_child.__name__)
    child, _ = process.open()
    with pytest.raises(EngineUnavailable, match="voice detector"):
        SileroDetector(process).probabilities(FRAMES)
    assert not child.is_alive
    process.close()


def test_a_detector_that_is_closed_leaves_by_itself() -> None:
    process = DetectorProcess()
    child, _ = process.open()
    assert len(SileroDetector(process).probabilities(FRAMES)) == 2
    process.close()
    assert child.exit_code == 0
