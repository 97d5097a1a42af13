"""Our aligner in a process of its own, for align_speed.py: `python -m tools.bench.align_ours JSON`.

Samples and text in, words with times out, in the groups that the engine's scheduler makes.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from scribewire.engine.align.aligner import Aligner, AlignmentPromptBuilder, AlignmentTask
from scribewire.engine.batching.scheduler import Action, Scheduler, Ticket
from scribewire.engine.bench.measuring import versions
from scribewire.engine.checkpoint.load import read_checkpoint
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, EngineConfig
from scribewire.engine.resident.memory import apply_limits, choose_limits, read_machine
from scribewire.engine.resident.profile import choose_profile
from tools.bench.answering import answer_requests


class Side:
    """A loaded aligner and the task's chunks."""

    def __init__(self, model: Path, task: Path, device: str, dtype: str) -> None:
        self.profile = choose_profile(EngineConfig(device=device, dtype=dtype))
        mx.set_default_device(self.profile.device)
        memory = choose_limits(0, read_machine(self.profile.kind, self.profile.device), self.profile.memory)
        apply_limits(memory)
        self._planner = AlignmentPromptBuilder(model)
        self._aligner = Aligner(read_checkpoint(model), self._planner, self.profile.placement)
        self._limits = self.profile.batch_limits(
            memory, max_rows=0, held_bytes=self._aligner.resident_bytes, bytes_per_token=1
        )
        self._samples = np.load(task / "samples.npy")
        content = json.loads((task / "task.json").read_text(encoding="utf-8"))
        self._language, self._chunks = content["language"], content["chunks"]

    def align(self) -> dict[str, Any]:
        """All chunks once."""
        started = time.perf_counter()
        scheduler = Scheduler(self._limits)
        scheduler.open("hour", owner="", is_interactive=False)
        tasks: dict[int, AlignmentTask] = {}
        passes = words = waiting = 0
        # As the engine has it: texts are split on a thread of their own, ahead of the passes, and groups are full
        # while more chunks are to come.
        with ThreadPoolExecutor(max_workers=1) as planning, self.profile.on_one_thread():
            planned = planning.map(self._planned, self._chunks)
            for number, task in enumerate(planned):
                tasks[number] = task
                tokens = len(task.plan.prompt_ids)
                scheduler.offer_alignment(Ticket(number, "hour", number, tokens, 0))
                waiting += tokens
                while number + 1 == len(self._chunks) or waiting >= 2 * self._limits.tokens_of_a_pass:
                    if scheduler.next_action() is not Action.ALIGN:
                        break
                    group = [tasks[ticket.ticket_id] for ticket in scheduler.align()]
                    waiting -= sum(len(task.plan.prompt_ids) for task in group)
                    words += sum(map(len, self._aligner.align(group)))
                    passes += 1
        return {"seconds": time.perf_counter() - started, "words": words, "passes": passes}

    def _planned(self, chunk: dict[str, Any]) -> AlignmentTask:
        samples = self._samples[chunk["start"] : chunk["stop"]]
        plan = self._planner.plan(chunk["text"], self._language, samples.size)
        return AlignmentTask(plan, samples, chunk["start"] / SAMPLE_RATE_HZ, samples.size / SAMPLE_RATE_HZ)


def main(arguments: dict[str, str]) -> None:
    """Answer line by line."""
    side = Side(Path(arguments["model"]), Path(arguments["task"]), arguments["device"], arguments["dtype"])
    answer_requests(
        {"align": side.align},
        device=side.profile.device_name,
        dtype=side.profile.dtype_name,
        versions=versions(),
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
