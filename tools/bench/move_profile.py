"""Durations of the engine's moves while recordings share it: `python -m tools.bench.move_profile --model FOLDER`.

In one process, without HTTP: closed-loop callers with short clips, or a long file with short ones sent into its middle.
Every move of the pipeline is timed by its kind (a prefill of so many rows, a step of so many), so that the cause of a
latency that is too long shows: waiting, another recording's prefill, or the steps themselves.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scribewire.engine.batching.scheduler import Action
from scribewire.engine.bench.audio import speech, write_wav
from scribewire.engine.bench.measuring import quantile
from scribewire.engine.pipeline import Pipeline
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.transcriber import Transcriber
from tools.bench.measuring import RESULTS_FOLDER, machine, write_result

TOLD_ONE_BY_ONE = 40


class Fairness(collections.defaultdict[tuple[str, int], list[float]]):
    """Milliseconds of turns, by move and rows; and as they came."""

    def __init__(self) -> None:
        super().__init__(list)
        self._began = time.perf_counter()
        self._all: list[tuple[float, str, int, float]] = []

    def add(self, move: str, rows: int, started: float, ended: float) -> None:
        """One turn."""
        taken = 1e3 * (ended - started)
        self[move, rows].append(taken)
        self._all.append((taken, move, rows, started))

    def take(self) -> list[tuple[float, str, int, float]]:
        """Start (of time.perf_counter), move, rows and milliseconds of the turns since this was asked last."""
        taken, self._all = self._all, []
        return [(started, move, rows, round(milliseconds, 2)) for milliseconds, move, rows, started in taken]

    def longest(self) -> list[str]:
        """The longest ones, in the order in which they came: milliseconds since the beginning, move, rows, length."""
        longest = sorted(sorted(self._all, reverse=True)[:TOLD_ONE_BY_ONE], key=lambda turn: turn[3])
        return [
            f"{1e3 * (started - self._began):.0f}: {move} {rows}, {taken:.1f}"
            for taken, move, rows, started in longest
        ]


@contextmanager
def timed_turns() -> Iterator[Fairness]:
    """The turns taken inside the block."""
    turns = Fairness()
    original = Pipeline._make

    def timed(pipeline: Pipeline, move: Action) -> None:
        rows = {
            Action.ADMIT: len(pipeline._scheduler._group),
            Action.FEED: len(pipeline._prefill_pieces),
            Action.STEP: pipeline._batch.row_count,
        }.get(move, 0)
        started = time.perf_counter()
        original(pipeline, move)
        turns.add(move.name.lower(), rows, started, time.perf_counter())

    with patch.object(Pipeline, "_make", timed):
        yield turns


def closed_loops(transcriber: Transcriber, clients: int, clip_seconds: float, seconds: float) -> list[float]:
    """Latencies, milliseconds, of so many callers who each send the next clip when the last one is answered."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def call(number: int) -> None:
        while (started := time.perf_counter()) < end:
            transcriber.transcribe(speech(clip_seconds, skip_seconds=0.73 * number))
            latencies.append(1e3 * (time.perf_counter() - started))

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def in_the_middle(transcriber: Transcriber, file: Path, shorts: int, clip_seconds: float) -> dict[str, Any]:
    """The file alone, and with short clips sent into it one after the other."""
    found: dict[str, Any] = {"short_idle_ms": []}
    for number in range(6):
        sent = time.perf_counter()
        transcriber.transcribe(speech(clip_seconds, skip_seconds=0.73 * (number % 3)))
        found["short_idle_ms"].append(round(1e3 * (time.perf_counter() - sent), 1))
    for count in (0, 0, shorts):
        latencies: list[float] = []
        started = time.perf_counter()
        thread = threading.Thread(target=transcriber.transcribe, args=(file,), daemon=True)
        thread.start()
        for number in range(count):
            time.sleep(
                max(0.0, started + found["alone_ms"] / 1e3 * (number + 1) / (count + 1) - time.perf_counter())
            )
            sent = time.perf_counter()
            transcriber.transcribe(speech(clip_seconds, skip_seconds=0.73 * number))
            latencies.append(round(1e3 * (time.perf_counter() - sent), 1))
        thread.join()
        found["with_shorts_ms" if count else "alone_ms"] = round(1e3 * (time.perf_counter() - started), 1)
        found["short_ms"] = latencies
    return found


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--tokens-per-second", type=float, default=3.5, help="of audio, forced")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--clip-seconds", type=float, default=10.0)
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="of each number of clients, and of its warm-up"
    )
    parser.add_argument(
        "--file-seconds", type=float, default=3600.0, help="of the long file; 0 leaves it out"
    )
    parser.add_argument("--name", default="move_profile")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    given = parser.parse_args()
    config = EngineConfig(
        model=given.model,
        device=given.device,
        offline=True,
        forced_tokens_per_second=given.tokens_per_second,
    )
    found: list[dict[str, Any]] = []
    given.out.mkdir(parents=True, exist_ok=True)
    with Transcriber(config=config) as transcriber:
        transcriber.warm_up()
        for clients in given.clients:
            closed_loops(transcriber, clients, given.clip_seconds, given.seconds)
            with timed_turns() as turns:
                latencies = closed_loops(transcriber, clients, given.clip_seconds, given.seconds)
            found.append(
                {
                    "clients": clients,
                    "requests": len(latencies),
                    "p50_ms": round(quantile(latencies, 0.5), 1),
                    "p95_ms": round(quantile(latencies, 0.95), 1),
                    "turns": table(turns),
                    "longest_turns": turns.longest(),
                }
            )
            show_turns(found[-1])
        if given.file_seconds:
            file = write_wav(given.out / "long.wav", speech(given.file_seconds))
            for _ in range(2):
                with timed_turns() as turns:
                    middle = in_the_middle(transcriber, file, 3, given.clip_seconds / 2)
                found.append(
                    {
                        "file_seconds": given.file_seconds,
                        **middle,
                        "turns": table(turns),
                        "longest_turns": turns.longest(),
                    }
                )
                show_turns(found[-1])
            file.unlink()
    command = f"python -m tools.bench.move_profile --model {Path(given.model).name} --device {given.device}"
    content = {"model": Path(given.model).name, "machine": machine(), "found": found}
    print(write_result(given.name, command, content, given.out))


def table(turns: Mapping[tuple[str, int], list[float]]) -> list[dict[str, Any]]:
    """Durations in milliseconds by move and rows; longest in all first."""
    rows = [
        {
            "move": move,
            "rows": rows,
            "count": len(values),
            "median_ms": round(statistics.median(values), 2),
            "longest_ms": round(max(values), 1),
            "sum_ms": round(sum(values)),
        }
        for (move, rows), values in turns.items()
    ]
    return sorted(rows, key=lambda row: -float(row["sum_ms"]))


def show_turns(one: dict[str, Any]) -> None:
    """Print what was found of one load, with the twelve kinds of turns that took longest in all."""
    print({name: value for name, value in one.items() if "turns" not in name}, flush=True)
    for row in one["turns"][:12]:
        print("   ", *(f"{name} {value}" for name, value in row.items()), flush=True)
    if "longest_turns" in one:
        print("    longest:", "; ".join(one["longest_turns"]), flush=True)


if __name__ == "__main__":
    main()
