"""Waiting for the end of a job, over lost connections and restarts of the server."""

from __future__ import annotations

import time
from typing import Any

from scribewire.engine.processes.bars import Bar
from scribewire.engine.processes.console import Console
from scribewire.server.client.connection import ServerConnection
from scribewire.server.client.failures import NoServer, NoSuchJob, Refused

PATIENCE_SECONDS = 600.0
"""A lost server is tried again for this time: it may be restarting, and loading a model takes minutes."""

LAST_EVENTS = ("done", "failed", "cancelled")
_PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)


def wait_for_job(
    server: ServerConnection,
    job_id: str,
    bar: Bar,
    console: Console,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> dict[str, Any]:
    """Follow the job's events to its end, resuming after each lost connection; returns the job as it is then.

    raises: NoSuchJob (the server lost it, or it was erased), NoServer when the server is away for too long
    """
    last_id = 0
    lost_at: float | None = None
    tries = 0
    while True:
        try:
            has_events = False
            with server.events(job_id, after_id=last_id) as events:
                for event_id, kind, data in events:
                    last_id, has_events, lost_at, tries = event_id, True, None, 0
                    _show(bar, kind, data)
                    if kind in LAST_EVENTS:
                        break
            # The log ended because the job is finished or because the server stopped; the job's status decides.
            job = server.job(job_id)
            if job["status"] in ("completed", "failed", "cancelled"):
                return job
            if not has_events:
                console.pause(_PAUSES_SECONDS[0])
        except NoSuchJob:
            raise NoSuchJob(
                f"{job_id} is gone: it was erased, or the server keeps nothing (--no-store)"
            ) from None
        except (NoServer, Refused) as error:
            if isinstance(error, Refused) and error.retry_after_seconds is None:
                raise
            now = time.monotonic()
            if lost_at is None:
                lost_at = now
                console.warn(f"{error}; trying again, the job goes on")
            if now - lost_at > patience_seconds:
                raise NoServer(
                    f"{server.url} did not come back within {patience_seconds:.0f} s; the job is kept: "
                    f"scribewire jobs show {job_id} --wait"
                ) from None
            bar.say("waiting for the server")
            console.pause(_PAUSES_SECONDS[min(tries, len(_PAUSES_SECONDS) - 1)])
            tries += 1


def _show(bar: Bar, kind: str, data: dict[str, Any]) -> None:
    total = data.get("audio_seconds_total")
    if kind == "queued":
        position = data.get("queue_position")
        bar.say(f"queued, number {position}" if position else "queued")
    elif total:
        bar.advance(float(data["audio_seconds_done"]), float(total))
