"""mlx-audio in a process of its own: `python mlx_audio_side.py JSON`, run by the peer's Python.

What is changed about the peer: with forced counts no token ends a chunk by itself. A chunk decoded alone gets its
count as its budget; rows of a batch get an end from a sampler that is greedy until a row's count is reached. How it
encodes and decodes is untouched. Its one budget shared by all chunks of a file is lifted, as a user would do.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import mlx.core as mx
import numpy as np
import rig  # type: ignore[import-not-found]  # beside this script, which is never imported
from mlx_audio.stt.models.qwen3_asr import (  # type: ignore[import-not-found]  # the peer's Python has it
    qwen3_asr,
)
from mlx_audio.stt.utils import load_model  # type: ignore[import-not-found]  # as above

UNLIMITED = 1 << 30
CHUNK_SECONDS = 30.0
FORCED_END = -1
"""No token has this id, so nothing but the sampler ends a row."""


class ForcedEnds:
    """A greedy sampler for the rows of one batch, which ends each row after its count."""

    def __init__(self, counts: list[int]) -> None:
        self._counts = mx.array(counts)
        self._step = 0

    def __call__(self, logits: mx.array) -> mx.array:
        """logits: (rows, vocab) -> (rows,)."""
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        self._step += 1
        return mx.where(self._counts < self._step, FORCED_END, tokens)


def put_in_place(counts: Any) -> None:
    """Everything named in this script's head."""
    model = qwen3_asr.Qwen3ASRModel
    plain_split, plain_stream = qwen3_asr.split_audio_into_chunks, model.stream_generate
    plain_batched = model._generate_chunks_batched

    def split(*positional: Any, **named: Any) -> Any:
        chunks = plain_split(*positional, **named)
        counts.expect(chunks)
        return chunks

    def stream(self: Any, audio: Any, **named: Any) -> Any:
        return plain_stream(self, audio, **(named | {"max_tokens": counts.next()}))

    def batched(self: Any, chunks: Any, *, batch_size: int, **named: Any) -> Any:
        columns: tuple[list[Any], ...] = ([], [], [], [])
        for start in range(0, len(chunks), batch_size):
            group = chunks[start : start + batch_size]
            ends = ForcedEnds([counts.of_chunk(len(samples), offset) for samples, offset in group])
            options = named | {"sampler": ends, "max_tokens": UNLIMITED}
            for column, values in zip(
                columns, plain_batched(self, group, batch_size=batch_size, **options), strict=True
            ):
                column.extend(values)
        return columns

    qwen3_asr.split_audio_into_chunks = split
    model.stream_generate = stream
    model._generate_chunks_batched = batched
    model._eos_token_ids = lambda self: {FORCED_END}


def main(arguments: dict[str, Any]) -> None:
    """Answer recordings line by line, or serve."""
    counts = rig.ForcedCounts(arguments["forcing_file"], arguments["tokens_per_second"])
    if counts.is_on:
        put_in_place(counts)
    if "port" in arguments:
        # Only its server needs further packages, so they are asked for only now.
        from mlx_audio import server  # type: ignore[import-not-found]  # only the peer's Python has it

        sys.argv = ["server", "--host", "127.0.0.1", "--port", str(arguments["port"])]
        server.main()
        return
    model = load_model(arguments["folder"])
    if arguments["dtype"] != "stored":
        model._model.set_dtype(getattr(mx, arguments["dtype"]))
        mx.eval(model.parameters())

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        path = request["path"]
        audio = np.load(path) if path.endswith(".npy") else path
        started = time.perf_counter()
        result = model.generate(
            audio,
            max_tokens=UNLIMITED,
            chunk_duration=CHUNK_SECONDS,
            batch_size=request.get("batch_size", 1),
        )
        return {
            "seconds": time.perf_counter() - started,
            "text": result.text,
            "output_tokens": result.generation_tokens,
        }

    rig.answer_requests(
        answer,
        {
            "dtype": arguments["dtype"],
            "device": str(mx.default_device()),
            "versions": rig.package_versions("mlx-audio", "mlx", "transformers"),
        },
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
