"""A decoder that decodes nothing, for the fake worker, whose recordings are scripts that no decoder reads."""

from __future__ import annotations

from pathlib import Path

from scribewire.engine.protocol.messages import AudioSource
from scribewire.server.transcode.pool import TranscodedRecording


class PassThrough:
    """A Transcoder that passes each upload on unchanged."""

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def transcode(self, upload_path: Path, *, is_interactive: bool) -> TranscodedRecording:
        """The upload itself."""
        return TranscodedRecording(AudioSource(str(upload_path)))
