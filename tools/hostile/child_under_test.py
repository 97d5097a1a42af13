"""A real decode child, driven as the front drives it, with everything noted that it must not do."""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from scribewire.engine.processes.child import ChildProcess
from scribewire.engine.processes.launch import start_transcode_child
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.transcoding import (
    FromTranscoder,
    Transcode,
    Transcoded,
    TranscodeFailed,
    TranscodeLimits,
    TranscoderReady,
    parse_from_transcoder,
    to_line,
)
from tests.fakes.served import peak_resident_bytes

HANG_SECONDS = 10.0
START_SECONDS = 60.0
CRASH, HANG, SUCCESS = "crash", "hang", "success"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one file: SUCCESS, an error code, CRASH or HANG."""

    name: str
    seconds: float
    sample_count: int = 0
    message: str = ""
    exit_code: int | None = None


@dataclass(slots=True)
class ChildRecord:
    """Measurements over all children."""

    children: int = 0
    peak_resident_bytes: int = 0
    idle_resident_bytes: int = 0


class ChildUnderTest:
    """Decodes one file after another in one child, which is replaced when it dies, hangs or leaves."""

    def __init__(
        self, folder: Path, *, limits: TranscodeLimits | None = None, hang_seconds: float = HANG_SECONDS
    ) -> None:
        """folder: for the input and the samples of the present file. limits: the product's own when None."""
        self.record = ChildRecord()
        self._limits = limits or TranscodeLimits()
        self._hang_seconds = hang_seconds
        self._input, self._output = folder / "recording", folder / "samples"
        self._handle: ChildProcess | None = None
        self._received = b""
        self._task_id = 0

    def __enter__(self) -> ChildUnderTest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def output(self) -> Path:
        """The samples of the last file: raw float32, 16 kHz."""
        return self._output

    def start(self) -> int:
        """Make sure that a child is ready; returns its process id."""
        if self._handle is None:
            self._handle = start_transcode_child(self._limits)
            self._received = b""
            ready = self._next_message(self._handle, START_SECONDS)
            assert isinstance(ready, TranscoderReady), f"the child did not start: {self._handle.last_lines()}"
            self.record.children += 1
            self.record.idle_resident_bytes = peak_resident_bytes(self._handle.process_id)
        return self._handle.process_id

    def decode(self, content: bytes | Path, *, limits: AudioLimits | None = None) -> Outcome:
        """Hand one file to the child and wait for its end; memory is noted."""
        process_id = self.start()
        handle = self._handle
        assert handle is not None
        path = self._input
        if isinstance(content, Path):
            path = content
        else:
            path.write_bytes(content)
        self._output.write_bytes(b"")
        self._task_id += 1
        task = Transcode(self._task_id, str(path), str(self._output), 1 << 40, limits or AudioLimits())
        started = time.monotonic()
        try:
            os.write(handle.pipe.fileno(), to_line(task))
            end = self._end_of_task(handle)
        except (EOFError, BrokenPipeError):
            handle.wait(START_SECONDS)
            exit_code = handle.exit_code
            self._end()
            return Outcome(CRASH, time.monotonic() - started, exit_code=exit_code)
        seconds = time.monotonic() - started
        if end is None:
            self._end()
            return Outcome(HANG, seconds)
        self.record.peak_resident_bytes = max(
            self.record.peak_resident_bytes, peak_resident_bytes(process_id)
        )
        assert end.task_id == self._task_id
        if end.is_last:
            self._end()
        if isinstance(end, Transcoded):
            return Outcome(SUCCESS, seconds, sample_count=end.sample_count)
        return Outcome(end.code, seconds, message=end.message)

    def _end_of_task(self, handle: ChildProcess) -> Transcoded | TranscodeFailed | None:
        """Notes on the way (taken, begun) are passed over; None after the time."""
        deadline = time.monotonic() + self._hang_seconds
        while True:
            message = self._next_message(handle, deadline - time.monotonic())
            if message is None or isinstance(message, Transcoded | TranscodeFailed):
                return message

    def _next_message(self, handle: ChildProcess, seconds: float) -> FromTranscoder | None:
        """None after the time; raises EOFError when the child is gone."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([handle.pipe.fileno()], [], [], left)[0]:
                return None
            try:
                data = os.read(handle.pipe.fileno(), 1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return parse_from_transcoder(line)

    def _end(self) -> None:
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        handle.close()
