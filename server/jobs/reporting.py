"""Reports of a running job to its store: at once when there is news, and at intervals when there is none."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from scribewire.engine.protocol.messages import Progress, Started, TextDelta
from scribewire.server.engine.client import TranscriptionEvent
from scribewire.server.jobs.job import Claim
from scribewire.server.jobs.store import JobStore, JobStoreError
from scribewire.server.observability.logs import log_event

PAUSE_SECONDS = 0.25
"""News of one job are collected for this time, so that a fast engine does not overload the disk."""

SILENCE_SECONDS = 5.0
"""Interval at which the lease is renewed without news."""

logger = logging.getLogger("scribewire.jobs")


class JobReport:
    """One job's progress and text on their way from its events to the store."""

    def __init__(self, store: JobStore, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        self._progress: Progress | None = None
        self._text: list[str] = []
        self._has_begun = False
        self._news = asyncio.Event()

    def take(self, event: TranscriptionEvent) -> None:
        """Take the beginning, the newest progress, or the next piece of text."""
        if isinstance(event, Started):
            self._has_begun = True
        elif isinstance(event, Progress):
            self._progress = event
        elif isinstance(event, TextDelta):
            self._text.append(event.delta)
        else:
            return
        self._news.set()

    async def keep_sending(self) -> None:
        """Send reports until cancelled, or until the claim is lost; a report that failed is sent again."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._news.wait()
            try:
                if not await self.send():
                    return
            except JobStoreError as error:
                log_event(
                    logger,
                    logging.WARNING,
                    "job_not_reported",
                    job_id=self._claim.job.job_id,
                    code=error.code,
                )
            await asyncio.sleep(PAUSE_SECONDS)

    async def send(self) -> bool:
        """Send what is new; False when the claim is lost. raises: JobStoreError, and keeps what was not sent"""
        self._news.clear()
        progress, self._progress = self._progress, None
        text, self._text = self._text, []
        has_begun, self._has_begun = self._has_begun, False
        try:
            return await self._store.heartbeat(
                self._claim,
                audio_seconds_done=progress.audio_seconds_done if progress else None,
                audio_seconds_total=progress.audio_seconds_total if progress else None,
                new_text="".join(text),
                has_begun=has_begun,
            )
        except JobStoreError:
            self._take_back(progress, text, has_begun=has_begun)
            raise

    def _take_back(self, progress: Progress | None, text: list[str], *, has_begun: bool) -> None:
        # A progress that arrived in the meantime is newer.
        self._progress = self._progress or progress
        self._text = [*text, *self._text]
        self._has_begun = self._has_begun or has_begun
