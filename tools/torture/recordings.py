"""Recordings for the torture runs: cuts of the demo model's shipped speech, and sounds of a given length."""

from __future__ import annotations

import io
import random
import wave
from functools import cache
from pathlib import Path

from scribewire.engine.protocol import config as protocol_config
from tests.fakes.media import riff

RATE = 16_000
DEMO_RECORDINGS = Path(protocol_config.__file__).resolve().parents[1] / "demo" / "recordings"


@cache
def _speech() -> bytes:
    """Both shipped recordings, one behind the other: 16-bit mono samples at 16 kHz."""
    samples = b""
    for name in ("english", "spanish"):
        with wave.open(str(DEMO_RECORDINGS / f"{name}.wav"), "rb") as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
            samples += file.readframes(file.getnframes())
    return samples


def speech_wav(chance: random.Random, seconds: float) -> bytes:
    """Speech of this length from a random place, as a WAV file; hardly ever twice the same."""
    samples, count = _speech(), int(seconds * RATE)
    start = chance.randrange(len(samples) // 2)
    turned = samples[2 * start :] + samples[: 2 * start]
    repeated = turned * (2 * count // len(turned) + 1)
    return as_wav(repeated[: 2 * count])


def as_wav(samples: bytes) -> bytes:
    """16-bit mono samples at 16 kHz as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        out.writeframes(samples)
    return file.getvalue()


def numbered_wav(number: int, seconds: float) -> bytes:
    """A quiet sound that no other number has, quick to make: the number, again and again."""
    return riff((number % (1 << 31)).to_bytes(4, "little") * int(seconds * RATE / 2))
