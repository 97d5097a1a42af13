"""Cuts a recording into chunks at its pauses and leaves long silence out, offline or as a stream.

The recording is seen as frames of equal length. A labeler (`scribewire.engine.audio.labels`) says which of them are
silent: by loudness, the default, or by voice detection. Then:

* Silence of 2 s and more is not decoded. It ends the chunk before it; the next chunk begins a moment before sound does.
* A chunk that would be longer than the maximum is cut in a pause between the minimum and the maximum: in the middle of
  the longest one (half a second is long enough; of equals the latest). Without a pause, where it is quietest. In noise
  the voice detector is asked where the pauses are.
* Every chunk is one unbroken stretch, and knows the sample at which it begins: times stay those of the recording.

What is decided depends on at most one chunk and the silence behind it, never on how the samples arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scribewire.engine.audio.labels import SILENCE_FLOOR, Flags, Labels, Levels, LoudnessLabels
from scribewire.engine.audio.listening import Detector, listen
from scribewire.engine.audio.pcm import Samples
from scribewire.engine.audio.voice_frames import FRAME_SAMPLES
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ
from scribewire.engine.protocol.errors import EngineUnavailable

MIN_CHUNK_SAMPLES = SAMPLE_RATE_HZ // 2
"""Chunks of a split recording are zero-padded to this length. Source: MIN_ASR_INPUT_SECONDS = 0.5."""

SKIPPED_SILENCE_SECONDS = 2.0
"""Shorter silence stays in its chunk: it carries rhythm, and cutting there would cost context."""

TRAIL_SECONDS = 0.2
"""Silence kept behind the last sound before it is left out: speech fades."""

LEAD_SECONDS = 0.3
"""Silence kept before sound begins again. OpenAI's prefix_padding_ms has the same default."""

_LARGEST_BLOCK_SAMPLES = 10 * SAMPLE_RATE_HZ
_PAUSE_SECONDS = 0.1
_LONG_ENOUGH_SECONDS = 0.5
_QUIET_SECONDS = 0.1
_FLOOR_RATIO = 4.0
_FAR_BELOW_LOUD = 0.1
_CLEAR_RATIO = 10**3.5
_HEARD_BEFORE_SECONDS = 3.0
_SMOOTHED_FRAMES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """A piece of a recording that is decoded at once.

    start_sample: where it begins in the recording.
    samples: (sample_count + padding_samples,) float32, mono 16 kHz; the padding is zeros at the end.
    has_voice: False where a detector was asked and heard none; such a chunk is decoded without the prompt.
    """

    start_sample: int
    samples: Samples
    padding_samples: int = 0
    has_voice: bool = True

    @property
    def sample_count(self) -> int:
        """Number of samples of the recording that it holds, padding left out."""
        return len(self.samples) - self.padding_samples

    @property
    def start_seconds(self) -> float:
        return self.start_sample / SAMPLE_RATE_HZ

    @property
    def end_seconds(self) -> float:
        return (self.start_sample + self.sample_count) / SAMPLE_RATE_HZ


