"""Small files of many hours of silence, beside a bystander whose clips take a second: what the bystander waits for.

`python -m tools.hostile.long_recordings` starts a server, by default this checkout's with the demo model, and prints
JSON: the bystander's times when idle and under the attack, health, and what the processes hold. `--server` names
another command, such as one of an older checkout; `--port` and `--data` are added to it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.fakes.media import riff, tones
from tools.hostile.bombs import constant_flac
from tools.hostile.connections import Findings

HOURS = 11.9
RATE_HZ = 8_000
START_SECONDS = 120.0
UNDER_WAY_SECONDS = 2.0
"""From then on the attack's recordings are with the children."""

MOST_SECONDS = 1.0
MOST_TIMES_IDLE = 5.0
_ANSWER_SECONDS = 600.0


def long_recordings(port: int, *, count: int, clips: int, resident_bytes: Callable[[], int]) -> Findings:
    """Measure a bystander's clips, first alone and then beside `count` long recordings."""
    findings = Findings()
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=_ANSWER_SECONDS) as bystander:
        for number in range(3):  # so that every process has been at work before it is measured
            _clip_seconds(bystander, number)
        idle = [_clip_seconds(bystander, 10 + number) for number in range(clips)]
        bytes_before = resident_bytes()
        ended: list[float] = []
        attack = [
            threading.Thread(target=_post_long, args=(url, number, ended), daemon=True)
            for number in range(count)
        ]
        started = time.monotonic()
        for thread in attack:
            thread.start()
        time.sleep(UNDER_WAY_SECONDS)
        attacked, health, most_bytes = [], [], 0
        for number in range(clips):
            attacked.append(_clip_seconds(bystander, 1000 + number))
            asked = time.monotonic()
            bystander.get("/health/live")
            health.append(time.monotonic() - asked)
            most_bytes = max(most_bytes, resident_bytes())
        findings.measured = {
            "long_recordings": count,
            "hours_each": HOURS,
            "bytes_each": len(_long(0)),
            "idle": _times(idle),
            "under_attack": _times(attacked),
            "health": _times(health),
            "attack_lasted_seconds": round(time.monotonic() - started, 1),
            "long_recordings_ended_meanwhile": len(ended),
            "resident_growth_bytes": most_bytes - bytes_before,
        }
    worst, usual = max(attacked), statistics.median(attacked)
    findings.expect(worst <= MOST_SECONDS, f"no clip waits for more than 1 s: {worst:.2f} s")
    most = MOST_TIMES_IDLE * statistics.median(idle)
    findings.expect(
        usual <= most, f"a clip takes at most 5 times as long as idle: {usual:.2f} s for {most:.2f}"
    )
    return findings


def _times(seconds: list[float]) -> dict[str, Any]:
    return {
        "clips": len(seconds),
        "median_seconds": round(statistics.median(seconds), 4),
        "most_seconds": round(max(seconds), 4),
    }


def _long(number: int) -> bytes:
    """Recordings that differ, or they would be one."""
    seconds = HOURS * 3600 - 60.0 * number
    return constant_flac(rate_hz=RATE_HZ, seconds=seconds, claimed_seconds=seconds)


def _post_long(url: str, number: int, ended: list[float]) -> None:
    try:
        _post(httpx.Client(base_url=url, timeout=_ANSWER_SECONDS), _long(number), "long.flac")
        ended.append(time.monotonic())
    except httpx.HTTPError:
        pass  # the server was stopped


def _clip_seconds(client: httpx.Client, number: int) -> float:
    samples = (tones(1.0, 16_000) * 20_000).astype("<i2")
    samples[0] = number
    content = riff(samples.tobytes())
    started = time.monotonic()
    _post(client, content, "clip.wav").raise_for_status()
    return time.monotonic() - started


def _post(client: httpx.Client, content: bytes, name: str) -> httpx.Response:
    return client.post(
        "/v1/audio/transcriptions", files={"file": (name, content)}, data={"model": "whisper-1"}
    )


@contextmanager
def started(command: list[str], data: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server by its command line: its port and process, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--data", str(data)], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server is not ready: {(data / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield port, process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _resident_bytes(process: subprocess.Popen[bytes]) -> int:
    """Of a server and its children now."""
    front = psutil.Process(process.pid)
    return sum(int(one.memory_info().rss) for one in (front, *front.children(recursive=True)))


def main(arguments: list[str]) -> int:
    """Run the attack; returns 0 when the bystander was served."""
    parser = argparse.ArgumentParser(description="A bystander's clips beside long recordings.")
    parser.add_argument(
        "--server",
        default=f"{sys.executable} -m scribewire serve --model demo --device cpu",
        help="command that starts the server",
    )
    parser.add_argument("--long", type=int, default=2, help="long recordings at once (default 2)")
    parser.add_argument("--clips", type=int, default=20, help="clips, idle and under attack (default 20)")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        started(shlex.split(options.server), Path(folder)) as (port, process),
    ):
        findings = long_recordings(
            port, count=options.long, clips=options.clips, resident_bytes=lambda: _resident_bytes(process)
        )
    print(json.dumps(findings.as_json(), indent=2))
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
