"""One upload on its way to samples: what the children are given, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.errors import AudioUnreadable, EngineError
from scribewire.engine.protocol.messages import AudioSource
from scribewire.engine.protocol.transcoding import AudioBegun, Transcoded
from scribewire.server.engine.requests import AudioOutcome
from scribewire.server.transcode.turns import Contender


def _nothing() -> None:
    """Close a recording that holds nothing."""


@dataclass(slots=True)
class TranscodedRecording:
    """A recording as the engine takes it; its holder closes it.

    ended: of a growing source, its outcome (it never ends in an exception); None when it is complete.
    warnings: one line each, complete once `ended` is done. failure: then, why transcoding ended early, if it did.
    lead_seconds: time of transcoding until there was enough to begin with. decode_seconds: then, time of all of it.
    """

    source: AudioSource
    ended: asyncio.Future[AudioOutcome] | None = None
    warnings: tuple[str, ...] = ()
    failure: Exception | None = None
    lead_seconds: float = 0.0
    decode_seconds: float = 0.0
    on_close: Callable[[], None] = _nothing

    def close(self) -> None:
        """Remove the samples and stop the work on them; closing again is no error."""
        self.on_close()


class TranscodeTask(Contender):
    """One recording to be transcoded; its futures never end in an exception.

    enough: done when the beginning can be read, or at the end. ended: done at the end.
    is_taken: a child has opened it, and may have died of it. times_lost: children that died before they did.
    """

    def __init__(
        self,
        input_path: Path,
        output_path: Path,
        limits: AudioLimits,
        *,
        begins_after_samples: int,
        is_interactive: bool,
        owner: str,
    ) -> None:
        super().__init__(owner, is_interactive)
        loop = asyncio.get_running_loop()
        self.input_path = input_path
        self.output_path = output_path
        self.limits = limits
        self.begins_after_samples = begins_after_samples
        self.enough: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[AudioOutcome] = loop.create_future()
        self.recording = TranscodedRecording(AudioSource(str(output_path), kind="pcm_float32"))
        self.is_taken = False
        self.times_lost = 0
        self.is_abandoned = False

    def begin(self, message: AudioBegun) -> None:
        """Note that the beginning can be read."""
        self.has_begun = True
        self._note(message.expected_seconds, message.decode_seconds)

    def complete(self, message: Transcoded) -> None:
        """End the task with all samples."""
        if not self.ended.done():
            self.recording.decode_seconds = message.decode_seconds
            self.recording.warnings = message.warnings
            self.ended.set_result(AudioOutcome(message.sample_count))
            self._note(message.sample_count / SAMPLE_RATE_HZ, message.decode_seconds)

    def fail(self, error: Exception) -> None:
        """End the task with an error; one that has ended already stays as it is."""
        if not self.ended.done():
            self.recording.failure = error
            shown = error if isinstance(error, EngineError) else AudioUnreadable(str(error))
            self.ended.set_result(AudioOutcome(0, shown))
            self._note(None, 0.0)

    def _note(self, expected_seconds: float | None, decode_seconds: float) -> None:
        """Let the engine begin, with all of it or while it grows."""
        if self.enough.done():
            return
        is_growing = not self.ended.done()
        recording = self.recording
        recording.source = AudioSource(
            str(self.output_path),
            kind="pcm_float32",
            is_growing=is_growing,
            expected_seconds=expected_seconds,
        )
        recording.ended = self.ended if is_growing else None
        recording.lead_seconds = decode_seconds
        self.enough.set_result(None)
