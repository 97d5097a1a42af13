"""What somebody is told when a job is over, and how the telling goes.

The text is made once, when the job ends, and kept with the job: every attempt says the same under the same id. It
holds no transcript; whoever is told asks for that with a key.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from scribewire.server.jobs.job import Job, JobFailure, JobStatus

LEASE_SECONDS = 60.0
"""An attempt that is not heard of again, because the server was killed, is made again after so long."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to be made.

    delivery_id: the same for every attempt to tell of one end. attempt: 1 for the first. body: JSON.
    """

    job_id: str
    owner: str
    delivery_id: str
    url: str
    body: str
    attempt: int


def new_delivery_id() -> str:
    """An id that receivers know repeated attempts by."""
    return "msg_" + secrets.token_hex(16)


def callback_body(job: Job, status: JobStatus, finished_at: float, failure: JobFailure | None) -> str:
    """What is told of a job's end, as JSON; times are the wall clock's."""
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
                "created_at": int(job.created_at),
                "finished_at": int(finished_at),
                "error": error,
            },
        },
        separators=(",", ":"),
    )
