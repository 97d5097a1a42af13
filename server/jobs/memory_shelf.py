"""Jobs in memory, and all that can be asked of them; what changes them is in `server.jobs.memory_store`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

from server.jobs.audio_folder import AudioFolder
from server.jobs.bells import Bells, log_of
from server.jobs.job import Job, JobEvent, JobPage, JobStatus, StoreStats
from server.jobs.memory_callbacks import due
from server.jobs.memory_record import JobRecord, as_queues, queued_by_owner
from server.jobs.store import CURSOR_PATTERN, MAX_PAGE, CursorInvalid, JobStoreUnavailable
from server.jobs.turns import Turns


class MemoryShelf:
    """The asking half of a JobStore in memory."""

    def __init__(self, audio: AudioFolder) -> None:
        self._audio = audio
        self._bells = Bells()
        self._turns = Turns()
        self._entries: dict[str, JobRecord] = {}
        """By job id, in the order of submission."""
        self._is_open = False

    async def get(self, job_id: str, owner: str) -> Job | None:
        """See JobStore."""
        entry = self._find(job_id, owner)
        if entry is None:
            return None
        callback = None if entry.callback is None else entry.callback.state
        return replace(entry.job, queue_position=self._queue_position(entry), callback=callback)

    async def list(
        self, owner: str, *, status: JobStatus | None = None, cursor: str | None = None, limit: int = 20
    ) -> JobPage:
        """See JobStore."""
        self._check_open()
        if cursor is not None and not re.fullmatch(CURSOR_PATTERN, cursor):
            raise CursorInvalid("cursor is not one that a list of jobs gave; leave it out to begin anew")
        limit = max(1, min(limit, MAX_PAGE))
        found = [
            entry
            for entry in reversed(self._entries.values())
            if entry.job.owner == owner
            and status in (None, entry.job.status)
            and (cursor is None or entry.seq < int(cursor, 16))
        ]
        shown = found[:limit]
        return JobPage(
            tuple(entry.bare() for entry in shown),
            f"{shown[-1].seq:x}" if len(found) > limit else None,
        )

    async def events(self, job_id: str, owner: str, *, after_id: int = 0) -> AsyncIterator[JobEvent]:
        """See JobStore."""
        with self._bells.listening(log_of(job_id)) as rung:
            while self._is_open and (entry := self._find(job_id, owner)) is not None:
                rung.clear()
                events = entry.events[after_id:]
                is_over = entry.job.is_finished
                for event in events:
                    yield event
                    after_id = event.event_id
                if is_over:
                    return
                await rung.wait()

    async def audio(self, job_id: str, owner: str) -> Path | None:
        """See JobStore."""
        entry = self._find(job_id, owner)
        return self._audio.path(entry.audio.audio_id) if entry is not None and entry.job.has_audio else None

    async def stats(self) -> StoreStats:
        """See JobStore."""
        self._check_open()
        counted: dict[JobStatus, int] = dict.fromkeys(get_args(JobStatus), 0)
        for entry in self._entries.values():
            counted[entry.job.status] += 1
        kept = [entry.audio.size_bytes for entry in self._entries.values() if entry.job.has_audio]
        told = due(entry.callback for entry in self._entries.values())
        return StoreStats(counted, len(kept), sum(kept), len(told))

    async def check(self) -> None:
        """See JobStore."""
        self._check_open()

    async def unfinished(self) -> tuple[tuple[str, str], ...]:
        """See JobStore."""
        self._check_open()
        jobs = [entry.job for entry in self._entries.values() if not entry.job.is_finished]
        return tuple((job.job_id, job.owner) for job in jobs)

    def _find(self, job_id: str, owner: str) -> JobRecord | None:
        self._check_open()
        entry = self._entries.get(job_id)
        return entry if entry is not None and entry.job.owner == owner else None

    def _queue_position(self, entry: JobRecord) -> int | None:
        if entry.job.status != "queued":
            return None
        queued = queued_by_owner(self._entries.values())
        queues = {queue.owner: queue for queue in as_queues(queued)}
        owner = entry.job.owner
        return self._turns.position(queues[owner], queued[owner].index(entry) + 1, queues.values())

    def _check_open(self) -> None:
        if not self._is_open:
            raise JobStoreUnavailable("The job store is not open.")
