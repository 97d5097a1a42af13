"""One recording from its upload to its transcript: decoded by a child, transcribed by the engine, both at once.

Nothing outlives the call: whatever way it ends, the samples are removed, the child is stopped and the place in the
queue is free again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from engine.protocol.config import TranscribeOptions
from engine.protocol.messages import Progress, TextDelta
from engine.protocol.transcript import Segment, Transcript
from server.decode_pool import DecodedRecording, Decoder
from server.engine_client import EngineClient
from server.metrics.instruments import Metrics


class Recognizer:
    """Uploads in, transcripts out; lives on one event loop."""

    def __init__(self, engine: EngineClient, decoder: Decoder, metrics: Metrics | None = None) -> None:
        self._engine = engine
        self._metrics = metrics or Metrics()
        self._decoder = decoder

    async def transcribe(
        self,
        upload_path: Path,
        options: TranscribeOptions,
        *,
        owner: str,
        priority: Literal["interactive", "background"] = "interactive",
        on_started: Callable[[], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_partial: Callable[[Segment], None] | None = None,
        on_delta: Callable[[TextDelta], None] | None = None,
        runs_alone: bool = False,
    ) -> Transcript:
        """Transcribe one upload; cancelling the awaiting task cancels decoding and the engine's work.

        The callbacks, `runs_alone` and what is raised are the engine client's; warnings of decoding stand before the
        engine's.
        raises: further AudioError (the recording), ApiError 507 (no room for its samples)
        """
        if priority == "interactive":
            on_started = self._noting_wait(on_started)
        with self._engine.admission():
            # A recording is not decoded for an engine that will not take it.
            await self._engine.wait_ready()
            recording = await self._decoder.decode(upload_path, is_interactive=priority == "interactive")
            try:
                transcript = await self._engine.transcribe(
                    recording.source,
                    options,
                    owner=owner,
                    priority=priority,
                    on_started=on_started,
                    on_progress=on_progress,
                    on_partial=on_partial,
                    on_delta=on_delta,
                    audio_ended=recording.ended,
                    is_admitted=True,
                    runs_alone=runs_alone,
                )
            except Exception:
                if recording.failure is not None:
                    # The engine only passes on that the samples ended early; this says why.
                    raise recording.failure from None
                raise
            finally:
                recording.close()
        return _with_decoding(transcript, recording)

    def _noting_wait(self, on_started: Callable[[], None] | None) -> Callable[[], None]:
        began = time.monotonic()

        def note_and_tell() -> None:
            self._metrics.note_wait("request", time.monotonic() - began)
            if on_started is not None:
                on_started()

        return note_and_tell


def _with_decoding(transcript: Transcript, recording: DecodedRecording) -> Transcript:
    """The transcript with what decoding had to say and what it took; what ran beside the engine is not added up."""
    timings = dataclasses.replace(
        transcript.timings,
        decode_audio_seconds=transcript.timings.decode_audio_seconds + recording.decode_seconds,
        total_seconds=transcript.timings.total_seconds + recording.lead_seconds,
    )
    warnings = (*recording.warnings, *transcript.warnings)
    return dataclasses.replace(transcript, warnings=warnings, timings=timings)
