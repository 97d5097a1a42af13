"""The whole hostile-input suite, `make hostile`: a line per step, one JSON, and a failure when a figure is missed.

The tests in this folder hold the same claims in short; here they are run in full and held to their times.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from scribewire.engine.protocol.transcoding import TranscodeLimits
from scribewire.server.access.keys import KeyStore
from tests.fakes.media_files import recording
from tests.fakes.served import Served, demo_server
from tools.hostile.campaign import AUDIO_ERROR_CODES, CampaignResult, decode_mutants, post_mutants
from tools.hostile.child_under_test import SUCCESS, ChildUnderTest
from tools.hostile.connections import (
    BACK_TO_NORMAL_SECONDS,
    HEALTH_P99_SECONDS,
    SLOW_UPLOADS_OPEN_SECONDS,
    Findings,
    disconnects,
    endless_body,
    slow_uploads,
)
from tools.hostile.explosions import REFUSAL_SECONDS, explode
from tools.hostile.forged_headers import forged_headers
from tools.hostile.holding_on import endless_streams, idle_connections, silent_receiver
from tools.hostile.listener import Listener
from tools.hostile.long_answers import long_answers
from tools.hostile.long_recordings import long_recordings
from tools.hostile.overload import overload, overloaded_server
from tools.hostile.parsing_attacks import SERVER
from tools.hostile.parsing_attacks import STEPS as PARSING_STEPS
from tools.hostile.playlists import playlists
from tools.hostile.slow_files import slow_files

RESULTS_FOLDER = Path(__file__).resolve().parent / "results"
STEPS: dict[str, Callable[[Path, argparse.Namespace], Findings]] = {}
Step = Callable[[Path, argparse.Namespace], Findings]


def step(name: str) -> Callable[[Step], Step]:
    """Register a step under its name in the result."""

    def register(function: Step) -> Step:
        STEPS[name] = function
        return function

    return register


def main(arguments: list[str]) -> int:
    """Run the steps asked for; returns 0 when every promise held."""
    parser = argparse.ArgumentParser(description="Run the whole hostile-input suite.")
    parser.add_argument(
        "--mutants", type=int, default=20_000, help="through the decode child (default 20000)"
    )
    parser.add_argument("--http-mutants", type=int, default=500, help="through a server (default 500)")
    parser.add_argument("--only", action="append", choices=sorted(STEPS), help="a step; may be repeated")
    parser.add_argument(
        "--out", type=Path, default=RESULTS_FOLDER / "hostile.json", help="where the JSON goes"
    )
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {}
    broken: list[str] = []
    for name in options.only or list(STEPS):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            findings = STEPS[name](Path(folder), options)
        seconds = time.monotonic() - started
        print(f"\r{name:28} {seconds:7.1f} s  {'holds' if not findings.broken else 'BROKEN'}", flush=True)
        for claim in findings.broken:
            print(f"    not so: {claim[:400]}", flush=True)
        results[name] = {
            "seconds": round(seconds, 1),
            "load_average": round(os.getloadavg()[0], 1),
            "holds": not findings.broken,
            **findings.as_json(),
        }
        broken += findings.broken
    _write(options.out, results)
    print(f"{len(results)} steps, {len(broken)} promises broken; see {options.out.name}")
    return 1 if broken else 0


def _write(path: Path, results: dict[str, Any]) -> None:
    """No host name, no path and no user goes into the result. Steps of an earlier run that were not run now stay."""
    before = json.loads(path.read_text(encoding="utf-8"))["steps"] if path.exists() else {}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    document = {
        "command": "make hostile",
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("scribewire", "av", "numpy", "uvicorn", "h11")
            },
        },
        "steps": {**before, **{name: {"when": when, **result} for name, result in results.items()}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _progress(name: str) -> Callable[[int, int], None]:
    """A line that is written anew about once a second."""
    shown_at = 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > 1.0:
            shown_at = time.monotonic()
            print(f"\r{name:28} {done:6d} of {total}", end="", flush=True)

    return show


def _campaign(result: CampaignResult) -> Findings:
    measured = {
        "mutants": result.mutants,
        "formats": len(result.by_format),
        "seconds": round(result.seconds, 1),
        "outcomes": dict(result.outcomes.most_common()),
        "by_format": {kind: dict(counts.most_common()) for kind, counts in sorted(result.by_format.items())},
        "slowest_seconds": round(result.slowest_seconds, 3),
        "slowest": result.slowest,
        "children": result.children,
        "peak_resident_bytes": result.peak_resident_bytes,
    }
    return Findings(measured, result.failures)


@step("mutants in the decode child")
def _mutants(folder: Path, options: argparse.Namespace) -> Findings:
    show = _progress("mutants in the decode child")
    return _campaign(decode_mutants(folder, range(options.mutants), progress=show))


@step("mutants over http")
def _http_mutants(folder: Path, options: argparse.Namespace) -> Findings:
    numbers = range(1_000_000, 1_000_000 + options.http_mutants)
    with demo_server(folder / "data") as served:
        findings = _campaign(post_mutants(served.url, numbers, progress=_progress("mutants over http")))
        findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
        findings.expect(not served.leftovers(), "nothing stays on disk")
    return findings


@step("forged headers")
def _forged(folder: Path, options: argparse.Namespace) -> Findings:
    findings = Findings()
    slowest = 0.0
    with ChildUnderTest(folder, limits=TranscodeLimits(recordings=1 << 30)) as child:
        forged = forged_headers()
        for name, content in forged.items():
            outcome = child.decode(content)
            slowest = max(slowest, outcome.seconds)
            findings.expect(
                outcome.name == SUCCESS or outcome.name in AUDIO_ERROR_CODES, f"{name}: {outcome.name}"
            )
        findings.measured = {
            "files": len(forged),
            "slowest_seconds": round(slowest, 3),
            "children": child.record.children,
            "peak_resident_bytes": child.record.peak_resident_bytes,
        }
    return findings


@step("playlists")
def _playlists(folder: Path, options: argparse.Namespace) -> Findings:
    findings = Findings()
    canary = folder / "canary.wav"
    canary.write_bytes(recording("wav-s16"))
    with Listener() as listener, ChildUnderTest(folder, limits=TranscodeLimits(recordings=1 << 30)) as child:
        files = playlists(canary, listener.url)
        for playlist in files:
            path = folder / playlist.file_name
            path.write_bytes(playlist.content)
            outcome = child.decode(path)
            findings.expect(outcome.name in AUDIO_ERROR_CODES, f"{playlist.name}: {outcome.name}")
        findings.expect(listener.connections == 0, "nobody calls the listener")
        findings.measured = {"files": len(files), "connections": listener.connections}
    return findings


@step("bombs over a limit of 1 h")
def _bombs(folder: Path, options: argparse.Namespace) -> Findings:
    with demo_server(folder / "data", max_duration_seconds=3600) as served:
        return _timed_bombs(explode(served))


@step("bombs over the default limit")
def _default_bombs(folder: Path, options: argparse.Namespace) -> Findings:
    with demo_server(folder / "data") as served:
        return _timed_bombs(explode(served, ("wav", "opus", "lying-flac")))


def _timed_bombs(findings: Findings) -> Findings:
    for name, one in findings.measured.items():
        findings.expect(one["seconds"] < REFUSAL_SECONDS, f"{name} is refused within 2 s: {one['seconds']} s")
    return findings


@step("long recordings beside a bystander")
def _long_recordings(folder: Path, options: argparse.Namespace) -> Findings:
    with demo_server(folder / "data") as served:
        return long_recordings(served.port, count=8, clips=20, resident_bytes=served.resident_bytes_of_all)


@step("long answers")
def _long_answers(folder: Path, options: argparse.Namespace) -> Findings:
    return long_answers(folder / "data")


@step("slow files")
def _slow_files(folder: Path, options: argparse.Namespace) -> Findings:
    return slow_files(folder)


@step("disconnects")
def _disconnects(folder: Path, options: argparse.Namespace) -> Findings:
    with Served(folder / "data") as served:
        findings = disconnects(served, 500)
    seconds = findings.measured["seconds_until_clean"]
    findings.expect(
        seconds <= BACK_TO_NORMAL_SECONDS, f"files and descriptors are back within 5 s: {seconds} s"
    )
    return findings


@step("slow uploads, soft limit of 256 descriptors")
def _slow_uploads(folder: Path, options: argparse.Namespace) -> Findings:
    with Served(folder / "data", descriptors=(256, 0)) as served:
        return _timed_slow_uploads(slow_uploads(served, 500))


@step("slow uploads, hard limit of 256 descriptors")
def _slow_uploads_hard(folder: Path, options: argparse.Namespace) -> Findings:
    with Served(folder / "data", descriptors=(256, 256)) as served:
        return _timed_slow_uploads(slow_uploads(served, 500, expects_health=False))


def _timed_slow_uploads(findings: Findings) -> Findings:
    seen = findings.measured
    findings.expect(
        seen["longest_open_seconds"] <= SLOW_UPLOADS_OPEN_SECONDS,
        f"none is open after 14 s: {seen['open_after_14_s']} are, the longest {seen['longest_open_seconds']} s",
    )
    findings.expect(
        seen["health_p99_ms"] < 1000 * HEALTH_P99_SECONDS, f"health p99 < 50 ms: {seen['health_p99_ms']} ms"
    )
    return findings


@step("1 GB without a key")
def _endless(folder: Path, options: argparse.Namespace) -> Findings:
    KeyStore(folder / "data").create("ann")
    with Served(folder / "data") as served:
        return endless_body(served, 1 << 30)


@step("overload by 1,000 clients")
def _overload(folder: Path, options: argparse.Namespace) -> Findings:
    with overloaded_server(folder / "data", cap=64, answer_seconds=0.02, max_jobs=200) as served:
        return overload(served, 1_000, cap=64)


def _parsing(one: Callable[[str, Path], Findings]) -> Step:
    return lambda folder, options: one(SERVER, folder)


for _name, _attack in PARSING_STEPS.items():
    step(_name)(_parsing(_attack))


@step("endless event streams")
def _endless_streams(folder: Path, options: argparse.Namespace) -> Findings:
    return endless_streams(folder)


@step("webhooks to a silent receiver")
def _silent_receiver(folder: Path, options: argparse.Namespace) -> Findings:
    return silent_receiver(folder)


@step("idle connections")
def _idle_connections(folder: Path, options: argparse.Namespace) -> Findings:
    return idle_connections(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
