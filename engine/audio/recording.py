"""Any accepted input as one stream of 16 kHz blocks cut into chunks, which a few threads read ahead.

Paths, bytes, open files, plain samples, samples with a rate, and files of samples that are still being written all end
here; nothing is read before it is needed. The threads touch no MLX, so that transcoding a file delays no step: a read
takes a recording's next chunk, once, and its result waits in a queue until the engine's thread takes it.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import numpy as np

from scribewire.engine.audio.labels import Labels, LoudnessLabels, VoiceLabels
from scribewire.engine.audio.listening import Detector, hears_voice
from scribewire.engine.audio.pauses import LEAD_SECONDS, Chunk, PauseSplitter
from scribewire.engine.audio.split import StreamingSplitter
from scribewire.engine.audio.transcode import open_audio, prepare_samples
from scribewire.engine.audio.vad import SileroDetector
from scribewire.engine.protocol.config import MIN_SAMPLES, SAMPLE_RATE_HZ, AudioLimits, Chunking
from scribewire.engine.protocol.errors import AudioTooShort, AudioUnreadable, EngineError

_BLOCK_SAMPLES = 10 * SAMPLE_RATE_HZ
_SAMPLE_BYTES = 4
_TURN_BLOCKS, _TURN_SECONDS = 4, 0.1
"""Blocks without a chunk, and time, after which others have their turn."""

_READERS = 2

Work = TypeVar("Work")


class PcmFile:
    """A file of raw 16 kHz mono little-endian float32 samples, which another process may still be writing.

    expected_seconds: length that the recording claims to have, for progress only.
    """

    def __init__(
        self, path: str | Path, *, is_growing: bool = False, expected_seconds: float | None = None
    ) -> None:
        self.path = Path(path)
        self.expected_seconds = expected_seconds or 0.0
        self._is_growing = is_growing
        self._sample_count: int | None = None
        self._failure: EngineError | None = None

    def end(self, sample_count: int, failure: EngineError | None = None) -> None:
        """Set the final number of samples, or the failure that ended the writing. May be called from any thread."""
        self._failure = failure
        self._sample_count = sample_count
        self._is_growing = False

    def blocks(self) -> Iterator[np.ndarray | None]:
        """(n,) float32 blocks; None where the next one is not written yet.

        raises: AudioUnreadable, and the failure passed to `end`.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise AudioUnreadable(f"the recording cannot be read: {error.strerror}") from None
        try:
            position = 0
            while True:
                # Read before the file is: what was written until then is seen below.
                is_growing, stop = self._is_growing, self._sample_count
                if self._failure is not None:
                    raise self._failure
                written = os.fstat(descriptor).st_size // _SAMPLE_BYTES
                count = min((written if stop is None else min(written, stop)) - position, _BLOCK_SAMPLES)
                if count == _BLOCK_SAMPLES or (count > 0 and not is_growing):
                    data = os.pread(descriptor, count * _SAMPLE_BYTES, position * _SAMPLE_BYTES)
                    position += count
                    yield np.frombuffer(data, dtype="<f4")
                elif is_growing:
                    yield None
                else:
                    return
        finally:
            os.close(descriptor)


Recording = str | Path | bytes | BinaryIO | np.ndarray | tuple[np.ndarray, int] | PcmFile
"""A path, the bytes of a file, an open binary file, 16 kHz mono samples, (samples, rate), or a file of samples."""


