"""Labels of a recording's frames: silent or not, by loudness or by voice detection, offline or as a stream.

By loudness (`LoudnessLabels`) every two seconds of sound are judged by themselves, whatever was louder long before:

* They are sound where the loudest of them is much louder than the softest. Speech always is, and nothing of it is lost.
* They are silence where they are soft and steady: room tone, dither, digital silence.
* All else is unsure (steady noise, babble, hum, a fan), and there the voice detector is asked.

By voice detection (`VoiceLabels`) the detector decides alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scribewire.engine.audio.listening import Detector, Listener
from scribewire.engine.audio.pcm import Samples
from scribewire.engine.audio.voice_frames import FRAME_SAMPLES
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, Chunking
from scribewire.engine.protocol.errors import EngineUnavailable

Flags = npt.NDArray[np.bool_]
Levels = npt.NDArray[np.float32]

SILENCE_FLOOR = 1.0 / 32_768.0
"""One step of 16-bit audio."""

HYSTERESIS = 0.15
"""Speech that has begun goes on while its probability is no further below the threshold. Source: Silero's own rule."""

LOUDNESS_FRAME_SAMPLES = FRAME_SAMPLES // 2

SOFT_POWER = 1e-6
"""-60 dB of full scale: steady sound below it is silence, and nobody is asked."""

STEADY_RATIO, SOUND_RATIO = 10**0.8, 10**1.2
"""Of the loudest 64 ms of two seconds to the softest: up to 8 dB is steady, from 12 dB on it is sound."""

DOUBT_PROBABILITY = 0.3
"""From here on what is unsure is decoded: that costs half a second of decoding, and speech left out would be lost."""

_FLOOR_POWER = SILENCE_FLOOR**2 / 12
_CELL_FRAMES = 4
_WINDOW_CELLS = round(2.0 * SAMPLE_RATE_HZ / LOUDNESS_FRAME_SAMPLES / _CELL_FRAMES)
_SHORTEST_QUESTION = 8 * _CELL_FRAMES
_BEFORE_QUESTION = 256
_SOUND, _UNSURE, _SILENT = 0, 1, 2


def is_silent(samples: Samples) -> bool:
    """True when every |x| is below one 16-bit step (-90.3 dB of full scale); no model is needed for such a chunk.

    samples: (n,) float32. An empty array is silent.
    Safe for quiet speech: a single non-zero sample of a 16-bit recording reaches the floor and is not silent, so only
    digital silence, the residue of a lossy codec around it, and dither below the last bit are skipped. Speech that
    peaks below this floor exists only in 24-bit or float recordings, far below any microphone's own noise.
    """
    if len(samples) == 0:
        return True
    return bool(samples.max() < SILENCE_FLOOR and samples.min() > -SILENCE_FLOOR)


class Labels(Protocol):
    """A labeler of frames as silent or not; it may need later frames to decide."""

    @property
    def frame_samples(self) -> int:
        """Length of a frame."""

    @property
    def finds_pauses(self) -> bool:
        """True when its silent frames are all pauses, so that cuts are searched there first."""

    def push(self, frames: Samples, levels: Levels) -> Flags:
        """(n, frame_samples) frames and (n,) mean squares -> (m,) flags of the frames now certain, in order."""

    def finish(self) -> Flags:
        """The flags of all frames that had none yet."""

    def close(self) -> None:
        """Release the detector, where one is at work; may come at any time."""


