"""The scheduler simulated under given costs: `python -m tools.bench.simulated_clients --step-ms 3.1 --prefill-ms 15`.

Clients in closed loops, ten seconds of audio each, against the real scheduler; the device is a clock. So is an hour's
file with requests of five seconds sent into it. It says what a change of a cost is worth before it is built,
and nothing about how fast any machine is. Steps cost the same for two rows as for eight here, so set --idle-step-ms to
what a lone row takes.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import Action, Scheduler, Ticket
from scribewire.engine.bench.measuring import quantile
from tools.bench.measuring import RESULTS_FOLDER, write_result

PROMPT_TOKENS, RESERVED_TOKENS = 150, 300
FEWEST_TOKENS, MOST_TOKENS = 25, 46  # 3.5 a second, 30 % more or less
REQUESTS, LEFT_OUT = 600, 150
SHORT_PROMPT_TOKENS, SHORT_TOKENS = 85, (13, 23)
CHUNKS, CHUNK_PROMPT_TOKENS, CHUNK_TOKENS = 144, 360, (61, 114)  # of 25 s
SHORT_REQUESTS = 8
LIMITS = BatchLimits(
    max_rows=64,
    token_budget=10_000_000,
    prefill_tokens=8192,
    rows_together=8,
    steps_per_row=2.0,
    most_steps=16,
)


@dataclass(frozen=True)
class Costs:
    """Milliseconds: a step, a prefill and each second of audio in it (encoder included), and what HTTP adds."""

    step: float
    idle_step: float
    step_per_row: float
    prefill: float
    prefill_per_second: float
    http: float


@dataclass
class Simulation:
    """The real scheduler, a clock, and recordings whose chunks all wait from the beginning."""

    costs: Costs
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    scheduler: Scheduler = field(default_factory=lambda: Scheduler(LIMITS))
    now: float = 0.0

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._tokens_left: dict[int, int] = {}
        self._chunks: dict[int, tuple[str, float, tuple[int, int]]] = {}
        self._open: dict[str, tuple[int, Callable[[], None]]] = {}

    def at(self, moment: float, happens: Callable[[], None]) -> None:
        """Let something happen then."""
        heapq.heappush(self._events, (moment, next(self._numbers), happens))

    def recording(self, owner: str, chunks: int, seconds: float, prompt: int, tokens: tuple[int, int],
                  ended: Callable[[], None]) -> None:  # fmt: skip
        """A client sends a recording now. seconds, prompt, tokens: of each of its chunks."""
        name = f"{owner} {next(self._numbers)}"
        self.scheduler.open(name, owner=owner, is_interactive=True)
        self.scheduler.has_read(name, is_last=True)
        self._open[name] = (chunks, ended)
        for index in range(chunks):
            number = next(self._numbers)
            self._chunks[number] = (name, seconds, tokens)
            self.scheduler.offer(Ticket(number, name, index, prompt, 2 * prompt))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Move on until it is over."""
        while not is_over():
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            move = self.scheduler.next_action()
            if move is Action.ADMIT:
                self._prefill()
            elif move is Action.STEP:
                self._step()
            else:
                self.now = max(self.now, self._events[0][0])

    def _prefill(self) -> None:
        group = [ticket.ticket_id for ticket in self.scheduler.admit()]
        self.scheduler.joined()
        audio = sum(self._chunks[number][1] for number in group)
        self.now += self.costs.prefill + self.costs.prefill_per_second * audio
        self._tokens_left |= {number: self.chance.randint(*self._chunks[number][2]) for number in group}

    def _step(self) -> None:
        rows = len(self._tokens_left)
        self.scheduler.stepped()
        self.now += (self.costs.idle_step if rows == 1 else self.costs.step) + self.costs.step_per_row * rows
        self._tokens_left = {number: left - 1 for number, left in self._tokens_left.items()}
        for number in [number for number, left in self._tokens_left.items() if not left]:
            del self._tokens_left[number]
            self.scheduler.release(number)
            name = self._chunks.pop(number)[0]
            left, ended = self._open[name]
            self._open[name] = (left - 1, ended)
            if left == 1:
                self.scheduler.close(name)
                ended()


