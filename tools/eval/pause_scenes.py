"""Scenes for the evaluation of pauses: speech laid at known samples into silence, noise, and at several levels.

Where speech is follows from how a scene is made and not from any code under test. A clean recording is taken apart at
its own gaps; a 10 ms frame of what is left is speech when it is at most `SPEECH_BELOW_PEAK_DECIBELS` softer than its
phrase's loudest frame (the room of real recordings is 27 to 33 dB softer). Gaps of under 100 ms in it are speech, too:
no cut belongs there; what 16 bits round to nothing is not. Phrases are laid with pauses of 0.12 to 0.8 s between them
and silence of 5 to 15 s after every few; noise is added, and bands and levels are changed, only after that. Everything
is rounded to 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.eval.noise import make_noise

RATE_HZ = 16_000
FRAME_SAMPLES = RATE_HZ // 100
SPEECH_BELOW_PEAK_DECIBELS = 25.0
PAUSE_FRAMES = 10  # 100 ms; what is shorter belongs to the speech around it
PHRASE_GAP_FRAMES = 30
LONGEST_PHRASE_SECONDS = 6.0
ACTIVE_LEVEL_DBFS = -26.0
SHORT_PAUSE_SECONDS = (0.12, 0.8)
LONG_SILENCE_SECONDS = (5.0, 15.0)
PHRASES_BEFORE_SILENCE = (8, 24)
BABBLE_VOICES = 12
TELEPHONE_HZ = (300.0, 3400.0)
SOFTER_SPEAKER_DECIBELS = 40.0
NOISES = ("white", "pink", "babble")
NOISE_RATIOS_DECIBELS = (40, 30, 20, 10, 5)

Samples = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Phrase:
    """Speech without a long gap: (n,) float32 samples, and for each whether it is speech."""

    samples: Samples
    is_speech: Flags


@dataclass(frozen=True, eq=False)
class Scene:
    """A recording with its truth.

    samples: (n,) float32, mono 16 kHz. is_speech: (n,). silences: (start, end) samples of the long silences in it.
    """

    name: str
    samples: Samples
    is_speech: Flags
    silences: tuple[tuple[int, int], ...]


def scene_names() -> list[str]:
    """Every scene's name."""
    noisy = [f"{kind}_{ratio}" for ratio in NOISE_RATIOS_DECIBELS for kind in NOISES]
    return ["silence", "telephone", "telephone_20", *noisy, "two_levels", "peak_45", "peak_60", "bump"]


def make_scene(name: str, phrases: Sequence[Phrase], seconds: float, seed: int) -> Scene:
    """A scene of about so many seconds."""
    rng = np.random.default_rng([seed, scene_names().index(name)])
    gains = (1.0, 10 ** (-SOFTER_SPEAKER_DECIBELS / 20)) if name == "two_levels" else (1.0,)
    samples, is_speech, silences = _laid(phrases, seconds, rng, gains)
    kind, _, figure = name.partition("_")
    peaks = {"peak": figure, "bump": "55"}
    if kind in peaks:
        samples = samples * np.float32(10 ** (-float(peaks[kind]) / 20) / np.abs(samples).max())
    is_speech = _heard(samples, is_speech)
    if kind == "telephone":
        samples = _band(samples, *TELEPHONE_HZ)
        kind = "white" if figure else kind
    if kind in NOISES:
        noise = _noise(kind, len(samples), phrases, rng)
        if name.startswith("telephone"):
            noise = _band(noise, *TELEPHONE_HZ)
        level = _rms(samples[is_speech]) * 10 ** (-float(figure) / 20)
        samples = samples + noise * np.float32(level / _rms(noise))
        samples = samples * np.float32(min(1.0, 0.95 / np.abs(samples).max()))
    elif kind == "bump":
        samples = _behind_a_bump(samples, silences)
    rounded = (np.rint(np.clip(samples, -1.0, 1.0) * 32_767) / 32_768).astype(np.float32)
    return Scene(name, rounded, is_speech, silences)


def phrases_of(samples: Samples) -> list[Phrase]:
    """The phrases of a clean recording, (n,) float32, all at one level of speech."""
    flags = _speech_frames(samples)
    starts, ends = _runs(_closed(flags, PHRASE_GAP_FRAMES))
    found = []
    longest = round(LONGEST_PHRASE_SECONDS * RATE_HZ)
    for start, end in zip(starts * FRAME_SAMPLES, ends * FRAME_SAMPLES, strict=True):
        if end - start < RATE_HZ // 5 or end - start > longest:
            continue
        piece = samples[start:end].astype(np.float32)
        is_speech = np.repeat(_closed(_speech_frames(piece), PAUSE_FRAMES), FRAME_SAMPLES)
        gain = 10 ** (ACTIVE_LEVEL_DBFS / 20) / _rms(piece[: len(is_speech)][is_speech])
        piece = piece * np.float32(min(gain, 0.9 / np.abs(piece).max()))
        found.append(Phrase(piece, is_speech))
    return found


