"""The command as processes: what only the environment, signals and a closed pipe can show."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.fake_hub import FakeHub, model_files
from tests.fakes.waiting import wait_until

MODEL = "someone/Small-ASR"
PROJECT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.process


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({MODEL: model_files()}).serving() as fake:
        yield fake


def start(hub: FakeHub, home: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start the command with a hub and a cache of its own."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SCRIBEWIRE_"))
    }
    return subprocess.Popen(
        [sys.executable, "-m", "scribewire", *arguments],
        cwd=PROJECT,
        env=inherited | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What was started in the background of a script ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_pull_follows_the_environment_of_the_hugging_face_tools(hub: FakeHub, tmp_path: Path) -> None:
    code, out, err = finished(start(hub, tmp_path, "pull", MODEL))
    assert (code, err) == (0, "")
    assert str(tmp_path / "hub") in out
    hub.requests.clear()
    code, _, err = finished(start(hub, tmp_path, "pull", MODEL, HF_HUB_OFFLINE="1"))
    assert (code, hub.requests) == (1, [])
    assert (
        err == f"scribewire: HF_HUB_OFFLINE is set, so {MODEL} cannot be fetched; unset it and pull again\n"
    )


def test_interrupted_pull_keeps_what_arrived_and_the_next_goes_on(hub: FakeHub, tmp_path: Path) -> None:
    hub.stall_after = 70_000
    process = start(hub, tmp_path, "pull", MODEL)
    assert hub.has_stalled.wait(60)
    partial = wait_for_partial(tmp_path, process)
    process.send_signal(signal.SIGINT)
    assert finished(process) == (130, "", "scribewire: interrupted\n")
    kept_bytes = partial.stat().st_size
    assert 0 < kept_bytes <= 70_000
    hub.stall_after = None
    hub.requests.clear()
    code, _, err = finished(start(hub, tmp_path, "pull", MODEL))
    assert (code, err) == (0, "")
    assert f"bytes={kept_bytes}-" in {one.byte_range for one in hub.requests}


def wait_for_partial(home: Path, process: "subprocess.Popen[str]") -> Path:
    """The half-written file, once something is in it: what was sent may still be on its way to the disk."""

    def begun() -> list[Path]:
        assert process.poll() is None, f"the command ended: {finished(process)}"
        return [path for path in home.rglob("*.incomplete") if path.stat().st_size]

    return wait_until(begun)[0]
