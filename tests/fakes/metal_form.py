"""A program that computes as on a Mac's GPU, but on the CPU: `python -m tests.fakes.metal_form MODEL DTYPE WAV...`.

Compiled stretches, plain attention, quantized weights kept. All recordings are rows of one batch; prints their texts as
a list in JSON, closes the engine and ends.
"""

from __future__ import annotations

import json
import sys

import mlx.core as mx

from scribewire import Transcriber
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.resident.profile import DeviceProfile, choose_dtype, profile_of


def metal_profile(config: EngineConfig) -> DeviceProfile:
    """Metal's profile on the CPU."""
    return profile_of("metal", mx.Device(mx.cpu), choose_dtype(config.dtype, "metal"))


def main(model: str, dtype: str, *recordings: str) -> None:
    """Transcribe and print."""
    config = EngineConfig(model=model, dtype=dtype, offline=True)
    with Transcriber(config=config, profile=metal_profile) as transcriber:
        found = transcriber.transcribe_many(recordings)
    print(json.dumps([one.text for one in found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
