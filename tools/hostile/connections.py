"""Clients that hold connections, leave in the middle or send without end, by the hundred, against a real server."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.fakes.media_files import recording
from tests.fakes.raw_http import BOUNDARY, FORM_TYPE, Answer, error_of, read_answer, request
from tests.fakes.served import Served

SLOW_UPLOADS_OPEN_SECONDS = 14.0
HEALTH_P99_SECONDS = 0.050
SLOW_UPLOADS_GROWTH_BYTES = 60_000_000
BACK_TO_NORMAL_SECONDS = 5.0


@dataclass(slots=True)
class Findings:
    """Measurements, and the promises that did not hold."""

    measured: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def expect(self, holds: bool, claim: str) -> None:
        """Note a claim that does not hold."""
        if not holds:
            self.broken.append(claim)

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


def allow_many_descriptors(wanted: int) -> None:
    """The clients' own process needs descriptors too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


class HealthProbe:
    """Asks /health/live on a connection of its own, again and again, from a thread of its own."""

    def __init__(self, port: int, *, pause_seconds: float = 0.02) -> None:
        self._port = port
        self._pause_seconds = pause_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seconds: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> HealthProbe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(60)

    def _run(self) -> None:
        content = request(self._port, "Connection: close", method="GET", path="/health/live")
        while not self._stopping.wait(self._pause_seconds):
            started = time.monotonic()
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=30) as connection:
                    connection.sendall(content)
                    answer = read_answer(connection)
            except OSError as error:
                self.failures.append(type(error).__name__)
                continue
            self.seconds.append(time.monotonic() - started)
            if answer is None or answer.status != 200:
                self.failures.append("no answer" if answer is None else str(answer.status))

    def quantile_seconds(self, fraction: float) -> float:
        """Of the answers so far."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else float("inf")


def upload_head(port: int, *, kind: int) -> bytes:
    """The beginning of an upload that will never end, in one of four ways."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
    start = part + recording("wav-s16")[:500]
    if kind % 4 == 0:  # a length is declared, next to nothing comes
        return request(port, FORM_TYPE, "Content-Length: 10000000", body=start)
    if kind % 4 == 1:
        return request(
            port,
            FORM_TYPE,
            "Transfer-Encoding: chunked",
            body=f"{len(start):x}\r\n".encode() + start + b"\r\n",
        )
    if kind % 4 == 2:  # headers that never end
        return request(port, FORM_TYPE)[:-2] + b"X-Slow: "
    return b""  # nothing at all


async def _slow_client(
    port: int, kind: int, started: float, patience_seconds: float, *, trickles: bool
) -> tuple[float, bytes]:
    """Send a byte a second, or nothing, until it is closed; returns (seconds until then or infinite, what was said)."""
    said = b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return time.monotonic() - started, b"refused"
    try:
        writer.write(upload_head(port, kind=kind))
        while time.monotonic() - started < patience_seconds:
            try:
                async with asyncio.timeout(1.0):
                    piece = await reader.read(65_536)
            except TimeoutError:
                if trickles and kind % 4 != 3:
                    writer.write(b"1\r\nx\r\n" if kind % 4 == 1 else b"x")
                continue
            if not piece:
                return time.monotonic() - started, said
            said += piece
        return float("inf"), said
    except OSError:
        return time.monotonic() - started, said
    finally:
        writer.transport.abort()


