"""Clips of an exact length, as the benchmark command makes them (scribewire.engine.bench.audio), and uploads at
other rates.
"""

import wave
from pathlib import Path

import numpy as np

from scribewire.engine.bench.audio import speech, write_wav
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ

__all__ = ["speech", "write_upload", "write_wav"]


def write_upload(path: Path, seconds: float, rate_hz: int, channels: int) -> Path:
    """Speech as a 16-bit WAV file at another rate, by linear interpolation; every channel carries the same."""
    samples = speech(seconds)
    places = np.arange(round(seconds * rate_hz)) * (SAMPLE_RATE_HZ / rate_hz)
    converted = np.interp(places, np.arange(len(samples)), samples)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        integers = np.round(np.clip(converted, -1.0, 1.0) * 32767).astype("<i2")
        file.writeframes(np.repeat(integers, channels).tobytes())
    return path
