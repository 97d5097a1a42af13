"""A peer's own server, started under its own Python; ready once its port answers HTTP."""

from __future__ import annotations

import http.client
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scribewire.engine.bench.process import START_TIMEOUT_SECONDS, ChildFailed, last_words
from scribewire.engine.bench.serving import ServerAddress

_STOP_SECONDS = 20.0


@contextmanager
def peer_server(
    name: str, command: Sequence[str], port: int, key: str, fields: Mapping[str, str], runs_in: Path
) -> Iterator[ServerAddress]:
    """A peer's own server under its own Python; ready once its port answers HTTP."""
    with _running(command, runs_in) as (process, errors):
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
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: Sequence[str], runs_in: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process whose output goes to files that vanish with it: a pipe that is not read would fill up."""
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            list(command), cwd=runs_in, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        ) as process,
    ):
        try:
            yield process, errors
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


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
