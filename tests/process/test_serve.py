"""`serve` as a process: what it prints, how it ends, and what its front never loads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.http.listening import bind
from scribewire.server.serve import load_failure
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import PATIENCE_SECONDS, in_time, wait_until

pytestmark = pytest.mark.process

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = {"mlx", "av", "tokenizers", "numpy", "huggingface_hub", "torch"}

PROGRAM = """
import gc, json, sys
from pathlib import Path
from typing import Any
from scribewire.server.serve import serve
from scribewire.server.settings.fields import Settings
from tests.fakes.pass_through import PassThrough
if __name__ == "__main__":
    settings = Settings(**{**json.loads(sys.argv[1]), "data": Path(sys.argv[2])})
    code = serve(
        settings, engine_module="tests.fakes.fake_worker", transcoder=PassThrough(), sample_recording="hello there.wav"
    )
    print("FROZEN", gc.get_freeze_count(), flush=True)
    print("MODULES", *sorted({name.partition(".")[0] for name in sys.modules}), flush=True)
    print("ENGINE", *sorted(name for name in sys.modules if name.startswith("scribewire.engine.")), flush=True)
    sys.exit(code)
"""


class Served:
    """A started server process; `wait_ended` reads the rest of what it says."""

    def __init__(
        self,
        data: Path,
        program: Path,
        settings: dict[str, object],
        preexec_fn: Callable[[], object] = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) -> None:
        if not program.exists():  # or a process of an earlier server may be reading it
            program.write_text(PROGRAM)
        self.data = data
        # A file: a pipe that is read at the end only would fill up with log lines, and hold up the server.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by served
        self.process = subprocess.Popen(
            [sys.executable, str(program), json.dumps({"port": 0, "model": "demo", **settings}), str(data)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            preexec_fn=preexec_fn,
        )
        self.said: list[str] = []
        self.address = ""

    def until_ready(self) -> None:
        assert self.process.stdout is not None
        while line := in_time(self.process.stdout.readline):
            self.said.append(line.rstrip("\n"))
            if "ready on " in line:
                self.address = line.split("ready on ")[1].strip()
            if "scribewire serve --model" in line:
                return
        raise AssertionError(f"not ready: {self.wait_ended()}")

    def figure(self, name: str) -> float:
        """The present value of a metric without labels."""
        lines = httpx.get(f"{self.address}/metrics", timeout=PATIENCE_SECONDS).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def is_stopping(self) -> bool:
        """True once it has heard a signal, from when on it takes no new connection."""
        host, port = self.address.removeprefix("http://").rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS).close()
        # A reset: it closed while the connection waited in its queue.
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        return False

    def wait_ended(self) -> tuple[int, str, str]:
        out, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        self._errors.seek(0)
        return self.process.returncode, "\n".join(self.said) + "\n" + out, self._errors.read()

    def close(self) -> None:
        """Kill it unless it has ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=PATIENCE_SECONDS)
        self._errors.close()


@contextmanager
def served(data: Path, **settings: object) -> Iterator[Served]:
    data.mkdir(exist_ok=True)
    running = Served(data, data / "program.py", settings)
    try:
        yield running
    finally:
        running.close()


def workers_of(process_id: int) -> list[psutil.Process]:
    children = psutil.Process(process_id).children(recursive=True)
    return [child for child in children if "scribewire-engine" in child.cmdline()]


