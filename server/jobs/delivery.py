"""Webhooks of finished jobs: their body, and one attempt to deliver it.

The body is made once, when the job ends, and kept with the job: every attempt sends the same body under the same id.
It holds no transcript; the receiver requests that with a key.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from scribewire.server.jobs.job import Job, JobFailure, JobStatus

LEASE_SECONDS = 60.0
"""An attempt without an outcome, because the server was killed, is repeated after this time."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to deliver a webhook.

    delivery_id: the same for every attempt for one end of a job. attempt: 1 for the first. body: JSON.
    """

    job_id: str
    owner: str
    delivery_id: str
    url: str
    body: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Busy:
    """Receivers and owners that have as many attempts running as they may."""

    hosts: Collection[str] = ()
    owners: Collection[str] = ()


def host_of(url: str) -> str:
    """Receiver of a webhook as `host:port`, however its URL spells them; a damaged URL as it is."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return url
    return f"{(parts.hostname or '').rstrip('.')}:{port}"


def new_delivery_id() -> str:
    """A new id, by which receivers recognize repeated attempts."""
    return "msg_" + secrets.token_hex(16)


def webhook_body(job: Job, status: JobStatus, finished_at: float, failure: JobFailure | None) -> str:
    """A webhook's body as JSON; times are the wall clock's."""
    error = (
        None if failure is None else {"code": failure.code, "message": failure.message, "type": failure.type}
    )
    moment = datetime.fromtimestamp(finished_at, UTC).isoformat(timespec="milliseconds")
    return json.dumps(
        {
            "type": f"job.{status}",
            "timestamp": moment.replace("+00:00", "Z"),
            "data": {
                "job_id": job.job_id,
                "status": status,
                "filename": job.filename,
                "created_at": int(job.created_at),
                "finished_at": int(finished_at),
                "error": error,
            },
        },
        separators=(",", ":"),
    )


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """Outcome of an attempt. error: None when it was delivered. is_final: a retry is useless.

    retry_after_seconds: pause that the receiver requested.
    """

    error: str | None = None
    is_final: bool = False
    retry_after_seconds: float = 0.0
    status: int | None = None
