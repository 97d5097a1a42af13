"""What a running job has to say, told to its store: at once when it is new, now and then when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from scribewire.engine.protocol.messages import Progress, TextDelta
from scribewire.server.jobs.job import Claim
from scribewire.server.jobs.store import JobStore, JobStoreError
from scribewire.server.observability.logs import log_event

PAUSE_SECONDS = 0.25
"""News of one job are collected for so long, so that a fast engine does not become a slow disk."""

SILENCE_SECONDS = 5.0
"""Without news the lease is renewed so often."""

logger = logging.getLogger("scribewire.jobs")


class JobReport:
    """One job's progress and text on the way to the store. Its callbacks are the engine's, and never block."""

    def __init__(self, store: JobStore, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        self._progress: Progress | None = None
        self._text: list[str] = []
        self._news = asyncio.Event()

    def on_progress(self, progress: Progress) -> None:
        """Take the engine's word for how far it is."""
        self._progress = progress
        self._news.set()

    def on_delta(self, delta: TextDelta) -> None:
        """Take more of the text."""
        self._text.append(delta.delta)
        self._news.set()

    async def keep_telling(self) -> None:
        """Tell the store until cancelled, or until the claim is lost; a store that fails for a while is tried again."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._news.wait()
            try:
                if not await self.tell():
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

    async def tell(self) -> bool:
        """Tell what is new; False when the claim is lost. raises: JobStoreError, and nothing told is lost with it"""
        self._news.clear()
        progress, self._progress = self._progress, None
        text, self._text = self._text, []
        try:
            return await self._store.heartbeat(
                self._claim,
                audio_seconds_done=progress.audio_seconds_done if progress else None,
                audio_seconds_total=progress.audio_seconds_total if progress else None,
                new_text="".join(text),
            )
        except JobStoreError:
            self._take_back(progress, text)
            raise

    def _take_back(self, progress: Progress | None, text: list[str]) -> None:
        # What came in the meantime is newer.
        self._progress = self._progress or progress
        self._text = [*text, *self._text]