def plain_lines(err: str) -> list[str]:
    """Lines of standard error that are not log lines."""
    return [line for line in err.splitlines() if not line.startswith("{")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_answers_and_ends_cleanly_on_a_signal(tmp_path: Path, number: signal.Signals):
    with served(tmp_path / "data") as running:
        running.until_ready()
        (worker,) = workers_of(running.process.pid)
        response = httpx.post(
            f"{running.address}/v1/audio/transcriptions", files={"file": script(text="Hello.")}, timeout=30
        )
        assert response.json()["text"] == "Hello."
        running.process.send_signal(number)
        code, out, err = running.wait_ended()
    assert code == 0
    assert "scribewire: stopped" in out
    assert plain_lines(err) == []
    assert not worker.is_running()
    assert [path.name for path in (tmp_path / "data" / "uploads").iterdir()] == ["lock"]
    loaded = out.split("MODULES ")[1].split("\n")[0].split()
    assert "fastapi" in loaded
    assert not HEAVY & set(loaded)
    assert "httpx" not in loaded  # no webhook was sent
    engine_modules = out.split("ENGINE ")[1].split("\n")[0].split()
    allowed = tuple(f"scribewire.engine.{name}" for name in ("protocol", "processes", "subtitles"))
    assert "scribewire.engine.protocol" in engine_modules
    assert all(name.startswith(allowed) for name in engine_modules)
    # The collector leaves the modules and the application alone.
    assert int(out.split("FROZEN ")[1].split("\n")[0]) > 20_000


def test_what_is_printed_names_address_model_curl_and_the_real_model(tmp_path: Path):
    with served(tmp_path / "data") as running:
        running.until_ready()
        said = "\n".join(running.said)
        assert "model: demo (the bundled demo model)" in said
        assert "scribewire serve --model mlx-community/Qwen3-ASR-0.6B-8bit" in said
        command = next(line.strip() for line in running.said if "curl" in line)
        assert "'file=@hello there.wav'" in command
        (tmp_path / "hello there.wav").write_bytes(script(text="As printed."))
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_SECONDS,
        )
        assert json.loads(done.stdout)["text"] == "As printed."


def test_port_in_use_is_one_line_and_exit_1(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with served(tmp_path / "data", port=port) as running:
            code, _, err = running.wait_ended()
    assert code == 1
    assert plain_lines(err) == [
        f"scribewire: port {port} on 127.0.0.1 is in use; "
        "stop what listens there or choose another with --port"
    ]


def test_listening_socket_says_that_it_is_tcp_so_that_answers_are_not_delayed():
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as client:
        accepted, _ = in_time(listener.accept)
        with accepted:
            # The fields that asyncio checks before it sets TCP_NODELAY.
            assert accepted.proto == socket.IPPROTO_TCP
        assert client.getpeername() == listener.getsockname()


def test_model_that_cannot_be_loaded_is_one_line_and_exit_1(tmp_path: Path):
    with served(tmp_path / "data", model="fake:refuse=model_missing") as running:
        code, _, err = running.wait_ended()
    assert code == 1
    (line,) = err.splitlines()
    assert "refuses to load" in line
    assert "scribewire serve --model demo" in line


@pytest.mark.parametrize(
    ("model", "message", "named", "not_named"),
    [
        ("owner/name", "It is not here.\nAt all.", ["scribewire pull owner/name", "--model demo"], []),
        ("owner/name", "use `scribewire pull owner/name`", ["--model demo"], []),
        ("/models/cut-off", "model.safetensors is cut off", ["--model demo"], ["scribewire pull"]),
        ("demo", "the file is cut off.", ["scribewire doctor"], ["scribewire pull", "--model demo"]),
    ],
)
def test_failed_load_names_each_way_out_once(
    model: str, message: str, named: list[str], not_named: list[str]
):
    line = load_failure(model, message)
    assert "\n" not in line
    assert all(line.count(way) <= 1 for way in ("scribewire pull", "--model demo", "scribewire doctor"))
    assert all(way in line for way in named)
    assert not any(way in line for way in not_named)


def test_address_beyond_loopback_without_a_key_is_one_line_and_exit_1(tmp_path: Path):
    with served(tmp_path / "data", host="0.0.0.0") as running:
        code, _, err = running.wait_ended()
    assert code == 1
    (line,) = plain_lines(err)
    assert "scribewire keys create" in line


def test_address_beyond_loopback_with_a_key_asks_for_it(tmp_path: Path):
    _, secret = KeyStore(tmp_path / "data").create("ann")
    with served(tmp_path / "data", host="0.0.0.0") as running:
        running.until_ready()
        assert "Authorization: Bearer" in "\n".join(running.said)
        address = f"{running.address}/v1/models"
        assert_openai_error(httpx.get(address), 401, "invalid_api_key")
        headers = {"authorization": f"Bearer {secret}"}
        assert httpx.get(address, headers=headers).status_code == 200


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda data: data.write_text("not a folder"), "Not a directory; see --data"),
    "damaged keys": (lambda data: make(data / "keys.json", "{"), "keys.json is damaged"),
    "keys in a folder": (lambda data: (data / "keys.json").mkdir(parents=True), "Is a directory"),
    "no folder of uploads": (lambda data: make(data / "uploads", ""), "uploads/lock cannot be used"),
    "no folder of jobs": (lambda data: make(data / "jobs", ""), "The job store's files cannot be used"),
    "no database": (lambda data: make(data / "jobs" / "jobs.db", "x" * 9000), "file is not a database"),
    "open to every user": (lambda data: make(data / "x", "").parent.chmod(0o777), "`chmod go-w "),
}


