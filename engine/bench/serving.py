"""Servers to be measured: started on a free loopback port with a key, asked by plain HTTP, stopped with the block."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from engine.bench.child import PROJECT, START_TIMEOUT_SECONDS, ChildFailed, last_words, run_to_end

_STOP_SECONDS = 20.0
_READY_MARK = b" ready on "
_REQUEST_TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens and what a request must carry. fields: of the form, besides the file."""

    name: str
    address: str
    key: str
    fields: Mapping[str, str] = field(default_factory=dict)


class RequestFailed(RuntimeError):
    """An answer other than 200; the message has its beginning."""


class Caller:
    """One client with a connection of its own, kept open between requests."""

    def __init__(self, server: ServerAddress, *, timeout_seconds: float = _REQUEST_TIMEOUT_SECONDS) -> None:
        self._server = server
        self._connection = http.client.HTTPConnection(server.address, timeout=timeout_seconds)

    def transcribe(self, recording: Path) -> str:
        """Upload a recording and wait for its text; raises RequestFailed."""
        body, content_type = multipart(recording, self._server.fields)
        headers = {"Content-Type": content_type, "Authorization": f"Bearer {self._server.key}"}
        try:
            self._connection.request("POST", "/v1/audio/transcriptions", body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise RequestFailed(f"{self._server.name}: {type(error).__name__}: {error}") from None
        if response.status != 200:
            raise RequestFailed(f"{self._server.name} answered {response.status}: {content[:200]!r}")
        return str(json.loads(content)["text"])

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def multipart(recording: Path, fields: Mapping[str, str]) -> tuple[bytes, str]:
    """A multipart body as any client makes it, and its content type."""
    boundary = "----scribewire-bench"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{recording.name}"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    body = "".join(parts).encode() + recording.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


@contextmanager
def scribewire_server(
    folder: Path,
    data: Path,
    *,
    device: str,
    dtype: str,
    tokens_per_second: float,
    program: str = "engine.bench.forced_serve",
) -> Iterator[ServerAddress]:
    """Ours, with a key, ready. data: an empty folder of its own. program: a module that takes the same arguments."""
    data.mkdir(parents=True, exist_ok=True)
    settings = data / "bench.toml"
    settings.touch()
    cli = [sys.executable, "-m", "server.cli", "keys", "create", "bench"]
    key = run_to_end("making a key", [*cli, "--data", str(data), "--config", str(settings)]).strip()
    command = [sys.executable, "-m", program, str(tokens_per_second)]
    options = {
        "--model": str(folder),
        "--port": "0",
        "--data": str(data),
        "--config": str(settings),
        "--device": device,
        "--dtype": dtype,
        "--retry-window-seconds": "0",  # the same recording is sent again and again, and must be decoded each time
        "--max-queued-requests": "1024",
    }
    command += [word for pair in options.items() for word in pair]
    with _running("scribewire", command) as (process, output, errors):
        address = _announced_address(process, output, errors)
        yield ServerAddress("scribewire", address, key, {"model": "whisper-1"})


@contextmanager
def peer_server(
    name: str, command: Sequence[str], port: int, key: str, fields: Mapping[str, str], runs_in: Path
) -> Iterator[ServerAddress]:
    """A peer's own server under its own Python; ready once its port answers HTTP."""
    with _running(name, command, runs_in=runs_in) as (process, _, errors):
        server = ServerAddress(name, f"127.0.0.1:{port}", key, fields)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _answers(server.address):
            if process.poll() is not None:
                raise ChildFailed(f"{name} did not start: {last_words(errors)}")
            if time.monotonic() > deadline:
                raise ChildFailed(f"{name} did not answer within {START_TIMEOUT_SECONDS:g} s")
            time.sleep(0.1)
        yield server


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(
    name: str, command: Sequence[str], *, runs_in: Path = PROJECT
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """A process whose output goes to files that vanish with it: a pipe that nobody reads would fill up."""
    with (
        tempfile.NamedTemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            list(command), cwd=runs_in, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        ) as process,
    ):
        try:
            yield process, output, errors
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _announced_address(process: subprocess.Popen[bytes], output: IO[bytes], errors: IO[bytes]) -> str:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        # By name, so that reading does not move the place where the process writes.
        written = Path(output.name).read_bytes()
        if _READY_MARK in written:
            line = written.split(_READY_MARK, 1)[1].splitlines()[0]
            return line.decode().strip().removeprefix("http://").rstrip("/")
        if process.poll() is not None:
            raise ChildFailed(f"the server did not start: {last_words(errors)}")
        if time.monotonic() > deadline:
            raise ChildFailed(f"the server was not ready within {START_TIMEOUT_SECONDS:g} s")
        time.sleep(0.05)


def _answers(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/health")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
