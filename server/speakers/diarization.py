"""Diarization of one recording while it is transcribed, beside the engine and from the same samples.

Known voices come as data URLs and are transcoded like every untrusted recording, by a bounded child.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from scribewire.engine.protocol.config import SAMPLE_RATE_HZ
from scribewire.engine.protocol.errors import AudioError, SpeakersError
from scribewire.engine.protocol.speakers import Diarized, SpeakerOptions, VoiceReference
from scribewire.server.http.errors import bad_request
from scribewire.server.speakers.child import Speakers
from scribewire.server.transcode.pool import Transcoder
from scribewire.server.transcode.process import TranscodedRecording

MAX_REFERENCE_SECONDS = 30.0
REFERENCES = "known_speaker_references"


class Diarization:
    """Transcodes known voices and diarizes a transcoded recording."""

    def __init__(self, transcoder: Transcoder, speakers: Speakers) -> None:
        self._transcoder = transcoder
        self._speakers = speakers

    async def check(self) -> None:
        """See Speakers.check."""
        await self._speakers.check()

    async def diarize(
        self, recording: TranscodedRecording, folder: Path, options: SpeakerOptions, *, is_interactive: bool
    ) -> Diarized | None:
        """The recording's speaker turns, once all of it is transcoded; None when transcoding failed.

        folder: the upload's own, for the temporary samples of known voices.
        is_interactive: False for a job, which gets a notice in place of speakers where diarization fails.
        raises: the errors of Speakers.diarize, of a request; ApiError 400 for a reference that is no recording
        """
        async with contextlib.AsyncExitStack() as held:
            voices = [
                await held.enter_async_context(self._voice(name, url, folder, is_interactive=is_interactive))
                for name, url in zip(options.known_names, options.references, strict=False)
            ]
            if recording.ended is not None:
                # Not the future itself, which a cancelled caller would cancel too.
                await asyncio.wait({recording.ended})
                if recording.ended.result().failure is not None:
                    return None
            try:
                return await self._speakers.diarize(recording.source.path, options, voices)
            except SpeakersError as error:
                if is_interactive:
                    raise
                # Hours of transcript are useful without their speakers.
                return Diarized(0, (), (f"the speakers are not told apart: {error.message}",))

    @contextlib.asynccontextmanager
    async def _voice(
        self, name: str, url: str, folder: Path, *, is_interactive: bool
    ) -> AsyncIterator[VoiceReference]:
        path = folder / f"voice-{secrets.token_hex(8)}"
        recording: TranscodedRecording | None = None
        try:
            await asyncio.to_thread(_write, path, data_of(url))
            try:
                recording = await self._transcoder.transcode(path, is_interactive=is_interactive)
                if await _seconds(recording) > MAX_REFERENCE_SECONDS:
                    raise bad_request(
                        "invalid_parameter",
                        f"The reference of {name!r} is longer than {MAX_REFERENCE_SECONDS:g} s.",
                        REFERENCES,
                    )
            except AudioError as error:
                raise bad_request(error.code, f"The reference of {name!r}: {error}", REFERENCES) from None
            yield VoiceReference(name, recording.source.path)
        finally:
            if recording is not None:
                recording.close()
            path.unlink(missing_ok=True)


async def _seconds(recording: TranscodedRecording) -> float:
    """Duration once all of it is transcoded, or the claimed one when that is too long; raises EngineError."""
    claimed = recording.source.expected_seconds or 0.0
    if recording.ended is None or claimed > MAX_REFERENCE_SECONDS:
        return claimed
    await asyncio.wait({recording.ended})
    outcome = recording.ended.result()
    if outcome.failure is not None:
        raise outcome.failure
    return outcome.sample_count / SAMPLE_RATE_HZ


def data_of(url: str) -> bytes:
    """Content of a data URL; raises ApiError 400."""
    _, _, encoded = url.partition(",")
    # Clients send both alphabets, with and without padding.
    plain = encoded.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        raise bad_request("invalid_parameter", f"{REFERENCES} holds no base64.", REFERENCES) from None


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(data)
