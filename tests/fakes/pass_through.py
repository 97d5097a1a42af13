"""A transcoder that changes nothing, for the fake worker: its recordings are scripts, not audio."""

from __future__ import annotations

from pathlib import Path

from scribewire.engine.protocol.messages import AudioSource
from scribewire.server.transcode.process import TranscodedRecording


class PassThrough:
    """A Transcoder that returns each upload as it is."""

    async def start(self) -> None:
        """Do nothing: there is no pool to start."""

    async def stop(self) -> None:
        """Do nothing: there is no pool to stop."""

    async def transcode(
        self, upload_path: Path, *, is_interactive: bool, owner: str = ""
    ) -> TranscodedRecording:
        """The upload itself."""
        return TranscodedRecording(AudioSource(str(upload_path)))