def make(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_data_folder_is_told_once_in_one_line_and_exit_1(tmp_path: Path, kind: str):
    spoil, words = UNUSABLE[kind]
    spoil(tmp_path / "data")
    running = Served(tmp_path / "data", tmp_path / "program.py", {})
    code, _, err = running.wait_ended()
    running.close()
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("scribewire: ")
    assert words in line


def test_data_folder_of_another_server_is_told_once_in_one_line_and_exit_1(tmp_path: Path):
    with RunningServer(tmp_path), served(tmp_path) as running:
        code, _, err = running.wait_ended()
    (line,) = err.splitlines()
    assert (code, line.startswith("scribewire: another server ")) == (1, True)


def test_data_folder_that_a_group_may_write_is_warned_of(tmp_path: Path):
    tmp_path.chmod(0o775)
    with served(tmp_path) as running:
        running.until_ready()
        running.process.send_signal(signal.SIGTERM)
        code, _, err = running.wait_ended()
    (line,) = err.splitlines()[:1]
    assert (code, json.loads(line)["event"], json.loads(line)["mode"]) == (0, "data_folder_shared", "775")


def test_origins_that_are_all_allowed_are_warned_of(tmp_path: Path):
    with served(tmp_path, allow_origin=("*",)) as running:
        running.until_ready()
        running.process.send_signal(signal.SIGTERM)
        code, _, err = running.wait_ended()
    told = json.loads(err.splitlines()[0])
    assert (code, told["event"], told["level"]) == (0, "any_origin_allowed", "warning")
    assert told["message"] == "pages of every site may call this server, without a key"


def test_killed_front_takes_its_worker_along_and_its_uploads_are_swept(tmp_path: Path):
    data = tmp_path / "data"
    with served(data) as running:
        running.until_ready()
        (worker,) = workers_of(running.process.pid)
        port = int(running.address.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(
                f"POST /transcribe HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1000\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
                '--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nprivate'.encode()
            )
            wait_until(lambda: list((data / "uploads").glob("server-*/*/recording")))
            running.process.kill()
            running.process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert list((data / "uploads").glob("server-*/*/recording"))
    with served(data) as again:
        again.until_ready()
        assert list((data / "uploads").glob("server-*/*")) == list((data / "uploads").glob("server-*/lock"))


def test_stop_lets_a_request_in_hand_finish(tmp_path: Path):
    gate = tmp_path / "gate"
    with (
        served(tmp_path / "data", drain_seconds=PATIENCE_SECONDS) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        running.until_ready()
        request = started_request(running, pool, text="finished", gate=str(gate))
        running.process.send_signal(signal.SIGTERM)
        wait_until(running.is_stopping)
        assert not request.done()
        gate.touch()
        assert request.result(PATIENCE_SECONDS).json()["text"] == "finished"
        assert running.wait_ended()[0] == 0


def started_request(running: Served, pool: ThreadPoolExecutor, **keys: Any) -> Future[httpx.Response]:
    """A request in flight."""
    request = pool.submit(
        httpx.post,
        f"{running.address}/v1/audio/transcriptions",
        files={"file": script(**keys)},
        timeout=PATIENCE_SECONDS,
    )
    wait_until(lambda: running.figure("scribewire_engine_recordings") == 1)
    return request


def test_request_that_outlasts_the_drain_is_503_and_the_stop_is_clean(tmp_path: Path):
    with served(tmp_path / "data", drain_seconds=1) as running, ThreadPoolExecutor(1) as pool:
        running.until_ready()
        request = started_request(running, pool, hang=True)
        running.process.send_signal(signal.SIGTERM)
        assert_openai_error(request.result(PATIENCE_SECONDS), 503, "server_stopping")
        code, out, err = running.wait_ended()
    assert code == 0
    assert "scribewire: stopped" in out
    assert plain_lines(err) == []


def test_second_interrupt_stops_at_once_and_cleanly(tmp_path: Path):
    with served(tmp_path / "data", drain_seconds=600) as running, ThreadPoolExecutor(1) as pool:
        running.until_ready()
        (worker,) = workers_of(running.process.pid)
        request = started_request(running, pool, hang=True)
        running.process.send_signal(signal.SIGINT)
        wait_until(running.is_stopping)
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        code, out, err = running.wait_ended()
        assert request.exception(PATIENCE_SECONDS) or request.result(0).status_code == 503
    assert code == 0
    assert "scribewire: stopped" in out
    assert plain_lines(err) == []
    assert not worker.is_running()


def kill_worker_at_work(running: RunningServer) -> None:
    deaths = running.engine.worker_deaths
    engine = running.engine
    worker = wait_until(
        lambda: running.leftovers() and engine._in_flight.held_count and engine.worker_process_id
    )
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: running.engine.worker_deaths > deaths)


def test_request_whose_two_workers_are_killed_is_503_and_the_next_one_succeeds(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(running.transcribe, script(hang=True))
            kill_worker_at_work(running)
            kill_worker_at_work(running)
            response = pending.result(PATIENCE_SECONDS)
        assert_openai_error(response, 503, "engine_crashed")
        assert int(response.headers["retry-after"]) > 0
        assert running.transcribe(script(text="next")).json()["text"] == "next"
        assert running.leftovers() == []


def test_client_that_leaves_cancels_its_work_and_leaves_nothing(tmp_path: Path):
    with RunningServer(tmp_path, max_queued_requests=1) as running:
        impatient = httpx.Client(base_url=running.url, timeout=0.5)
        with pytest.raises(httpx.ReadTimeout):
            impatient.post("/v1/audio/transcriptions", files={"file": script(delay_seconds=600)})
        impatient.close()
        wait_until(lambda: not running.leftovers())
        wait_until(lambda: running.transcribe(script(text="free")).status_code == 200)


def test_job_whose_worker_dies_fails_and_says_so(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        job_id = running.client.post("/transcribe", files={"audio": script(exit=5)}).json()["job_id"]
        job = wait_until(
            lambda: (job := running.client.get(f"/jobs/{job_id}").json())["status"] == "failed" and job
        )
        assert job["error"]["code"] == "engine_crashed"
        assert "exit code 5" in job["error"]["message"]
        assert [death["attempt"] for death in job["worker_deaths"]] == [1, 2, 3]
        assert {death["code"] for death in job["worker_deaths"]} == {"engine_crashed"}
        assert running.client.delete(f"/jobs/{job_id}").status_code == 200
        assert not running.leftovers()
