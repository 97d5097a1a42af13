"""The whole torture suite, `make torture`: every fault of the table in docs/reliability.md, one JSON, a failure when a
promise is broken.

Faults are real: SIGKILL, SIGSTOP, a full disk, a clock that jumps, workers that abort, hang or leak. After each, the
store and the disk are compared with the clients' answers (`invariants`). What `tools/hostile` breaks (damaged
recordings, bombs, clients that leave, are slow, or come by the thousand) is called from there. `--quick` is minutes,
the whole is an hour and a half, of which forty minutes are `mixed load`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.bench.disconnects import measure as measure_disconnects
from tools.bench.measuring import machine, summary, versions
from tools.hostile.connections import Findings
from tools.hostile.run_hostile import STEPS as HOSTILE_STEPS
from tools.torture.bad_jobs import leak, poison
from tools.torture.clock_jumps import clock_jumps, faketime_library
from tools.torture.disturbance import Disturbance
from tools.torture.engine_kills import kill_demo_engines, kill_fake_engines
from tools.torture.front_kills import kill_front
from tools.torture.full_disk import full_disk, why_no_disk
from tools.torture.hangs import hangs
from tools.torture.mixed_load import LoadPlan, mixed_load
from tools.torture.rates import long_queue, sustained

RESULTS_FOLDER = Path(__file__).resolve().parent / "results"
Step = Callable[[Path, argparse.Namespace], Findings]
STEPS: dict[str, Step] = {}

FROM_HOSTILE = {
    "corrupt audio": "mutants in the decode child",
    "bombs": "bombs over a limit of 1 h",
    "disconnects in an upload": "disconnects",
    "slow uploads": "slow uploads, soft limit of 256 descriptors",
    "overload": "overload by 1,000 clients",
}


class Skipped(Exception):
    """This machine cannot run the step; the message says why."""


def step(name: str) -> Callable[[Step], Step]:
    """Register a step under its name in the result."""

    def register(function: Step) -> Step:
        STEPS[name] = function
        return function

    return register


def main(arguments: list[str]) -> int:
    """Run the steps asked for; returns 0 when every promise held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer kills, shorter loads; promises of time stay"
    )
    parser.add_argument("--only", action="append", choices=sorted(STEPS), help="a step; may be repeated")
    parser.add_argument("--mutants", type=int, default=20_000, help=argparse.SUPPRESS)
    parser.add_argument(
        "--out", type=Path, default=RESULTS_FOLDER / "torture.json", help="where the JSON goes"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.mutants = min(options.mutants, 500)
    broken: list[str] = []
    names = options.only or list(STEPS)
    for name in names:
        started = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder, Disturbance(Path(folder)) as disturbance:
                findings = STEPS[name](Path(folder), options)
        except Skipped as reason:
            print(f"{name:34} skipped: {reason}", flush=True)
            _write(options, name, {"skipped": str(reason)})
            continue
        verdict = "holds" if not findings.broken else "BROKEN"
        print(f"\r{name:34} {time.monotonic() - started:7.1f} s  {verdict}", flush=True)
        for claim in findings.broken:
            print(f"    not so: {claim[:400]}", flush=True)
        broken += findings.broken
        result = {
            "seconds": round(time.monotonic() - started, 1),
            "holds": not findings.broken,
            **findings.as_json(),
            "meanwhile": disturbance.as_json(),
        }
        _write(options, name, result)
    print(f"{len(names)} steps, {len(broken)} promises broken; see {options.out.name}")
    return 1 if broken else 0


def _write(options: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    """After every step, so that one that is interrupted costs no other; steps of earlier runs stay.

    No host name, no path and no user goes into the result.
    """
    path: Path = options.out
    before = json.loads(path.read_text(encoding="utf-8"))["steps"] if path.exists() else {}
    command = "python -m tools.torture.run_torture" + (" --quick" if options.quick else "")
    entry = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": f"{command} --only '{name}'",
        **result,
    }
    document = {
        "command": "make torture",
        "machine": machine(),
        "versions": versions(),
        "steps": {**before, name: entry},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _progress(name: str) -> Callable[[int, int], None]:
    """A line that is written anew about once a second, on a terminal."""
    shown_at = 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown_at
        if sys.stdout.isatty() and time.monotonic() - shown_at > 1.0:
            shown_at = time.monotonic()
            print(f"\r{name:34} {done:6d} of {total}", end="", flush=True)

    return show


@step("engine killed, fake worker")
def _fake_kills(folder: Path, options: argparse.Namespace) -> Findings:
    return kill_fake_engines(
        folder, 20 if options.quick else 180, show=_progress("engine killed, fake worker")
    )


@step("engine killed, demo model")
def _demo_kills(folder: Path, options: argparse.Namespace) -> Findings:
    return kill_demo_engines(folder, 3 if options.quick else 20, show=_progress("engine killed, demo model"))


@step("front killed")
def _front_kills(folder: Path, options: argparse.Namespace) -> Findings:
    return kill_front(folder, 1_000)


@step("engine hangs")
def _hangs(folder: Path, options: argparse.Namespace) -> Findings:
    return hangs(folder)


@step("disk full")
def _full_disk(folder: Path, options: argparse.Namespace) -> Findings:
    if reason := why_no_disk():
        raise Skipped(reason)
    return full_disk(folder)


@step("clock jumps")
def _clock(folder: Path, options: argparse.Namespace) -> Findings:
    if faketime_library() is None:
        raise Skipped("libfaketime is not installed (apt-get install libfaketime)")
    return clock_jumps(folder)


@step("poison")
def _poison(folder: Path, options: argparse.Namespace) -> Findings:
    return poison(folder)


@step("leaking worker")
def _leak(folder: Path, options: argparse.Namespace) -> Findings:
    return leak(folder)


@step("disconnects while waiting")
def _waiting_clients(folder: Path, options: argparse.Namespace) -> Findings:
    waiting, running = measure_disconnects(folder)
    findings = Findings({"queued": summary(waiting, target=1.0), "running": summary(running)})
    findings.expect(max(waiting) < 1.0, f"what is queued is cancelled within 1 s: {max(waiting):.2f} s")
    return findings


@step("submissions, 50 a second")
def _sustained(folder: Path, options: argparse.Namespace) -> Findings:
    seconds = 15.0 if options.quick else 120.0
    return sustained(folder, seconds, show=_progress("submissions, 50 a second"))


@step("long queue")
def _long_queue(folder: Path, options: argparse.Namespace) -> Findings:
    return long_queue(folder, 2_000 if options.quick else 20_000, show=_progress("long queue"))


def _from_hostile(name: str) -> Step:
    return lambda folder, options: HOSTILE_STEPS[name](folder, options)


for _name, _hostile_name in FROM_HOSTILE.items():
    STEPS[_name] = _from_hostile(_hostile_name)


@step("mixed load")
def _mixed(folder: Path, options: argparse.Namespace) -> Findings:
    plan = LoadPlan(seconds=300.0, warm_seconds=120.0) if options.quick else LoadPlan()
    return mixed_load(folder, plan, show=lambda line: print(line, flush=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
