"""One engine in a process of its own: `python -m tests.bench.engine_side MODEL`, then a recording's path per line.

The first line out is the load, each further one an answer, as JSON. The path is a WAV file (decoded by the engine, as
the command does) or an .npy array of 16 kHz samples.
"""

import time

STARTED = time.perf_counter()  # before MLX is imported: that is part of what a user waits for

import json  # noqa: E402 - the clock has to start first
import resource  # noqa: E402 - the clock has to start first
import sys  # noqa: E402 - the clock has to start first
from pathlib import Path  # noqa: E402 - the clock has to start first

import numpy as np  # noqa: E402 - the clock has to start first

import engine  # noqa: E402 - the clock has to start first


def main(model: str) -> None:
    """Load, then answer until the input ends."""
    with engine.Transcriber(model) as transcriber:
        info = transcriber.info
        say(
            ready_seconds=time.perf_counter() - STARTED,
            load_seconds=info.load_seconds,
            dtype=info.dtype,
            device=info.device,
            weight_bits=info.weight_bits,
            peak_bytes=peak_bytes(),
        )
        for line in sys.stdin:
            path = Path(line.strip())
            audio = (np.load(path), 16_000) if path.suffix == ".npy" else path
            started = time.perf_counter()
            transcript = transcriber.transcribe(audio)
            seconds = time.perf_counter() - started
            say(
                seconds=seconds,
                text=transcript.text,
                output_tokens=transcript.usage.output_tokens,
                encode_seconds=transcript.timings.encode_seconds,
                prefill_seconds=transcript.timings.prefill_seconds,
                generate_seconds=transcript.timings.generate_seconds,
                peak_bytes=peak_bytes(),
            )


def say(**values: object) -> None:
    """One answer."""
    print(json.dumps(values), flush=True)


def peak_bytes() -> int:
    """Largest resident size so far; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(sys.argv[1])
