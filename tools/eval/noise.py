"""Sound without speech: digital silence, room tone, mains hum, white and pink noise, from a fixed seed.

Levels are root mean square in dBFS (0 dBFS is a full-scale square wave), set before rounding to int16; nothing is
scaled to a peak, and only what exceeds full scale is clipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
KINDS = ("silence", "room", "hum", "white", "pink")
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 20.0
LEVEL_RANGE_DBFS = (-60.0, -12.0)
ROOM_LEVEL_RANGE_DBFS = (-84.0, -70.0)  # about one to five steps of 16-bit sound


def make_noise(
    kind: str, sample_count: int, level_dbfs: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    """`sample_count` samples of one kind at `level_dbfs` (which silence ignores).

    returns: (sample_count,) int16, mono 16 kHz
    raises:  ValueError for a kind that KINDS does not name
    """
    if kind == "silence":
        return np.zeros(sample_count, dtype=np.int16)
    if kind in ("white", "room"):
        shape = rng.standard_normal(sample_count)
    elif kind == "pink":
        shape = _pink(sample_count, rng)
    elif kind == "hum":
        shape = _hum(sample_count, rng)
    else:
        raise ValueError(f"no such kind of noise: {kind}")
    loudness = float(np.sqrt(np.mean(shape**2)))
    scaled = shape / loudness * 10.0 ** (level_dbfs / 20.0)
    clipped: NDArray[np.int16] = np.clip(np.rint(scaled * 32768.0), -32768, 32767).astype(np.int16)
    return clipped


def noise_clip(index: int, seed: int) -> tuple[str, float, NDArray[np.int16]]:
    """Clip number `index` of the series `seed`: its kind, its level in dBFS and its samples.

    Kinds take turns, so that any run of five clips has each once; durations are log-uniform from 0.5 to 20 s.
    """
    rng = np.random.default_rng([seed, index])
    kind = KINDS[index % len(KINDS)]
    seconds = float(np.exp(rng.uniform(np.log(SHORTEST_SECONDS), np.log(LONGEST_SECONDS))))
    level_dbfs = float(rng.uniform(*(ROOM_LEVEL_RANGE_DBFS if kind == "room" else LEVEL_RANGE_DBFS)))
    if kind == "silence":
        level_dbfs = float("-inf")
    return kind, level_dbfs, make_noise(kind, round(seconds * SAMPLE_RATE), level_dbfs, rng)


def _pink(sample_count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian noise whose power falls as 1/f; below 20 Hz, where nothing is heard, it stays level."""
    spectrum = np.fft.rfft(rng.standard_normal(sample_count))
    frequencies_hz = np.fft.rfftfreq(sample_count, 1.0 / SAMPLE_RATE)
    spectrum /= np.sqrt(np.maximum(frequencies_hz, 20.0))
    spectrum[0] = 0.0
    return np.fft.irfft(spectrum, sample_count)


def _hum(sample_count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mains hum: 50 or 60 Hz, a little off, and up to eight weaker harmonics."""
    base_hz = float(rng.choice([50.0, 60.0])) * (1.0 + rng.uniform(-0.002, 0.002))
    seconds = np.arange(sample_count) / SAMPLE_RATE
    total = np.zeros(sample_count)
    for harmonic in range(1, 1 + int(rng.integers(2, 9))):
        strength = rng.uniform(0.3, 1.0) / harmonic
        total += strength * np.sin(2.0 * np.pi * (base_hz * harmonic * seconds + rng.uniform()))
    return total
