"""One recording from its upload to its transcript, as one stream of events: a child transcodes it while the engine
transcribes what is there.

Where speakers are requested, another child diarizes meanwhile, and the two results are combined at the end.

Nothing outlives the stream: however it ends, the samples are removed and the child is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

from scribewire.engine.protocol.attribution import with_speakers
from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.messages import Completed, Progress, Started
from scribewire.engine.protocol.speakers import Diarized
from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.engine.client import EngineClient, TranscriptionEvent
from scribewire.server.observability.metrics import Metrics
from scribewire.server.speakers.child import Speakers
from scribewire.server.speakers.diarization import Diarization
from scribewire.server.transcode.pool import Transcoder
from scribewire.server.transcode.process import TranscodedRecording


class TranscriptionService:
    """Uploads in, events and a transcript out; lives on one event loop."""

    def __init__(
        self, engine: EngineClient, transcoder: Transcoder, speakers: Speakers, metrics: Metrics | None = None
    ) -> None:
        self._engine = engine
        self._metrics = metrics or Metrics()
        self._transcoder = transcoder
        self._diarization = Diarization(transcoder, speakers)

    async def transcribe(
        self,
        upload_path: Path,
        options: TranscribeOptions,
        *,
        owner: str,
        priority: Literal["interactive", "background"] = "interactive",
        wants_deltas: bool = False,
        wants_segments: bool = False,
        runs_alone: bool = False,
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        """Transcribe one upload, whose caller holds an admission; the events are the engine client's.

        Closing the generator, or cancelling the task that awaits it, cancels transcoding and the engine's work.
        Warnings of transcoding come before the engine's. Where diarization fails, a request fails at once, and a job
        completes without speakers and with a warning. A job's first event, before the engine is asked for anything, is
        a Progress with the length of the recording, where that is known.
        raises: also AudioError (the recording), ApiError 507 (no room for its samples), SpeakersError
        """
        is_interactive = priority == "interactive"
        if options.speakers is not None and is_interactive:
            # A request fails before a long recording is transcoded; a job's transcript is kept without speakers.
            await self._diarization.check()
        began = time.monotonic()
        recording = await self._transcoder.transcode(upload_path, is_interactive=is_interactive, owner=owner)
        try:
            if not is_interactive and (total := recording.source.expected_seconds) is not None:
                yield Progress("", 0.0, total)
            diarizing: asyncio.Task[Diarized | None] | None = None
            if options.speakers is not None:
                work = self._diarization.diarize(
                    recording, upload_path.parent, options.speakers, is_interactive=is_interactive
                )
                diarizing = asyncio.create_task(work, name="speakers")
            events = self._engine.transcribe(
                recording.source,
                # The engine has no use for the references of voices.
                dataclasses.replace(options, speakers=None),
                owner=owner,
                priority=priority,
                wants_deltas=wants_deltas,
                wants_segments=wants_segments,
                audio_ended=recording.ended,
                runs_alone=runs_alone,
            )
            async with contextlib.aclosing(_both(events, diarizing) if diarizing else events) as both:
                async for event in both:
                    if isinstance(event, Started) and is_interactive:
                        self._metrics.note_wait("request", time.monotonic() - began)
                    if isinstance(event, Completed):
                        event = dataclasses.replace(
                            event, transcript=_with_transcoding(event.transcript, recording)
                        )
                    yield event
        except Exception:
            if recording.failure is not None:
                # The engine only reports that the samples ended early; this is the reason.
                raise recording.failure from None
            raise
        finally:
            recording.close()


async def _both(
    events: AsyncGenerator[TranscriptionEvent, None], diarizing: asyncio.Task[Diarized | None]
) -> AsyncGenerator[TranscriptionEvent, None]:
    """The events, their transcript with its speakers; the first of the two to fail ends the other."""
    coming: asyncio.Future[TranscriptionEvent] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            awaited: set[asyncio.Future[Any]] = {coming} if diarizing.done() else {coming, diarizing}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            event = coming.result() if coming.done() else None
            if diarizing.done():
                diarizing.result()
            if event is None:
                continue
            coming = None
            if isinstance(event, Completed):
                yield dataclasses.replace(event, transcript=_attributed(event.transcript, await diarizing))
                return
            yield event
    finally:
        tasks: set[asyncio.Future[Any]] = {diarizing} if coming is None else {diarizing, coming}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await events.aclose()


def _attributed(transcript: Transcript, speakers: Diarized | None) -> Transcript:
    if speakers is None:
        return transcript
    attributed = with_speakers(transcript, speakers.turns)
    return dataclasses.replace(attributed, warnings=(*attributed.warnings, *speakers.notices))


def _with_transcoding(transcript: Transcript, recording: TranscodedRecording) -> Transcript:
    """The transcript with the warnings and times of transcoding; time that overlaps the engine's is not added."""
    timings = dataclasses.replace(
        transcript.timings,
        decode_audio_seconds=transcript.timings.decode_audio_seconds + recording.decode_seconds,
        total_seconds=transcript.timings.total_seconds + recording.lead_seconds,
    )
    warnings = (*recording.warnings, *transcript.warnings)
    return dataclasses.replace(transcript, warnings=warnings, timings=timings)
