"""One recording from its upload to its transcript: transcoded by a child, transcribed by the engine, both at once.

Where speakers are requested, another child diarizes meanwhile, and the two results are combined at the end.

Nothing outlives the call: however it ends, the samples are removed, the child is stopped and the admission is released.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

from scribewire.engine.protocol.attribution import with_speakers
from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.errors import SpeakersError
from scribewire.engine.protocol.messages import Progress, TextDelta
from scribewire.engine.protocol.speakers import Diarized, SpeakerOptions
from scribewire.engine.protocol.transcript import Segment, Transcript
from scribewire.server.engine.client import EngineClient
from scribewire.server.observability.metrics import Metrics
from scribewire.server.speakers.child import Speakers
from scribewire.server.speakers.diarization import Diarization
from scribewire.server.transcode.pool import Transcoder
from scribewire.server.transcode.task import TranscodedRecording


class TranscriptionService:
    """Uploads in, transcripts out; lives on one event loop."""

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
        on_started: Callable[[], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_partial: Callable[[Segment], None] | None = None,
        on_delta: Callable[[TextDelta], None] | None = None,
        runs_alone: bool = False,
    ) -> Transcript:
        """Transcribe one upload; cancelling the awaiting task cancels transcoding and the engine's work.

        The callbacks, `runs_alone` and the errors are the engine client's; warnings of transcoding come before the
        engine's.
        Where diarization fails, a request fails, and a job completes without speakers and with a warning.
        raises: also AudioError (the recording), ApiError 507 (no room for its samples), SpeakersError
        """
        if options.speakers is not None and priority == "interactive":
            # A request fails before a long recording is transcoded; a job's transcript is kept without speakers.
            await self._diarization.check()
        if priority == "interactive":
            on_started = self._noting_wait(on_started)
        with self._engine.admission():
            # A recording is not transcoded for an engine that will not take it.
            await self._engine.wait_ready()
            recording = await self._transcoder.transcode(
                upload_path, is_interactive=priority == "interactive", owner=owner
            )
            diarization = None
            if options.speakers is not None:
                diarizing = self._diarize(recording, upload_path, options.speakers, priority)
                diarization = asyncio.create_task(diarizing, name="speakers")
            try:
                work = self._engine.transcribe(
                    recording.source,
                    # The engine has no use for the references of voices.
                    dataclasses.replace(options, speakers=None),
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
                transcript = await (work if diarization is None else _both(work, diarization))
            except Exception:
                if recording.failure is not None:
                    # The engine only reports that the samples ended early; this is the reason.
                    raise recording.failure from None
                raise
            finally:
                recording.close()
        return _with_transcoding(transcript, recording)

    def _noting_wait(self, on_started: Callable[[], None] | None) -> Callable[[], None]:
        began = time.monotonic()

        def note_and_report() -> None:
            self._metrics.note_wait("request", time.monotonic() - began)
            if on_started is not None:
                on_started()

        return note_and_report

    async def _diarize(
        self,
        recording: TranscodedRecording,
        upload_path: Path,
        options: SpeakerOptions,
        priority: Literal["interactive", "background"],
    ) -> Diarized | None:
        is_interactive = priority == "interactive"
        try:
            return await self._diarization.diarize(
                recording, upload_path.parent, options, is_interactive=is_interactive
            )
        except SpeakersError as error:
            if is_interactive:
                raise
            # Hours of transcript are useful without their speakers.
            return Diarized(0, (), (f"the speakers are not told apart: {error.message}",))


async def _both(
    work: Coroutine[Any, Any, Transcript], diarization: asyncio.Task[Diarized | None]
) -> Transcript:
    """The transcript with its speakers; the first of the two to fail ends the other."""
    transcribing = asyncio.create_task(work, name="transcribing")
    tasks: set[asyncio.Task[Any]] = {transcribing, diarization}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in (transcribing, diarization):
            if task in done:
                task.result()
        speakers = diarization.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    transcript = transcribing.result()
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