class OpenRecording:
    """A recording being read, once, from its start.

    seconds_read grows while chunks are taken and is the duration at the end. warnings are complete at the
    end.
    """

    def __init__(
        self,
        source: Recording,
        *,
        limits: AudioLimits,
        max_chunk_seconds: float = 30.0,
        min_chunk_seconds: float = 0.0,
        chunking: Chunking | None = None,
        has_prompt: bool = False,
        detector: Callable[[], Detector] = SileroDetector,
    ) -> None:
        """has_prompt: chunks are listened to, and say whether they have a voice. detector: of voices, where needed."""
        self._max_chunk_seconds = max_chunk_seconds
        self._min_chunk_seconds = min_chunk_seconds
        self._chunking = chunking or Chunking()
        self._has_prompt = has_prompt
        self._new_detector = detector
        self._labels: Labels | None = None
        self._samples_read = 0
        self._stream = None
        self._samples: np.ndarray | None = None
        self._pcm = source if isinstance(source, PcmFile) else None
        if isinstance(source, np.ndarray):
            source = (source, SAMPLE_RATE_HZ)
        if isinstance(source, PcmFile):
            pass  # opened with its first block
        elif isinstance(source, tuple):
            samples, sample_rate_hz = source
            self._samples = prepare_samples(samples, sample_rate_hz, limits=limits)
        else:
            self._stream = open_audio(source, limits=limits)

    @property
    def seconds_read(self) -> float:
        """Seconds of audio taken so far."""
        return self._samples_read / SAMPLE_RATE_HZ

    @property
    def seconds_expected(self) -> float:
        """Best estimate of the whole duration: what the file declares, corrected by what was read."""
        declared = 0.0
        if self._samples is not None:
            declared = self._samples.size / SAMPLE_RATE_HZ
        elif self._stream is not None:
            declared = self._stream.declared_duration_seconds or 0.0
        elif self._pcm is not None:
            declared = self._pcm.expected_seconds
        return max(declared, self.seconds_read)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the reader about this recording, such as that it was cut off."""
        return () if self._stream is None else self._stream.warnings

    def chunks(self) -> Iterator[Chunk | None]:
        """The recording's pieces in order; None while the next one is not written yet, or takes long to find.

        raises: AudioError subtypes, at the start or in the middle.
        """
        splitter = self._splitter()
        turn_ends_at, silent_blocks = time.monotonic() + _TURN_SECONDS, 0
        for block in self._blocks():
            if block is not None:
                self._samples_read += block.size
                silent_blocks += 1
                for chunk in splitter.feed(block):
                    silent_blocks = 0
                    yield self._listened_to(chunk)
                    turn_ends_at = time.monotonic() + _TURN_SECONDS
            # Hours of silence hold no chunk, and whoever reads this recording has others to read as well.
            if block is None or (silent_blocks > _TURN_BLOCKS and time.monotonic() > turn_ends_at):
                yield None
                turn_ends_at = time.monotonic() + _TURN_SECONDS
        if self._samples_read < MIN_SAMPLES:
            raise AudioTooShort(
                f"the recording has only {self._samples_read} samples at 16 kHz; at least {MIN_SAMPLES} "
                "(13 milliseconds) are needed"
            )
        yield from map(self._listened_to, splitter.finish())

    def close(self) -> None:
        """Release the file and the detector."""
        if self._labels is not None:
            self._labels.close()
        if self._stream is not None:
            self._stream.close()

    def _listened_to(self, chunk: Chunk) -> Chunk:
        """The chunk; where a prompt might be taken for speech that is not there, the detector is asked."""
        if not self._has_prompt or hears_voice(self._new_detector, chunk.samples):
            return chunk
        return replace(chunk, has_voice=False)

    def _splitter(self) -> PauseSplitter | StreamingSplitter:
        longest, shortest = self._max_chunk_seconds, self._min_chunk_seconds
        if self._chunking.rule == "quietest":
            return StreamingSplitter(max_chunk_seconds=longest)
        lead_seconds = LEAD_SECONDS
        if self._chunking.rule == "voice":
            self._labels = VoiceLabels(self._new_detector(), self._chunking)
            lead_seconds = self._chunking.prefix_padding_ms / 1000
        else:
            self._labels = LoudnessLabels(self._new_detector)
        return PauseSplitter(
            self._labels,
            new_detector=self._new_detector,
            max_chunk_seconds=longest,
            min_chunk_seconds=shortest,
            lead_seconds=lead_seconds,
        )

    def _blocks(self) -> Iterator[np.ndarray | None]:
        if self._samples is not None:
            for start in range(0, len(self._samples), _BLOCK_SAMPLES):
                yield self._samples[start : start + _BLOCK_SAMPLES]
        elif self._stream is not None:
            yield from self._stream.blocks()
        elif self._pcm is not None:
            yield from self._pcm.blocks()


@dataclass(frozen=True, slots=True)
class ReadResult(Generic[Work]):
    """Result of one read of a recording: a chunk, nothing yet, its end, or an error, which is its end too."""

    work: Work
    chunk: Chunk | None = None
    is_last: bool = False
    error: BaseException | None = None


class ReadAhead(Generic[Work]):
    """The threads, and their results that were not taken yet."""

    def __init__(self, read: Callable[[Work], Chunk | None], wake: Callable[[], None]) -> None:
        """read: the next chunk of what it is given, None for nothing yet; raises StopIteration at the end.

        wake: called from a reader's thread whenever there is something to take.
        """
        self._read = read
        self._wake = wake
        self._threads = ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="scribewire-read")
        self._found: queue.SimpleQueue[ReadResult[Work]] = queue.SimpleQueue()

    def start(self, work: Work) -> None:
        """Read from a recording soon; only one read of it may be under way."""
        self._threads.submit(self._read_next, work)

    def take(self) -> Iterator[ReadResult[Work]]:
        """Results since the last call, oldest first."""
        while True:
            try:
                yield self._found.get_nowait()
            except queue.Empty:
                return

    def close(self) -> None:
        """Wait for the reads under way; their results are dropped."""
        self._threads.shutdown(wait=True)

    def _read_next(self, work: Work) -> None:
        try:
            result = ReadResult(work, chunk=self._read(work))
        except StopIteration:
            result = ReadResult(work, is_last=True)
        except BaseException as error:
            result = ReadResult(work, is_last=True, error=error)
        self._found.put(result)
        self._wake()
