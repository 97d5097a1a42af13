"""Recordings of any length, made of the shipped ones: the same speech for everyone who is measured."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.demo import sample_recordings
from engine.protocol.config import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]

_PAUSE_SECONDS = 0.4
_BLOCK_SAMPLES = 60 * SAMPLE_RATE_HZ


def speech(seconds: float, rate_hz: int = SAMPLE_RATE_HZ, *, skip_seconds: float = 0.0) -> Samples:
    """The shipped English recordings one after another with pauses, over and over, cut at `seconds`.

    returns: (samples,) float32 in [-1, 1], mono; other rates than 16 kHz by linear interpolation, for uploads only
    skip_seconds: begin later in that endless recording.
    """
    skipped, wanted = round(skip_seconds * SAMPLE_RATE_HZ), round(seconds * SAMPLE_RATE_HZ)
    parts: list[Samples] = []
    length = 0
    for samples in _endless():
        parts.append(samples)
        length += len(samples)
        if length >= skipped + wanted:
            break
    joined: Samples = np.concatenate(parts)[skipped : skipped + wanted]
    if rate_hz == SAMPLE_RATE_HZ:
        return joined
    positions = np.arange(round(seconds * rate_hz)) * (SAMPLE_RATE_HZ / rate_hz)
    slower: Samples = np.interp(positions, np.arange(len(joined)), joined).astype(np.float32)
    return slower


def write_wav(path: Path, samples: Samples, rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1) -> Path:
    """A 16-bit WAV file; every channel carries the same."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.repeat(_integers(samples), channels).tobytes())
    return path


def write_long_wav(path: Path, seconds: float) -> Path:
    """The endless recording as a 16-bit WAV file of any length, never held in memory at once."""
    left = round(seconds * SAMPLE_RATE_HZ)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        block: list[Samples] = []
        held = 0
        for samples in _endless():
            block.append(samples[:left])
            held += len(block[-1])
            left -= len(block[-1])
            if held >= _BLOCK_SAMPLES or left == 0:
                file.writeframes(_integers(np.concatenate(block)).tobytes())
                block, held = [], 0
            if left == 0:
                break
    return path


def distinct_clips(folder: Path, seconds: float, count: int) -> list[Path]:
    """WAV files that differ in content and by some milliseconds in length, so that they end at different steps."""
    clips = []
    for index in range(count):
        path = folder / f"clip-{seconds:g}-{index}.wav"
        clips.append(write_wav(path, speech(seconds - index / 1000, skip_seconds=0.73 * index)))
    return clips


def wav_seconds(path: Path) -> float:
    """Length of a WAV file, from its header."""
    with wave.open(str(path), "rb") as file:
        return file.getnframes() / file.getframerate()


def _endless() -> Iterator[Samples]:
    recordings = [_read(one.path) for one in sample_recordings() if one.language == "English"]
    if not recordings:
        raise FileNotFoundError("no English recording is shipped in engine/demo/recordings")
    while True:
        for samples in recordings:
            yield samples
            yield np.zeros(int(_PAUSE_SECONDS * SAMPLE_RATE_HZ), np.float32)


def _integers(samples: Samples) -> NDArray[np.int16]:
    integers: NDArray[np.int16] = np.round(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")
    return integers


def _read(path: Path) -> Samples:
    with wave.open(str(path), "rb") as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE_HZ, 1, 2):
            raise ValueError(f"{path.name} is not 16-bit mono at 16 kHz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)
