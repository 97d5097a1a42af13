"""A transcription's events taken to their end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from scribewire.engine.protocol.messages import Completed
from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.engine.requests import TranscriptionEvent


async def transcript_of(
    events: AsyncGenerator[TranscriptionEvent, None], *, heard: list[TranscriptionEvent] | None = None
) -> Transcript:
    """The transcript at the end of a transcription, which is closed; `heard` gets the events before it."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Completed):
                return event.transcript
            if heard is not None:
                heard.append(event)
    raise AssertionError("no transcript")
