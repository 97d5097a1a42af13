"""Bodies and headers that cost a server much more than they cost to send, sent to a real server process.

Reports the health page idle and under attack, the front's memory, and how attackers and slow clients were answered.
`python -m tools.hostile.parsing_attacks --server 'COMMAND with {port} and {data}'` measures another checkout's server.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from scribewire.server.intake.json_body import parse_json
from scribewire.server.intake.receiving import RecordingFile
from tests.fakes.longest_call import LongestCall
from tests.fakes.media_files import recording
from tests.fakes.raw_http import (
    BOUNDARY,
    FORM_TYPE,
    TRANSCRIPTIONS,
    Answer,
    ask,
    form,
    read_answer,
    request,
)
from tools.hostile.connections import HEALTH_P99_SECONDS, Findings, HealthProbe

SERVER = f"{shlex.quote(sys.executable)} -m scribewire serve --model demo --port {{port}} --data {{data}}"
PATIENCE_SECONDS = 120.0
IDLE_SECONDS = 3.0
ATTACK_SECONDS = 4.0
MEMORY_GROWTH_BYTES = 20 << 20
TIMES_IDLE = 3.0
LONGEST_CALL_SECONDS = 0.02
JSON_TYPE = "Content-Type: application/json"


END = f"--{BOUNDARY}--\r\n".encode()


@dataclass(frozen=True, slots=True)
class Attack:
    """A whole request that `clients` send again and again; bounds_memory: that it may not grow the front."""

    name: str
    clients: int
    body: Callable[[], bytes]
    lines: tuple[str, ...] = (FORM_TYPE,)
    path: str = TRANSCRIPTIONS
    bounds_memory: bool = False


def _part(name: bytes, value: bytes = b"x") -> bytes:
    head = b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n' % (BOUNDARY.encode(), name)
    return head + value + b"\r\n"


def long_names() -> bytes:
    """1,000 field names of nearly 64 KiB, which was the limit of a header."""
    return b"".join(_part(b"%04d" % number + b"n" * 65_000) for number in range(1000)) + END


def semicolons() -> bytes:
    """7 MB of part headers that are nothing but semicolons, as long as each is accepted or was."""
    part = b"--%s\r\nContent-Disposition: form-data%s\r\n\r\nx\r\n" % (BOUNDARY.encode(), b";" * 15_000)
    return part * (7_000_000 // len(part))


def escaped_recording() -> bytes:
    r"""A recording of 2 MB in base64, every character of it written as \uXXXX: 12 MB or more."""
    text = base64.b64encode(b"\x01\x02\x03" * 500_000).decode()
    data = "".join(f"\\u{ord(letter):04x}" for letter in text)
    return f'{{"model": "whisper-1", "input_audio": {{"format": "wav", "data": "{data}"}}}}'.encode()


def many_elements() -> bytes:
    """JSON of as many short elements as are accepted."""
    return json.dumps(
        {"other": {"inner": [[] for _ in range(3_300)]}, "input_audio": {"data": "QUJD"}}
    ).encode()


def large_values() -> bytes:
    """Parameters as large as are accepted."""
    return b"".join(_part(b"keywords", b"x" * 1_000_000) for _ in range(4)) + END


def near_boundaries() -> bytes:
    """A recording of lines that begin as a boundary does."""
    return _part(b"file", b"\r\n--%sX" % BOUNDARY.encode() * 300_000) + END


def tiny_chunks() -> bytes:
    """A recording in chunks of one byte."""
    start = _part(b"file", b"")[:-2]
    return b"%x\r\n%s\r\n" % (len(start), start) + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"


ATTACKS = (
    Attack("1,000 names of 64 KiB", 8, long_names, bounds_memory=True),
    Attack("semicolons in part headers, 7 MB", 1, semicolons, bounds_memory=True),
    Attack("semicolons in part headers, eight clients", 8, semicolons, bounds_memory=True),
    Attack("escapes in a base64 recording, 12 MB", 16, escaped_recording, (JSON_TYPE,)),
    Attack("10,000 JSON elements", 8, many_elements, (JSON_TYPE,)),
    Attack("parameters of 4 MB", 8, large_values),
    Attack("near boundaries, 4 MB", 8, near_boundaries),
    Attack("chunks of one byte", 8, tiny_chunks, (FORM_TYPE, "Transfer-Encoding: chunked")),
    Attack("10,000 headers", 8, lambda: b"", tuple("a: b" for _ in range(10_000)), "/v1/models"),
    Attack("30,000 query fields", 8, lambda: b"", (), "/jobs?" + "a&" * 30_000),
)


class ServerUnderTest:
    """A server started by a command, which stops when the block ends."""

    def __init__(self, command: str, data: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._command = command.format(port=self.port, data=shlex.quote(str(data)))
        self._log = data.with_suffix(".log")

    def __enter__(self) -> ServerUnderTest:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(shlex.split(self._command), stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"the server is not ready: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        try:
            answer = ask(self.port, request(self.port, method="GET", path="/health/ready"), timeout_seconds=5)
        except OSError:
            return False
        return answer is not None and answer.status == 200

    def resident_bytes(self) -> int:
        """Resident bytes of the front now."""
        return int(psutil.Process(self._process.pid).memory_info().rss)


@contextmanager
def peak_memory(server: ServerUnderTest) -> Iterator[dict[str, int]]:
    """The front's resident bytes before the block and at most within it, filled in when it ends."""
    stopping = threading.Event()
    found = {"before_bytes": server.resident_bytes(), "peak_bytes": 0}

    def watch() -> None:
        while not stopping.wait(0.02):
            found["peak_bytes"] = max(found["peak_bytes"], server.resident_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield found
    stopping.set()
    watcher.join()
    found["growth_bytes"] = found["peak_bytes"] - found["before_bytes"]


def _health(probe: HealthProbe) -> dict[str, Any]:
    return {
        "answers": len(probe.seconds),
        "failures": probe.failures[:5],
        "p50_ms": round(1000 * probe.quantile_seconds(0.5), 1),
        "p99_ms": round(1000 * probe.quantile_seconds(0.99), 1),
    }


def attack(one: Attack, server: ServerUnderTest, seconds: float = ATTACK_SECONDS) -> Findings:
    """Send an attack from all its clients, again and again for this time, and watch the health page."""
    findings = Findings()
    with HealthProbe(server.port) as idle:
        time.sleep(min(IDLE_SECONDS, seconds))
    # From a process of its own: the probe would wait for the attackers' lock otherwise.
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process,
        peak_memory(server) as memory,
        HealthProbe(server.port) as probe,
    ):
        sending = process.submit(send_again_and_again, server.port, one.name, one.clients, seconds)
        size, answers = sending.result()
    findings.measured = {
        "clients": one.clients,
        "request_bytes": size,
        "answers": dict(answers),
        "idle": _health(idle),
        "attacked": _health(probe),
        "memory": memory,
    }
    limit = max(HEALTH_P99_SECONDS, TIMES_IDLE * idle.quantile_seconds(0.99))
    p99 = probe.quantile_seconds(0.99)
    findings.expect(p99 <= limit, f"health p99 <= {1000 * limit:.0f} ms: {1000 * p99:.0f} ms")
    findings.expect(not probe.failures, f"the health page answers throughout: {probe.failures[:5]}")
    if one.bounds_memory:
        grown = memory["growth_bytes"]
        findings.expect(grown <= MEMORY_GROWTH_BYTES, f"the front grows by 20 MB at most: {grown >> 20} MB")
    return findings


