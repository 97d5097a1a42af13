"""The whole engine in a process of its own: `python -m tools.bench.engine_side JSON` (see `tools.bench.child`).

The argument holds fields of EngineConfig. Recordings are named by path: a WAV file is decoded by the engine, an .npy
array of 16 kHz samples goes in as it is.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from scribewire.engine.processes.memory import peak_resident_bytes
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, EngineConfig
from scribewire.engine.transcriber import Transcriber
from tools.bench.answering import answer_requests


def main(arguments: dict[str, Any]) -> None:
    """Load, then answer until the input ends."""
    with Transcriber(config=EngineConfig(offline=True, **arguments)) as transcriber:
        info = transcriber.info

        def transcribe(path: str) -> dict[str, Any]:
            recording = Path(path)
            audio = (np.load(recording), SAMPLE_RATE_HZ) if recording.suffix == ".npy" else recording
            mx.reset_peak_memory()
            started = time.perf_counter()
            transcript = transcriber.transcribe(audio)
            return {
                "seconds": time.perf_counter() - started,
                "text": transcript.text,
                "output_tokens": transcript.usage.output_tokens,
                "encode_seconds": transcript.timings.encode_seconds,
                "prefill_seconds": transcript.timings.prefill_seconds,
                "generate_seconds": transcript.timings.generate_seconds,
                "peak_mlx_bytes": mx.get_peak_memory(),
                "peak_resident_bytes": peak_resident_bytes(),
            }

        answer_requests(
            {"transcribe": transcribe},
            load_seconds=info.load_seconds,
            dtype=info.dtype,
            device=info.device,
            weight_bits=info.weight_bits,
            parameter_count=info.parameter_count,
            resident_bytes=info.resident_bytes,
            peak_resident_bytes=peak_resident_bytes(),
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
