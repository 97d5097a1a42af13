"""SIGKILL to the engine's worker with twenty jobs in flight, again and again.

Lost means: without a terminal state. A job may fail of it only with three worker deaths on its record. HTTP stays up
all the while, and the front knows of each death within a tenth of a second.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.fakes.served import Served, demo_server
from tools.bench.measuring import summary
from tools.hostile.connections import Findings, HealthProbe
from tools.torture.clients import Client, event_time, wait_for, wait_until_all_ended
from tools.torture.invariants import check_leftovers, check_store, counts_of
from tools.torture.ledger import Ledger
from tools.torture.recordings import speech_wav

FAKE = "tests.fakes.fake_worker"
IN_FLIGHT = 20
SEEN_SECONDS = 0.100
SECOND_KILL_SHARE = 0.2
WARM_ROUNDS = 20
"""After so many the front's memory is looked at."""

RESTARTS = {"restart_backoff_seconds": (0.0,), "breaker_deaths": 100_000}
KILLS = {**RESTARTS, "log_level": "debug", "max_running_jobs": IN_FLIGHT}
"""No pause and no breaker, or two hundred kills would take a day; written into the result."""


class Gate:
    """Jobs of one round wait for it in the worker, so that all are there when it dies, however slow the machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        """Let them end."""
        self.path.touch()


def kill_fake_engines(folder: Path, kills: int, *, show: Callable[[int, int], None]) -> Findings:
    """The shipped fake worker, which sends text in small pieces and then waits for the end of the round."""
    chance = random.Random(20)
    with Served(folder / "data", engine_module=FAKE, **KILLS) as served:

        def submit(client: Client, number: int, gate: Gate) -> None:
            deltas = [f"job {number}", *(f" {one}" for one in range(chance.randrange(8)))]
            client.submit_script(
                "".join(deltas), deltas=deltas, delta_delay_seconds=0.03, gate=str(gate.path)
            )

        return _kill(served, folder, kills, submit, chance, show, longest_pause_seconds=0.2)


def kill_demo_engines(folder: Path, kills: int, *, show: Callable[[int, int], None]) -> Findings:
    """The real engine with the demo model, on speech of some seconds."""
    chance = random.Random(21)
    with demo_server(folder / "data", decode_processes=3, **KILLS) as served:

        def submit(client: Client, number: int, gate: Gate) -> None:
            client.submit(speech_wav(chance, chance.uniform(6.0, 14.0)))

        return _kill(served, folder, kills, submit, chance, show, longest_pause_seconds=0.2)


def _kill(
    served: Served,
    folder: Path,
    kills: int,
    submit: Callable[[Client, int, Gate], None],
    chance: random.Random,
    show: Callable[[int, int], None],
    *,
    longest_pause_seconds: float,
) -> Findings:
    """Each round has twenty jobs processing, and kills in the middle; a share of rounds kills the successor as well."""
    findings, ledger = Findings(), Ledger()
    killed_at: dict[int, float] = {}
    in_flight: list[int] = []
    seconds_until_ready: list[float] = []
    started = time.monotonic()
    submitted = rounds = kills_before = 0
    with Client(served, ledger) as client, HealthProbe(served.port, pause_seconds=0.05) as probe:
        resident_before = served.resident_bytes()
        while len(killed_at) < kills:
            gate = Gate(folder / f"gate-{rounds}")
            rounds += 1
            for _ in range(IN_FLIGHT):
                submit(client, submitted, gate)
                submitted += 1
            while len(killed_at) < kills and _until_in_flight(served):
                time.sleep(chance.uniform(0.0, longest_pause_seconds))
                in_flight.append(counts_of(served.data)["processing"])
                worker = served.worker_process_id
                killed_at[worker] = time.time()
                os.kill(worker, signal.SIGKILL)
                show(len(killed_at), kills)
                wait_for(lambda worker=worker: served.worker_process_id != worker, seconds=60)
                seconds_until_ready.append(time.time() - killed_at[worker])
                # After two deaths the jobs run one by one.
                if chance.random() >= SECOND_KILL_SHARE or len(in_flight) % 2 == 0:
                    break
            gate.open()
            wait_until_all_ended(served)
            if rounds == WARM_ROUNDS:
                resident_before, kills_before = served.resident_bytes(), len(killed_at)
        resident_after = served.resident_bytes()
        children = psutil.Process(served.process.pid).children()
        died = {event["process_id"]: event_time(event) for event in served.events("engine_died")}
        noticed = [
            event_time(event) for event in served.events("engine_state") if event["state"] == "restarting"
        ]
    # The log has milliseconds, cut off; so a death can seem to be seen up to one too early.
    seen = [
        min((one for one in noticed if one > at - 0.001), default=at + 60) - at for at in killed_at.values()
    ]
    buried = [died[one] - at for one, at in killed_at.items() if one in died]
    served.stop()
    findings.measured = {
        "kills": len(killed_at),
        "jobs": submitted,
        "seconds": round(time.monotonic() - started, 1),
        "jobs_in_the_worker_at_a_kill": _range([float(one) for one in in_flight], "jobs"),
        # Seen: it gets no more work. Reported: its process is gone, with its memory, and its last messages are read.
        "seen_after": _range([max(0.0, 1000 * one) for one in seen], "ms") | {"target": 1000 * SEEN_SECONDS},
        "seen_later_than_100_ms": sum(one > SEEN_SECONDS for one in seen),
        "told_of_after": _range([max(0.0, 1000 * one) for one in buried], "ms"),
        "ready_again_after": _range(seconds_until_ready, "s"),
        "settings": KILLS,
        "health_p99_ms": round(1000 * probe.quantile_seconds(0.99), 1),
        "health_failures": probe.failures[:5],
        "store": check_store(findings, served.data, ledger),
        "left": check_leftovers(findings, served.data, children),
    }
    if rounds > WARM_ROUNDS:
        growth = (resident_after - resident_before) / (len(killed_at) - kills_before)
        findings.measured["front_growth_bytes_per_kill_and_its_jobs"] = round(growth)
    findings.expect(len(buried) == len(killed_at), "every death is in the log")
    findings.expect(
        max(seen, default=1) <= SEEN_SECONDS, f"each is seen within 100 ms, not {max(seen):.3f} s"
    )
    findings.expect(not probe.failures, f"HTTP stays up: {probe.failures[:5]}")
    findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
    return findings


def _range(values: list[float], unit: str) -> dict[str, object]:
    """A summary without each value."""
    whole = summary(values, unit=unit)
    return {name: whole[name] for name in ("unit", "median", "min", "max", "count")}


def _until_in_flight(served: Served) -> bool:
    """Wait until twenty jobs are claimed at once; False when that cannot be any more."""
    while True:
        counts = counts_of(served.data)
        if counts["processing"] >= IN_FLIGHT:
            return True
        if counts["queued"] + counts["processing"] < IN_FLIGHT:
            return False
        time.sleep(0.002)
