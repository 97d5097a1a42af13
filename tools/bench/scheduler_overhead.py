"""Cost of scheduling per decode step: `python -m tools.bench.scheduler_overhead`.

A full batch of 64 rows with much more waiting, rows ending and chunks arriving as they do; timed is everything the
scheduler is asked between two steps. Target: 0.3 ms a step.
"""

import argparse
import time
from pathlib import Path

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import Action, Scheduler, Ticket
from tools.bench.measuring import RESULTS_FOLDER, machine, show, summary, write_result

ROWS, STEPS, STEPS_PER_END, TARGET = 64, 5000, 2, 0.3e-3
OWNERS = 10


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args()
    rows = []
    for recordings in (64, 400):
        steps, admissions = run(recordings)
        rows += [
            (f"step, {recordings} recordings", summary(steps, target=TARGET)),
            (f"prefill, {recordings} recordings", summary(admissions)),
            (
                f"all, {recordings} recordings",
                summary([(sum(steps) + sum(admissions)) / len(steps)], target=TARGET),
            ),
        ]
    show(rows)
    for _, one in rows:
        one.pop("values", None)
    content = {"machine": machine(), "rows": ROWS, "results": dict(rows)}
    write_result("scheduler_overhead", "python -m tools.bench.scheduler_overhead", content, arguments.out)


def run(recordings: int) -> tuple[list[float], list[float]]:
    """Seconds of each step and of each admission; every second step one row ends and one chunk arrives."""
    scheduler = Scheduler(BatchLimits(max_rows=ROWS, token_budget=1_000_000, prefill_tokens=2048))
    offered = 0
    for number in range(recordings):
        name = f"recording {number}"
        scheduler.open(name, owner=f"owner {number % OWNERS}", is_interactive=number % 2 == 0)
        for index in range(2):
            scheduler.offer(Ticket(offered, name, index, 145, 500))
            offered += 1
    running: list[Ticket] = []
    steps: list[float] = []
    admissions: list[float] = []
    while len(steps) < STEPS:
        started = time.perf_counter()
        scheduler.to_read()
        move = scheduler.next_action()
        if move is Action.ADMIT:
            running += scheduler.admit()
            scheduler.joined()
            admissions.append(time.perf_counter() - started)
            continue
        scheduler.stepped()
        assert scheduler.row_count + scheduler.reserved_tokens > 0
        steps.append(time.perf_counter() - started)
        if len(steps) % STEPS_PER_END == 0:
            ended = running.pop(0)
            scheduler.release(ended.ticket_id)
            scheduler.offer(Ticket(offered, ended.recording_id, 2, 145, 500))
            offered += 1
    return steps, admissions


if __name__ == "__main__":
    main()
