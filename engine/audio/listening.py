"""A voice detector that hears soft and loud speakers alike: levels are evened out before it is asked.

Soft stretches are raised towards the level of ordinary speech, each by what is loud within a quarter of a second of it,
but never so far that the noise around it becomes loud: noise that is raised to the level of speech is taken for speech.
Nothing is made softer. Of levels only the next two seconds and the last four count, so that a stream is judged as the
whole recording is, and a bump or a shout is soon forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scribewire.engine.audio.pcm import Samples
from scribewire.engine.audio.voice_frames import FRAME_SAMPLES
from scribewire.engine.protocol.errors import EngineUnavailable

Probabilities = npt.NDArray[np.float32]

VOICE_PROBABILITY = 0.5
"""From here on it is a voice, unless the request has a threshold of its own."""

_AT_ONCE_FRAMES = 128
_VOICE_FRAMES = 8
_SPEECH_LEVEL = 10 ** (-28 / 20)
_LOUDEST_FLOOR = 10 ** (-50 / 20)
_LARGEST_GAIN = 10 ** (60 / 20)
_FLOOR_PERCENTILE = 5
_BLOCK_FRAMES = 32
_BACK_FRAMES = 128
_AHEAD_FRAMES = 64
_BESIDE_FRAMES = 8


class Detector(Protocol):
    """Listens to one recording from its start."""

    def probabilities(self, frames: Samples) -> list[float]:
        """Probability of speech for each of (n, 512) float32 frames, which follow those before."""

    def close(self) -> None:
        """End the recording."""


class Listener:
    """A detector's probabilities of speech for one stretch of sound, about two seconds behind it."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._frames = np.zeros((0, FRAME_SAMPLES), dtype=np.float32)  # not heard yet
        self._levels = np.zeros(0, dtype=np.float32)  # of these, and of those before that still count
        self._gain = np.float32(0.0)

    def push(self, frames: Samples, *, is_last: bool = False) -> Probabilities:
        """Take (n, 512) float32 frames; the probabilities of the frames that are now certain, in order.

        is_last: nothing follows, so that all are certain. raises: what the detector does
        """
        self._frames = np.concatenate([self._frames, frames])
        self._levels = np.concatenate([self._levels, np.einsum("ij,ij->i", frames, frames) / FRAME_SAMPLES])
        found: list[float] = []
        while len(self._frames) >= (1 if is_last else _BLOCK_FRAMES + _AHEAD_FRAMES):
            found += self._detector.probabilities(self._evened_block())
        return np.array(found, dtype=np.float32)

    def _evened_block(self) -> Samples:
        block, self._frames = self._frames[:_BLOCK_FRAMES], self._frames[_BLOCK_FRAMES:]
        first = len(self._levels) - len(self._frames) - len(block)
        last = first + len(block)
        levels = np.maximum(self._levels[: last + _AHEAD_FRAMES], 1e-11)
        floor = np.sqrt(np.percentile(levels, _FLOOR_PERCENTILE))
        beside = np.pad(levels, _BESIDE_FRAMES, mode="edge")
        loud = np.lib.stride_tricks.sliding_window_view(beside, 2 * _BESIDE_FRAMES + 1).max(axis=1)[
            first:last
        ]
        gains = np.minimum(_SPEECH_LEVEL / np.sqrt(loud), _LOUDEST_FLOOR / floor)
        gains = np.clip(gains, 1.0, _LARGEST_GAIN).astype(np.float32)
        # From frame to frame the gain moves in a straight line: steps would click.
        before = np.concatenate([[self._gain or gains[0]], gains[:-1]])[:, None]
        self._gain = gains[-1]
        ramp = np.linspace(0.0, 1.0, FRAME_SAMPLES, dtype=np.float32)
        self._levels = self._levels[max(0, last - _BACK_FRAMES) :]
        evened: Samples = np.clip(block * (before + (gains[:, None] - before) * ramp), -1.0, 1.0)
        return evened.astype(np.float32)


def listen(new_detector: Callable[[], Detector], samples: Samples) -> Iterator[Probabilities]:
    """A detector's probabilities for (n,) float32 samples by themselves, one every 512, some seconds at a time.

    raises: what the detector does
    """
    frames = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
    with contextlib.closing(new_detector()) as detector:
        listener = Listener(detector)
        for end in range(_AT_ONCE_FRAMES, len(frames) + _AT_ONCE_FRAMES, _AT_ONCE_FRAMES):
            yield listener.push(frames[end - _AT_ONCE_FRAMES : end], is_last=end >= len(frames))


def hears_voice(new_detector: Callable[[], Detector], samples: Samples) -> bool:
    """True when a detector hears a voice for a quarter of a second anywhere in (n,) float32 samples, or fails.

    Music is taken for a voice now and then, but not for so long. Listens no longer than needed.
    """
    heard = np.zeros(0, dtype=np.bool_)
    try:
        for found in listen(new_detector, samples):
            heard = np.concatenate([heard[-_VOICE_FRAMES:], found >= VOICE_PROBABILITY])
            if np.convolve(heard, np.ones(_VOICE_FRAMES)).max(initial=0.0) >= _VOICE_FRAMES:
                return True
    except EngineUnavailable:
        return True
    return False
