"""Parts shared by the tests of job stores: clocks set by hand, submissions, and stores of either engine."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.transcript import Segment, Timings, TokenLogprob, TokenUsage, Transcript, Word
from scribewire.server.jobs.job import Claim, Job, JobEvent, JobFailure, StoredAudio, Submission
from scribewire.server.jobs.sqlite.store import SqliteJobStore
from scribewire.server.jobs.store import JobStore, StoreRules

ENGINES: dict[str, Callable[..., JobStore]] = {
    "file": SqliteJobStore,
    "memory": partial(SqliteJobStore, in_memory=True),
}
CRASH = JobFailure("engine_crashed", "The engine crashed.", "server_error")
REFUSED = JobFailure("audio_undecodable", "No audio could be decoded.", "invalid_request_error")


class Clocks:
    """A wall clock that can jump and a monotonic clock that cannot; both stand still by themselves."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.monotonic = 1000.0

    def pass_time(self, seconds: float) -> None:
        """Let time pass on both."""
        self.wall += seconds
        self.monotonic += seconds


class StoreUnderTest:
    """A store of either engine in a folder, with what a test needs to say briefly."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.clocks = Clocks()
        self.store: JobStore

    @contextlib.asynccontextmanager
    async def opened(self, **rules: Any) -> AsyncIterator[JobStore]:
        """Open a store, and close it."""
        self.store = ENGINES[self.kind](
            self.folder / "data",
            StoreRules(**rules),
            wall=lambda: self.clocks.wall,
            monotonic=lambda: self.clocks.monotonic,
        )
        await self.store.open()
        try:
            yield self.store
        finally:
            await self.store.close()

    async def put(self, data: bytes = b"audio") -> StoredAudio:
        """A recording in the store."""
        source = self.folder / f"upload-{secrets.token_hex(4)}"
        source.write_bytes(data)
        return await self.store.put_audio(source, sha256=hashlib.sha256(data).hexdigest())

    async def submit(self, owner: str = "ann", *, data: bytes = b"audio", **fields: Any) -> Job:
        """A new job."""
        submitted = await self.store.submit(Submission(owner, await self.put(data), **fields))
        return submitted.job

    async def claim(self, worker: str = "w1") -> Claim:
        """A claim of the next job, which must be there; its decoding has begun."""
        (claim,) = await self.store.claim(worker)
        assert await self.store.heartbeat(claim, has_begun=True)
        return claim

    def files(self) -> list[str]:
        """Names of all recordings on disk."""
        folders = ("audio", "incoming", "passing-audio")
        return sorted(
            path.name
            for name in folders
            if (folder := self.folder / "data" / "jobs" / name).is_dir()
            for path in folder.iterdir()
        )

    async def log(self, job: Job, *, after_id: int = 0) -> list[JobEvent]:
        """All events of a job that is over."""
        return [event async for event in self.store.events(job.job_id, job.owner, after_id=after_id)]


def transcript(text: str = "Good morning.") -> Transcript:
    """A transcript that uses every field there is."""
    segment = Segment(
        index=0, start_seconds=0.0, end_seconds=2.5, text=text, language="English", tokens=(5, 6),
        temperature=0.2, avg_logprob=-0.3, compression_ratio=1.1, no_speech_prob=0.01,
        words=(Word("Good", 0.0, 0.5),), notice="a notice",
        token_logprobs=(TokenLogprob("\ufffd", b"\xe2\x82", -0.25),),
    )  # fmt: skip
    return Transcript(
        text=text, language="English", languages=("English", "German"), duration_seconds=2.5,
        segments=(segment,), model_id="fake", usage=TokenUsage(3, 4, 5), warnings=("cut off",),
        timings=Timings(total_seconds=0.5),
    )  # fmt: skip


ALL_OPTIONS = TranscribeOptions(
    language="en", prompt="Ünïcode", temperature=0.5, seed=7, max_tokens=9, logprobs=True, token_logprobs=True,
    languages=("en", "de"), keywords=("Zürich",), repetition_penalty=1.5,
)  # fmt: skip
SPOKEN_OPTIONS = dataclasses.replace(ALL_OPTIONS, languages=("en", "es"))
"""All that can be asked for, of the languages that the fake worker speaks."""

CALLBACK_URL = "https://hooks.example.org/done?token=1"
