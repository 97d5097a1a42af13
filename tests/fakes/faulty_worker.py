"""The real engine worker, whose decoder breaks on cue: what runs when a test names this module as the worker's.

The cue is a file that the test writes into the model's folder, named `cue`: `fault` (MLX raises), `abort` (MLX's C++
ends the process), `hang` (a call that never returns). It is taken away at once, so that a successor does not break.
"""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from scribewire.engine import worker
from scribewire.engine.batching.sequence import Sequence
from scribewire.engine.batching.step import RunningBatch, Speculation
from scribewire.engine.protocol.config import EngineConfig

STEPS_BEFORE = 3


def main(config: EngineConfig, pipe: Connection) -> int:
    """Run the real worker's main, with a decoder that checks for the cue at each step."""
    cue = Path(config.model) / "cue"
    step = RunningBatch.step
    steps_with_cue = 0

    def faulty_step(self: RunningBatch, ahead: Speculation | None = None) -> list[Sequence]:
        nonlocal steps_with_cue
        if cue.exists():
            steps_with_cue += 1
            if steps_with_cue > STEPS_BEFORE:
                _break(cue)
        return step(self, ahead)

    RunningBatch.step = faulty_step
    return worker.main(config, pipe)


def _break(cue: Path) -> None:
    kind = cue.read_text()
    cue.unlink()
    if kind == "fault":
        raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")
    if kind == "abort":
        os.abort()
    threading.Event().wait()