def send_again_and_again(port: int, name: str, clients: int, seconds: float) -> tuple[int, Counter[str]]:
    """Send an attack from so many clients for this time, each at least once; its size and how they were answered."""
    (one,) = (attack for attack in ATTACKS if attack.name == name)
    body, lines = one.body(), one.lines
    if not any(line.startswith("Transfer-Encoding") for line in lines):
        lines = (*lines, f"Content-Length: {len(body)}")
    method = "POST" if body else "GET"
    content = request(port, *lines, "Connection: close", body=body, path=one.path, method=method)
    pieces = [content[at : at + (1 << 20)] for at in range(0, len(content), 1 << 20)]
    until = time.monotonic() + seconds

    def client() -> list[str]:
        outcomes: list[str] = []
        while not outcomes or time.monotonic() < until:
            outcomes.append(_outcome(ask(port, *pieces, timeout_seconds=PATIENCE_SECONDS)))
        return outcomes

    with ThreadPoolExecutor(clients) as threads:
        running = [threads.submit(client) for _ in range(clients)]
        return len(content), Counter(outcome for each in running for outcome in each.result())


def _outcome(answer: Answer | None) -> str:
    if answer is None:
        return "closed"
    try:
        return f"{answer.status} {json.loads(answer.body)['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return str(answer.status)


