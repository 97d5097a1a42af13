"""The peers as programs: which Python has them, what they can be run with, and which of that is fastest here.

Each runs in a process of its own under its own Python (`tools.bench.peers`). A peer that is not installed is said to
be so; it is no failure.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scribewire.engine.batching
from scribewire.engine.bench.serving import ServerAddress
from tools.bench.child import Child, ChildFailed, child, run_to_end
from tools.bench.peer_server import free_port, peer_server

_SCRIPTS = Path(__file__).resolve().parent / "peers"
_FORCING_FILE = Path(scribewire.engine.batching.__file__).resolve().parent / "forcing.py"
_TRY_REPEATS, _TRY_TIMEOUT_SECONDS = 3, 120.0

INSTALL = {
    "mlx-qwen3-asr": "python -m venv PEER && PEER/bin/pip install 'mlx-qwen3-asr[serve]'",
    "mlx-audio": "python -m venv PEER && PEER/bin/pip install 'mlx-audio[server,stt]'",
}
_MODULES = {"mlx-qwen3-asr": "mlx_qwen3_asr", "mlx-audio": "mlx_audio"}
_TYPES = {
    ("mlx-qwen3-asr", "gpu"): ("float16", "bfloat16"),
    ("mlx-qwen3-asr", "cpu"): ("float32", "bfloat16"),
    ("mlx-audio", "gpu"): ("stored", "float16"),
    ("mlx-audio", "cpu"): ("stored", "float32"),
}
_KEY = "bench-of-scribewire"
AS_GIVEN = "as given"
"""Said of a peer that reads the checkpoint itself."""

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as it will be measured. folder: the weights it is given. about: for the report."""

    name: str
    python: str
    folder: Path
    dtype: str
    tokens_per_second: float
    about: dict[str, Any]

    def command(self, **more: Any) -> list[str]:
        """Command that starts its process."""
        script = _SCRIPTS / f"{_MODULES[self.name]}_side.py"
        arguments = {
            "folder": str(self.folder),
            "dtype": self.dtype,
            "tokens_per_second": self.tokens_per_second,
            "forcing_file": str(_FORCING_FILE),
            **more,
        }
        return [self.python, str(script), json.dumps(arguments)]

    @contextmanager
    def side(self, scratch: Path) -> Iterator[Child]:
        """Its process, ready for recordings."""
        with child(self.name, self.command(), runs_in=scratch) as running:
            yield running

    @contextmanager
    def server(self, scratch: Path) -> Iterator[ServerAddress]:
        """Its own server, ready for requests."""
        port = free_port()
        fields = {"model": str(self.folder), "response_format": "json"}
        command = self.command(port=port, key=_KEY)
        with peer_server(self.name, command, port, _KEY, fields, scratch) as address:
            yield address


def python_with(name: str, pythons: Sequence[str]) -> str | None:
    """The first interpreter that has the peer; none is started but to ask that."""
    question = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({_MODULES[name]!r}) is None)"
    for python in pythons or (sys.executable,):
        try:
            asked = subprocess.run([python, "-c", question], capture_output=True, check=False)
        except OSError:
            continue
        if asked.returncode == 0:
            return python
    return None


def absent(name: str) -> dict[str, Any]:
    """The report's entry for a peer that is not installed."""
    return {"installed": False, "how_to_install": f"{INSTALL[name]}, then --peer-python PEER/bin/python"}


def prepare(
    name: str, python: str, folder: Path, scratch: Path, clip: Path, device: str, rate: float, note: Note
) -> Peer:
    """Try the number types that a peer may run in on a short clip; the fastest counts, and all are recorded.

    A peer that cannot read the checkpoint gets the same numbers unpacked (`tools.bench.plain_copy`).
    raises: ChildFailed when it fails with every type on either
    """
    given: tuple[tuple[str, Callable[[], Path]], ...] = (
        (AS_GIVEN, lambda: folder),
        ("unpacked", lambda: _plain_copy(folder, scratch, device)),
    )
    failures: list[str] = []
    for weights, folder_of in given:
        tries: dict[str, float | str] = {}
        for dtype in _TYPES[name, device]:
            note(f"{name}: trying {dtype}, weights {weights}")
            candidate = Peer(name, python, folder_of(), dtype, rate, {})
            try:
                tries[dtype], versions = _tried(candidate, scratch, clip)
            except ChildFailed as error:
                tries[dtype] = f"failed: {error}"
                failures.append(str(error))
                continue
        timed = {dtype: seconds for dtype, seconds in tries.items() if isinstance(seconds, float)}
        if timed:
            best = min(timed, key=timed.__getitem__)
            about = {
                "installed": True,
                "versions": versions,
                "weights": weights,
                "dtype": best,
                "seconds_by_dtype_on_a_short_clip": tries,
            }
            return Peer(name, python, folder_of(), best, rate, about)
    raise ChildFailed(f"{name} could not transcribe a short clip: {failures[-1]}")


def _tried(candidate: Peer, scratch: Path, clip: Path) -> tuple[float, dict[str, str]]:
    with candidate.side(scratch) as side:
        side.ask(_TRY_TIMEOUT_SECONDS, path=str(clip))
        seconds = [side.ask(_TRY_TIMEOUT_SECONDS, path=str(clip))["seconds"] for _ in range(_TRY_REPEATS)]
        return round(statistics.median(seconds), 5), side.started["versions"]


def _plain_copy(folder: Path, scratch: Path, device: str) -> Path:
    copy = scratch / "plain"
    if not copy.exists():
        dtype = "float32" if device == "cpu" else "bfloat16"
        command = [sys.executable, "-m", "tools.bench.plain_copy", str(folder), str(copy), dtype]
        run_to_end("unpacking the weights", command)
    return copy
