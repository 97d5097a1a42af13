"""mlx-qwen3-asr's aligner in a process of its own, for align_speed.py: run by the peer's Python with one JSON argument.

The same samples and texts, one chunk a call, which is how that package aligns a recording. Nothing of it is changed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_qwen3_asr.forced_aligner import (  # type: ignore[import-not-found]  # the peer's Python has it
    ForcedAligner,
)


def main(arguments: dict[str, str]) -> None:
    """Say that it is ready, then answer every line of input by aligning all chunks once."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if arguments["device"] == "cpu":
        mx.set_default_device(mx.cpu)
    aligner = ForcedAligner(arguments["model"], dtype=getattr(mx, arguments["dtype"]))
    task = Path(arguments["task"])
    samples = np.load(task / "samples.npy")
    content = json.loads((task / "task.json").read_text(encoding="utf-8"))
    aligner.align(samples[:16_000], "a", content["language"])  # loads it
    found = {name: importlib.metadata.version(name) for name in ("mlx-qwen3-asr", "mlx")}
    say(answers, {"device": str(mx.default_device()), "dtype": arguments["dtype"], "versions": found})
    for _ in sys.stdin:
        started = time.perf_counter()
        words = sum(
            len(aligner.align(samples[one["start"] : one["stop"]], one["text"], content["language"]))
            for one in content["chunks"]
        )
        say(answers, {"seconds": time.perf_counter() - started, "words": words})


def say(answers: Any, line: dict[str, Any]) -> None:
    """One line."""
    print(json.dumps(line), file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
