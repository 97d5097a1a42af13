"""Whatever a caller may hand in, as one stream of 16 kHz blocks cut into chunks.

Paths, bytes, open files, plain samples and samples with a rate all end here; nothing is read before it is
needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from engine.audio.decode import open_audio, prepare_samples
from engine.audio.split import Chunk, StreamingSplitter
from engine.protocol.config import MIN_SAMPLES, SAMPLE_RATE_HZ, AudioLimits
from engine.protocol.errors import AudioTooShort

Recording = str | Path | bytes | BinaryIO | np.ndarray | tuple[np.ndarray, int]
"""A path, the bytes of a file, an open binary file, 16 kHz mono samples, or (samples, rate)."""


class OpenRecording:
    """A recording being read, once, from its start.

    seconds_read grows while chunks are taken and is the duration at the end. warnings are complete at the
    end.
    """

    def __init__(self, source: Recording, *, limits: AudioLimits, max_chunk_seconds: float) -> None:
        self._max_chunk_seconds = max_chunk_seconds
        self._samples_read = 0
        self._stream = None
        self._samples: np.ndarray | None = None
        if isinstance(source, np.ndarray):
            source = (source, SAMPLE_RATE_HZ)
        if isinstance(source, tuple):
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
        """Best guess of the whole duration: what the file declares, corrected by what was read."""
        declared = 0.0
        if self._samples is not None:
            declared = self._samples.size / SAMPLE_RATE_HZ
        elif self._stream is not None:
            declared = self._stream.declared_duration_seconds or 0.0
        return max(declared, self.seconds_read)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader should know of this recording, such as that it was cut off."""
        return () if self._stream is None else self._stream.warnings

    def chunks(self) -> Iterator[Chunk]:
        """The recording's pieces in order.

        raises: AudioError subtypes, at the start or in the middle.
        """
        splitter = StreamingSplitter(max_chunk_seconds=self._max_chunk_seconds)
        for block in self._blocks():
            self._samples_read += block.size
            yield from splitter.feed(block)
        if self._samples_read < MIN_SAMPLES:
            raise AudioTooShort(
                f"the recording has only {self._samples_read} samples at 16 kHz; at least {MIN_SAMPLES} "
                "(13 milliseconds) are needed"
            )
        yield from splitter.finish()

    def close(self) -> None:
        """Release the file."""
        if self._stream is not None:
            self._stream.close()

    def _blocks(self) -> Iterator[np.ndarray]:
        if self._samples is not None:
            yield self._samples
        elif self._stream is not None:
            yield from self._stream.blocks()
