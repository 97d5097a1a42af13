"""What the scheduler makes of given costs: `python -m tests.bench.simulated_clients --step-ms 3.1 --prefill-ms 15`.

Clients in closed loops, ten seconds of audio each, against the real scheduler; the device is a clock. It says what a
change of a cost is worth before anybody has built it, and nothing about how fast any machine is. A step costs the same
for one row as for eight here, so set --idle-step-ms to what a lone row takes.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.batching.scheduler import BatchLimits, Move, Scheduler, Ticket
from engine.bench.measuring import quantile
from tests.bench.measuring import RESULTS_FOLDER, write_result

PROMPT_TOKENS, RESERVED_TOKENS = 150, 300
FEWEST_TOKENS, MOST_TOKENS = 25, 46  # 3.5 a second, 30 % more or less
REQUESTS, LEFT_OUT = 600, 150
LIMITS = BatchLimits(
    max_rows=64, token_budget=10_000_000, prefill_tokens=8192, rows_together=8, rows_per_step=1
)


@dataclass(frozen=True)
class Costs:
    """Milliseconds: a step, a prefill and each of its rows (encoder included), and what HTTP adds to a request."""

    step: float
    step_per_row: float
    prefill: float
    prefill_per_row: float
    http: float


def main() -> None:
    """Simulate, print and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step-ms", type=float, default=3.1)
    parser.add_argument("--idle-step-ms", type=float, default=1.9)
    parser.add_argument("--step-ms-per-row", type=float, default=0.02)
    parser.add_argument("--prefill-ms", type=float, nargs="+", default=[15.0])
    parser.add_argument("--prefill-ms-per-row", type=float, default=1.5)
    parser.add_argument("--http-ms", type=float, default=30.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--name", default="simulated_clients")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for prefill in given.prefill_ms:
        rest = (given.step_ms_per_row, prefill, given.prefill_ms_per_row, given.http_ms)
        idle = quantile(latencies(1, Costs(given.idle_step_ms, *rest)), 0.5)
        for clients in given.clients:
            taken = latencies(clients, Costs(given.step_ms, *rest))
            found.append(
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
            print(found[-1])
    costs = {name: value for name, value in vars(given).items() if name not in ("out", "clients", "name")}
    print(write_result(given.name, "python -m tests.bench.simulated_clients",
                       {"costs": costs, "results": found}, given.out))  # fmt: skip


def latencies(clients: int, costs: Costs, seed: int = 1) -> list[float]:
    """Milliseconds of each request of a run, its beginning left out."""
    chance = random.Random(seed)
    scheduler = Scheduler(LIMITS)
    arrivals = [(chance.random() * 5, client) for client in range(clients)]
    heapq.heapify(arrivals)
    numbers = itertools.count()
    left: dict[int, int] = {}
    waiting: dict[int, tuple[int, float]] = {}
    taken: list[float] = []
    now = 0.0
    while len(taken) < REQUESTS:
        while arrivals and arrivals[0][0] <= now:
            arrived, client = heapq.heappop(arrivals)
            number = next(numbers)
            name = str(number)
            scheduler.open(name, owner=str(client), is_interactive=True)
            scheduler.has_read(name, is_last=True)
            scheduler.offer(Ticket(number, name, 0, PROMPT_TOKENS, RESERVED_TOKENS))
            waiting[number] = (client, arrived - costs.http / 2)
        move = scheduler.next_move()
        if move is Move.ADMIT:
            group = scheduler.admit()
            scheduler.joined()
            now += costs.prefill + costs.prefill_per_row * len(group)
            left |= {one.ticket_id: chance.randint(FEWEST_TOKENS, MOST_TOKENS) for one in group}
        elif move is Move.STEP:
            scheduler.stepped()
            now += costs.step + costs.step_per_row * len(left)
            left = {number: tokens - 1 for number, tokens in left.items()}
            for number in [number for number, tokens in left.items() if not tokens]:
                del left[number]
                scheduler.release(number)
                scheduler.close(str(number))
                client, sent = waiting.pop(number)
                taken.append(now + costs.http / 2 - sent)
                heapq.heappush(arrivals, (now + costs.http, client))
        else:
            now = max(now, arrivals[0][0])
    return taken[LEFT_OUT:]


if __name__ == "__main__":
    main()
