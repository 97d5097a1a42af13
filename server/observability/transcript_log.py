"""One log line per transcript: figures about it, never its text."""

from __future__ import annotations

import logging

from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.observability.logs import log_event

logger = logging.getLogger("scribewire.transcripts")


def log_transcript(
    transcript: Transcript, *, is_demo: bool, request_id: str | None = None, job_id: str | None = None
) -> None:
    """Log a transcript's figures, its model, and a flag for the demo model."""
    log_event(
        logger,
        logging.INFO,
        "transcribed_by_demo_model" if is_demo else "transcribed",
        request_id=request_id,
        job_id=job_id,
        model=transcript.model_id,
        demo=is_demo,
        audio_seconds=round(transcript.duration_seconds, 3),
        engine_seconds=round(transcript.timings.total_seconds, 4),
        language=transcript.language,
        segments=len(transcript.segments),
        output_tokens=transcript.usage.output_tokens,
        warnings=len(transcript.warnings),
    )
