"""A server to be measured, and its clients, each sending its next recording when the last one's text has come."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scribewire.engine.bench.measuring import OURS, quantile, shown_seconds, summary
from scribewire.engine.bench.process import START_TIMEOUT_SECONDS, ChildFailed, started

SERVE = ("scribewire", "serve")
_READY_MARK = " ready on http://"
_REQUEST_TIMEOUT_SECONDS = 3600.0
_BOUNDARY = "----scribewire-bench"
_SETTINGS_PREFIX = "SCRIBEWIRE_"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server's address and the fields that a request must carry: of the form, besides the file."""

    name: str
    address: str
    key: str
    fields: Mapping[str, str] = field(default_factory=dict)


class RequestFailed(ChildFailed):
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
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name="
    form = "".join(f'{head}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
    form += f'{head}"file"; filename="{recording.name}"\r\nContent-Type: audio/wav\r\n\r\n'
    body = form.encode() + recording.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return body, f"multipart/form-data; boundary={_BOUNDARY}"


@contextmanager
def scribewire_server(
    folder: Path, data: Path, *, device: str = "auto", dtype: str = "auto", program: Sequence[str] = SERVE
) -> Iterator[ServerAddress]:
    """A server with a key, ready. data: an empty folder of its own. program: a module that takes serve's flags."""
    data.mkdir(parents=True, exist_ok=True)
    settings = data / "bench.toml"
    settings.touch()
    own = ["--data", str(data), "--config", str(settings)]
    # Without the environment's settings, so that the same command measures the same everywhere.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_PREFIX)}
    create = [sys.executable, "-m", "scribewire", "keys", "create", "bench", *own]
    with started("making a key", create, plain) as lines:
        key = "".join(lines(START_TIMEOUT_SECONDS)).strip()
    command = [sys.executable, "-m", *program, "--model", str(folder), "--port", "0", *own]
    command += ["--device", device, "--dtype", dtype, "--max-queued-requests", "1024"]
    # The same recording is sent again and again, and must be decoded each time.
    command += ["--retry-window-seconds", "0"]
    with started("the server", command, plain) as lines:
        for line in lines(START_TIMEOUT_SECONDS):
            if _READY_MARK in line:
                address = line.split(_READY_MARK, 1)[1].strip().rstrip("/")
                yield ServerAddress(OURS, address, key, {"model": "whisper-1"})
                return
        raise ChildFailed("the server did not start")


@dataclass(frozen=True, slots=True)
class Load:
    """Results of some clients in one round.

    latencies: of every request, in seconds. wall_seconds: from the first sent to the last got.
    """

    clients: int
    latencies: tuple[float, ...]
    wall_seconds: float

    @property
    def requests_per_second(self) -> float:
        """Finished requests by the time they took all together."""
        return len(self.latencies) / self.wall_seconds

    def values(self) -> dict[str, Any]:
        """Summary for the report: seconds within which shares of the requests were answered, and more."""
        shares = {"p50_seconds": 0.5, "p95_seconds": 0.95, "max_seconds": 1.0}
        waits = {name: round(quantile(self.latencies, share), 5) for name, share in shares.items()}
        counts = {"clients": self.clients, "requests": len(self.latencies)}
        rate = {"requests_per_second": round(self.requests_per_second, 4)}
        return counts | rate | waits | {"wall_seconds": round(self.wall_seconds, 4)}

    def __str__(self) -> str:
        p50, p95 = (shown_seconds(quantile(self.latencies, share)) for share in (0.5, 0.95))
        return f"{self.requests_per_second:.2f} requests/s, p50 {p50}, p95 {p95}"


def summary_of_loads(loads: Sequence[Load]) -> dict[str, Any]:
    """Summary of all rounds of one number of clients."""
    return {
        "requests_per_second": summary([one.requests_per_second for one in loads], unit="requests/s"),
        "p50": summary([quantile(one.latencies, 0.5) for one in loads]),
        "p95": summary([quantile(one.latencies, 0.95) for one in loads]),
        "rounds": [one.values() for one in loads],
    }


def closed_loop(
    server: ServerAddress,
    recordings: Sequence[Path],
    clients: int,
    requests: int,
    *,
    seconds: float = 0.0,
    warm_up: bool = True,
) -> Load:
    """Keep `clients` requests under way until `requests` have been sent and `seconds` are over; wait for the last.

    Recordings are sent cyclically. seconds: a fast server's round would else be over before it is at its pace, and
    mostly consist of its end, when fewer and fewer clients are left. warm_up: let the clients send requests first,
    one each or as many as that time takes, which do not count.
    raises: RequestFailed when any request fails; the others are waited for
    """
    if warm_up:
        closed_loop(server, recordings, clients, clients, seconds=seconds, warm_up=False)
    numbers = itertools.count()
    latencies: list[float] = []
    failures: list[RequestFailed] = []
    begun = time.perf_counter()

    def run() -> None:
        caller = Caller(server)
        try:
            for number in numbers:
                if failures or (number >= requests and time.perf_counter() - begun >= seconds):
                    return
                sent = time.perf_counter()
                caller.transcribe(recordings[number % len(recordings)])
                latencies.append(time.perf_counter() - sent)
        except RequestFailed as error:
            failures.append(error)
        finally:
            caller.close()

    # Daemons, so that Ctrl-C does not wait for their answers.
    threads = [threading.Thread(target=run, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Load(clients, tuple(latencies), time.perf_counter() - begun)
