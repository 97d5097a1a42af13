"""Durations of the engine's moves behind HTTP, and clients' waits: `python -m tools.bench.served_turns --model FOLDER`.

As `tools.bench.move_profile`, but through the real server, from its first second of being ready and with nothing
warmed up by this script: so the first round of each number of clients shows what a server's first minute is like.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scribewire.engine.bench.audio import distinct_clips
from scribewire.engine.bench.serving import closed_loop, scribewire_server
from tools.bench.measuring import RESULTS_FOLDER, machine, write_result
from tools.bench.move_profile import show_turns, table
from tools.bench.timed_worker import TURNS_FILE


def turns_between(path: Path, started: float, ended: float) -> dict[tuple[str, int], list[float]]:
    """Milliseconds of the file's turns that began in that time (of time.perf_counter), by move and rows."""
    found: dict[tuple[str, int], list[float]] = collections.defaultdict(list)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in map(json.loads, lines):
        for began, move, rows, taken in line:
            if started <= began < ended:
                found[move, rows].append(taken)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--tokens-per-second", type=float, default=3.5, help="of audio, forced")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--clip-seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=2, help="of each number of clients")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each round")
    parser.add_argument("--name", default="served_turns")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    given = parser.parse_args(argv)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="scribewire-bench-") as scratch:
        turns = Path(scratch) / "turns.jsonl"
        clips = distinct_clips(Path(scratch), given.clip_seconds, max(given.clients))
        began = time.perf_counter()
        with (
            patch.dict(os.environ, {TURNS_FILE: str(turns)}),
            scribewire_server(
                given.model.absolute(), Path(scratch) / "data", device=given.device,
                program=("tools.bench.timed_serve", str(given.tokens_per_second)),
            ) as server,
        ):  # fmt: skip
            ready_seconds = round(time.perf_counter() - began, 2)
            print(f"ready after {ready_seconds} s", flush=True)
            for clients in given.clients:
                for number in range(given.rounds):
                    started = time.perf_counter()
                    load = closed_loop(server, clips, clients, clients, seconds=given.seconds, warm_up=False)
                    time.sleep(1.2)  # the last line of the file is written up to a second later
                    taken = turns_between(turns, started, time.perf_counter())
                    found.append({"round": number + 1, **load.values(), "turns": table(taken)})
                    show_turns(found[-1])
    command = f"python -m tools.bench.served_turns --model {given.model.name} --device {given.device}"
    content = {
        "model": given.model.name,
        "machine": machine(),
        "ready_seconds": ready_seconds,
        "found": found,
    }
    print(write_result(given.name, command, content, given.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
