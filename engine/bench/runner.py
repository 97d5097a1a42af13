"""Runs a plan part by part and writes what is there after each, so that a benchmark that broke off goes on.

A part that fails is noted with its reason, and the others are still measured. What a part that is broken off had found
by then is written too, marked as such.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from engine.bench.audio import speech as speech_of
from engine.bench.audio import write_wav
from engine.bench.child import Child, ChildFailed, child, run_to_end
from engine.bench.component_parts import COMPONENT_PARTS, measure_component
from engine.bench.measuring import machine, versions
from engine.bench.peer_programs import AS_GIVEN, Note, Peer, absent, prepare, python_with
from engine.bench.plan import COMPARED_PARTS, PARTS, Plan, PlanInvalid
from engine.bench.serving import RequestFailed
from engine.bench.side_by_side import (
    Subject,
    measure_clients,
    measure_clip,
    measure_load,
    measure_long,
    measure_middle,
)
from engine.checkpoint.fetch import resolve_model

DOCUMENT_VERSION = 1
_PROCESS_PARTS: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "load": measure_load,
    "clip": measure_clip,
    "clients": measure_clients,
    "long": measure_long,
    "middle": measure_middle,
}

Document = dict[str, Any]


def run(plan: Plan, command: str, out: Path | None, note: Note, *, again: bool = False) -> Document:
    """Measure every part of the plan; returns the document, which is also in `out` after every part.

    out: may hold an earlier document of the same subject: its finished parts are kept and, unless `again`, those of
    the plan that were measured with the same settings are not measured anew.
    raises: PlanInvalid (another subject in `out`), EngineError (no such model), ChildFailed (no random model),
    OSError
    """
    document = _begun(plan, command, out)
    parts: dict[str, Any] = document["parts"]
    wanted = [part for part in PARTS if part in plan.parts]
    left = [part for part in wanted if again or not _is_done(parts.get(part), plan, part)]
    for part in wanted:
        if part not in left:
            note(f"{part}: measured before, kept")
    if not left:
        return document
    with ExitStack() as held:
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="scribewire-bench-")))
        folder = model_folder(plan, scratch, note)
        _measure_components(
            plan, folder, [one for one in left if one in COMPONENT_PARTS], document, out, note
        )
        rest = [one for one in left if one in _PROCESS_PARTS]
        peers: list[Peer] = []
        if any(one in COMPARED_PARTS for one in rest):
            peers, about = _prepared_peers(plan, folder, scratch, document, note, again=again)
            document["peers"] = document.get("peers", {}) | about
        for part in rest:
            compared = peers if part in COMPARED_PARTS else []
            with _part(part, plan, document, out, note) as found:
                keep = partial(_keep_so_far, found, part, document, out)
                subject = Subject(plan, folder, scratch, compared, note, found, keep)
                found.update(_PROCESS_PARTS[part](subject))
    return document


def failed_parts(document: Document, plan: Plan) -> list[str]:
    """The plan's parts that could not be measured."""
    return [part for part in plan.parts if "error" in document["parts"].get(part, {})]


def model_folder(plan: Plan, scratch: Path, note: Note) -> Path:
    """The folder to measure: the model that is asked for, or random weights, made now unless kept before."""
    if plan.random is None:
        return resolve_model(plan.model, download=True).folder
    folder = (plan.keep or scratch).absolute() / f"random-{plan.random}-{plan.recipe}"
    note(f"random weights: {plan.random} {plan.recipe}")
    command = [sys.executable, "-m", "engine.bench.random_model", str(folder), plan.random, plan.recipe]
    run_to_end("making random weights", command)
    return folder


def _begun(plan: Plan, command: str, out: Path | None) -> Document:
    document: Document = {
        "benchmark": "scribewire bench",
        "document_version": DOCUMENT_VERSION,
        "command": command,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "subject": plan.subject(),
        "machine": machine(),
        "versions": versions(),
        "parts": {},
    }
    if out is None or not out.exists():
        return document
    try:
        earlier = json.loads(out.read_text(encoding="utf-8"))
        is_ours = earlier["document_version"] == DOCUMENT_VERSION and isinstance(earlier["parts"], dict)
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise PlanInvalid(f"{out} is there and is no result of this benchmark; give another --out")
    if earlier["subject"] != document["subject"]:
        raise PlanInvalid(f"{out} holds results of {earlier['subject']['model']}; give another --out")
    return document | {name: earlier[name] for name in ("parts", "peers", "engine") if name in earlier}


