"""The front under clients that mean harm or come in crowds: what is refused, what is left behind, who still gets in.

500 slow uploads against 256 file descriptors, 500 uploads that break off, and 1,000 clients at once, all with the
fake engine and default settings. Nothing fails because it is slow; what must never happen is counted.
"""

import argparse
import asyncio
import contextlib
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fakes.front_server import FrontServer, PeakMemory, front_server
from tools.bench.measuring import machine, show, summary, write_result

CROWD, OVERLOAD = 500, 1000
DESCRIPTORS = 256
PATH = "/v1/audio/transcriptions"
START = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
Row = tuple[str, dict[str, Any]]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: tools/bench/results)")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    at_start = machine()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with front_server(folder / "slow", "fake", descriptors=DESCRIPTORS) as server:
            rows += asyncio.run(slow_uploads(server))
        with front_server(folder / "broken", "fake") as server:
            rows += asyncio.run(broken_uploads(server))
        with front_server(folder / "crowd", "fake") as server:
            crowd, statuses = asyncio.run(overload(server))
            rows += crowd
    show(rows)
    print(f"\nanswers to {OVERLOAD} clients at once: {statuses}")
    content = {"machine": at_start, "results": dict(rows), "overload_answers": statuses}
    written = write_result(
        "front_faults",
        "python -m tools.bench.front_faults",
        content,
        *([arguments.out] if arguments.out else []),
    )
    print(f"\nwritten to {written.name}")


async def slow_uploads(server: FrontServer) -> list[Row]:
    """Every client sends a byte a second, while the health page is fetched on new connections."""
    await one_request(server, health(server))
    is_over = asyncio.Event()
    with PeakMemory(server) as memory:
        started = time.perf_counter()
        asking = asyncio.create_task(keep_asking_for_health(server, is_over))
        descriptors = asyncio.create_task(most_descriptors(server, is_over))
        ends = await asyncio.gather(*[slow_upload(server, started) for _ in range(CROWD)])
        is_over.set()
        seconds, refused = await asking
        peak = await descriptors
    late = sorted(seconds)[int(len(seconds) * 0.99)]
    return [
        ("slow uploads: last one open until", summary([max(ends)], target=14.0)),
        ("slow uploads: health, p99", summary([late], target=0.050) | {"of": len(seconds)}),
        ("slow uploads: health turned away", summary([refused], unit="requests")),
        ("slow uploads: growth", summary([memory.growth_bytes / 1e6], target=60.0, unit="MB")),
        ("slow uploads: descriptors", summary([peak], target=DESCRIPTORS - 1, unit="open")),
        ("slow uploads: left on disk", summary([server.leftovers()], target=0, unit="recordings")),
    ]


async def slow_upload(server: FrontServer, since: float) -> float:
    """Trickle until the server ends it; returns when that was."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(upload_head(server) + chunk(START))
        reading = asyncio.create_task(reader.read())
        while not reading.done():
            writer.write(chunk(b"x"))
            await asyncio.wait({reading}, timeout=1.0)
        writer.close()
        await reading
    return time.perf_counter() - since


async def keep_asking_for_health(server: FrontServer, is_over: asyncio.Event) -> tuple[list[float], int]:
    """Seconds of every answer with status 200, and how many requests got another end."""
    seconds: list[float] = []
    refused = 0
    while not is_over.is_set():
        started = time.perf_counter()
        if await one_request(server, health(server)) == 200:
            seconds.append(time.perf_counter() - started)
        else:
            refused += 1
        await asyncio.sleep(0.02)
    return seconds, refused


async def most_descriptors(server: FrontServer, is_over: asyncio.Event) -> int:
    """The most descriptors that the front had open."""
    most = 0
    while not is_over.is_set():
        most = max(most, server.process.num_fds())
        await asyncio.sleep(0.05)
    return most


async def broken_uploads(server: FrontServer) -> list[Row]:
    """Clients that leave in the middle of their recording, 50 at a time."""
    await one_request(server, health(server))
    await asyncio.sleep(1.0)
    before = server.process.num_fds()
    for _ in range(CROWD // 50):
        await asyncio.gather(*[broken_upload(server) for _ in range(50)])
    started = time.perf_counter()
    while server.leftovers() or server.process.num_fds() > before:
        if time.perf_counter() - started > 60:
            break
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - started
    return [
        ("broken uploads: all given back after", summary([seconds], target=5.0)),
        ("broken uploads: left on disk", summary([server.leftovers()], target=0, unit="recordings")),
        (
            "broken uploads: descriptors left",
            summary([server.process.num_fds() - before], target=0, unit="open"),
        ),
    ]


async def broken_upload(server: FrontServer) -> None:
    """Send a part of a recording, enough for the disk, and leave."""
    _, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(upload_head(server) + chunk(START + b"x" * 2_000_000))
    with contextlib.suppress(OSError):
        await writer.drain()
    writer.close()


async def overload(server: FrontServer) -> tuple[list[Row], dict[str, int]]:
    """Send recordings from OVERLOAD clients at once, each of which takes the engine a moment."""
    recording = b'{"text": "x", "delay_seconds": 0.2}'
    body = START + recording + b"\r\n--b--\r\n"
    request = upload_head(server) + chunk(body) + b"0\r\n\r\n"
    started = time.perf_counter()
    answers = await asyncio.gather(*[one_request(server, request) for _ in range(OVERLOAD)])
    seconds = time.perf_counter() - started
    counts = Counter(str(status) for status in answers)
    strange = sum(count for status, count in counts.items() if status not in ("200", "202", "429", "503"))
    rows = [
        ("overload: all answered after", summary([seconds])),
        ("overload: strange answers", summary([strange], target=0, unit="answers")),
        ("overload: left on disk", summary([server.leftovers()], target=0, unit="recordings")),
    ]
    return rows, dict(sorted(counts.items()))


async def one_request(server: FrontServer, request: bytes) -> int:
    """The status of the answer, 0 where there was none."""
    try:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(request)
        answer = await reader.read(65536)
        writer.close()
    except OSError:
        return 0
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def health(server: FrontServer) -> bytes:
    """A request for the health page that ends its connection."""
    return f"GET /health/live HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n".encode()


def upload_head(server: FrontServer) -> bytes:
    """The headers of an upload of unknown length."""
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    ).encode()


def chunk(data: bytes) -> bytes:
    """One piece of a body of unknown length."""
    return b"%x\r\n" % len(data) + data + b"\r\n"


if __name__ == "__main__":
    main()
