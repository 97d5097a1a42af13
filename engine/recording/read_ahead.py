"""Recordings read ahead in a few threads of their own, which touch no MLX: transcoding a file delays no step.

A read takes a recording's next chunk, once. Its result waits in a queue until the engine's thread takes it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from scribewire.engine.audio.recording import OpenRecording
from scribewire.engine.audio.split import Chunk
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.recording.work import RecordingWork

_READERS = 2


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Result of one read of a recording: a chunk, nothing yet, its end, or an error, which is its end too."""

    work: RecordingWork
    chunk: Chunk | None = None
    is_last: bool = False
    error: BaseException | None = None


class ReadAhead:
    """The threads, and their results that were not taken yet."""

    def __init__(self, config: EngineConfig, wake: Callable[[], None]) -> None:
        """wake: called from a reader's thread whenever there is something to take."""
        self._config = config
        self._wake = wake
        self._threads = ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="scribewire-read")
        self._found: queue.SimpleQueue[ReadResult] = queue.SimpleQueue()

    def start(self, work: RecordingWork) -> None:
        """Read from a recording soon; only one read of it may be under way."""
        self._threads.submit(self._read_next, work)

    def take(self) -> Iterator[ReadResult]:
        """Results since the last call, oldest first."""
        while True:
            try:
                yield self._found.get_nowait()
            except queue.Empty:
                return

    def close(self) -> None:
        """Wait for the reads under way; their results are dropped."""
        self._threads.shutdown(wait=True)

    def _read_next(self, work: RecordingWork) -> None:
        started = time.perf_counter()
        try:
            result = self._next_chunk(work)
        except BaseException as error:
            result = ReadResult(work, is_last=True, error=error)
        work.decode_audio_seconds += time.perf_counter() - started
        self._found.put(result)
        self._wake()

    def _next_chunk(self, work: RecordingWork) -> ReadResult:
        """Open the recording if need be, and take its next chunk."""
        if work.recording is None:
            work.recording = OpenRecording(
                work.audio,
                limits=self._config.audio,
                max_chunk_seconds=self._config.max_chunk_seconds,
                min_chunk_seconds=self._config.min_chunk_seconds,
                chunking=work.options.chunking,
                has_prompt=bool(work.options.prompt or work.options.keywords),
            )
            work.chunks = work.recording.chunks()
        assert work.chunks is not None
        try:
            return ReadResult(work, chunk=next(work.chunks))
        except StopIteration:
            return ReadResult(work, is_last=True)
