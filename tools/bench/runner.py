"""Measures a developer's plan: as for an owner, but with forced counts, beside peers, and in more parts."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from scribewire.engine.bench.audio import speech, write_wav
from scribewire.engine.bench.runner import Found, Note, Results, Runner
from scribewire.engine.bench.serving import ServerAddress, scribewire_server
from tools.bench.child import ChildFailed, run_to_end
from tools.bench.peer_programs import AS_GIVEN, Peer, absent, prepare, python_with
from tools.bench.plan import COMPARED_PARTS, ComparingPlan
from tools.bench.side_by_side import Subject, measure_clients, measure_clip, measure_long, measure_middle

_MEASURES = {
    "clip": measure_clip,
    "clients": measure_clients,
    "long": measure_long,
    "middle": measure_middle,
}


class ComparingRunner(Runner):
    """Measures the parts of a ComparingPlan."""

    program = "tools.bench.network_side"
    plan: ComparingPlan

    def __init__(self, plan: ComparingPlan, results: Results, scratch: Path, note: Note) -> None:
        super().__init__(plan, results, scratch, note)
        self._peers: list[Peer] | None = None

    def model_folder(self) -> Path:
        """The model that is asked for, or random weights, made now unless kept before; raises ChildFailed."""
        plan = self.plan
        if plan.random is None:
            return super().model_folder()
        folder = (plan.keep or self.scratch).absolute() / f"random-{plan.random}-{plan.recipe}"
        self.note(f"random weights: {plan.random} {plan.recipe}")
        command = [sys.executable, "-m", "tools.bench.random_model", str(folder), plan.random, plan.recipe]
        run_to_end("making random weights", command)
        return folder

    def engine_settings(self) -> dict[str, Any]:
        """Fields of EngineConfig."""
        return super().engine_settings() | {"forced_tokens_per_second": self.plan.tokens_per_second}

    def server(self) -> AbstractContextManager[ServerAddress]:
        """A server whose engine is given the counts."""
        self.note("starting the server")
        plan = self.plan
        program = ("tools.bench.forced_serve", str(plan.tokens_per_second))
        return scribewire_server(
            self.folder, self.scratch / "server-data", device=plan.device, dtype=plan.dtype, program=program
        )

    def measure(self, part: str, found: Found) -> None:
        """Fill `found` with a part's figures, beside the peers where they have it."""
        if part not in _MEASURES:
            super().measure(part, found)
            return
        peers = self.peers() if part in COMPARED_PARTS else []
        subject = Subject(self, peers, found, partial(self._keep, part, found))
        found.update(_MEASURES[part](subject))

    def peers(self) -> list[Peer]:
        """The peers that run here, prepared once; the document says how each that was asked for is run, or why not."""
        if self._peers is None:
            self._peers, about = prepared_peers(
                self.plan, self.folder, self.scratch, self.results.document, self.note
            )
            self.results.document["peers"] = self.results.document.get("peers", {}) | about
        return self._peers

    def _keep(self, part: str, found: Found) -> None:
        """Write what a part has found so far, for the case that this process is ended before it can."""
        if not self.results.was_finished(part):
            unfinished = found | {"error": "broken off: this process was ended"}
            self.results.write(self.results.document | {"parts": self.results.parts | {part: unfinished}})


def prepared_peers(
    plan: ComparingPlan, folder: Path, scratch: Path, document: Found, note: Note
) -> tuple[list[Peer], Found]:
    """The peers that run here, and what is to be said of all that were asked for.

    The type in which a peer is fastest is taken from the document where it says so.
    """
    ready: list[Peer] = []
    about: Found = {}
    if not plan.peers:
        return ready, about
    clip = write_wav(scratch / "try.wav", speech(5.0))
    device = plan.device if plan.device != "auto" else _device(document)
    for name in plan.peers:
        python = python_with(name, plan.peer_pythons)
        if python is None:
            about[name] = absent(name)
            note(f"{name} is not installed: {about[name]['how_to_install']}")
            continue
        known = document.get("peers", {}).get(name, {})
        if "dtype" in known and known.get("weights") == AS_GIVEN:
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


def _device(document: Found) -> str:
    """`cpu` or `gpu`: what `auto` came to, asked of a process that loads no model."""
    if "engine" in document:
        return str(document["engine"]["device"])
    asked = (
        "from scribewire.engine.protocol.config import EngineConfig\n"
        "from scribewire.engine.resident.profile import choose_profile\n"
        "print(choose_profile(EngineConfig()).device_name)"
    )
    return run_to_end("asking for the device", [sys.executable, "-c", asked]).strip()
