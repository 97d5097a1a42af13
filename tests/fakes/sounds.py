"""Speech, and sounds that are none: hum, noise and music. (n,) float32, mono 16 kHz, the same on every call."""

from __future__ import annotations

import wave

import numpy as np
from numpy.typing import NDArray

from scribewire.engine.demo import sample_recordings

RATE_HZ = 16_000
Samples = NDArray[np.float32]


def spoken(seconds: float) -> Samples:
    """The beginning of the English demo recording."""
    with wave.open(str(sample_recordings()[0].path)) as file:
        data = file.readframes(round(seconds * RATE_HZ))
    return np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(32_768)


def hum(seconds: float, hertz: float, level: float = 0.1) -> Samples:
    """Mains hum with four harmonics."""
    ticks = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    parts = [level / k * np.sin(2.0 * np.pi * hertz * k * ticks + k) for k in range(1, 6)]
    return np.sum(parts, axis=0).astype(np.float32)


def noise(seconds: float, level: float) -> Samples:
    """White noise of this root mean square."""
    random = np.random.default_rng(0)
    return (level * random.standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


def music(seconds: float, level: float = 0.3, seed: int = 2) -> Samples:
    """Plucked major chords, one every three eighths of a second, with a drum on every second."""
    random = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * RATE_HZ))
    step = RATE_HZ * 3 // 8
    ticks = np.arange(step) / RATE_HZ
    swell = np.exp(-4.0 * ticks) * np.minimum(1.0, 100.0 * ticks)
    for number, start in enumerate(range(0, len(samples) - step + 1, step)):
        root_hertz = 110.0 * 2.0 ** (random.integers(0, 24) / 12)
        for semitones in (0, 4, 7, 12):
            hertz = root_hertz * 2.0 ** (semitones / 12)
            for k in range(1, 6):
                samples[start : start + step] += (
                    level / 4 / k * swell * np.sin(2.0 * np.pi * hertz * k * ticks)
                )
        if number % 2 == 0:
            samples[start : start + step] += level / 2 * np.exp(-30.0 * ticks) * random.standard_normal(step)
    return samples.astype(np.float32)
