"""Forty minutes of everything at once: requests, streams, jobs and their events, clients that leave, dying workers.

The engine is the real one with the demo model. Clients pause between two requests, so that the server is busy and not
drowned. Before the window in which memory is looked at they hurry, so that what is bounded (caches, the largest batch)
has come to its bound; the worker is killed now and then in the beginning and never in the window, or a young process
would pass for a steady one. Decoding children are killed all the time. What a worker's death costs the front is
measured by `engine_kills`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.fakes.served import Served, demo_server
from tools.hostile.connections import Findings, HealthProbe
from tools.torture.invariants import check_leftovers, check_store
from tools.torture.ledger import Ledger
from tools.torture.recordings import speech_wav
from tools.torture.watching import Sample, Watch, slope_per_hour

SLOPE_LIMIT_BYTES_PER_HOUR = 5_000_000
TRANSCRIPTIONS = "/v1/audio/transcriptions"
FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
PATIENCE_SECONDS = 180.0
FLOOR_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Duration and rates of the load.

    warm_seconds: before the window; the worker is killed in its first third. think_seconds: mean pause of a client.
    hurry: how much shorter pauses are before the window. worker_kill_seconds, child_kill_seconds: between two kills of
    the worker, of a decoding child.
    """

    seconds: float = 2400.0
    warm_seconds: float = 600.0
    think_seconds: float = 4.0
    hurry: float = 5.0
    worker_kill_seconds: float = 40.0
    child_kill_seconds: float = 240.0
    sample_seconds: float = 2.0
    longest_clip_seconds: float = 8.0


def mixed_load(folder: Path, plan: LoadPlan, *, show: Callable[[str], None] = print) -> Findings:
    """Run the plan; the findings hold slopes, counts and the ledger."""
    with demo_server(
        folder / "data", restart_backoff_seconds=(0.0,), breaker_deaths=1000, drain_seconds=20.0
    ) as served:
        load = _Load(served, plan)
        with (
            Watch(served, every_seconds=plan.sample_seconds) as watch,
            HealthProbe(served.port, pause_seconds=0.5) as probe,
        ):
            asyncio.run(load.run(show, watch))
        children = psutil.Process(served.process.pid).children()
    findings = Findings()
    window = [one for one in watch.samples if one.at_seconds >= plan.warm_seconds and one.worker_bytes]
    findings.measured = {
        "minutes": round(plan.seconds / 60, 1),
        "window_minutes": round((plan.seconds - plan.warm_seconds) / 60, 1),
        "answers": dict(sorted(load.ledger.statuses.items())),
        "worker_kills": load.worker_kills,
        "decode_child_kills": load.child_kills,
        "health_p99_ms": round(1000 * probe.quantile_seconds(0.99), 1),
        "health_failures": len(probe.failures),
        "store": check_store(findings, served.data, load.ledger, max_extra=load.cut_submissions),
        "left": check_leftovers(findings, served.data, children),
        "resident": {name: _growth(window, name) for name in ("front", "worker", "children")},
        "descriptors": {
            "front": _range([one.front_descriptors for one in window]),
            "worker": _range([one.worker_descriptors for one in window]),
            "front_slope_per_hour": _slope(window, "front_descriptors"),
            "worker_slope_per_hour": _slope(window, "worker_descriptors"),
        },
        "files": {
            **_range([one.file_count for one in window]),
            "slope_per_hour": _slope(window, "file_count"),
        },
        "every_minute": _every_minute(watch.samples),
    }
    for name, one in findings.measured["resident"].items():
        findings.expect(
            one["slope_bytes_per_hour"] < SLOPE_LIMIT_BYTES_PER_HOUR,
            f"the resident memory of {name} grows less than 5 MB/h: {one['slope_bytes_per_hour'] / 1e6:.1f} MB/h",
        )
    for name in ("front", "worker"):
        slope = findings.measured["descriptors"][f"{name}_slope_per_hour"]
        findings.expect(abs(slope) < 6, f"the descriptors of {name} are flat: {slope} an hour")
    findings.expect(not probe.failures, f"health always answers: {probe.failures[:5]}")
    findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
    return findings


