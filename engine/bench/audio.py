"""Recordings of any length, made of the shipped ones."""

from __future__ import annotations

import itertools
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]

_PAUSE = np.zeros(int(0.4 * SAMPLE_RATE_HZ), np.float32)


def speech(seconds: float, *, skip_seconds: float = 0.0) -> Samples:
    """The shipped English recordings one after another with pauses, over and over, cut at `seconds`.

    returns: (samples,) float32 in [-1, 1], mono 16 kHz
    skip_seconds: begin later in that endless recording.
    """
    skipped = round(skip_seconds * SAMPLE_RATE_HZ)
    samples: Samples = np.concatenate(list(_blocks(skipped + round(seconds * SAMPLE_RATE_HZ))))
    return samples[skipped:]


def write_wav(path: Path, samples: Samples) -> Path:
    """A 16-bit mono WAV file at 16 kHz."""
    return _write(path, [samples])


def write_long_wav(path: Path, seconds: float) -> Path:
    """The endless recording as a 16-bit WAV file of any length, never held in memory at once."""
    return _write(path, _blocks(round(seconds * SAMPLE_RATE_HZ)))


def distinct_clips(folder: Path, seconds: float, count: int) -> list[Path]:
    """WAV files that differ in content and by some milliseconds in length, so that they end at different steps."""
    paths = [folder / f"clip-{seconds:g}-{index}.wav" for index in range(count)]
    for index, path in enumerate(paths):
        write_wav(path, speech(seconds - index / 1000, skip_seconds=0.73 * index))
    return paths


def wav_seconds(path: Path) -> float:
    """Length of a WAV file, from its header."""
    with wave.open(str(path), "rb") as file:
        return file.getnframes() / file.getframerate()


def _blocks(left: int) -> Iterator[Samples]:
    """The endless recording, cut after that many samples."""
    recordings = []
    for one in sample_recordings():
        if one.language == "English":
            with wave.open(str(one.path), "rb") as file:  # 16-bit mono at 16 kHz, as all that is shipped
                integers = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            recordings.append(integers.astype(np.float32) / np.float32(32768))
    for samples in itertools.cycle(itertools.chain.from_iterable((one, _PAUSE) for one in recordings)):
        if left <= 0:
            return
        yield samples[:left]
        left -= len(samples)


def _write(path: Path, blocks: Iterable[Samples]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        for samples in blocks:
            file.writeframes(np.round(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return path
