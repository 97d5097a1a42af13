"""Signals at any moment of any command, and a standard output whose reader is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import PATIENCE_SECONDS, in_time, is_gone, wait_until
from tests.process.test_serve import PROJECT, Served, plain_lines, started_request, workers_of

pytestmark = pytest.mark.process

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def with_default_signals(*ignored: signal.Signals) -> Callable[[], None]:
    """For a child: the process that started the tests may ignore some."""

    def restore() -> None:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    return restore


def command(*arguments: str, modules: Path | None = None, **options: object) -> subprocess.Popen[str]:
    """The program as a process. modules: a folder whose modules are found first."""
    path = os.pathsep.join(str(folder) for folder in (modules, PROJECT) if folder is not None)
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": with_default_signals()}
    return subprocess.Popen(
        [sys.executable, "-m", "scribewire", *arguments],
        text=True,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": path},
        **{**given, **options},
    )


# ---- the first second ---------------------------------------------------------------------------------------------


def signalled_in_import(folder: Path, module: str, number: signal.Signals, *arguments: str):
    """Code, output and errors of a command that is sent a signal while it imports a module."""
    stalled = folder / "stalled"
    # Python drops what a signal raises in the callbacks of an import, so none is made behind the mark.
    source = f"import time\nopen({str(stalled)!r}, 'w').close()\nwhile True:\n    time.sleep(60)\n"
    (folder / f"{module}.py").write_text(source)
    with command(*arguments, modules=folder) as process:
        wait_until(lambda: stalled.exists() or process.poll() is not None)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


@pytest.mark.parametrize("module", ["tomllib", "uvicorn"])
@pytest.mark.parametrize("number", STOPS)
def test_signal_while_serve_is_being_imported_is_an_ordinary_end(
    tmp_path: Path, module: str, number: signal.Signals
):
    ended = signalled_in_import(tmp_path, module, number, "serve", "--data", str(tmp_path / "data"))
    assert ended == (0, "scribewire: stopped\n", "")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("tomllib", ("languages",)),
        ("tomllib", ("keys", "list")),
        ("tqdm", ("transcribe", "--model", "demo", "a.wav")),
        ("tqdm", ("doctor",)),
        ("httpx", ("submit", "a.wav")),
        ("httpx", ("jobs", "list")),
    ],
)
def test_interrupt_while_another_command_is_being_imported_is_one_line(
    tmp_path: Path, module: str, arguments: tuple[str, ...]
):
    ended = signalled_in_import(tmp_path, module, signal.SIGINT, *arguments)
    assert ended == (130, "", "scribewire: interrupted\n")


@pytest.mark.parametrize("number", STOPS)
def test_signal_while_the_model_loads_is_an_ordinary_end(tmp_path: Path, number: signal.Signals):
    running = Served(tmp_path, tmp_path / "program.py", {"model": "fake:load_seconds=600"})
    try:
        worker = wait_until(lambda: workers_of(running.process.pid))[0]
        running.process.send_signal(number)
        code, out, err = running.wait_ended()
    finally:
        running.close()
    assert (code, plain_lines(err)) == (0, [])
    assert "scribewire: stopped" in out
    assert is_gone(worker.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_terminals_signals_reach_the_children_and_end_none_of_them(tmp_path: Path, number: signal.Signals):
    with RunningServer(tmp_path) as running:
        worker = running.engine.worker_process_id
        os.kill(worker, number)
        assert running.transcribe(script(text="still here")).json()["text"] == "still here"
        assert running.engine.worker_process_id == worker


# ---- a server at work ---------------------------------------------------------------------------------------------


def test_hang_up_lets_a_request_in_hand_finish(tmp_path: Path):
    gate = tmp_path / "gate"
    running = Served(tmp_path, tmp_path / "program.py", {"drain_seconds": PATIENCE_SECONDS})
    try:
        with ThreadPoolExecutor(1) as pool:
            running.until_ready()
            request = started_request(running, pool, text="finished", gate=str(gate))
            running.process.send_signal(signal.SIGHUP)
            wait_until(running.is_stopping)
            gate.touch()
            assert request.result(PATIENCE_SECONDS).json()["text"] == "finished"
            assert running.wait_ended()[0] == 0
    finally:
        running.close()


def test_hang_up_is_ignored_where_the_server_was_started_so(tmp_path: Path):
    running = Served(tmp_path, tmp_path / "program.py", {}, preexec_fn=with_default_signals(signal.SIGHUP))
    try:
        running.until_ready()
        running.process.send_signal(signal.SIGHUP)
        files = {"file": script(text="Hello.")}
        answer = httpx.post(f"{running.address}/v1/audio/transcriptions", files=files, timeout=30)
        assert answer.json()["text"] == "Hello."
        running.process.send_signal(signal.SIGTERM)
        assert running.wait_ended()[0] == 0
    finally:
        running.close()


def test_first_interrupt_says_how_long_it_waits_and_the_second_stops_at_once_and_keeps_the_job(
    tmp_path: Path,
):
    gate = tmp_path / "gate"
    running = Served(tmp_path, tmp_path / "program.py", {"drain_seconds": 600})
    try:
        running.until_ready()
        files = {"audio": script(text="kept", gate=str(gate))}
        answer = httpx.post(f"{running.address}/transcribe", files=files, timeout=PATIENCE_SECONDS)
        job_path = f"/jobs/{answer.json()['job_id']}"
        wait_until(lambda: httpx.get(running.address + job_path).json()["status"] == "processing")
        running.process.send_signal(signal.SIGINT)
        said = in_time(running.process.stdout.readline)
        assert "running work has 600 s" in said
        assert "jobs continue at the next start" in said
        wait_until(running.is_stopping)
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        code, out, err = running.wait_ended()
        assert (code, plain_lines(err)) == (0, [])
        assert "scribewire: stopped" in out
    finally:
        running.close()
    gate.touch()
    with RunningServer(tmp_path) as again:
        job = wait_until(lambda: (one := again.client.get(job_path).json())["status"] == "completed" and one)
    assert (job["result"]["text"], job["attempts"], job["worker_deaths"]) == ("kept", 1, [])


# ---- a reader that is gone ----------------------------------------------------------------------------------------


def without_reader(*arguments: str, streams: tuple[str, ...] = ("stdout",), code: int = 0) -> str:
    """What the command writes to standard error, where that has a reader, and is not to."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        process = command(*arguments, **dict.fromkeys(streams, write_end))
    finally:
        os.close(write_end)
    with process:
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, err
    return err or ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        (("serve", "--help"), 0),
        (("languages",), 0),
        (("models", "--json"), 0),
        (("transcribe", "--help"), 0),
        (("jobs", "list", "--server", "127.0.0.1:1"), 3),
        (("serve", "--port", "99999"), 2),
    ],
)
def test_gone_reader_changes_no_exit_code_of_any_command(arguments: tuple[str, ...], code: int):
    assert "Traceback" not in without_reader(*arguments, code=code)
    without_reader(*arguments, streams=("stdout", "stderr"), code=code)


def test_gone_reader_keeps_no_key_from_being_made_and_no_file_from_being_submitted(tmp_path: Path):
    files = [tmp_path / f"{number}.mp3" for number in range(3)]
    for file in files:
        file.write_bytes(script(text=file.name))
    with RunningServer(tmp_path / "server") as running:
        assert without_reader("submit", "--server", running.url, *map(str, files)) == ""
        assert len(running.client.get("/jobs").json()["data"]) == 3
    data = str(tmp_path / "data")
    without_reader("keys", "create", "ann", "--data", data)
    with command("keys", "list", "--data", data) as process:
        assert "ann" in process.communicate(timeout=PATIENCE_SECONDS)[0]


def test_server_whose_output_nobody_reads_serves_on(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ("serve", "--model", "/nowhere/at/all", "--port", str(port), "--data", str(tmp_path))
    # It gets as far as its model, whose failure is told on the stream that is left.
    assert without_reader(*arguments, code=1).startswith("scribewire: cannot load /nowhere/at/all: ")


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_closed_standard_stream_is_no_traceback(descriptor: int):
    with command("languages", preexec_fn=partial(os.close, descriptor)) as process:
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, "Traceback" in err) == (0, False)