class LoudnessLabels:
    """Silence by loudness, and by a voice detector where loudness leaves it open; see the module."""

    frame_samples = LOUDNESS_FRAME_SAMPLES
    finds_pauses = False

    def __init__(self, new_detector: Callable[[], Detector] | None = None) -> None:
        """new_detector: for one stretch that is unsure. Without one, and where it fails, what is unsure is sound."""
        self._new_detector = new_detector
        self._blocks: list[Samples] = []  # of frames of no certain kind, and some before
        self._levels = np.zeros(0, dtype=np.float32)  # of all these
        self._past = 0  # frames at the head that have their kind
        self._question: Question | None = None

    def push(self, frames: Samples, levels: Levels) -> Flags:
        """See Labels; what is certain is two seconds behind, more in the middle of what is unsure."""
        self._blocks.append(frames)
        self._levels = np.concatenate([self._levels, levels])
        return self._label(is_last=False)

    def finish(self) -> Flags:
        """See Labels."""
        return self._label(is_last=True)

    def close(self) -> None:
        """See Labels."""
        if self._question is not None:
            self._question.close()

    def _label(self, *, is_last: bool) -> Flags:
        found: list[Flags] = []
        kinds = np.repeat(self._kinds(is_last), _CELL_FRAMES)[: len(self._levels) - self._past]
        edges = np.flatnonzero(np.diff(kinds)) + 1
        for run in np.split(kinds, edges) if len(kinds) else []:
            start, end = self._past, self._past + len(run)
            self._past = end
            if run[0] == _UNSURE:
                self._blocks = [np.concatenate(self._blocks)]
                if self._question is None:
                    before = self._blocks[0][max(0, start - _BEFORE_QUESTION) : start]
                    self._question = Question(self._new_detector, before)
                found.append(self._question.answer(self._blocks[0][start:end], self._levels[start:end]))
                continue
            found.append(self._answered())
            found.append(np.full(len(run), True) if run[0] == _SILENT else _digital(self._levels[start:end]))
        if is_last:
            found.append(self._answered())
        while self._blocks and self._past - _BEFORE_QUESTION >= len(self._blocks[0]):
            gone = len(self._blocks.pop(0))
            self._levels, self._past = self._levels[gone:], self._past - gone
        return np.concatenate(found) if found else np.zeros(0, dtype=np.bool_)

    def _answered(self) -> Flags:
        """The flags still open of a question that has come to its end."""
        question, self._question = self._question, None
        nothing = np.zeros((0, LOUDNESS_FRAME_SAMPLES), dtype=np.float32)
        return (
            nothing[:, 0] > 0 if question is None else question.answer(nothing, nothing[:, 0], is_last=True)
        )

    def _kinds(self, is_last: bool) -> npt.NDArray[np.int8]:
        """The kinds of the cells that are now certain: the quietest that a window over the cell has."""
        first = max(0, self._past - (_WINDOW_CELLS - 1) * _CELL_FRAMES)
        levels = self._levels[first:]
        if is_last and len(levels):
            levels = np.pad(levels, (0, -len(levels) % _CELL_FRAMES), mode="edge")
        cells = levels[: len(levels) // _CELL_FRAMES * _CELL_FRAMES].reshape(-1, _CELL_FRAMES).mean(axis=1)
        certain = len(cells) if is_last else max(0, len(cells) - _WINDOW_CELLS + 1)
        kinds = np.full(max(1, len(cells)) + _WINDOW_CELLS - 1, _SOUND, dtype=np.int8)
        if len(cells) >= _WINDOW_CELLS:
            windows = np.lib.stride_tricks.sliding_window_view(cells, _WINDOW_CELLS)
            loud, soft = windows.max(axis=1), np.maximum(windows.min(axis=1), np.float32(_FLOOR_POWER))
            of_windows = np.where(loud < soft * SOUND_RATIO, _UNSURE, _SOUND)
            of_windows[(loud < SOFT_POWER) & (loud < soft * STEADY_RATIO)] = _SILENT
            kinds[_WINDOW_CELLS - 1 : len(cells)] = of_windows
        of_cells = np.lib.stride_tricks.sliding_window_view(kinds, _WINDOW_CELLS).max(axis=1)
        found: npt.NDArray[np.int8] = of_cells[(self._past - first) // _CELL_FRAMES : certain]
        return found


class Question:
    """One stretch of which loudness cannot say whether it is silent, put to a detector unless it is short."""

    def __init__(self, new_detector: Callable[[], Detector] | None, before: Samples) -> None:
        """before: sound that the detector hears first, to be in the picture."""
        self._new_detector = new_detector
        self._detector: Detector | None = None
        self._listener: Listener | None = None
        self._unheard = before
        self._before = len(before) // 2  # frames of the detector's, still to be heard
        self._levels = np.zeros(0, dtype=np.float32)

    def answer(self, frames: Samples, levels: Levels, *, is_last: bool = False) -> Flags:
        """The flags that are certain after these frames; all that are left when they are the last."""
        self._unheard = np.concatenate([self._unheard, frames])
        self._levels = np.concatenate([self._levels, levels])
        if self._listener is None and self._new_detector and len(self._levels) >= _SHORTEST_QUESTION:
            self._detector = self._new_detector()
            self._listener = Listener(self._detector)
        flags = _digital(self._levels[:0])
        if self._listener is not None:
            if is_last:
                self._unheard = np.pad(self._unheard, ((0, len(self._unheard) % 2), (0, 0)))
            even = len(self._unheard) // 2 * 2
            pairs, self._unheard = self._unheard[:even].reshape(-1, FRAME_SAMPLES), self._unheard[even:]
            try:
                probabilities = self._listener.push(pairs, is_last=is_last)
            except EngineUnavailable:
                probabilities, self._listener, self._new_detector = np.zeros(0, dtype=np.float32), None, None
            skipped = min(len(probabilities), self._before)
            self._before -= skipped
            flags = np.repeat(probabilities[skipped:] < DOUBT_PROBABILITY, 2)[: len(self._levels)]
            flags |= self._by_loudness(len(flags))
        if is_last or self._new_detector is None:
            flags = np.concatenate([flags, self._by_loudness(len(self._levels))])
        if is_last:
            self.close()
        return flags

    def close(self) -> None:
        """Release the detector."""
        if self._detector is not None:
            self._detector.close()

    def _by_loudness(self, count: int) -> Flags:
        """Flags of the next frames without the detector: only digital silence is silent."""
        levels, self._levels = self._levels[:count], self._levels[count:]
        return _digital(levels)


class VoiceLabels:
    """Silence outside speech: speech begins at the threshold, and ends with enough frames well below it."""

    frame_samples = FRAME_SAMPLES
    finds_pauses = True

    def __init__(self, detector: Detector, chunking: Chunking) -> None:
        self._detector = detector
        self._listener = Listener(detector)
        self._threshold = chunking.threshold
        self._stays_above = max(0.0, chunking.threshold - HYSTERESIS)
        frame_ms = 1000 * FRAME_SAMPLES / SAMPLE_RATE_HZ
        self._ends_after = max(1, round(chunking.silence_duration_ms / frame_ms))
        self._is_speech = False
        self._doubtful = 0

    def push(self, frames: Samples, levels: Levels) -> Flags:
        """See Labels; speech that may be ending waits for what follows."""
        return self.label(self._listener.push(frames))

    def finish(self) -> Flags:
        """The flags of all frames that had none yet: speech that was ending has ended."""
        flags = self.label(self._listener.push(np.zeros((0, FRAME_SAMPLES), dtype=np.float32), is_last=True))
        doubtful, self._doubtful = self._doubtful, 0
        return np.concatenate([flags, np.ones(doubtful, dtype=np.bool_)])

    def close(self) -> None:
        """See Labels."""
        self._detector.close()

    def label(self, probabilities: Iterable[float]) -> Flags:
        """The flags that are certain after these."""
        flags: list[bool] = []
        for probability in probabilities:
            if probability >= self._threshold:
                flags += [False] * (self._doubtful + 1)
                self._is_speech, self._doubtful = True, 0
            elif not self._is_speech:
                flags.append(True)
            elif self._doubtful or probability < self._stays_above:
                self._doubtful += 1
                if self._doubtful >= self._ends_after:
                    flags += [True] * self._doubtful
                    self._is_speech, self._doubtful = False, 0
            else:
                flags.append(False)
        return np.array(flags, dtype=np.bool_)


def _digital(levels: Levels) -> Flags:
    flags: Flags = levels < np.float32(SILENCE_FLOOR**2)
    return flags
