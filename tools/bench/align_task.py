"""The aligner benchmark's input: an hour of speech in chunks, and as many words for it as people say.

A word is one letter or two: one token or two of the random models' vocabulary (tools/bench/tokenizer_files.py), as
many as an English word has in the published one (1.3 on average).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from scribewire.engine.bench.audio import speech
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ

WORDS_PER_SECOND = 2.5  # 150 a minute, as people talk
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_task(folder: Path, seconds: float) -> dict[str, Any]:
    """samples.npy and task.json in a folder, for all sides; returns what is to be said of it."""
    draw = random.Random(20261127)
    samples = speech(seconds)
    chunks: list[dict[str, Any]] = []
    start = 0
    while start < samples.size:
        # As the engine cuts: within the last 10 s before 30 s.
        stop = min(samples.size, start + round(draw.uniform(20.0, 30.0) * SAMPLE_RATE_HZ))
        stop = samples.size if samples.size - stop < 2 * SAMPLE_RATE_HZ else stop
        count = max(1, round(WORDS_PER_SECOND * (stop - start) / SAMPLE_RATE_HZ))
        words = ["".join(draw.choices(LETTERS, k=2 if draw.random() < 0.3 else 1)) for _ in range(count)]
        chunks.append({"start": start, "stop": stop, "text": " ".join(words)})
        start = stop
    np.save(folder / "samples.npy", samples)
    (folder / "task.json").write_text(json.dumps({"language": "English", "chunks": chunks}), encoding="utf-8")
    words_in_all = sum(len(chunk["text"].split()) for chunk in chunks)
    return {"audio_seconds": seconds, "chunks": len(chunks), "words": words_in_all}
