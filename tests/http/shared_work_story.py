"""The stage for the tests of shared work: a scripted recognizer, a clock, and uploads on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.messages import Completed
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript
from scribewire.server.engine.requests import TranscriptionEvent
from scribewire.server.intake.form import FormFields
from scribewire.server.intake.uploads import Upload
from scribewire.server.transcription.sharing import Retry, SharedWork
from tests.fakes.waiting import wait_until_async

PLAIN = TranscribeOptions()


def transcript(text: str = "Hello there.", *, logprobs: bool = False) -> Transcript:
    entries = tuple(TokenLogprob(word, word.encode(), -0.5) for word in text.split()) if logprobs else ()
    segment = Segment(0, 0.0, 1.0, text, "English", tokens=(1, 2), token_logprobs=entries)
    return Transcript(text, "English", ("English",), 1.0, (segment,), "fake")


class TranscriptionService:
    """Stands where the engine is: work begins, speaks and ends when the test says so."""

    def __init__(self) -> None:
        self.begun: list[Running] = []

    async def __call__(
        self,
        upload_path: Path,
        options: TranscribeOptions,
        *,
        owner: str,
        wants_deltas: bool = False,
        wants_segments: bool = False,
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        running = Running(upload_path, options, owner, wants_deltas, wants_segments)
        self.begun.append(running)
        try:
            while True:
                event = await running.said.get()
                if isinstance(event, Exception):
                    raise event
                yield event
        except asyncio.CancelledError:
            running.is_cancelled = True
            raise


class Running:
    """One call of the recognizer."""

    def __init__(
        self, path: Path, options: TranscribeOptions, owner: str, wants_deltas: bool, wants_segments: bool
    ) -> None:
        self.path = path
        self.options = options
        self.owner = owner
        self.wants_deltas, self.wants_segments = wants_deltas, wants_segments
        self.said: asyncio.Queue[TranscriptionEvent | Exception] = asyncio.Queue()
        self.is_cancelled = False

    def say(self, *events: TranscriptionEvent) -> None:
        for event in events:
            self.said.put_nowait(event)

    def complete(self, transcript: Transcript) -> None:
        self.say(Completed("r", transcript))

    def fail(self, error: Exception) -> None:
        self.said.put_nowait(error)


class Story:
    """A SharedWork with its recognizer, a clock of its own and a folder of uploads."""

    def __init__(self, folder: Path, *, window_seconds: float = 600.0, **bounds: int) -> None:
        self.now = 1000.0
        self.folder = folder
        self.service = TranscriptionService()
        self.shared = SharedWork(
            self.service, window_seconds=window_seconds, monotonic=lambda: self.now, **bounds
        )

    def upload(self, content: str = "a") -> Upload:
        place = self.folder / f"request-{len(list(self.folder.iterdir()))}-{id(object())}"
        place.mkdir()
        (place / "recording").write_text(content)
        return Upload(
            path=place / "recording", size_bytes=len(content), sha256=content, fields=FormFields({})
        )

    def ask(
        self,
        content: str = "a",
        options: TranscribeOptions = PLAIN,
        *,
        owner: str = "ann",
        retries: list[Retry] | None = None,
        heard: list[TranscriptionEvent] | None = None,
        wants_deltas: bool = False,
        wants_segments: bool = False,
    ) -> asyncio.Task[Transcript]:
        """A request; `heard` gets the events before its transcript."""

        async def request() -> Transcript:
            # As the routes do: who holds the upload deletes it on leaving.
            async with self.upload(content) as upload:
                with self.shared.transcribe(
                    upload, options, owner=owner, wants_deltas=wants_deltas, wants_segments=wants_segments
                ) as events:
                    if retries is not None and events.retry is not None:
                        retries.append(events.retry)
                    async for event in events:
                        if isinstance(event, Completed):
                            return event.transcript
                        if heard is not None:
                            heard.append(event)
            raise AssertionError("no transcript")

        return asyncio.create_task(request())

    async def work(self, count: int = 1) -> Running:
        """The newest running work, once so many were begun."""
        await wait_until_async(lambda: len(self.service.begun) >= count)
        assert len(self.service.begun) == count
        return self.service.begun[-1]

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]
