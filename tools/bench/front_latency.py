"""Latency of a busy front: a 401 while eight requests decode, the health page under 32 clients.

With the fake engine (the front alone) and with the demo model (the worker takes the processors too). Each 401 is a
connection of its own that announces an upload and reads the answer without sending it. Nothing fails because it is
slow.
"""

import argparse
import http.client
import selectors
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from scribewire.server.access.keys import KeyStore
from tests.fakes.front_server import FrontServer, front_server
from tools.bench.clips import speech, write_wav
from tools.bench.measuring import machine, show, summary, write_result

DECODING, REFUSALS = 8, 400
HEALTH_CLIENTS, HEALTH_REQUESTS = 32, 3200
MEDIAN_TARGET, P99_TARGET, HEALTH_P99_TARGET = 0.020, 0.100, 0.050
PATH = "/v1/audio/transcriptions"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: tools/bench/results)")
    arguments = parser.parse_args()
    at_start = machine()
    rows = []
    for model in ("fake", "demo"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            _, secret = KeyStore(folder / "data").create("bench")
            with front_server(folder, model) as server:
                recording = long_recording(folder, model)
                with decoding(server, secret, recording):
                    refusals = [time_of_refusal(server) for _ in range(REFUSALS)]
                    busy_health = times_of_health(server)
                before = server.cpu_seconds()
                idle_health = times_of_health(server)
                cpu_seconds = (server.cpu_seconds() - before) / len(idle_health)
        rows += [
            (f"{model}: 401, 8 decoding", summary(refusals, target=MEDIAN_TARGET)),
            (f"{model}: the same, p99", p99(refusals, P99_TARGET)),
            (f"{model}: health, 32 clients, p99", p99(idle_health, HEALTH_P99_TARGET)),
            (f"{model}: the same, 8 decoding, p99", p99(busy_health)),
            # What does not depend on who else uses the machine.
            (f"{model}: the front's CPU per health", summary([cpu_seconds])),
        ]
    show(rows)
    for _, one in rows:
        del one["values"]
    content: dict[str, Any] = {"machine": at_start, "results": dict(rows)}
    written = write_result(
        "front_latency",
        "python -m tools.bench.front_latency",
        content,
        *([arguments.out] if arguments.out else []),
    )
    print(f"\nwritten to {written.name}")


def p99(values: list[float], target: float | None = None) -> dict[str, Any]:
    """The 99th percentile as a row of its own."""
    return summary([statistics.quantiles(values, n=100)[98]], target=target) | {"of": len(values)}


def long_recording(folder: Path, model: str) -> bytes:
    """A recording that keeps the engine busy: a script for the fake one, a minute of speech for the demo model."""
    if model == "fake":
        return b'{"text": "x", "delay_seconds": 0.5}'
    return write_wav(folder / "minute.wav", speech(60.0)).read_bytes()


@contextmanager
def decoding(server: FrontServer, secret: str, recording: bytes) -> Iterator[None]:
    """Keep eight requests in flight, each client sending the next as soon as it has its answer."""
    is_over = threading.Event()
    answered: list[int] = []
    threads = [
        threading.Thread(target=_keep_asking, args=(server, secret, recording, is_over, answered))
        for _ in range(DECODING)
    ]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + 60
        while server.leftovers() < DECODING:
            if time.monotonic() > deadline:
                raise RuntimeError("the requests never came to be decoded")
            time.sleep(0.01)
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(120)
    if not answered or set(answered) != {200}:
        raise RuntimeError(f"the requests in the background were answered {sorted(set(answered))}")


def _keep_asking(
    server: FrontServer, secret: str, recording: bytes, is_over: threading.Event, answered: list[int]
) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": f"Bearer {secret}"}
    while not is_over.is_set():
        connection = http.client.HTTPConnection(server.host, server.port, timeout=300)
        # No two alike, or a retry's answer would be taken from the first.
        salt = f'--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n{time.monotonic_ns() % 10**9}\r\n'
        connection.request("POST", PATH, salt.encode() + head + recording + b"\r\n--b--\r\n", headers)
        response = connection.getresponse()
        response.read()
        answered.append(response.status)
        connection.close()


def time_of_refusal(server: FrontServer) -> float:
    """Seconds from connecting to the first byte of a 401 for an upload whose body is not sent."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    started = time.perf_counter()
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536)
        seconds = time.perf_counter() - started
    if not answer.startswith(b"HTTP/1.1 401 "):
        raise RuntimeError(f"unexpected answer: {answer[:200]!r}")
    return seconds


def times_of_health(server: FrontServer) -> list[float]:
    """Seconds of each health request of 32 clients that keep their connections and ask without a pause.

    One thread plays all of them, so that no time goes by in threads waiting for one another.
    """
    request = f"GET /health/live HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n\r\n".encode()
    values: list[float] = []
    started: dict[socket.socket, float] = {}
    with selectors.DefaultSelector() as selector, ExitStack() as connections:
        for _ in range(HEALTH_CLIENTS):
            connection = connections.enter_context(
                socket.create_connection((server.host, server.port), timeout=60)
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ)
            started[connection] = time.perf_counter()
            connection.sendall(request)
        while len(values) < HEALTH_REQUESTS:
            for key, _ in selector.select():
                asking = key.fileobj
                assert isinstance(asking, socket.socket)
                answer = asking.recv(65536)
                now = time.perf_counter()
                if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(b"\r\n\r\n"):
                    raise RuntimeError(f"unexpected answer: {answer[:200]!r}")
                values.append(now - started[asking])
                started[asking] = time.perf_counter()
                asking.sendall(request)
    return values


if __name__ == "__main__":
    main()
