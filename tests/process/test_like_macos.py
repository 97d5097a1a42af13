"""The program in a Python from which everything was taken that macOS lacks: the doctor, a command, and a server.

`make test-like-mac` runs all tests of the HTTP API in it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from scribewire.engine.demo import sample_recordings
from tests.fakes.waiting import PATIENCE_SECONDS, STORY_SECONDS, wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        sys.platform != "linux", reason="it takes from Linux, and a Mac lacks all this anyway"
    ),
]

PROJECT = Path(__file__).resolve().parents[2]
LIKE_MACOS = PROJECT / "tests" / "fakes" / "like_macos"
ENGLISH = next(one for one in sample_recordings() if one.language == "English")

PROGRAM = """
import asyncio, json, os, pathlib, resource, select, selectors, signal, socket, sys
ours, theirs = socket.socketpair()
def refused(kind, limit):
    try:
        resource.setrlimit(kind, (limit, resource.RLIM_INFINITY))
    except ValueError:
        return True
from scribewire.engine.processes.memory import peak_resident_bytes
print(json.dumps({
    "platform": sys.platform,
    "left": [name for module, name in ((os, "sched_getaffinity"), (os, "memfd_create"), (select, "epoll"),
        (signal, "sigtimedwait"), (socket, "TCP_KEEPIDLE"), (resource, "prlimit")) if hasattr(module, name)],
    "proc": [os.path.exists("/proc/self/status"), pathlib.Path("/proc/self/maps").exists()],
    "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE) == (256, resource.RLIM_INFINITY),
    "refused": [refused(resource.RLIMIT_AS, 1 << 40), refused(resource.RLIMIT_NOFILE, 65536)],
    "buffer": ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
    "peak": peak_resident_bytes(),
    "selector": type(asyncio.new_event_loop()._selector).__name__,
}))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of processes that are like those on a Mac, with a home of their own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SCRIBEWIRE_", "LIKE_MACOS"))
    }
    path = os.pathsep.join(map(str, (LIKE_MACOS, PROJECT)))
    return kept | {"PYTHONPATH": path, "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}


def run(*arguments: str | Path, environment: dict[str, str]) -> str:
    """Run Python and return its output; fails with that output if it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=STORY_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_macos_lacks_is_really_gone(environment: dict[str, str]):
    found = json.loads(run("-c", PROGRAM, environment=environment))
    # More than a Python needs at least, in bytes; in KiB taken for bytes it would be less than one needs.
    assert found.pop("peak") > 5 << 20
    assert found == {
        "platform": "darwin",
        "left": [],
        "proc": [False, False],
        "descriptors": True,
        "refused": [True, True],
        "buffer": 8 << 10,
        "selector": "PollSelector",
    }


def test_doctor_finds_nothing_wrong(environment: dict[str, str]):
    said = json.loads(run("-m", "scribewire", "doctor", "--json", "--port", "0", environment=environment))
    by_check = {one["check"]: one for one in said["checks"]}
    assert said["healthy"], said
    assert by_check["platform"]["detail"].startswith("Darwin 24")
    assert by_check["macos"]["detail"] == "macOS 15.6"
    assert by_check["transcription"]["status"] == "ok"
    assert "Library/Application Support" in by_check["data folder"]["detail"]


def test_command_says_what_it_says_elsewhere(environment: dict[str, str]):
    arguments = ("-m", "scribewire", "transcribe", "--model", "demo", ENGLISH.path)
    here = environment | {"PYTHONPATH": str(PROJECT)}
    assert run(*arguments, environment=environment) == run(*arguments, environment=here) != ""


def test_server_answers_a_request_tells_its_memory_and_stops(environment: dict[str, str], tmp_path: Path):
    log = tmp_path / "log"
    command = [sys.executable, "-m", "scribewire", "serve", "--model", "demo", "--port", "0"]
    with log.open("w") as out:
        served = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=out, stderr=out)
    try:
        ready = wait_until(
            lambda: served.poll() is not None or re.search(r"ready on (http://\S+)", log.read_text())
        )
        assert isinstance(ready, re.Match), log.read_text()
        with httpx.Client(base_url=ready[1], timeout=PATIENCE_SECONDS) as client:
            answer = client.post(
                "/v1/audio/transcriptions",
                files={"file": ("a.wav", ENGLISH.path.read_bytes())},
                data={"model": "whisper-1"},
            )
            figures = client.get("/metrics").text
        assert answer.json()["text"].split()[:2] == ENGLISH.reference.split()[:2]
        assert float(re.search(r"^process_resident_memory_bytes (\S+)", figures, re.MULTILINE)[1]) > 10 << 20
        assert "process_start_time_seconds" in figures
        assert float(re.search(r"^process_max_fds (\S+)", figures, re.MULTILINE)[1]) >= 4096
    finally:
        served.terminate()
        assert served.wait(PATIENCE_SECONDS) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