def _is_done(found: dict[str, Any] | None, plan: Plan, part: str) -> bool:
    return found is not None and "error" not in found and found.get("settings") == plan.settings(part)


@contextmanager
def _part(
    part: str, plan: Plan, document: Document, out: Path | None, note: Note
) -> Iterator[dict[str, Any]]:
    """Fill a part inside the block; what it raises becomes its error, and the document is written either way."""
    found: dict[str, Any] = {
        "settings": plan.settings(part),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    started = time.perf_counter()
    try:
        yield found
    except (ChildFailed, RequestFailed) as error:
        found["error"] = str(error)
        note(f"{part} failed: {error}")
    except BaseException as error:
        found["error"] = "interrupted" if isinstance(error, KeyboardInterrupt) else f"broken off: {error}"
        if not _was_finished(document, part):
            _record(found, part, started, document, out)
        raise
    _record(found, part, started, document, out)


def _was_finished(document: Document, part: str) -> bool:
    """Whether an earlier run finished the part, which is worth more than what a broken one found."""
    return "error" not in document["parts"].get(part, {"error": ""})


def _keep_so_far(found: dict[str, Any], part: str, document: Document, out: Path | None) -> None:
    """Write what a part has found while it goes on, for the case that this process is ended before it can."""
    if not _was_finished(document, part):
        unfinished = {**found, "error": "broken off: this process was ended"}
        _write({**document, "parts": {**document["parts"], part: unfinished}}, out)


def _record(found: dict[str, Any], part: str, started: float, document: Document, out: Path | None) -> None:
    found["took_seconds"] = round(time.perf_counter() - started, 1)
    document["parts"][part] = found
    _write(document, out)


def _measure_components(
    plan: Plan, folder: Path, parts: list[str], document: Document, out: Path | None, note: Note
) -> None:
    if not parts:
        return
    arguments = json.dumps({"folder": str(folder), "device": plan.device, "dtype": plan.dtype})
    command = [sys.executable, "-m", "engine.bench.component_side", arguments]
    with ExitStack() as held:
        networks: Child | None = None
        limits = document["parts"].get("limits", {})
        for part in parts:
            with _part(part, plan, document, out, note) as found:
                if networks is None:
                    note("loading the networks")
                    networks = held.enter_context(child("the networks", command))
                    document["engine"] = networks.started
                if part == "step" and "bandwidth" not in limits:
                    limits = measure_component("limits", plan, networks, {}, note)
                found.update(measure_component(part, plan, networks, limits, note))
                found["memory"] = networks.ask(do="memory")
                if part == "limits":
                    limits = found


def _prepared_peers(
    plan: Plan, folder: Path, scratch: Path, document: Document, note: Note, *, again: bool
) -> tuple[list[Peer], dict[str, Any]]:
    """The peers that run here, and what is to be said of all that were asked for.

    again: find out anew in which type a peer is fastest, though the document says so.
    """
    ready: list[Peer] = []
    about: dict[str, Any] = {}
    if not plan.peers:
        return ready, about
    clip = write_wav(scratch / "try.wav", speech_of(5.0))
    device = plan.device if plan.device != "auto" else _device_of(plan, folder, document)
    for name in plan.peers:
        python = python_with(name, plan.peer_pythons)
        if python is None:
            about[name] = absent(name)
            note(f"{name} is not installed: {about[name]['how_to_install']}")
            continue
        known = document.get("peers", {}).get(name, {})
        if not again and "dtype" in known and known.get("weights") == AS_GIVEN:
            note(f"{name}: {known['dtype']} was found to be fastest before")
            ready.append(Peer(name, python, folder, known["dtype"], plan.tokens_per_second, known))
            about[name] = known
            continue
        try:
            peer = prepare(name, python, folder, scratch, clip, device, plan.tokens_per_second, note)
        except ChildFailed as error:
            about[name] = {"installed": True, "error": str(error)}
            note(str(error))
            continue
        ready.append(peer)
        about[name] = peer.about
    return ready, about


def _device_of(plan: Plan, folder: Path, document: Document) -> str:
    """`cpu` or `gpu`: what `auto` came to, asked of a process that loads no model."""
    if "engine" in document:
        return str(document["engine"]["device"])
    asked = "from engine.device import *; print(device_name(choose_device('auto')))"
    return run_to_end("asking for the device", [sys.executable, "-c", asked]).strip()


def _write(document: Document, out: Path | None) -> None:
    if out is None:
        return
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, out)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
