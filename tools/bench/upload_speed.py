"""Speed of a large upload, and growth of the front's memory meanwhile.

Half a gigabyte over loopback, as a form with and without a declared length, and as base64 in JSON. The recording is
no audio, so that the answer (a 400) comes when all of it is on disk, hashed and looked at. Nothing fails because it
is slow.
"""

import argparse
import base64
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fakes.front_server import FrontServer, PeakMemory, front_server
from tools.bench.measuring import machine, show, summary, write_result

UPLOAD_BYTES = 500_000_000
BLOCK_BYTES = 1 << 20
RUNS = 3
JSON_KIND = "JSON, base64, chunked"
SPEED_TARGET, GROWTH_TARGET_BYTES = 100.0, 60e6
# Three bytes make four characters without padding, so that blocks of base64 may stand side by side.
BASE64_BLOCK = base64.b64encode(os.urandom(BLOCK_BYTES // 3 * 3))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: tools/bench/results)")
    arguments = parser.parse_args()
    at_start = machine()
    kinds: dict[str, Callable[[], tuple[str, int | None, Iterator[bytes]]]] = {
        "form, length declared": lambda: form(is_chunked=False),
        "form, chunked": lambda: form(is_chunked=True),
        JSON_KIND: json_body,
    }
    rows = []
    with tempfile.TemporaryDirectory() as scratch, front_server(Path(scratch), "demo") as server:
        upload(server, *form(is_chunked=False))
        for name, make in kinds.items():
            speeds, growths = [], []
            for _ in range(RUNS):
                with PeakMemory(server) as memory:
                    seconds = upload(server, *make())
                speeds.append(UPLOAD_BYTES / 1e6 / seconds)
                growths.append(memory.growth_bytes / 1e6)
            speed = summary(speeds, unit="MB/s")
            if name != JSON_KIND:  # half a gigabyte of recording is two thirds on the wire there
                speed |= {"target": SPEED_TARGET, "met": speed["median"] >= SPEED_TARGET}
            rows += [
                (name, speed),
                (f"{name}: growth", summary(growths, target=GROWTH_TARGET_BYTES / 1e6, unit="MB")),
            ]
    show(rows)
    content: dict[str, Any] = {"machine": at_start, "upload_bytes": UPLOAD_BYTES, "results": dict(rows)}
    written = write_result(
        "upload_speed",
        "python -m tools.bench.upload_speed",
        content,
        *([arguments.out] if arguments.out else []),
    )
    print(f"\nwritten to {written.name}")


def upload(server: FrontServer, content_type: str, length: int | None, blocks: Iterator[bytes]) -> float:
    """Send one recording; returns the seconds from the first byte sent to the answer."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nConnection: close\r\n"
        f"Content-Type: {content_type}\r\n{framing}\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=120) as connection:
        started = time.perf_counter()
        connection.sendall(head.encode())
        for block in blocks:
            if length is None:
                connection.sendall(b"%x\r\n" % len(block))
            connection.sendall(block)
            if length is None:
                connection.sendall(b"\r\n")
        if length is None:
            connection.sendall(b"0\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        seconds = time.perf_counter() - started
    if b" 400 " not in answer[:20] or b'"audio_' not in answer:
        raise RuntimeError(f"unexpected answer: {answer[:500]!r}")
    return seconds


def form(*, is_chunked: bool) -> tuple[str, int | None, Iterator[bytes]]:
    """Content type, length and blocks of a multipart body."""
    boundary = "----scribewire-bench"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    block = os.urandom(BLOCK_BYTES)

    def blocks() -> Iterator[bytes]:
        yield head
        for start in range(0, UPLOAD_BYTES, BLOCK_BYTES):
            yield block[: min(BLOCK_BYTES, UPLOAD_BYTES - start)]
        yield tail

    length = None if is_chunked else len(head) + UPLOAD_BYTES + len(tail)
    return f"multipart/form-data; boundary={boundary}", length, blocks()


def json_body() -> tuple[str, int | None, Iterator[bytes]]:
    """Content type, no length, and blocks of a JSON body with nearly as many bytes of recording."""

    def blocks() -> Iterator[bytes]:
        yield b'{"model":"whisper-1","input_audio":{"format":"wav","data":"'
        for _ in range(UPLOAD_BYTES // (BLOCK_BYTES // 3 * 3)):
            yield BASE64_BLOCK
        yield b'"}}'

    return "application/json", None, blocks()


if __name__ == "__main__":
    main()
