"""A decoder that decodes nothing, for the fake worker, whose recordings are scripts that no decoder reads."""

from __future__ import annotations

from pathlib import Path

from scribewire.engine.protocol.messages import AudioSource
from scribewire.server.transcode.pool import DecodedRecording


class PassThrough:
    """A Decoder that hands each upload on as it is."""

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def decode(self, upload_path: Path, *, is_interactive: bool) -> DecodedRecording:
        """The upload itself."""
        return DecodedRecording(AudioSource(str(upload_path)))
