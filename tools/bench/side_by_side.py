"""The parts that run the whole engine or its server with peers in turn, and short requests in a long file.

Everything compared is started before anything is measured, takes turns in an order that turns round every round, and
nothing else runs meanwhile.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scribewire.engine.bench.audio import distinct_clips, speech, wav_seconds
from scribewire.engine.bench.measuring import OURS, shown_seconds, summary
from scribewire.engine.bench.runner import LONG_TIMEOUT_SECONDS, Runner
from scribewire.engine.bench.serving import Caller, Load, RequestFailed, closed_loop, summary_of_loads
from tools.bench.child import Child, ChildFailed, child
from tools.bench.measuring import ratio
from tools.bench.middle import short_in_the_middle
from tools.bench.peer_programs import Peer
from tools.bench.plan import ComparingPlan

_IDLE_REQUESTS = 5
_FIRST_ANSWER_SECONDS = 180.0
"""A peer's server that has not answered one short clip by then, loading included, is taken to be stuck."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a measurement: a runner's model, and the peers beside it.

    found: filled by long parts as they go on, for the case that they are broken off. keep: writes what was found so
    far.
    """

    runner: Runner
    peers: Sequence[Peer]
    found: dict[str, Any]
    keep: Callable[[], None]

    @property
    def plan(self) -> ComparingPlan:
        """The plan of the run."""
        assert isinstance(self.runner.plan, ComparingPlan)
        return self.runner.plan

    @property
    def scratch(self) -> Path:
        """A folder for recordings."""
        return self.runner.scratch

    def note(self, text: str) -> None:
        """Tell of the progress."""
        self.runner.note(text)

    def engine_command(self) -> list[str]:
        """Our engine in a process of its own, which can be asked in turn."""
        return [sys.executable, "-m", "tools.bench.engine_side", json.dumps(self.runner.engine_settings())]


def measure_clip(subject: Subject) -> dict[str, Any]:
    """Clips of each length, samples in to text out."""
    clips: dict[str, Any] = {}
    with ExitStack() as running:
        sides, failures = _sides(subject, running)
        for seconds in subject.plan.clip_seconds:
            path = subject.scratch / f"clip-{seconds:g}.npy"
            np.save(path, speech(seconds))
            subject.note(f"clip of {seconds:g} s, {subject.plan.rounds} rounds of {', '.join(sides)}")
            _in_turn(sides, 1, path, failures)
            answers = _in_turn(sides, subject.plan.rounds, path, failures)
            clips[f"{seconds:g}"] = _compared(answers, "time_over_peer")
        ran = _how_it_ran(sides[OURS])
    return {"by_seconds": clips, "failed_peers": failures, "ran": ran}


def measure_long(subject: Subject) -> dict[str, Any]:
    """The long file, read from disk; mlx-audio by its batched path, at each batch size first.

    No program's first run of it counts, because kernels may be made for shapes that are new; it is listed apart.
    """
    path = subject.runner.long_file()
    with ExitStack() as running:
        sides, failures = _sides(subject, running)
        short = subject.scratch / "warm-up.npy"
        np.save(short, speech(10.0))
        _in_turn(sides, 1, short, failures)
        options: dict[str, dict[str, Any]] = {}
        first: dict[str, float] = {}
        tries = _batch_sizes(subject, sides["mlx-audio"], path) if "mlx-audio" in sides else {}
        if tries:
            options["mlx-audio"] = {"batch_size": int(min(tries, key=tries.__getitem__))}
            first["mlx-audio"] = next(iter(tries.values()))
        others = {name: side for name, side in sides.items() if name not in first}
        subject.note(f"first run of the long file: {', '.join(others)}")
        answers = _in_turn(others, 1, path, failures)
        first |= {name: round(given[0]["seconds"], 4) for name, given in answers.items()}
        for name in failures:
            sides.pop(name, None)
        subject.note(f"long file of {wav_seconds(path):g} s: {', '.join(sides)}")
        answers = _in_turn(sides, subject.plan.long_rounds, path, failures, options)
        ran = _how_it_ran(sides[OURS])
    found = _compared(answers, "time_over_peer")
    median = found["times"][OURS]["median"]
    return found | {
        "audio_seconds": wav_seconds(path),
        "times_real_time": round(wav_seconds(path) / median, 2),
        "first_run_seconds": first,
        "mlx_audio_seconds_by_batch": tries,
        "ran": ran,
        "failed_peers": failures,
    }


def _batch_sizes(subject: Subject, side: Child, path: Path) -> dict[str, float]:
    """Seconds for the long file by batch size; one that does not fit ends the search, what was tried before counts."""
    tries: dict[str, float] = {}
    try:
        for size in subject.plan.peer_batches:
            subject.note(f"{side.name}: long file in batches of {size}")
            answer = side.ask(LONG_TIMEOUT_SECONDS, do="transcribe", path=str(path), batch_size=size)
            tries[str(size)] = round(answer["seconds"], 4)
    except ChildFailed as error:
        subject.note(str(error))
    return tries


def measure_clients(subject: Subject) -> dict[str, Any]:
    """Clients in closed loops over HTTP, each number of them on every server in turn."""
    plan = subject.plan
    counts = sorted({1, *plan.clients})
    clips = distinct_clips(subject.scratch, plan.client_seconds, max(counts))
    by_clients: dict[str, Any] = {}
    subject.found["by_clients"] = by_clients
    with ExitStack() as running:
        servers = {OURS: running.enter_context(subject.runner.server())}
        failures: dict[str, str] = {}
        for peer in subject.peers:
            subject.note(f"starting the server of {peer.name}")
            try:
                servers[peer.name] = running.enter_context(peer.server(subject.scratch))
                first = Caller(servers[peer.name], timeout_seconds=_FIRST_ANSWER_SECONDS)
                with closing(first):
                    first.transcribe(clips[0])
            except ChildFailed as error:
                servers.pop(peer.name, None)
                failures[peer.name] = str(error)
                subject.note(f"without {peer.name}: {error}")
        for clients in counts:
            loads: dict[str, list[Load]] = {name: [] for name in servers}
            requests = clients * plan.requests_per_client
            for number in range(plan.client_rounds):
                names = list(servers) if number % 2 == 0 else list(reversed(servers))
                for name in names:
                    subject.note(f"{clients} clients of {name}, round {number + 1} of {plan.client_rounds}")
                    try:
                        load = closed_loop(
                            servers[name],
                            clips,
                            clients,
                            requests,
                            seconds=plan.round_seconds,
                            warm_up=number == 0,
                        )
                    except RequestFailed as error:
                        if name == OURS:
                            raise
                        del servers[name], loads[name]
                        failures[name] = str(error)
                        subject.note(f"without {name}: {error}")
                        continue
                    loads[name].append(load)
                    subject.note(f"  {load}")
                found = by_clients[str(clients)] = _compared_loads(loads)
                idle = by_clients["1"]["loads"][OURS]["p50"]["median"]
                found["p95_over_idle"] = round(found["loads"][OURS]["p95"]["median"] / idle, 3)
                subject.keep()
    return {"by_clients": by_clients, "idle_seconds": idle, "failed_peers": failures}


def measure_middle(subject: Subject) -> dict[str, Any]:
    """Short requests alone, the long file alone, and then both."""
    plan = subject.plan
    found = subject.found
    long = subject.runner.long_file()
    shorts = distinct_clips(subject.scratch, plan.short_seconds, max(plan.short_requests, 2))
    with subject.runner.server() as server:
        subject.note("short requests while idle")
        idle = closed_loop(server, shorts, 1, _IDLE_REQUESTS)
        found["idle"] = summary(idle.latencies)
        subject.note(f"  median {shown_seconds(found['idle']['median'])}")
        subject.note("the long file alone, once for its kernels and then timed")
        closed_loop(server, [long], 1, 1, warm_up=False)
        alone: list[float] = []
        for _ in range(plan.long_rounds):
            alone.append(closed_loop(server, [long], 1, 1, warm_up=False).wall_seconds)
            subject.note(f"  {shown_seconds(alone[-1])}")
        found["file_alone"] = summary(alone)
        expected = statistics.median(alone)
        files: list[float] = []
        taken: list[float] = []
        for number in range(plan.long_rounds):
            subject.note(
                f"{plan.short_requests} short requests in the middle of the long file, round {number + 1} of "
                f"{plan.long_rounds}"
            )
            one = short_in_the_middle(server, long, shorts[: plan.short_requests], expected)
            files.append(one.file_seconds)
            taken += one.short_seconds
            shown = ", ".join(map(shown_seconds, one.short_seconds)) or "none in time"
            subject.note(f"  {shown}; the file {shown_seconds(one.file_seconds)}")
            found["file_with_short_requests"] = summary(files)
            found["short_requests"] = len(taken)
            found["file_slower_by"] = round(statistics.median(files) / expected - 1.0, 4)
            if taken:
                found["short"] = summary(taken)
                found["short_over_idle"] = ratio(taken, idle.latencies)
            subject.keep()
    return found


def _sides(subject: Subject, running: ExitStack) -> tuple[dict[str, Child], dict[str, str]]:
    """All programs, loaded; and why peers failed. Those that fail later move from the first to the second."""
    subject.note("loading the model")
    sides = {OURS: running.enter_context(child(OURS, subject.engine_command()))}
    failures: dict[str, str] = {}
    for peer in subject.peers:
        subject.note(f"loading {peer.name}")
        try:
            sides[peer.name] = running.enter_context(peer.side(subject.scratch))
        except ChildFailed as error:
            failures[peer.name] = str(error)
            subject.note(f"without {peer.name}: {error}")
    return sides, failures


def _how_it_ran(engine: Child) -> dict[str, Any]:
    return {name: engine.started[name] for name in ("device", "dtype", "weight_bits", "resident_bytes")}


def _in_turn(
    sides: dict[str, Child],
    rounds: int,
    recording: Path,
    failures: dict[str, str],
    options: dict[str, dict[str, Any]] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(reversed(sides)):
            more = (options or {}).get(name, {})
            try:
                answer = sides[name].ask(LONG_TIMEOUT_SECONDS, do="transcribe", path=str(recording), **more)
            except ChildFailed as error:
                if name == OURS:
                    raise
                del sides[name], answers[name]
                failures[name] = str(error)
                continue
            answers[name].append(answer)
    return answers


def _compared(answers: dict[str, list[dict[str, Any]]], ratio_name: str) -> dict[str, Any]:
    """Times of all programs, what our time was spent on, and our time over each peer's."""
    seconds = {name: [one["seconds"] for one in given] for name, given in answers.items()}
    ours = answers[OURS]
    phases = ("encode_seconds", "prefill_seconds", "generate_seconds")
    return {
        "times": {name: summary(values) for name, values in seconds.items()},
        "output_tokens": {name: given[-1]["output_tokens"] for name, given in answers.items()},
        "texts_agree": len({given[-1]["text"] for given in answers.values()}) == 1,
        "phases": {phase: round(statistics.median(one[phase] for one in ours), 5) for phase in phases},
        "peak_mlx_bytes": max(one["peak_mlx_bytes"] for one in ours),
        "peak_resident_bytes": {
            name: max(one["peak_resident_bytes"] for one in given) for name, given in answers.items()
        },
        ratio_name: {name: ratio(seconds[OURS], values) for name, values in seconds.items() if name != OURS},
    }


def _compared_loads(loads: dict[str, list[Load]]) -> dict[str, Any]:
    rates = {name: [one.requests_per_second for one in given] for name, given in loads.items()}
    return {
        "loads": {name: summary_of_loads(given) for name, given in loads.items()},
        "throughput_over_peer": {
            name: ratio(rates[OURS], values) for name, values in rates.items() if name != OURS
        },
    }
