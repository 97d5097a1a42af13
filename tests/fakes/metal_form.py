"""A program that computes as on a Mac's GPU, but on the CPU: `python -m tests.fakes.metal_form MODEL DTYPE WAV...`.

Compiled stretches, plain attention, quantized weights kept. All recordings are rows of one batch; prints their texts as
a list in JSON and ends, with the engine closed, or left open where FORGETS_TO_CLOSE is set.
"""

from __future__ import annotations

import json
import os
import sys

import mlx.core as mx
import numpy as np

from scribewire import Transcriber
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.resident.profile import DeviceProfile, choose_dtype, profile_of
from scribewire.engine.transcriber import TranscribeItem

FORGETS_TO_CLOSE = "SCRIBEWIRE_TEST_FORGETS_TO_CLOSE"


def metal_profile(config: EngineConfig) -> DeviceProfile:
    """Metal's profile on the CPU."""
    return profile_of("metal", mx.Device(mx.cpu), choose_dtype(config.dtype, "metal"))


def main(model: str, dtype: str, *recordings: str) -> None:
    """Transcribe and print."""
    config = EngineConfig(model=model, dtype=dtype, offline=True)
    transcriber = Transcriber(config=config, profile=metal_profile)
    found = transcriber.transcribe_many(recordings)
    if FORGETS_TO_CLOSE in os.environ:
        # Work in flight at the end of the process, too.
        transcriber.submit(TranscribeItem(np.zeros(600 * 16_000, np.float32) + 0.1))
    else:
        transcriber.close()
    print(json.dumps([one.text for one in found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
