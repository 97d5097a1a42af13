"""Runs a plan part by part, each in processes of its own while nothing else runs.

The document is written after every part, so that a benchmark that broke off goes on. A part that fails is noted with
its reason, and the others are still measured. What a part that is broken off had found by then is written too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from scribewire.engine.bench.audio import distinct_clips, write_long_wav
from scribewire.engine.bench.measuring import OURS, machine, summary, versions
from scribewire.engine.bench.plan import Plan, PlanInvalid
from scribewire.engine.bench.process import START_TIMEOUT_SECONDS, ChildFailed, started
from scribewire.engine.bench.serving import ServerAddress, closed_loop, scribewire_server, summary_of_loads
from scribewire.engine.checkpoint.fetch import resolve_model

DOCUMENT_VERSION = 1

Found = dict[str, Any]
Note = Callable[[str], None]
LONG_TIMEOUT_SECONDS = 6 * 3600.0


class Results:
    """Results of a plan's parts. document: as it is written and printed."""

    def __init__(self, plan: Plan, command: str, out: Path | None) -> None:
        """Begin a document, or go on with the one in `out`; raises PlanInvalid when that is of something else."""
        self._plan, self._out = plan, out
        self.document: Found = {
            "benchmark": "scribewire bench",
            "document_version": DOCUMENT_VERSION,
            "command": command,
            "when": _now(),
            "subject": plan.subject(),
            "machine": machine(),
            "versions": versions(),
            "parts": {},
        }
        self.parts: Found = self.document["parts"]
        if out is not None and out.exists():
            self._go_on_with(out)

    def _go_on_with(self, out: Path) -> None:
        try:
            earlier = json.loads(out.read_text(encoding="utf-8"))
            is_ours = earlier["document_version"] == DOCUMENT_VERSION and isinstance(earlier["parts"], dict)
        except (ValueError, KeyError, TypeError):
            is_ours = False
        if not is_ours:
            raise PlanInvalid(f"{out} is there and is no result of this benchmark; give another --out")
        if earlier["subject"] != self.document["subject"]:
            raise PlanInvalid(f"{out} holds results of {earlier['subject']['model']}; give another --out")
        self.parts |= earlier["parts"]
        self.document |= {name: earlier[name] for name in ("peers", "engine") if name in earlier}

    def is_done(self, part: str) -> bool:
        """True when a part was measured with the plan's settings."""
        return self.was_finished(part) and self.parts[part].get("settings") == self._plan.settings(part)

    @contextmanager
    def measuring(self, part: str) -> Iterator[Found]:
        """Fill a part inside the block; what it raises becomes its error, and the document is written either way."""
        found: Found = {"settings": self._plan.settings(part), "when": _now()}
        started = time.perf_counter()
        try:
            yield found
        except ChildFailed as error:
            found["error"] = str(error)
        except BaseException as error:
            is_interrupt = isinstance(error, KeyboardInterrupt)
            found["error"] = "interrupted" if is_interrupt else f"broken off: {error}"
            if self.was_finished(part):
                found = self.parts[part]
            raise
        finally:
            found.setdefault("took_seconds", round(time.perf_counter() - started, 1))
            self.parts[part] = found
            self.write(self.document)

    def failed(self) -> list[str]:
        """The plan's parts that could not be measured."""
        return [part for part in self._plan.parts if "error" in self.parts.get(part, {})]

    def was_finished(self, part: str) -> bool:
        """True when an earlier run finished the part, which is worth more than what a broken one found."""
        return "error" not in self.parts.get(part, {"error": ""})

    def write(self, document: Found) -> None:
        """Replace the file, which is whole at every moment."""
        if self._out is None:
            return
        draft = self._out.with_name(f".{self._out.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            draft.replace(self._out)
        finally:
            draft.unlink(missing_ok=True)


class Runner:
    """Measures the parts of a plan. scratch: an empty folder. Raises EngineError when there is no such model."""

    program: ClassVar[str] = "scribewire.engine.bench.measured"  # measures a part in a process of its own

    def __init__(self, plan: Plan, results: Results, scratch: Path, note: Note) -> None:
        self.plan, self.results, self.scratch, self.note = plan, results, scratch, note
        self.folder = self.model_folder()

    def model_folder(self) -> Path:
        """The folder of what is measured."""
        return resolve_model(self.plan.model, download=True).folder

    def engine_settings(self) -> dict[str, Any]:
        """Fields of EngineConfig."""
        return {"model": str(self.folder), "device": self.plan.device, "dtype": self.plan.dtype}

    def server(self) -> AbstractContextManager[ServerAddress]:
        """A server with the model."""
        self.note("starting the server")
        data = self.scratch / "data"
        return scribewire_server(self.folder, data, device=self.plan.device, dtype=self.plan.dtype)

    def long_file(self) -> Path:
        """The given long file, or one made up."""
        path = self.plan.long_file or self.scratch / "long.wav"
        return path if path.exists() else write_long_wav(path, self.plan.long_seconds)

    def measure(self, part: str, found: Found) -> None:
        """Fill `found` with a part's figures; raises ChildFailed."""
        own = {"load": self._measure_load, "clients": self._measure_clients}
        own.get(part, partial(self.in_process, part))(found)

    def in_process(self, part: str, found: Found) -> None:
        """Measure a part in a process of its own; what it finds is added to `found` as it comes."""
        needed = self.plan.names_of(part) | (self.plan.names_of("limits") if part == "step" else set())
        given = {name: getattr(self.plan, name) for name in needed}
        given |= {"engine": self.engine_settings(), "limits": self.results.parts.get("limits", {})}
        if part == "long":
            given["long_file"] = str(self.long_file())
        silence = LONG_TIMEOUT_SECONDS if part == "long" else START_TIMEOUT_SECONDS
        with started(OURS, [sys.executable, "-m", self.program, part, json.dumps(given)]) as lines:
            for said in map(json.loads, lines(silence)):
                if "note" in said:
                    self.note(said["note"])
                if "engine" in said:
                    self.results.document["engine"] = said["engine"]
                found |= said.get("found", {})

    def _measure_load(self, found: Found) -> None:
        loads: list[Found] = []
        for number in range(self.plan.loads):
            self.note(f"load {number + 1} of {self.plan.loads}")
            begun = time.perf_counter()
            one: Found = {}
            self.in_process("load", one)
            # One clock for all processes of a machine; with Python and all that it imports, as a user waits for it.
            loads.append(one | {"ready_seconds": one["ready_at"] - begun})
        about = ("weight_bits", "parameter_count", "resident_bytes", "dtype", "device")
        found |= {
            "ready": summary([one["ready_seconds"] for one in loads]),
            "load": summary([one["load_seconds"] for one in loads]),
            "peak_resident_bytes": max(one["peak_resident_bytes"] for one in loads),
            **{name: loads[-1][name] for name in about},
        }

    def _measure_clients(self, found: Found) -> None:
        """Closed loops over HTTP, each number of clients in rounds; a single one is what idle means."""
        plan = self.plan
        counts = sorted({1, *plan.clients})
        clips = distinct_clips(self.scratch, plan.client_seconds, max(counts))
        by_clients = found["by_clients"] = {}
        with self.server() as server:
            for clients in counts:
                requests = clients * plan.requests_per_client
                loads = []
                for number in range(plan.client_rounds):
                    self.note(f"{clients} clients, round {number + 1} of {plan.client_rounds}")
                    send = partial(closed_loop, server, clips, clients, requests, seconds=plan.round_seconds)
                    loads.append(send(warm_up=number == 0))
                    self.note(f"  {loads[-1]}")
                ours = summary_of_loads(loads)
                idle = found.setdefault("idle_seconds", ours["p50"]["median"])
                over_idle = round(ours["p95"]["median"] / idle, 3)
                by_clients[str(clients)] = {"loads": {OURS: ours}, "p95_over_idle": over_idle}


def run(
    plan: Plan, results: Results, note: Note, *, again: bool = False, kind: type[Runner] = Runner
) -> None:
    """Measure every part of the plan that `results` lack.

    again: those too that it has already. kind: measures the parts.
    raises: EngineError (no such model), OSError
    """
    wanted = [part for part in plan.all_parts if part in plan.parts]
    left = [part for part in wanted if again or not results.is_done(part)]
    for part in wanted:
        if part not in left:
            note(f"{part}: measured before, kept")
    if not left:
        return
    with tempfile.TemporaryDirectory(prefix="scribewire-bench-") as scratch:
        runner = kind(plan, results, Path(scratch), note)
        for part in left:
            with results.measuring(part) as found:
                runner.measure(part, found)
            if "error" in results.parts[part]:
                note(f"{part} failed: {results.parts[part]['error']}")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
