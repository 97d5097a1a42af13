"""Clients of the torture runs: they submit, write every 202 into the ledger, and wait for ends."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx

from tests.fakes.running_server import script
from tests.fakes.served import Served
from tools.torture.invariants import counts_of
from tools.torture.ledger import Ledger

PATIENCE_SECONDS = 600.0


class Client:
    """One keep-alive connection to a server, and the ledger."""

    def __init__(self, served: Served, ledger: Ledger) -> None:
        self._served = served
        self.ledger = ledger
        self.http = httpx.Client(base_url=served.url, timeout=120.0)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def submit(self, recording: bytes, expected_text: str | None = None) -> str:
        """Hand one in; raises when it is not accepted."""
        answer = self.http.post("/transcribe", files={"file": recording})
        self.ledger.answer("submission", answer.status_code)
        answer.raise_for_status()
        job_id: str = answer.json()["job_id"]
        self.ledger.accept(job_id, expected_text)
        return job_id

    def submit_script(self, text: str, **keys: Any) -> str:
        """Submit a script for the fake worker that makes it answer with this text."""
        return self.submit(script(text=text, **keys), text)

    def job(self, job_id: str) -> dict[str, Any]:
        """The job now."""
        body: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
        return body

    def wait(self, job_id: str) -> dict[str, Any]:
        """The job when it is over; its end goes into the ledger."""
        job = wait_for(
            lambda: (one := self.job(job_id))["status"] in ("completed", "failed", "cancelled") and one
        )
        self.ledger.end(job_id, job["status"])
        return dict(job)


def wait_for(
    claim: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS, pause_seconds: float = 0.01
) -> Any:
    """Wait for a claim to become true, and return what it returned; raises when it does not."""
    deadline = time.monotonic() + seconds
    while not (value := claim()):
        if time.monotonic() > deadline:
            raise AssertionError(f"did not become true within {seconds:.0f} s")
        time.sleep(pause_seconds)
    return value


def unfinished(served: Served) -> int:
    """Jobs that have no end yet, by the store itself."""
    counts = counts_of(served.data)
    return counts["queued"] + counts["processing"]


def wait_until_all_ended(served: Served, *, seconds: float = PATIENCE_SECONDS) -> None:
    """Until nothing is queued or processing any more."""
    wait_for(lambda: unfinished(served) == 0, seconds=seconds, pause_seconds=0.05)


def free_port() -> int:
    """A port that is free now, for a server that must be found before it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def is_alive(served: Served) -> bool:
    """True when the front answers, ready or not."""
    try:
        return httpx.get(f"{served.url}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def event_time(event: dict[str, Any]) -> float:
    """The time of a log line, in Unix seconds."""
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