class PauseSplitter:
    """Chunks from blocks of any size; holds at most a chunk, the silence behind it and a block."""

    def __init__(
        self,
        labels: Labels | None = None,
        *,
        new_detector: Callable[[], Detector] | None = None,
        max_chunk_seconds: float = 30.0,
        min_chunk_seconds: float = 0.0,
        lead_seconds: float = LEAD_SECONDS,
    ) -> None:
        """labels: by loudness unless given. new_detector: a detector of voices for what loudness leaves open.

        min_chunk_seconds: no cut is made before; 0 is two thirds of the maximum.

        lead_seconds: sound that may have been taken for silence: so much before it is kept.
        raises: ValueError when the maximum is under one second or the minimum not below it
        """
        if not max_chunk_seconds >= 1.0:
            raise ValueError(f"max_chunk_seconds must be at least 1, not {max_chunk_seconds}")
        shortest = min_chunk_seconds or max_chunk_seconds * 2 / 3
        if not 0.0 < shortest < max_chunk_seconds:
            raise ValueError(f"min_chunk_seconds must be below {max_chunk_seconds}, not {min_chunk_seconds}")
        self._new_detector = new_detector
        self._labels = labels or LoudnessLabels(new_detector)
        self._frame = self._labels.frame_samples
        self._max_samples = int(max_chunk_seconds * SAMPLE_RATE_HZ)
        self._max_frames = self._max_samples // self._frame
        self._min_frames = min(self._frames_in(shortest), self._max_frames - 1)
        self._skip_frames = self._frames_in(SKIPPED_SILENCE_SECONDS)
        # A chunk of nothing but the lead before sound would be useless.
        self._lead_frames = min(self._frames_in(lead_seconds), self._max_frames // 2)
        self._trail_frames = self._frames_in(TRAIL_SECONDS)
        self._blocks: list[Samples] = []
        self._held_samples = 0
        self._position = 0  # of the first held sample in the recording
        self._levels: list[Levels] = []
        self._silent: list[Flags] = []
        self._measured_frames = 0
        self._labelled_frames = 0
        self._is_skipping = False
        self._lead_in_frames = 0  # silence at the head that is kept

    @property
    def held_samples(self) -> int:
        """Samples taken that belong to no chunk yet."""
        return self._held_samples

    def feed(self, block: Samples) -> Iterator[Chunk]:
        """Take (n,) float32 samples, which are kept by reference; the chunks that are now certain."""
        chunks: list[Chunk] = []
        for start in range(0, len(block), _LARGEST_BLOCK_SAMPLES):
            part = block[start : start + _LARGEST_BLOCK_SAMPLES]
            self._blocks.append(part)
            self._held_samples += len(part)
            self._measure()
            chunks += self._decide(is_last=False)
        return iter(chunks)

    def finish(self) -> Iterator[Chunk]:
        """The chunks of what is left; a last one under 0.5 s is zero-padded when it is not the whole recording."""
        tail = self._held_samples - self._measured_frames * self._frame
        if tail:
            padded = np.zeros(self._frame, dtype=np.float32)
            padded[:tail] = self._joined()[-tail:]
            self._label(padded[None], tail)
        flags = self._labels.finish()
        self._silent.append(flags)
        self._labelled_frames += len(flags)
        chunks = self._decide(is_last=True)
        self._forget(self._held_samples)
        return iter(chunks)

    def _frames_in(self, seconds: float) -> int:
        return max(1, round(seconds * SAMPLE_RATE_HZ / self._frame))

    # ---- measuring -------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Label the whole frames that have come; of the blocks, only what no frame was made of is joined."""
        start = self._measured_frames * self._frame
        count = (self._held_samples - start) // self._frame
        if count == 0:
            return
        fresh: list[Samples] = []
        missing = self._held_samples - start
        for block in reversed(self._blocks):
            fresh.append(block[max(0, len(block) - missing) :])
            missing -= len(fresh[-1])
            if missing == 0:
                break
        joined = fresh[0] if len(fresh) == 1 else np.concatenate(fresh[::-1])
        self._label(joined[: count * self._frame].reshape(count, self._frame), self._frame)

    def _label(self, frames: Samples, sample_count: int) -> None:
        """sample_count: of each frame, the rest of it is padding."""
        levels = np.einsum("ij,ij->i", frames, frames) / np.float32(sample_count)
        flags = self._labels.push(frames, levels)
        self._levels.append(levels)
        self._silent.append(flags)
        self._measured_frames += len(levels)
        self._labelled_frames += len(flags)

    def _joined(self) -> Samples:
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate(self._blocks)] if self._blocks else []
        return self._blocks[0] if self._blocks else np.zeros(0, dtype=np.float32)

    # ---- deciding --------------------------------------------------------------------------------------------

    def _decide(self, *, is_last: bool) -> list[Chunk]:
        chunks: list[Chunk] = []
        while self._labelled_frames:
            if self._is_skipping:
                silent = self._flags()
                first = int(np.argmin(silent))
                if silent[first]:
                    # Nothing but silence so far; the next sound may begin with the next frame.
                    self._forget(max(0, len(silent) - self._lead_frames) * self._frame)
                    break
                skipped = max(0, first - self._lead_frames)
                self._forget(skipped * self._frame)
                self._is_skipping, self._lead_in_frames = False, first - skipped
            if not is_last and self._labelled_frames < self._max_frames + self._skip_frames:
                break
            chunks += self._next(is_last)
        return chunks

    def _next(self, is_last: bool) -> list[Chunk]:
        """The chunk at the head of what is held; none where there is silence."""
        silent = self._flags()
        lead_in = self._lead_in_frames
        silence = _first_run(silent[lead_in : self._max_frames + self._skip_frames], self._skip_frames)
        if silence is not None and lead_in + silence < self._max_frames:
            silence += lead_in
            self._is_skipping = True
            end = min(silence + self._trail_frames, self._max_frames)
            return self._emit(end, is_whole=False) if silence else []
        if is_last and self._held_samples <= self._max_samples:
            if silent.all():
                self._forget(self._held_samples)
                return []
            return self._emit(len(silent), is_whole=self._position == 0)
        return self._emit(self._cut(silent), is_whole=False)

    def _cut(self, silent: Flags) -> int:
        """Frames in the next chunk, when it must be cut."""
        if len(self._levels) > 1:
            self._levels = [np.concatenate(self._levels)]
        levels = self._levels[0][: self._max_frames]
        window = slice(self._min_frames, self._max_frames)
        least_voice = self._where_voice_is_least(levels)
        if least_voice is not None:
            return self._min_frames + least_voice
        shortest, long_enough = self._frames_in(_PAUSE_SECONDS), self._frames_in(_LONG_ENOUGH_SECONDS)
        quiet = _near_the_floor(levels[window], self._frames_in(_QUIET_SECONDS))
        unvoiced = silent[window]
        choices = [unvoiced & quiet, unvoiced, quiet] if self._labels.finds_pauses else [quiet]
        runs = (_best_run(pauses, shortest, long_enough) for pauses in choices)
        pause = next((run for run in runs if run is not None), None)
        if pause is None:
            pause = _quietest(levels[window], self._frames_in(_QUIET_SECONDS))
        return max(1, self._min_frames + pause)

    def _where_voice_is_least(self, levels: Levels) -> int | None:
        """The frame of the window around which there is least voice, in noise; None where loudness says enough.

        A frame has as much as the worst of a tenth of a second around it: the detector's log odds and half the level
        in decibels.
        """
        soft, loud = np.percentile(levels, (5, 95))
        if self._new_detector is None or loud >= _CLEAR_RATIO * soft:
            return None
        before = min(self._min_frames, self._frames_in(_HEARD_BEFORE_SECONDS))
        start, end = (self._min_frames - before) * self._frame, self._max_frames * self._frame
        try:
            probabilities = np.concatenate(list(listen(self._new_detector, self._joined()[start:end])))
        except EngineUnavailable:
            return None
        likely = np.repeat(np.clip(probabilities, 0.01, 0.99), FRAME_SAMPLES // self._frame)
        likely = likely[before : self._max_frames - self._min_frames + before]
        decibels = 10.0 * np.log10(np.maximum(levels[self._min_frames :], 1e-12))
        width = self._frames_in(_QUIET_SECONDS)
        voice = np.log(likely / (1.0 - likely)) + 0.5 * _smoothed(decibels, _SMOOTHED_FRAMES)
        worst = np.lib.stride_tricks.sliding_window_view(_padded(voice, width), width).max(axis=1)
        return int(np.argmin(_smoothed(worst, width)))

    def _flags(self) -> Flags:
        if len(self._silent) != 1:
            self._silent = [np.concatenate(self._silent)]
        return self._silent[0]

    def _emit(self, frame_count: int, *, is_whole: bool) -> list[Chunk]:
        """The first frames as a chunk. is_whole: there is no other, so that it is not padded."""
        count = min(frame_count * self._frame, self._held_samples)
        padding = 0 if is_whole else max(0, MIN_CHUNK_SAMPLES - count)
        samples = np.zeros(count + padding, dtype=np.float32)
        samples[:count] = self._joined()[:count]
        chunk = Chunk(self._position, samples, padding)
        self._forget(count)
        return [chunk]

    def _forget(self, count: int) -> None:
        """Drop so many samples from the head: whole frames, or all that is held."""
        if count == 0:
            return
        frames = -(-count // self._frame)
        self._blocks = [self._joined()[count:]]
        self._silent = [self._flags()[frames:]]
        self._levels = [np.concatenate(self._levels)[frames:]]
        self._measured_frames = len(self._levels[0])
        self._labelled_frames = len(self._silent[0])
        self._lead_in_frames = max(0, self._lead_in_frames - frames)
        self._held_samples -= count
        self._position += count


def _near_the_floor(levels: Levels, width: int) -> Flags:
    """Frames about as soft as the softest `width` together, and far below the loud ones: nobody speaks there."""
    width = min(width, len(levels))
    floor = np.convolve(levels, np.full(width, 1 / width), mode="valid").min()
    limit = min(max(floor, SILENCE_FLOOR**2 / 12) * _FLOOR_RATIO, np.percentile(levels, 95) * _FAR_BELOW_LOUD)
    flags: Flags = levels < limit
    return flags


def _smoothed(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Means of the `width` values around each."""
    return np.convolve(_padded(values, width), np.full(width, 1.0 / width), mode="valid")


def _padded(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    return np.pad(values, (width // 2, (width - 1) // 2), mode="edge")


def _runs(flags: Flags) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Starts and ends of the runs of True."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _first_run(flags: Flags, least: int) -> int | None:
    """Start of the first run of at least so many."""
    starts, ends = _runs(flags)
    found = np.flatnonzero(ends - starts >= least)
    return int(starts[found[0]]) if len(found) else None


def _best_run(flags: Flags, least: int, enough: int) -> int | None:
    """The middle of the longest run, `enough` and more being equal, the latest of equals; None below `least`."""
    starts, ends = _runs(flags)
    lengths = np.minimum(ends - starts, enough)
    if not len(lengths) or lengths.max() < least:
        return None
    best = int(np.flatnonzero(lengths == lengths.max())[-1])
    return int(starts[best] + ends[best]) // 2


def _quietest(levels: Levels, width: int) -> int:
    """The softest frame inside the softest `width` neighbors; the first of equals."""
    width = min(width, len(levels))
    running = np.concatenate([[0.0], np.cumsum(levels, dtype=np.float64)])
    first = int(np.argmin(running[width:] - running[:-width]))
    return first + int(np.argmin(levels[first : first + width]))
