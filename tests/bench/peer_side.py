"""mlx-qwen3-asr in a process of its own, spoken to as engine_side is: `python peer_side.py FOLDER TYPE IDS`.

Runs under the peer's own Python and imports nothing of this project. The peer takes the ids of the published
tokenizer for granted (start and end of a turn, and where generation stops); IDS, a JSON object of token names, puts
those of the model at hand in their place. Nothing else about the peer is changed.
"""

import time

STARTED = time.perf_counter()  # before MLX is imported, as on the other side

import functools  # noqa: E402 - the clock has to start first
import json  # noqa: E402 - the clock has to start first
import resource  # noqa: E402 - the clock has to start first
import sys  # noqa: E402 - the clock has to start first

import mlx.core as mx  # noqa: E402 - the clock has to start first
import numpy as np  # noqa: E402 - the clock has to start first
from mlx_qwen3_asr import session, tokenizer, transcribe  # noqa: E402 - the clock has to start first


def main(folder: str, dtype: str, ids: dict[str, int]) -> None:
    """Load, then answer until the input ends."""
    stop = [ids["<|endoftext|>"], ids["<|im_end|>"]]
    tokenizer.Tokenizer.IM_START_ID = ids["<|im_start|>"]
    tokenizer.Tokenizer.IM_END_ID = ids["<|im_end|>"]
    tokenizer.Tokenizer.EOS_TOKEN_IDS = stop
    transcribe_module = sys.modules[transcribe.__module__]
    transcribe_module.GenerationConfig = functools.partial(
        transcribe_module.GenerationConfig, eos_token_ids=stop
    )
    recognizer = session.Session(folder, dtype=getattr(mx, dtype))
    say(
        ready_seconds=time.perf_counter() - STARTED,
        dtype=dtype,
        device=str(mx.default_device()),
        mlx=mx.__version__,
    )
    for line in sys.stdin:
        samples = np.load(line.strip())
        started = time.perf_counter()
        result = recognizer.transcribe(samples, return_chunks=True)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        say(
            seconds=seconds,
            text=result.text,
            output_tokens=sum(chunk["generated_tokens"] for chunk in result.chunks or ()),
            peak_bytes=peak if sys.platform == "darwin" else peak * 1024,
        )


def say(**values: object) -> None:
    """One answer."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