def slow_uploads(
    served: Served,
    count: int,
    *,
    patience_seconds: float = 60.0,
    trickles: bool = True,
    expects_health: bool = True,
) -> Findings:
    """Open `count` connections that send next to nothing, and watch the health page meanwhile.

    trickles: a byte a second, which is not silence but slower than is allowed; else nothing after the beginning.
    expects_health: that it always answers; with more clients than descriptors it may be 503 for moments.
    """
    findings = Findings()
    allow_many_descriptors(count + 200)
    before_bytes = served.resident_bytes()
    most_bytes = before_bytes

    async def all_clients() -> list[tuple[float, bytes]]:
        nonlocal most_bytes
        started = time.monotonic()
        clients = [
            asyncio.create_task(
                _slow_client(served.port, number, started, patience_seconds, trickles=trickles)
            )
            for number in range(count)
        ]
        while not all(client.done() for client in clients):
            await asyncio.sleep(0.1)
            most_bytes = max(most_bytes, served.resident_bytes())
        return [client.result() for client in clients]

    with HealthProbe(served.port) as probe:
        ends = asyncio.run(all_clients())
    open_seconds = [seconds for seconds, _ in ends]
    statuses = sorted({said[9:12].decode("latin-1") for _, said in ends if said.startswith(b"HTTP/1.1 ")})
    findings.measured = {
        "connections": count,
        "open_after_14_s": sum(seconds > SLOW_UPLOADS_OPEN_SECONDS for seconds in open_seconds),
        "longest_open_seconds": round(min(max(open_seconds), patience_seconds), 1),
        "statuses": statuses,
        "health_answers": len(probe.seconds),
        "health_failures": probe.failures[:10],
        "health_p50_ms": round(1000 * probe.quantile_seconds(0.5), 1),
        "health_p99_ms": round(1000 * probe.quantile_seconds(0.99), 1),
        "resident_growth_bytes": most_bytes - before_bytes,
        "leftovers": len(served.leftovers()),
    }
    findings.expect(max(open_seconds) < patience_seconds, "every slow connection is closed")
    if expects_health:
        findings.expect(not probe.failures, f"the health page answers throughout: {probe.failures[:5]}")
    findings.expect(set(statuses) <= {"408", "429", "503"}, f"slow clients get 408, 429 or 503: {statuses}")
    findings.expect(
        most_bytes - before_bytes < SLOW_UPLOADS_GROWTH_BYTES, "resident memory grows by less than 60 MB"
    )
    findings.expect(wait_until(lambda: not served.leftovers()), "nothing stays on disk")
    findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
    return findings


def disconnects(served: Served, count: int, *, at_once: int = 50) -> Findings:
    """Leave `count` uploads in the middle, half of them by a reset, and see what stays behind."""
    findings = Findings()
    before = served.descriptor_count()
    sounds = recording("wav-f32")
    for first in range(0, count, at_once):
        connections = []
        for number in range(first, min(first + at_once, count)):
            connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
            head = upload_head(served.port, kind=number % 2)
            connection.sendall(head if number % 2 else head + sounds[: 1000 * (number % 150)])
            connections.append(connection)
        for number, connection in enumerate(connections):
            if number % 2:  # a reset instead of a proper end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    left = time.monotonic()
    is_clean = wait_until(lambda: not served.leftovers() and served.descriptor_count() <= before)
    findings.measured = {
        "disconnects": count,
        "leftovers": len(served.leftovers()),
        "descriptors_before": before,
        "descriptors_after": served.descriptor_count(),
        "seconds_until_clean": round(time.monotonic() - left, 2),
    }
    findings.expect(is_clean, "files and descriptors are back")
    findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
    return findings


def endless_body(served: Served, size_bytes: int, *lines: str) -> Findings:
    """Send a chunked body without a key (or with what `lines` say), and watch disk and memory of the server."""
    findings = Findings()
    before_bytes, before_disk = served.resident_bytes(), served.disk_bytes()
    most_bytes, most_disk, sent = before_bytes, before_disk, 0
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
    piece = bytes(1 << 16)
    answer: Answer | None = None
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(request(served.port, FORM_TYPE, "Transfer-Encoding: chunked", *lines))
        try:
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            while sent < size_bytes:
                connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                sent += len(piece)
                if sent % (8 << 20) == 0:
                    most_bytes = max(most_bytes, served.resident_bytes())
                    most_disk = max(most_disk, served.disk_bytes())
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # closed by the server; the answer was sent before
        answer = read_answer(connection)
    most_bytes, most_disk = max(most_bytes, served.resident_bytes()), max(most_disk, served.disk_bytes())
    findings.measured = {
        "offered_bytes": size_bytes,
        "bytes_sent_until_closed": sent,
        "seconds": round(time.monotonic() - started, 2),
        "status": None if answer is None else answer.status,
        "resident_growth_bytes": most_bytes - before_bytes,
        "disk_growth_bytes": most_disk - before_disk,
    }
    if answer is not None:
        findings.measured["code"] = error_of(answer)["code"]
    findings.expect(most_disk == before_disk, "nothing is written to disk")
    findings.expect(most_bytes - before_bytes < 32 << 20, "memory stays flat")
    return findings


def wait_until(claim: Any, *, seconds: float = 60.0) -> bool:
    """Wait for a claim; True if it became true within the time."""
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
