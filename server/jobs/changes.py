"""Every change of a job's state: counted, and one line in the log with ids and figures, never with its text."""

from __future__ import annotations

import logging

from scribewire.server.access.gate import LOCAL_OWNER
from scribewire.server.jobs.job import Job
from scribewire.server.observability.logs import log_event
from scribewire.server.observability.metrics import JobChange, Metrics

logger = logging.getLogger("scribewire.jobs")


class JobChanges:
    """Counts and logs each change; called by the code that made it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def note(
        self,
        change: JobChange,
        job: Job,
        *,
        request_id: str | None = None,
        code: str | None = None,
        level: int = logging.INFO,
    ) -> None:
        """Note a change of a job's state. code: its cause, if any. request_id: of the request that changed it."""
        self._metrics.note_job(change)
        if change == "processing" and job.attempts == 1 and job.started_at is not None:
            self._metrics.note_wait("job", job.started_at - job.created_at)
        log_event(
            logger,
            level,
            "job",
            change=change,
            job_id=job.job_id,
            request_id=request_id,
            key_id=None if job.owner == LOCAL_OWNER else job.owner,
            attempt=job.attempts or None,
            code=code,
        )
