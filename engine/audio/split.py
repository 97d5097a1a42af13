"""Cuts a recording into chunks of bounded length at its quietest places, as a stream.

The rule is the official one (`split_audio_into_chunks` of qwen_asr 0.0.6) with one difference. There, a piece is cut
within 5 s on either side of `start + max`, so a piece may exceed the maximum by 5 s. Here no chunk may exceed it, so
the search window keeps its 10 s but lies wholly before the limit: `[start + max - 10 s, start + max]`. When the maximum
is under 20 s the window is half of it, so that a chunk is never shorter than half the maximum (the last one excepted).

Inside the window: the 100 ms with the smallest sum of |x|, and in these the sample with the smallest |x|; the first of
equals. Chunks tile the recording exactly. It does not look for speech: no voice detection, no overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from scribewire.engine.audio.pauses import MIN_CHUNK_SAMPLES, Chunk
from scribewire.engine.audio.pcm import Samples
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ

SEARCH_SECONDS = 10.0
"""Width of the window in which a cut is searched. Source: search_expand_sec = 5.0 on either side."""

QUIET_WINDOW_SAMPLES = SAMPLE_RATE_HZ // 10
"""The 100 ms over which loudness is summed. Source: min_window_ms = 100.0."""


class StreamingSplitter:
    """Chunks from blocks of any size, holding at most one chunk and one block in memory.

    None is longer than `max_chunk_seconds`. They are views of what was fed, except a padded last one; one chunk,
    unpadded, when the recording fits, none when it is empty.
    """

    def __init__(self, *, max_chunk_seconds: float = 30.0) -> None:
        """Raises ValueError when `max_chunk_seconds` is under one second."""
        if not max_chunk_seconds >= 1.0:
            raise ValueError(f"max_chunk_seconds must be at least 1, not {max_chunk_seconds}")
        self._max_samples = int(max_chunk_seconds * SAMPLE_RATE_HZ)
        self._search_samples = min(int(SEARCH_SECONDS * SAMPLE_RATE_HZ), self._max_samples // 2)
        self._blocks: list[Samples] = []
        self._held_samples = 0
        self._start_sample = 0

    @property
    def held_samples(self) -> int:
        """Samples taken that belong to no chunk yet."""
        return self._held_samples

    def feed(self, block: Samples) -> Iterator[Chunk]:
        """Take (n,) float32 samples, which are kept by reference; the chunks that are now certain."""
        return iter(self._take(block))

    def _take(self, block: Samples) -> list[Chunk]:
        if len(block) == 0:
            return []
        self._blocks.append(block)
        self._held_samples += len(block)
        # A cut is made only once a sample beyond the limit exists: a recording of exactly the limit is one chunk.
        if self._held_samples <= self._max_samples:
            return []
        chunks: list[Chunk] = []
        held = self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks)
        while len(held) > self._max_samples:
            cut = self._cut(held)
            chunks.append(self._emit(held[:cut]))
            held = held[cut:]
        self._blocks, self._held_samples = [held], len(held)
        return chunks

    def finish(self) -> Iterator[Chunk]:
        """The last chunk, zero-padded to 0.5 s if it is shorter and others went before; nothing if there is none."""
        if self._held_samples == 0:
            return iter(())
        held = np.concatenate(self._blocks) if len(self._blocks) > 1 else self._blocks[0]
        self._blocks, self._held_samples = [], 0
        padding = max(0, MIN_CHUNK_SAMPLES - len(held)) if self._start_sample > 0 else 0
        if padding:
            held = np.concatenate([held, np.zeros(padding, dtype=np.float32)])
        return iter((self._emit(held, padding),))

    def _emit(self, samples: Samples, padding_samples: int = 0) -> Chunk:
        chunk = Chunk(self._start_sample, samples, padding_samples)
        self._start_sample += chunk.sample_count
        return chunk

    def _cut(self, held: Samples) -> int:
        """Length of the next chunk, from the samples held; reads nothing beyond the limit."""
        left = self._max_samples - self._search_samples
        return left + quietest_sample(held[left : self._max_samples])


def can_be_halved(chunk: Chunk) -> bool:
    """True when both halves would still be long enough to be decoded."""
    return chunk.sample_count >= 4 * MIN_CHUNK_SAMPLES


def halved(chunk: Chunk) -> tuple[Chunk, Chunk]:
    """Two chunks that tile this one, cut at the quietest place of its middle half; see `can_be_halved`."""
    quarter = chunk.sample_count // 4
    cut = quarter + quietest_sample(chunk.samples[quarter : chunk.sample_count - quarter])
    return (
        replace(chunk, samples=chunk.samples[:cut], padding_samples=0),
        replace(chunk, start_sample=chunk.start_sample + cut, samples=chunk.samples[cut:]),
    )


def quietest_sample(window: Samples) -> int:
    """Index of the smallest |x| inside the 100 ms of `window` with the smallest sum of |x|.

    window: (n,) float32 with n > 1600. Ties go to the first.
    """
    loudness = np.abs(window)
    # A running sum in float64: exact enough that equal windows compare equal, and linear in the window.
    running = np.cumsum(loudness, dtype=np.float64)
    sums = running[QUIET_WINDOW_SAMPLES - 1 :].copy()
    sums[1:] -= running[:-QUIET_WINDOW_SAMPLES]
    first = int(np.argmin(sums))
    return first + int(np.argmin(loudness[first : first + QUIET_WINDOW_SAMPLES]))