def closed_loops(clients: int, costs: Costs) -> list[float]:
    """Milliseconds of each request of a run, its beginning left out."""
    simulation = Simulation(costs)
    taken: list[float] = []

    def send(client: int) -> None:
        sent = simulation.now

        def ended() -> None:
            taken.append(simulation.now + costs.http - sent)
            simulation.at(simulation.now + costs.http, partial(send, client))

        simulation.recording(str(client), 1, 10.0, PROMPT_TOKENS, (FEWEST_TOKENS, MOST_TOKENS), ended)

    for client in range(clients):
        simulation.at(simulation.chance.random() * 5, partial(send, client))
    simulation.run(lambda: len(taken) >= REQUESTS)
    return taken[LEFT_OUT:]


def short_ones(costs: Costs, moments: list[float], *, beside_file: bool) -> tuple[list[float], float]:
    """Milliseconds of short requests sent at these moments, and of the file that was sent at 0, if it was."""
    simulation = Simulation(costs)
    taken: list[float] = []
    ends: list[float] = []

    def send() -> None:
        sent = simulation.now
        simulation.recording(
            "short", 1, 5.0, SHORT_PROMPT_TOKENS, SHORT_TOKENS,
            lambda: taken.append(simulation.now + costs.http - sent),
        )  # fmt: skip

    if beside_file:
        simulation.recording(
            "file", CHUNKS, 25.0, CHUNK_PROMPT_TOKENS, CHUNK_TOKENS, lambda: ends.append(simulation.now)
        )
    for moment in moments:
        simulation.at(moment, send)
    simulation.run(lambda: len(taken) == len(moments) and len(ends) == beside_file)
    return taken, ends[0] if ends else 0.0


def beside_the_file(costs: Costs) -> dict[str, float]:
    """Latencies of short requests in the middle of the file, and their cost to it."""
    _, alone = short_ones(costs, [], beside_file=True)
    moments = [alone * (number + 1) / (SHORT_REQUESTS + 1) for number in range(SHORT_REQUESTS)]
    idle, _ = short_ones(costs, [1000.0 * number for number in range(50)], beside_file=False)
    taken: list[float] = []
    slower: list[float] = []
    # Requests meet the file's prefills or not; so they are moved on bit by bit.
    for shift in range(20):
        found, with_them = short_ones(costs, [moment + 9.7 * shift for moment in moments], beside_file=True)
        taken += found
        slower.append(with_them / alone - 1.0)
    return {
        "file_alone_ms": round(alone),
        "file_slower_by": round(statistics.median(slower), 3),
        "idle_ms": round(statistics.median(idle)),
        "p50_ms": round(statistics.median(taken)),
        "p95_ms": round(quantile(taken, 0.95)),
        "p50_over_idle": round(statistics.median(taken) / statistics.median(idle), 2),
    }


def main() -> None:
    """Simulate, print and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step-ms", type=float, default=2.9)
    parser.add_argument("--idle-step-ms", type=float, default=2.8)
    parser.add_argument("--step-ms-per-row", type=float, default=0.02)
    parser.add_argument("--prefill-ms", type=float, nargs="+", default=[13.0])
    parser.add_argument("--prefill-ms-per-second", type=float, default=0.25)
    parser.add_argument("--http-ms", type=float, default=20.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--name", default="simulated_clients")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    given = parser.parse_args()
    loops: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for prefill in given.prefill_ms:
        costs = Costs(given.step_ms, given.idle_step_ms, given.step_ms_per_row, prefill,
                      given.prefill_ms_per_second, given.http_ms)  # fmt: skip
        idle = quantile(closed_loops(1, costs), 0.5)
        for clients in given.clients:
            taken = closed_loops(clients, costs)
            loops.append(
                {
                    "clients": clients,
                    "prefill_ms": prefill,
                    "requests_per_second": round(1000 * clients * len(taken) / sum(taken), 1),
                    "p50_ms": round(quantile(taken, 0.5)),
                    "p95_ms": round(quantile(taken, 0.95)),
                    "idle_ms": round(idle),
                    "p95_over_idle": round(quantile(taken, 0.95) / idle, 2),
                }
            )
            print(loops[-1])
        files.append({"prefill_ms": prefill, **beside_the_file(costs)})
        print(files[-1])
    shown = {name: value for name, value in vars(given).items() if name not in ("out", "clients", "name")}
    print(write_result(given.name, "python -m tools.bench.simulated_clients",
                       {"costs": shown, "clients": loops, "beside_a_file": files}, given.out))  # fmt: skip


if __name__ == "__main__":
    main()
