"""Ctrl-C on a waiting `scribewire submit`: the job goes on, and the last words say how to get at it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scribewire.server.client.command import main
from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import PATIENCE_SECONDS, wait_until
from tests.process.test_serve import PROJECT

pytestmark = pytest.mark.process


def test_interrupted_wait_leaves_the_job_running_and_says_how_to_go_on(tmp_path: Path):
    file = tmp_path / "talk.mp3"
    gate = tmp_path / "gate"
    file.write_bytes(script(text="still there", gate=str(gate)))
    with RunningServer(tmp_path / "data") as server:
        command = [sys.executable, "-m", "scribewire", "submit", "--wait", "--server", server.url, str(file)]
        with subprocess.Popen(
            command,
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # The process that started the tests may ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            wait_until(lambda: server.client.get("/jobs?status=processing").json()["data"])
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, out) == (130, "")
        found = re.search(r"scribewire jobs show (job_[0-9a-f]{32}) --wait", err)
        assert found, err
        assert f"scribewire jobs cancel {found[1]}" in err
        assert "Traceback" not in err
        gate.touch()
        code = main(["jobs", "show", found[1], "--wait"], default_server=server.url)
        assert code == 0
        done = server.client.get(f"/jobs/{found[1]}").json()
        assert done["result"]["text"] == "still there"
