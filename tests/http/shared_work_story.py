"""The stage for the tests of shared work: a scripted recognizer, a clock, and uploads on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.messages import Progress, TextDelta
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript
from scribewire.server.intake.form_fields import FormFields
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
        on_started: Callable[[], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_partial: Callable[[Segment], None] | None = None,
        on_delta: Callable[[TextDelta], None] | None = None,
    ) -> Transcript:
        running = Running(upload_path, options, owner, on_started, on_progress, on_partial, on_delta)
        self.begun.append(running)
        try:
            return await running.end
        except asyncio.CancelledError:
            running.is_cancelled = True
            raise


class Running:
    """One call of the recognizer."""

    def __init__(self, path: Path, options: TranscribeOptions, owner: str, *callbacks) -> None:
        self.path = path
        self.options = options
        self.owner = owner
        self.on_started, self.on_progress, self.on_partial, self.on_delta = callbacks
        self.end: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False


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
        **callbacks: Callable,
    ) -> asyncio.Task[Transcript]:
        async def request() -> Transcript:
            # As the routes do: who holds the upload deletes it on leaving.
            async with self.upload(content) as upload:
                return await self.shared.transcribe(
                    upload,
                    options,
                    owner=owner,
                    on_retry=None if retries is None else retries.append,
                    **callbacks,
                )

        return asyncio.create_task(request())

    async def work(self, count: int = 1) -> Running:
        """The newest running work, once so many were begun."""
        await wait_until_async(lambda: len(self.service.begun) >= count)
        assert len(self.service.begun) == count
        return self.service.begun[-1]

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]