def _laid(
    phrases: Sequence[Phrase], seconds: float, rng: np.random.Generator, gains: Sequence[float]
) -> tuple[Samples, Flags, tuple[tuple[int, int], ...]]:
    samples: list[Samples] = []
    flags: list[Flags] = []
    silences: list[tuple[int, int]] = []
    position, until_silence, turn, speaker = 0, 0, 0, 0
    order: list[int] = []
    while position < seconds * RATE_HZ:
        if until_silence == 0:
            gap = round(rng.uniform(*LONG_SILENCE_SECONDS) * RATE_HZ)
            silences.append((position, position + gap))
            until_silence = int(rng.integers(*PHRASES_BEFORE_SILENCE))
        else:
            gap = round(rng.uniform(*SHORT_PAUSE_SECONDS) * RATE_HZ)
        if turn == 0:
            turn, speaker = int(rng.integers(1, 6)), speaker + 1
        order = order or list(rng.permutation(len(phrases)))
        phrase = phrases[order.pop()]
        samples += [np.zeros(gap, np.float32), phrase.samples * np.float32(gains[speaker % len(gains)])]
        flags += [np.zeros(gap, np.bool_), phrase.is_speech]
        position += gap + len(phrase.samples)
        until_silence, turn = until_silence - 1, turn - 1
    return np.concatenate(samples), np.concatenate(flags), tuple(silences)


def _noise(kind: str, count: int, phrases: Sequence[Phrase], rng: np.random.Generator) -> Samples:
    if kind != "babble":
        return make_noise(kind, count, -30.0, rng).astype(np.float32) / np.float32(32_768)
    total = np.zeros(count, np.float32)
    for _ in range(BABBLE_VOICES):
        position = -int(rng.integers(RATE_HZ * 3))
        while position < count:
            piece = phrases[int(rng.integers(len(phrases)))].samples
            part = piece[max(0, -position) : count - position]
            total[max(0, position) : max(0, position) + len(part)] += part
            position += len(piece) + int(rng.uniform(0.05, 0.4) * RATE_HZ)
    return total


def _behind_a_bump(samples: Samples, silences: Sequence[tuple[int, int]]) -> Samples:
    """A thump of 60 ms at -3 dBFS a second before the end of the first silence."""
    start = silences[0][1] - RATE_HZ
    ticks = np.arange(RATE_HZ * 60 // 1000)
    thump = np.sin(2 * np.pi * 90 * ticks / RATE_HZ) * np.hanning(len(ticks)) * 10 ** (-3 / 20)
    samples[start : start + len(ticks)] += thump.astype(np.float32)
    return samples


def _band(samples: Samples, low_hz: float, high_hz: float) -> Samples:
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    # Slopes of a third of an octave, so that nothing rings far into the silence.
    gain = np.clip(1 + 3 * np.log2(np.maximum(hz, 1.0) / low_hz), 0, 1)
    gain *= np.clip(1 - 3 * np.log2(np.maximum(hz, 1.0) / high_hz), 0, 1)
    return np.fft.irfft(spectrum * gain, len(samples)).astype(np.float32)


def _heard(samples: Samples, is_speech: Flags) -> Flags:
    """Speech without the frames that 16 bits round to nothing."""
    count = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
    frames = np.abs(samples[:count]).reshape(-1, FRAME_SAMPLES).max(axis=1) >= 0.5 / 32_767
    heard = is_speech.copy()
    heard[:count] &= np.repeat(_closed(frames, PAUSE_FRAMES), FRAME_SAMPLES)
    return heard


def _speech_frames(samples: Samples) -> Flags:
    count = len(samples) // FRAME_SAMPLES
    levels = np.square(samples[: count * FRAME_SAMPLES].reshape(count, -1)).mean(axis=1)
    flags: Flags = levels >= levels.max() * 10 ** (-SPEECH_BELOW_PEAK_DECIBELS / 10)
    return flags


def _closed(flags: Flags, frames: int) -> Flags:
    """Flags with gaps of fewer than so many frames filled."""
    filled = flags.copy()
    starts, ends = _runs(~flags)
    for start, end in zip(starts, ends, strict=True):
        if end - start < frames and start > 0 and end < len(flags):
            filled[start:end] = True
    return filled


def _runs(flags: Flags) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