def slow_client(port: int, bytes_per_second: int, seconds: float) -> str:
    """Upload a recording at this pace for this time in chunks, as live audio comes; what was said to it."""
    content = form(recording("wav-s16"))
    # What follows a WAV file's last sample is no sound, and makes the upload last.
    end = len(content) - len(f"\r\n--{BOUNDARY}--\r\n")
    padding = bytes(max(0, int(bytes_per_second * seconds) - len(content)))
    body = content[:end] + padding + content[end:]
    step = max(1, bytes_per_second // 4)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(request(port, FORM_TYPE, "Transfer-Encoding: chunked", "Connection: close"))
        try:
            for at in range(0, len(body), step):
                piece = body[at : at + step]
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                time.sleep(0.25)
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # the answer says why
        answer = read_answer(connection)
    return _outcome(answer)


def slow_clients(server: ServerUnderTest) -> Findings:
    """A phone at 8 kB/s and live Opus at 4 kB/s, for 22 s, on a server that is otherwise quiet."""
    findings = Findings()
    for name, pace in (("phone at 8 kB/s", 8_000), ("live Opus at 4 kB/s", 4_000)):
        findings.measured[name] = status = slow_client(server.port, pace, 22.0)
        findings.expect(status == "200", f"{name} is accepted: {status}")
    return findings


def longest_json_call(folder: Path) -> Findings:
    """The longest call into C while JSON of each kind is parsed here, and the longest that another thread waited."""
    findings = Findings()
    for name, body in (
        ("escapes", escaped_recording()),
        ("elements", many_elements()),
        ("plain, 40 MB", b'{"input_audio": {"data": "' + b"QUJD" * 10_000_000 + b'"}}'),
    ):
        path = folder / name
        path.write_bytes(body)
        with ThreadPoolExecutor(1) as executor, Ticking() as ticking, LongestCall() as longest:
            file = RecordingFile(path.with_suffix(".recording"), max_bytes=1 << 30, executor=executor)
            parse_json(path, file)
            file.close()
        findings.measured[name] = {
            "longest_call_ms": round(1000 * longest.seconds, 2),
            "longest_call": longest.name,
            "longest_stall_ms": round(1000 * ticking.longest_seconds, 1),
        }
        findings.expect(
            longest.seconds <= LONGEST_CALL_SECONDS, f"{name}: {longest.name} {longest.seconds:.3f} s"
        )
    return findings


class Ticking:
    """A second thread that wants Python's lock a thousand times a second; notes the longest time between two turns."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.longest_seconds = 0.0

    def __enter__(self) -> Ticking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stopping.is_set():
            time.sleep(0.001)
            now = time.monotonic()
            self.longest_seconds = max(self.longest_seconds, now - before)
            before = now


def _against(step: Callable[[ServerUnderTest], Findings]) -> Callable[[str, Path], Findings]:
    def run(command: str, folder: Path) -> Findings:
        with ServerUnderTest(command, folder / "data") as server:
            return step(server)

    return run


STEPS: dict[str, Callable[[str, Path], Findings]] = {
    **{one.name: _against(partial(attack, one)) for one in ATTACKS},
    "slow clients in quiet times": _against(slow_clients),
    "longest call of a JSON parse": lambda command, folder: longest_json_call(folder),
}
"""Each is given the command of a server and a folder."""


def main(arguments: list[str]) -> int:
    """Run every step against one server; returns 0 when every promise held."""
    parser = argparse.ArgumentParser(description="Attack a server's parsers and watch its health page.")
    parser.add_argument("--server", default=SERVER, help="command with {port} and {data} (default: this one)")
    parser.add_argument("--only", action="append", help="a step whose name begins so; may be repeated")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {}
    for name, step in STEPS.items():
        if options.only and not any(name.startswith(wanted) for wanted in options.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            findings = step(options.server, Path(folder))
        results[name] = {"holds": not findings.broken, **findings.as_json()}
        print(name, json.dumps(results[name]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0 if all(result["holds"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
