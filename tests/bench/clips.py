"""Clips of an exact length, made of the shipped recordings: the same speech for everyone who is measured."""

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.demo import sample_recordings

SAMPLE_RATE_HZ = 16_000
_PAUSE_SECONDS = 0.4


def speech(seconds: float, rate_hz: int = SAMPLE_RATE_HZ) -> NDArray[np.float32]:
    """The shipped English recordings one after another with pauses, over and over, cut at `seconds`.

    returns: (samples,) float32 in [-1, 1], mono; other rates than 16 kHz by linear interpolation, for uploads only
    """
    parts: list[NDArray[np.float32]] = []
    length = 0
    recordings = [_read(one.path) for one in sample_recordings() if one.language == "English"]
    if not recordings:
        raise FileNotFoundError("no English recording is shipped in engine/demo/recordings")
    while length < seconds * SAMPLE_RATE_HZ:
        for samples in recordings:
            pause = np.zeros(int(_PAUSE_SECONDS * SAMPLE_RATE_HZ), np.float32)
            parts += [samples, pause]
            length += len(samples) + len(pause)
    joined = np.concatenate(parts)[: round(seconds * SAMPLE_RATE_HZ)]
    if rate_hz == SAMPLE_RATE_HZ:
        return joined
    positions = np.arange(round(seconds * rate_hz)) * (SAMPLE_RATE_HZ / rate_hz)
    return np.interp(positions, np.arange(len(joined)), joined).astype(np.float32)


def write_wav(
    path: Path, samples: NDArray[np.float32], rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1
) -> Path:
    """A 16-bit WAV file; every channel carries the same."""
    integers = np.round(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.repeat(integers, channels).tobytes())
    return path


def _read(path: Path) -> NDArray[np.float32]:
    with wave.open(str(path), "rb") as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE_HZ, 1, 2):
            raise ValueError(f"{path.name} is not 16-bit mono at 16 kHz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
