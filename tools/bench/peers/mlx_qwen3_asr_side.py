"""mlx-qwen3-asr in a process of its own: `python mlx_qwen3_asr_side.py JSON`, run by the peer's Python.

What is changed about the peer: it takes the ids of the published tokenizer for granted (start and end of a turn, and
where generation stops), so those of the loaded model are put in their place. With forced counts it has no stop ids,
its loop guard is off, and each chunk's budget is the forced count; how it decodes is untouched.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from typing import Any

import mlx.core as mx
import numpy as np
import rig  # type: ignore[import-not-found]  # beside this script, which is never imported
from mlx_qwen3_asr import (  # type: ignore[import-not-found]  # only the peer's Python has it
    server,
    session,
    tokenizer,
)


def put_in_place(ids: dict[str, int], counts: Any) -> None:
    """Everything named in this script's head."""
    stop = [ids["<|endoftext|>"], ids["<|im_end|>"]]
    tokenizer.Tokenizer.IM_START_ID = ids["<|im_start|>"]
    tokenizer.Tokenizer.IM_END_ID = ids["<|im_end|>"]
    tokenizer.Tokenizer.EOS_TOKEN_IDS = stop
    # By name: the package's attributes of these names are functions.
    transcribe: Any = sys.modules["mlx_qwen3_asr.transcribe"]
    generate: Any = sys.modules["mlx_qwen3_asr.generate"]
    transcribe.GenerationConfig = functools.partial(
        transcribe.GenerationConfig, eos_token_ids=[] if counts.is_on else stop
    )
    if not counts.is_on:
        return
    plain_split = transcribe.split_audio_into_chunks

    def split(*positional: Any, **named: Any) -> Any:
        chunks = plain_split(*positional, **named)
        counts.expect(chunks)
        return chunks

    transcribe.split_audio_into_chunks = split
    transcribe.resolve_max_new_tokens = lambda *positional, **named: counts.next()
    generate._detect_repetition = lambda *positional, **named: False


def main(arguments: dict[str, Any]) -> None:
    """Answer recordings line by line, or serve."""
    counts = rig.ForcedCounts(arguments["forcing_file"], arguments["tokens_per_second"])
    put_in_place(rig.token_ids(arguments["folder"]), counts)
    if "port" in arguments:
        server.run_server(
            server.ServerConfig(
                host="127.0.0.1",
                port=arguments["port"],
                api_keys=[arguments["key"]],
                model=arguments["folder"],
                dtype=arguments["dtype"],
                rate_limit=1_000_000,
                max_queue_depth=1024,
            )
        )
        return
    recognizer = session.Session(arguments["folder"], dtype=getattr(mx, arguments["dtype"]))

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        path = request["path"]
        audio = np.load(path) if path.endswith(".npy") else path
        started = time.perf_counter()
        result = recognizer.transcribe(audio, return_chunks=True)
        return {
            "seconds": time.perf_counter() - started,
            "text": result.text,
            "output_tokens": sum(chunk["generated_tokens"] for chunk in result.chunks or ()),
        }

    rig.answer_requests(
        answer,
        {
            "dtype": arguments["dtype"],
            "device": str(mx.default_device()),
            "versions": rig.package_versions("mlx-qwen3-asr", "mlx"),
        },
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
