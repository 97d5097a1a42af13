"""`scribewire transcribe` as it is typed, with a transcriber that has no model."""

from __future__ import annotations

import io
import os
from contextlib import AbstractContextManager
from pathlib import Path

from scribewire.engine.cli import main
from scribewire.engine.processes.console import Console
from scribewire.engine.protocol.config import EngineConfig
from tests.fakes.fake_transcriber import STOP, FakeTranscriber

# By the times of the words, which say more than those of the segment.
SUBTITLES = {
    "srt": "1\n00:00:00,500 --> 00:00:01,500\nFirst words.\n",
    "vtt": "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nFirst words.\n",
    "tsv": "start\tend\ttext\n500\t1500\tFirst words.\n",
    "lrc": "[00:00.50]First words.\n[00:01.50]\n",
}


def write_recordings(folder: Path) -> Path:
    """Files that the transcriber understands; returns the folder."""
    for name, content in {
        "one.wav": b"First words.",
        "two.wav": b"Second words.",
        "bad.wav": b"fails",
        "oom.wav": b"breaks",
        "stop.wav": STOP.encode(),
    }.items():
        (folder / name).write_bytes(content)
    return folder


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Run:
    """One run of the command and what came of it."""

    def __init__(
        self,
        *arguments: object,
        stdin: bytes = b"",
        engine: FakeTranscriber | None = None,
        stderr: io.StringIO | None = None,
        stdout: io.StringIO | None = None,
    ) -> None:
        self.engine = engine or FakeTranscriber()
        out, err = stdout or io.StringIO(), stderr or io.StringIO()
        self.exit_code = main(
            ["transcribe", *map(str, arguments)],
            console=Console(io.BytesIO(stdin), out, err),
            load=self.load,
        )
        if isinstance(out, io.TextIOWrapper):
            self.stdout = os.fsdecode(out.buffer.getvalue())
        else:
            self.stdout = out.getvalue()
        self.stderr = err.getvalue()

    def load(
        self, config: EngineConfig, console: Console, fetches_aligner: bool
    ) -> AbstractContextManager[FakeTranscriber]:
        """Stand for loading what was asked for."""
        self.config, self.fetches_aligner = config, fetches_aligner
        return self.engine.load()
