"""Long jobs of one owner before a short one of the same: how long the short one waits, with the real demo model.

A job of 4 s is timed alone, behind one recording of minutes, and behind as many as the server runs at once, each time
from its submission to its transcript, and how long it says `processing` without any progress. As a program it can
measure another working tree: `python -m tools.hostile.short_jobs --checkout DIR --out FILE`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from scribewire.engine.demo import sample_recordings
from scribewire.engine.processes.launch import WORKER_MODULE
from tests.fakes.served import PROJECT, Served
from tools.hostile.connections import Findings, wait_until

SHORT_SECONDS = 4.0
LONG_SECONDS = 120.0
AS_MANY_AS_RUN = 8
REPETITIONS = 3
MOST_TIMES_IDLE = 3.0
_PAUSE_SECONDS = 0.01
_PATIENCE_SECONDS = 900.0


def speech(seconds: float) -> bytes:
    """A WAV file of the demo's English recording, as often as it takes."""
    with wave.open(str(sample_recordings()[0].path)) as source:
        rate, frames = source.getframerate(), source.readframes(source.getnframes())
    size = int(seconds * rate) * 2
    content = io.BytesIO()
    with wave.open(content, "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(rate)
        target.writeframes((frames * (size // len(frames) + 1))[:size])
    return content.getvalue()


@dataclass(frozen=True, slots=True)
class _Waited:
    """A job's seconds to its end; at_zero_seconds: in which it said `processing` without any progress."""

    seconds: float
    at_zero_seconds: float


class _Jobs:
    """The jobs of a server without keys, which are all one owner's."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def submit(self, recording: bytes) -> str:
        answer = self._client.post("/transcribe", files={"audio": recording})
        answer.raise_for_status()
        return str(answer.json()["job_id"])

    def state(self, job_id: str) -> dict[str, Any]:
        body: dict[str, Any] = self._client.get(f"/jobs/{job_id}").json()
        return body

    def timed(self, recording: bytes) -> _Waited:
        """Submit a job and watch it until it is completed."""
        started = time.monotonic()
        at_zero_since: float | None = None
        at_zero_seconds = 0.0
        job_id = self.submit(recording)
        while (job := self.state(job_id))["status"] != "completed":
            now = time.monotonic()
            if job["status"] not in ("queued", "processing") or now - started > _PATIENCE_SECONDS:
                raise RuntimeError(f"the short job is {job['status']}")
            if job["status"] == "processing" and not job["progress"]["fraction"]:
                at_zero_since = at_zero_since or now
                at_zero_seconds = now - at_zero_since
            time.sleep(_PAUSE_SECONDS)
        return _Waited(time.monotonic() - started, at_zero_seconds)

    def behind(self, count: int, long: bytes, short: bytes) -> dict[str, Any]:
        """Short jobs one after another while `count` long ones, all that were submitted, are unfinished."""
        ids = [self.submit(long) for _ in range(count)]
        begun = min(count, AS_MANY_AS_RUN - 1)
        assert wait_until(lambda: self._count(ids, "processing") >= begun, seconds=_PATIENCE_SECONDS)
        waits, unfinished = [], []
        for _ in range(REPETITIONS):
            waits.append(self.timed(short))
            unfinished.append(count - self._count(ids, "completed"))
            if unfinished[-1] < count:
                break
        for job_id in ids:
            self._client.post(f"/jobs/{job_id}/cancel")
        return {**_summary(waits), "long_jobs_left_at_each_end": unfinished}

    def _count(self, ids: list[str], status: str) -> int:
        return sum(self.state(job_id)["status"] == status for job_id in ids)


def _summary(waits: list[_Waited]) -> dict[str, Any]:
    seconds = [one.seconds for one in waits]
    return {
        "median_seconds": round(statistics.median(seconds), 3),
        "seconds": [round(one, 3) for one in seconds],
        "most_seconds_processing_at_0_percent": round(max(one.at_zero_seconds for one in waits), 3),
    }


def short_jobs(
    served: Served, progress: Callable[[str], None] = print, long_seconds: float = LONG_SECONDS
) -> Findings:
    """Time short jobs alone, behind one long one, and behind as many as run."""
    findings = Findings()
    short, long = speech(SHORT_SECONDS), speech(long_seconds)
    with served.client() as client:
        jobs = _Jobs(client)
        jobs.timed(short)  # the first request of a process is slower
        idle = _summary([jobs.timed(short) for _ in range(REPETITIONS)])
        findings.measured = {"short_seconds": SHORT_SECONDS, "long_seconds": long_seconds, "idle": idle}
        for count in (1, AS_MANY_AS_RUN):
            found = jobs.behind(count, long, short)
            ratio = round(found["median_seconds"] / idle["median_seconds"], 2)
            findings.measured[f"behind_{count}"] = {**found, "times_idle": ratio, "load": os.getloadavg()[0]}
            progress(f"behind {count}: {found['median_seconds']} s, {ratio} times idle")
            findings.expect(
                ratio <= MOST_TIMES_IDLE,
                f"behind {count} long jobs at most {MOST_TIMES_IDLE} times idle, not {ratio}",
            )
    return findings


def main(arguments: list[str]) -> int:
    """Measure a working tree; the exit code is 1 where the aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]  # there is one
    parser.add_argument(
        "--checkout", type=Path, default=PROJECT, help="working tree to measure (default: this one)"
    )
    parser.add_argument(
        "--long-seconds",
        type=float,
        default=LONG_SECONDS,
        help="of a long recording; a GPU wants longer ones (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file for what was measured")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        Served(Path(folder), engine_module=WORKER_MODULE, model="demo", checkout=options.checkout) as served,
    ):
        findings = short_jobs(served, long_seconds=options.long_seconds)
    options.out.write_text(json.dumps(findings.as_json(), indent=2) + "\n")
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
