"""Synthetic recordings for the parity tests, made from integers so that every machine makes the same samples.

Speech-like: syllables of gliding harmonics, hiss and digital silence at changing loudness. The loudest syllable comes
late, so that the floor of the log-mel (8 decades under the loudest cell of the whole clip) decides many cells before
it. Both ends sound, so that the way the edges are padded matters. Needs numpy only; stores nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Clip:
    """One synthetic recording: its name in the fixtures and its length in samples at 16 kHz.

    draw: which of many possible sounds. Chosen so that the greedy path of the random models keeps a clear margin
    between the best and the second id at every step, which rounding cannot turn around.
    """

    name: str
    sample_count: int
    draw: int = 0

    @property
    def frame_count(self) -> int:
        """Mel frames of 10 ms: floor(samples / 160)."""
        return self.sample_count // 160

    @property
    def token_count(self) -> int:
        """Audio tokens: 13 a second, and one per 8 frames begun in the last second."""
        return 13 * (self.frame_count // 100) + -(-(self.frame_count % 100) // 8)


# Every length of the issue, and one of each class whose sample count is no multiple of 160.
CLIPS = (
    Clip("0.3s", 4800, draw=6),
    Clip("0.3s-odd", 4973, draw=1),  # 31.08 frames: 31, not 32
    Clip("1.0s", 16000, draw=3),
    Clip("1.0s-odd", 16037, draw=2),  # 100 frames, one chunk; rounding up would make a second chunk
    Clip("2.5s", 40000, draw=1),
    Clip("2.5s-odd", 40117, draw=16),
    Clip("7.9s", 126400, draw=3),
    Clip("7.9s-odd", 126531, draw=4),
    Clip("8.1s", 129600, draw=8),  # the second attention window holds 10 frames
    Clip("8.1s-odd", 129701, draw=6),
    Clip("31s", 496000, draw=7),  # no tail chunk
    Clip("31s-odd", 501937, draw=10),
    Clip("95s", 1520000, draw=5),
    Clip("95s-odd", 1513349, draw=2),
)
# The least that can be padded by reflection: one frame. Only its mel is compared.
SHORTEST_CLIP = Clip("201-samples", 201)
CLIPS_BY_NAME = {clip.name: clip for clip in CLIPS}

_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def babbling(key: str, seconds: float) -> NDArray[np.float32]:
    """Noise that comes and goes four times a second: steady noise is no speech, and nothing of it would be decoded."""
    count = int(seconds * SAMPLE_RATE)
    swell = np.square(np.sin(4.0 * np.pi * np.arange(count) / SAMPLE_RATE))
    return (0.2 * uniform(key, count) * swell).astype(np.float32)


def uniform(seed: str, count: int) -> NDArray[np.float64]:
    """`count` numbers in [-1, 1) that depend on `seed` alone (splitmix64), on any machine and numpy version."""
    start = np.uint64(zlib.crc32(seed.encode())) << np.uint64(32)
    with np.errstate(over="ignore"):
        state = (start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) & _MASK
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def _syllable(seed: str, sample_count: int) -> NDArray[np.float64]:
    """A voiced sound with gliding pitch and two resonances, over hiss; its peak is about 1."""
    pitch, glide, first, second, hiss = (uniform(seed, 5) + 1.0) / 2.0
    time = np.arange(sample_count) / SAMPLE_RATE
    frequency = 90.0 + 140.0 * pitch + 120.0 * (glide - 0.5) * time
    phase = 2.0 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    middle = float(frequency.mean())
    formants = (300.0 + 600.0 * first, 1000.0 + 1800.0 * second)
    voice = np.zeros(sample_count)
    for harmonic in range(1, 25):
        distance = min(abs(harmonic * middle - formant) / 260.0 for formant in formants)
        voice += np.sin(harmonic * phase + harmonic) / (1.0 + distance**2) / harmonic**0.5
    noise = uniform(seed + "/hiss", sample_count) * (0.01 + 0.2 * hiss**3)
    shape = np.sin(np.pi * np.clip((np.arange(sample_count) + 0.5) / sample_count, 0.05, 0.95)) ** 0.5
    return (0.3 * voice + noise) * shape


def make_clip(clip: Clip) -> NDArray[np.float32]:
    """The samples, (sample_count,) float32 in [-1, 1), each a multiple of 1/32768."""
    loudest_at = 0.8 * clip.sample_count
    samples = np.zeros(clip.sample_count)
    position = 0
    index = 0
    loudest_is_past = False
    while position < clip.sample_count:
        length_draw, gap_draw, level_draw = (uniform(f"{clip.name}/{clip.draw}/{index}", 3) + 1.0) / 2.0
        length = min(int((0.06 + 0.22 * length_draw) * SAMPLE_RATE), clip.sample_count - position)
        level = 0.004 * 10.0 ** (1.1 * level_draw)  # -48 to -26 dB
        if index == 0 or position + length == clip.sample_count:
            level = 0.06
        if position + length > loudest_at and not loudest_is_past:
            level = 0.6
            loudest_is_past = True
        samples[position : position + length] = level * _syllable(
            f"{clip.name}/{clip.draw}/{index}/sound", length
        )
        # A pause of digital silence after some syllables, but never at the end.
        gap = int(max(gap_draw - 0.5, 0.0) * 0.5 * SAMPLE_RATE)
        rest = clip.sample_count - position - length
        position += length + (gap if rest > gap + SAMPLE_RATE // 20 else 0)
        index += 1
    return (np.round(np.clip(samples, -0.999, 0.999) * 32767.0) / 32768.0).astype(np.float32)


def checksum(samples: NDArray[np.float32]) -> int:
    """CRC-32 of the samples as 16-bit integers; the fixtures record it to tell a changed clip from a changed model."""
    return zlib.crc32((samples * 32768.0).astype("<i2").tobytes())
