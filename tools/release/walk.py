"""Trace one upload through every process of a server, and write docs/walk.md: the way from its socket to its text.

    .venv/bin/python -m tools.release.walk [--write] [--json PATH] [--max-modules N] [--max-hand-overs N]

A real server is started with the demo model (`tools.release.walk_front`), a bundled recording is uploaded once so that
everything is warm, and then a few times more under the eye of `sys.setprofile` in the front, in the audio child and in
the engine's worker, each time with another last sample, so that no earlier answer is found, and on a connection of its
own. What belongs to the upload was entered every time. Start-up is over by then. What runs on its own is left out by
its task (`tools.release.walk_notes`) or, where it is rare, by falling into some of these stretches and not into all.

A module counts as entered when a function that is written in it was entered; that a dataclass of it was made does not
count, and is told apart. A hand-over is a pair of threads, of one process or of two, between which the upload passes:
the answer comes back over the same pair and is not counted again, nor is a second message of the same kind.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from scribewire.engine.demo import sample_recordings
from tools.release.walk_front import PIPES
from tools.release.walk_notes import FOLDER, OURS, SWITCH

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "walk.md"
PATIENCE_SECONDS = 120.0
UPLOADS = 6
SETTLE_SECONDS = 0.3
"""The end of a request is logged and counted after its answer has arrived."""

WIDTH = 120
MOST_NAMED = 8

PROCESSES = ("front", "audio child", "worker")

THREADS = {
    ("front", "MainThread"): "front: event loop",
    ("audio child", "MainThread"): "audio child",
    ("worker", "MainThread"): "worker: messages",
    ("worker", "scribewire-mlx"): "worker: engine",
    ("worker", "scribewire-read"): "worker: reading ahead",
}
"""Threads by what they do; others are called by their own names."""


@dataclass(frozen=True)
class Crossing:
    """Something handed from one thread to another."""

    sender: str
    receiver: str
    means: str


@dataclass
class Leg:
    """What one thread does from one arrival of the upload to the next, with the modules that are new there."""

    thread: str
    arrival: Crossing | None
    functions: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class Walk:
    """One upload, as it was every time."""

    legs: tuple[Leg, ...]
    modules: tuple[str, ...]
    only_made: tuple[str, ...]
    hand_overs: tuple[Crossing, ...]
    crossings: int
    entries: Counter[str]

    def modules_of(self, role: str) -> list[str]:
        """Modules entered in one process."""
        found: dict[str, None] = {}
        for leg in self.legs:
            if leg.thread.startswith(role):
                found.update(dict.fromkeys(leg.functions))
        return list(found)


# ---- tracing -------------------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a watched server."""
    (folder / SWITCH).write_bytes(b"\0")
    environment = {**os.environ, FOLDER: str(folder), "PYTHONPATH": str(PROJECT)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.release.walk_front"],
            stdout=subprocess.PIPE, stderr=log, text=True, cwd=PROJECT, env=environment,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "ready on http" in line:
                yield "http" + line.rsplit("http", 1)[1].strip()
                return
        raise SystemExit((folder / "log").read_text()[-3000:])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def upload(url: str, number: int) -> None:
    """Upload the bundled recording over a connection of its own, with another last sample for each number."""
    recording = sample_recordings()[0].path.read_bytes()
    response = httpx.post(
        f"{url}/v1/audio/transcriptions",
        files={"file": ("clip.wav", recording[:-1] + bytes([number]), "audio/wav")},
        data={"model": "gpt-4o-transcribe"},
        timeout=PATIENCE_SECONDS,
    )
    response.raise_for_status()
    assert response.json()["text"]


def watched_uploads(folder: Path) -> list[list[tuple[str, int, list[Any]]]]:
    """Of each upload the notes of every process: its role, its id and its events."""
    found = []
    with served(folder) as url:
        upload(url, UPLOADS)
        for number in range(UPLOADS):
            time.sleep(SETTLE_SECONDS)
            (folder / SWITCH).open("r+b").write(bytes([number + 1]))
            upload(url, number)
            time.sleep(SETTLE_SECONDS / 3)
            (folder / SWITCH).open("r+b").write(b"\0")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(files := sorted(folder.glob(f"{number + 1}-*.json"))) < 3:
                assert time.monotonic() < deadline, "a process has written no notes"
                time.sleep(0.02)
            found.append([tuple(json.loads(file.read_text())) for file in files])
    return found


# ---- reading the notes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One note, with the thread's name for the page."""

    at: int
    role: str
    thread: str
    kind: str
    what: str
    detail: str


def events_of(notes: list[tuple[str, int, list[Any]]]) -> list[Event]:
    """The notes of all processes in the order of the machine's clock."""
    found = []
    for role, _, events in notes:
        for at, name, kind, what, detail in events:
            # A pool's threads differ by their number.
            stem = name.rstrip("0123456789").rstrip("_-") if name != "MainThread" else name
            thread = THREADS.get((role, stem), f"{role}: {stem}" if stem != role else role)
            found.append(Event(at, role, thread, kind, what, detail))
    return sorted(found, key=lambda event: event.at)


def crossings_of(events: list[Event], peers: dict[str, str]) -> list[tuple[int, Crossing]]:
    """Every hand-over with its time, answers and repetitions included."""
    found = []
    queued: dict[tuple[str, str], list[str]] = defaultdict(list)
    written: dict[str, str] = {}
    for event in events:
        if event.kind == "put":
            queued[event.role, event.what].append(event.thread)
        elif event.kind == "got" and (senders := queued[event.role, event.what]):
            if (sender := senders.pop(0)) != event.thread:
                found.append((event.at, Crossing(sender, event.thread, "a queue")))
        elif event.kind == "wake" and event.thread != THREADS["front", "MainThread"]:
            found.append(
                (
                    event.at,
                    Crossing(event.thread, THREADS["front", "MainThread"], "a wake-up of the event loop"),
                )
            )
        elif event.kind == "write" and event.what in peers:
            written[peers[event.what]] = event.thread
        elif event.kind == "read" and (sender := written.pop(event.what, "")):
            found.append((event.at, Crossing(sender, event.thread, "a pipe")))
    return found


def pairs_of(events: list[Event], peers: dict[str, str]) -> set[frozenset[str]]:
    """The pairs of threads between which something passes."""
    return {frozenset((one.sender, one.receiver)) for _, one in crossings_of(events, peers)}


def read_walk(uploads: list[list[Event]], peers: dict[str, str]) -> Walk:
    """The first upload's way, without all that does not occur in every one."""

    def always(kind: str) -> set[tuple[str, str, str]]:
        each = [{(e.thread, e.what, e.detail) for e in events if e.kind == kind} for events in uploads]
        return set.intersection(*each)

    entered, made = always("enter"), always("make")
    pairs = set.intersection(*(pairs_of(events, peers) for events in uploads))
    first = uploads[0]
    crossings = [
        (at, one) for at, one in crossings_of(first, peers) if frozenset((one.sender, one.receiver)) in pairs
    ]
    arrivals: dict[str, list[tuple[int, Crossing]]] = defaultdict(list)
    for at, one in crossings:
        arrivals[one.receiver].append((at, one))
    legs: list[Leg] = []
    current: dict[str, Leg] = {}
    known: dict[str, set[tuple[str, str]]] = defaultdict(set)
    entries: Counter[str] = Counter()
    for event in first:
        if event.kind != "enter" or (event.thread, event.what, event.detail) not in entered:
            continue
        entries[event.what] += 1
        waiting = arrivals[event.thread]
        arrival = None
        while waiting and waiting[0][0] <= event.at:
            arrival = waiting.pop(0)[1]
        if arrival is not None or event.thread not in current:
            current[event.thread] = Leg(event.thread, arrival)
            legs.append(current[event.thread])
        key = (event.what, event.detail)
        if key not in known[event.thread]:
            known[event.thread].add(key)
            current[event.thread].functions[event.what].append(event.detail)
    hand_overs: dict[frozenset[str], Crossing] = {}
    for _, one in crossings:
        hand_overs.setdefault(frozenset((one.sender, one.receiver)), one)
    modules = tuple(dict.fromkeys(module for leg in legs for module in leg.functions))
    only_made = tuple(sorted({module for _, module, _ in made} - set(modules)))
    return Walk(
        tuple(leg for leg in legs if leg.functions),
        modules,
        only_made,
        tuple(hand_overs.values()),
        len(crossings),
        entries,
    )


def trace() -> Walk:
    """Start a server, upload, and read what was noted."""
    with tempfile.TemporaryDirectory(prefix="walk-") as name:
        folder = Path(name)
        uploads = watched_uploads(folder)
        peers: dict[str, str] = {}
        for line in (folder / PIPES).read_text().splitlines():
            one, other = line.split()
            peers[one], peers[other] = other, one
    return read_walk([events_of(notes) for notes in uploads], peers)


# ---- the page ------------------------------------------------------------------------------------------------


def path_of(module: str) -> str:
    """File of a module, from the project's root."""
    stem = module.removeprefix(OURS).replace(".", "/")
    return f"{stem}.py" if (PROJECT / f"{stem}.py").is_file() else f"{stem}/__init__.py"


def subject_of(module: str) -> str:
    """First sentence of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse((PROJECT / path_of(module)).read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.:])\s", " ".join(docstring.split("\n\n")[0].split()))[0].rstrip(":.") + "."


def page(walk: Walk) -> str:
    """The walk in Markdown, each module where it is entered first."""
    counts = ", ".join(f"{len(walk.modules_of(role))} in the {role}" for role in PROCESSES)
    intro = f"""
        What happens between `curl -F file=@clip.wav` and its text, as it was seen and not as it was meant: every
        function of ours that one upload enters, in the order of the clock, in the three processes that take part.
        Written by `python -m tools.release.walk --write`, which says how start-up and what runs on its own are kept
        out.

        **{len(walk.modules)} modules** ({counts}; some are entered in two) and **{len(walk.hand_overs)} hand-overs**
        between threads or processes, over which something passes {walk.crossings} times. The upload is one that nobody
        sent before, of the bundled English recording, whole and not streamed; the model is the demo model on a CPU.
        """
    lines = [
        "# The walk of one upload",
        "",
        *textwrap.dedent(intro).strip().split("\n"),
        "",
        "| hand-over | by |",
        "|---|---|",
        *(f"| {one.sender} → {one.receiver} | {one.means} |" for one in walk.hand_overs),
        "",
        "## Step by step",
        "",
        "A step begins where the upload arrives in a thread. A module is described where it is entered first; a step",
        "that enters only functions entered before is left out.",
    ]
    described: set[str] = set()
    for number, leg in enumerate(walk.legs, start=1):
        by = f", by {leg.arrival.means} from *{leg.arrival.sender}*" if leg.arrival else ""
        lines += ["", f"### {number}. {leg.thread}{by}", ""]
        for module, functions in leg.functions.items():
            subject = "" if module in described else f" {subject_of(module)}"
            described.add(module)
            line = f"* `{path_of(module)}`.{subject} {named(functions)}".rstrip()
            lines += textwrap.wrap(
                line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
    if walk.only_made:
        values = ", ".join(f"`{path_of(module)}`" for module in walk.only_made)
        lines += [
            "",
            "## Values",
            "",
            f"Only dataclasses are made of these, and no function of theirs is entered: {values}.",
        ]
    return "\n".join(lines) + "\n"


def named(functions: list[str]) -> str:
    """The first few functions, without those inside of others."""
    plain = [name for name in functions if "<" not in name]
    more = len(plain) - MOST_NAMED
    shown = [f"`{name}`" for name in (plain if more <= 1 else plain[:MOST_NAMED])]
    return ", ".join(shown) + (f" and {more} more" if more > 1 else "")


def summary(walk: Walk) -> dict[str, Any]:
    """The figures."""
    return {
        "modules": len(walk.modules),
        "modules_by_process": {role: len(walk.modules_of(role)) for role in PROCESSES},
        "hand_overs": [f"{one.sender} -> {one.receiver}" for one in walk.hand_overs],
        "crossings": walk.crossings,
        "entered": {
            role: {module: walk.entries[module] for module in walk.modules_of(role)} for role in PROCESSES
        },
        "only_made": list(walk.only_made),
    }


def main(arguments: list[str]) -> int:
    """Trace and print; returns 1 when the way is longer than was allowed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/walk.md")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--max-modules", type=int, help="fail above this number")
    parser.add_argument("--max-hand-overs", type=int, help="fail above this number")
    options = parser.parse_args(arguments)
    walk = trace()
    figures = summary(walk)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.write:
        PAGE.write_text(page(walk), encoding="utf-8")
    limits = ((walk.modules, options.max_modules), (walk.hand_overs, options.max_hand_overs))
    return int(any(limit is not None and len(found) > limit for found, limit in limits))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
