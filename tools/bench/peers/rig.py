"""Parts shared by the peers' scripts: forced counts, and answers in lines of JSON. Runs under the peer's Python."""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import runpy
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SAMPLE_RATE_HZ = 16_000


class ForcedCounts:
    """Number of tokens of each chunk, by the very function that our side uses (engine/batching/forcing.py)."""

    def __init__(self, forcing_file: str, tokens_per_second: float) -> None:
        self._count: Callable[[float, int, float], int] = runpy.run_path(forcing_file)["forced_token_count"]
        self._rate = tokens_per_second
        self._waiting: deque[int] = deque()

    @property
    def is_on(self) -> bool:
        """True when counts are forced at all."""
        return self._rate > 0

    def of_chunk(self, sample_count: int, offset_seconds: float) -> int:
        """The count of one chunk."""
        start_sample = round(offset_seconds * SAMPLE_RATE_HZ)
        return self._count(sample_count / SAMPLE_RATE_HZ, start_sample, self._rate)

    def expect(self, chunks: Iterable[tuple[Any, float]]) -> None:
        """A recording was cut into these (samples, offset in seconds), which will be decoded in this order."""
        self._waiting = deque(self.of_chunk(len(samples), offset) for samples, offset in chunks)

    def next(self) -> int:
        """The count of the chunk that is decoded now."""
        return self._waiting.popleft()


def token_ids(folder: str) -> dict[str, int]:
    """Control tokens of a model folder and their ids."""
    settings = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
    return {entry["content"]: int(number) for number, entry in settings["added_tokens_decoder"].items()}


def package_versions(*names: str) -> dict[str, str]:
    """Versions of the packages that are measured."""
    return {name: importlib.metadata.version(name) for name in names}


def answer_requests(answer: Callable[[dict[str, Any]], dict[str, Any]], started: dict[str, Any]) -> None:
    """Send the first line, then answer each line of input until it ends; a failure is an answer, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints goes to stderr; stdout holds answers and nothing else.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(started), file=answers, flush=True)
    for line in sys.stdin:
        try:
            said = answer(json.loads(line)) | {"peak_resident_bytes": peak_resident_bytes()}
        except Exception as error:  # whatever it was, the parent hears of it
            said = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(json.dumps(said), file=answers, flush=True)


def peak_resident_bytes() -> int:
    """Largest resident size of this process so far; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