class _Load:
    """All clients of one run."""

    def __init__(self, served: Served, plan: LoadPlan) -> None:
        self._served = served
        self._plan = plan
        self._chance = random.Random(5)
        self.ledger = Ledger()
        self.worker_kills = 0
        self.child_kills = 0
        self.cut_submissions = 0
        self._end = 0.0

    async def run(self, show: Callable[[str], None], watch: Watch) -> None:
        """Until the plan's time is over and every client has heard its answer."""
        self._end = time.monotonic() + self._plan.seconds
        kinds: list[Callable[[httpx.AsyncClient], Awaitable[None]]] = [
            self._ask,
            self._ask,
            self._stream,
            self._follow_job,
            self._poll_job,
            self._cancel_job,
            self._leave_early,
            self._leave_events,
            self._send_rubbish,
        ]
        async with asyncio.TaskGroup() as group:
            for kind in kinds:
                group.create_task(self._again(kind))
            group.create_task(self._kill_workers())
            group.create_task(self._kill_children())
            group.create_task(self._report(show, watch))

    async def _again(self, kind: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async with httpx.AsyncClient(base_url=self._served.url, timeout=PATIENCE_SECONDS) as client:
            while time.monotonic() < self._end:
                try:
                    await kind(client)
                except httpx.HTTPError as error:
                    self.ledger.answer(kind.__name__, type(error).__name__)
                await asyncio.sleep(self._chance.expovariate(1 / self._think_seconds()))

    def _think_seconds(self) -> float:
        is_warm = time.monotonic() > self._end - self._plan.seconds + 0.9 * self._plan.warm_seconds
        return self._plan.think_seconds / (1.0 if is_warm else self._plan.hurry)

    def _clip(self) -> bytes:
        return speech_wav(self._chance, self._chance.uniform(0.5, self._plan.longest_clip_seconds))

    async def _ask(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(
            TRANSCRIPTIONS,
            files={"file": self._clip()},
            data={"model": "whisper-1", "response_format": self._chance.choice(FORMATS)},
        )
        self.ledger.answer("request", answer.status_code)

    async def _stream(self, client: httpx.AsyncClient) -> None:
        form = {"model": "whisper-1", "stream": "true"}
        async with client.stream("POST", TRANSCRIPTIONS, files={"file": self._clip()}, data=form) as answer:
            said = (await answer.aread()).decode()
        is_whole = "[DONE]" in said or "error" in said
        self.ledger.answer("stream", answer.status_code if is_whole else "broken off")

    async def _submit(self, client: httpx.AsyncClient, recording: bytes) -> str | None:
        answer = await client.post("/transcribe", files={"file": recording})
        self.ledger.answer("submission", answer.status_code)
        if answer.status_code != 202:
            return None
        job_id: str = answer.json()["job_id"]
        self.ledger.accept(job_id)
        return job_id

    async def _follow_job(self, client: httpx.AsyncClient) -> None:
        """Submit, follow the events with broken connections in between, take the result, erase every second one."""
        job_id = await self._submit(client, self._clip())
        if job_id is None:
            return
        last_id, kind = 0, ""
        while kind not in ("done", "failed", "cancelled"):
            patience = self._chance.choice((0.3, 1.0, PATIENCE_SECONDS))
            with contextlib.suppress(TimeoutError, httpx.ReadError):
                async with asyncio.timeout(patience):
                    headers = {"last-event-id": str(last_id)}
                    async with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
                        async for line in answer.aiter_lines():
                            if line.startswith("id: "):
                                if int(line[4:]) != last_id + 1:
                                    self.ledger.trouble(f"{job_id}: event {line[4:]} follows {last_id}")
                                last_id = int(line[4:])
                            if line.startswith("event: "):
                                kind = line[7:]
        status = {"done": "completed"}.get(kind, kind)
        self.ledger.end(job_id, status)
        if status == "completed":
            chosen = self._chance.choice(FORMATS)
            result = await client.get(f"/jobs/{job_id}/result", params={"format": chosen})
            self.ledger.answer("result", result.status_code)
        if self._chance.random() < 0.5:
            erased = await client.delete(f"/jobs/{job_id}")
            self.ledger.answer("erasure", erased.status_code)
            self.ledger.erase(job_id)

    async def _poll_job(self, client: httpx.AsyncClient) -> None:
        job_id = await self._submit(client, self._clip())
        if job_id is None:
            return
        while True:
            job = (await client.get(f"/jobs/{job_id}")).json()
            if job["status"] in ("completed", "failed", "cancelled"):
                self.ledger.end(job_id, job["status"])
                self.ledger.answer("list", (await client.get("/jobs?limit=50")).status_code)
                return
            await asyncio.sleep(0.5)

    async def _cancel_job(self, client: httpx.AsyncClient) -> None:
        job_id = await self._submit(client, self._clip())
        if job_id is not None:
            await asyncio.sleep(self._chance.uniform(0, 1.5))
            answer = await client.delete(f"/jobs/{job_id}")
            self.ledger.answer("cancellation", answer.status_code)
            body = answer.json()
            if body["erased"]:
                self.ledger.erase(job_id)
            else:
                self.ledger.end(job_id, body["status"])

    async def _leave_early(self, client: httpx.AsyncClient) -> None:
        """Go away in the middle: of a request, of a stream, or of an upload."""
        path = self._chance.choice((TRANSCRIPTIONS, TRANSCRIPTIONS, "/transcribe"))
        seconds = self._chance.uniform(0.0, 1.0)
        try:
            async with asyncio.timeout(seconds):
                answer = await client.post(
                    path,
                    files={"file": self._clip()},
                    data={"stream": self._chance.choice(("true", "false"))},
                )
            if path == "/transcribe" and answer.status_code == 202:
                self.ledger.accept(answer.json()["job_id"])
            self.ledger.answer("early leaver", answer.status_code)
        except TimeoutError:
            self.cut_submissions += path == "/transcribe"
            self.ledger.answer("early leaver", "left")

    async def _leave_events(self, client: httpx.AsyncClient) -> None:
        job_id = await self._submit(client, self._clip())
        if job_id is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._chance.uniform(0.0, 0.5)):
                    await client.get(f"/jobs/{job_id}/events")

    async def _send_rubbish(self, client: httpx.AsyncClient) -> None:
        rubbish = bytearray(self._clip())
        for _ in range(self._chance.choice((1, 50))):
            rubbish[self._chance.randrange(min(len(rubbish), 200))] = self._chance.randrange(256)
        answer = await client.post(
            TRANSCRIPTIONS, files={"file": bytes(rubbish)}, data={"model": "whisper-1"}
        )
        self.ledger.answer("damaged", answer.status_code)

    # ---- deaths ----------------------------------------------------------------------------------------------

    async def _kill_workers(self) -> None:
        last = self._end - self._plan.seconds + self._plan.warm_seconds / 3
        while time.monotonic() + self._plan.worker_kill_seconds < last:
            await asyncio.sleep(self._plan.worker_kill_seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._served.worker_process_id, signal.SIGKILL)
                self.worker_kills += 1

    async def _kill_children(self) -> None:
        while await self._sleep(self._plan.child_kill_seconds):
            worker = self._served.worker_process_id
            children = psutil.Process(self._served.process.pid).children()
            names = [one for one in children if one.pid != worker and "scribewire-decode" in one.cmdline()]
            if names:
                with contextlib.suppress(psutil.Error):
                    self._chance.choice(names).kill()
                    self.child_kills += 1

    async def _sleep(self, seconds: float) -> bool:
        """Sleep, but not beyond the end; True if there is still time afterwards."""
        await asyncio.sleep(max(0.0, min(seconds, self._end - time.monotonic())))
        return time.monotonic() < self._end

    async def _report(self, show: Callable[[str], None], watch: Watch) -> None:
        while await self._sleep(60.0):
            if watch.samples:
                show(json.dumps(_as_row(watch.samples[-1])))


def _values(samples: list[Sample], name: str) -> list[float]:
    return [float(getattr(one, name)) for one in samples]


def _slope(samples: list[Sample], name: str) -> float:
    times = [one.at_seconds for one in samples]
    return round(slope_per_hour(times, _values(samples, name)), 2)


def _growth(samples: list[Sample], name: str) -> dict[str, Any]:
    values = _values(samples, f"{name}_bytes")
    return {
        "slope_bytes_per_hour": round(_slope(samples, f"{name}_bytes")),
        # Through the least of every three minutes: what is held with little in flight, which a backlog does not move.
        "floor_slope_bytes_per_hour": round(_floor_slope(samples, values)),
        **_range(values),
    }


def _floor_slope(samples: list[Sample], values: list[float]) -> float:
    floors: dict[int, float] = {}
    for sample, value in zip(samples, values, strict=True):
        part = int(sample.at_seconds // FLOOR_SECONDS)
        floors[part] = min(value, floors.get(part, value))
    return slope_per_hour([part * FLOOR_SECONDS for part in floors], list(floors.values()))


def _range(values: list[Any]) -> dict[str, Any]:
    return {"least": min(values, default=0), "most": max(values, default=0)}


def _as_row(sample: Sample) -> dict[str, Any]:
    return {
        "minute": round(sample.at_seconds / 60, 1),
        "front_mb": round(sample.front_bytes / 1e6, 1),
        "worker_mb": round(sample.worker_bytes / 1e6, 1),
        "children_mb": round(sample.children_bytes / 1e6, 1),
        "descriptors": [sample.front_descriptors, sample.worker_descriptors],
        "files": sample.file_count,
    }


def _every_minute(samples: list[Sample]) -> list[dict[str, Any]]:
    rows, next_minute = [], 0.0
    for sample in samples:
        if sample.at_seconds >= next_minute * 60:
            rows.append(_as_row(sample))
            next_minute += 1
    return rows
