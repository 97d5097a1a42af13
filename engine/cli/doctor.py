"""`scribewire doctor`: test by doing some work that this machine can do it, and say what to do where it cannot.

MLX and the model run in child processes, so that a crash in native code is a finding and not the end of the doctor.
Nothing is downloaded and nothing is changed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scribewire.engine.checkpoint.aligners import find_aligner
from scribewire.engine.checkpoint.fetch import HubAccess, resolve_model
from scribewire.engine.checkpoint.integrity import read_config
from scribewire.engine.cli.findings import Finding, RunChild, how_it_ended
from scribewire.engine.cli.mac import check_gpu_memory, check_macos
from scribewire.engine.demo import SampleRecording
from scribewire.engine.model.config import ConfigError, ModelConfig
from scribewire.engine.processes.allocator import preloadable
from scribewire.engine.processes.architecture import ask_system, wrong_architecture
from scribewire.engine.processes.console import Console, shown_bytes
from scribewire.engine.protocol.config import AUTO_ALIGNER, DEFAULT_ALIGNER, DEFAULT_MODEL, DEMO_MODEL
from scribewire.engine.protocol.errors import EngineError
from scribewire.engine.text.words import WORD_PACKAGES

MIN_PYTHON = (3, 11)
LIBRARIES = ("mlx", "numpy", "av", "tokenizers", "huggingface_hub", "fastapi", "uvicorn")
WORD_ERRORS_ALLOWED = 0.1
"""The demo model is small: one word in ten of the shipped recording may be wrong before something must be broken."""

_COMFORTABLE_MEMORY_BYTES = 4 * 10**9
_COMFORTABLE_DISK_BYTES = 2 * 10**9
_REAL_MODELS = ("default model", "model")
"""Checks of models that are not the demo."""

_NO_WORD_TIMES = "no word times"
_MLX_PROBE = """
import json
import mlx.core as mx
from scribewire.engine.resident.profile import choose_device
mx.set_default_device(choose_device("auto"))
total = mx.sum(mx.ones((64, 64)) @ mx.ones((64, 64))).item()
print(json.dumps({"version": mx.__version__, "device": str(mx.default_device().type).rpartition(".")[2], "sum": total}))
"""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Things to examine besides the engine itself; None leaves a check out.

    data_folder, port: what `serve` would use. recording: the one to transcribe; None when none is shipped.
    model: a folder or a Hugging Face id on this disk, a recognizer or an aligner.
    """

    data_folder: Path | None = None
    port: int | None = None
    recording: SampleRecording | None = None
    hub: HubAccess | None = None
    model: str | None = None


def examine(surroundings: Surroundings, run_child: RunChild) -> list[Finding]:
    """Every check, in the order in which a cause would explain the next."""
    findings = [
        check_python(),
        *check_system(platform.system()),
        check_libraries(),
        *check_device(run_child, platform.system()),
        check_memory(_memory_bytes()),
        check_demo_model(),
        check_transcription(surroundings.recording, run_child),
        check_default_model(surroundings.hub or HubAccess()),
        check_word_times(surroundings.hub or HubAccess()),
        check_disk((surroundings.hub or HubAccess()).cache),
    ]
    if surroundings.model is not None and surroundings.recording is not None:
        findings.append(
            check_model(
                surroundings.model, surroundings.recording, run_child, surroundings.hub or HubAccess()
            )
        )
    if surroundings.data_folder is not None:
        findings.append(check_data_folder(surroundings.data_folder))
        findings.append(check_kept_recordings(surroundings.data_folder))
    if surroundings.port is not None:
        findings.append(check_port(surroundings.port))
    return findings


def show_findings(findings: Sequence[Finding], console: Console, *, as_json: bool) -> int:
    """Print what was found; returns 1 when any check failed."""
    has_failed = any(finding.status == "failed" for finding in findings)
    if as_json:
        console.say(
            json.dumps({"healthy": not has_failed, "checks": [asdict(one) for one in findings]}, indent=2)
        )
        return int(has_failed)
    labels = {"ok": "ok    ", "note": "note  ", "failed": "FAILED"}
    for one in findings:
        console.say(f"{labels[one.status]}  {one.check}: {one.detail}")
        if one.remedy is not None:
            console.say(f"          -> {one.remedy}")
    failed = [one.check for one in findings if one.status == "failed"]
    if failed:
        console.say(f"\nFailed: {', '.join(failed)}.")
    elif any(one.check in _REAL_MODELS and one.status == "ok" for one in findings):
        console.say("\nEverything works.")
    else:
        console.say("\nEverything works with the demo model; there is no real model yet.")
    return int(has_failed)


# ---- the checks ----------------------------------------------------------------------------------------------


def check_python() -> Finding:
    """The interpreter's version and word size."""
    detail = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < MIN_PYTHON or sys.maxsize < 2**32:
        return Finding("python", "failed", detail, "use a 64-bit Python 3.11 or newer: make setup PYTHON=...")
    return Finding("python", "ok", detail)


def check_system(system: str) -> Iterator[Finding]:
    """The platform, and on a Mac its macOS."""
    yield check_platform(system, platform.machine())
    if system == "Darwin":
        yield check_macos(platform.mac_ver()[0], ask_system)


def check_device(run_child: RunChild, system: str) -> Iterator[Finding]:
    """MLX and its device, and on a Mac the memory that it may take there."""
    yield check_mlx(run_child, system)
    if system == "Darwin" and (memory := check_gpu_memory(run_child, ask_system)) is not None:
        yield memory


def check_platform(system: str, machine: str) -> Finding:
    """The operating system and processor; MLX exists for Apple silicon and for 64-bit Linux."""
    detail = f"{system} {platform.release()} on {machine}, {os.cpu_count()} cores"
    if (reason := wrong_architecture(system, machine)) is not None:
        return Finding("platform", "failed", detail, reason)
    if (system, machine) not in {("Darwin", "arm64"), ("Linux", "x86_64"), ("Linux", "aarch64")}:
        return Finding("platform", "failed", detail, "use macOS on Apple silicon, or 64-bit Linux")
    return Finding("platform", "ok", detail)


def check_libraries() -> Finding:
    """Check that every library is installed, with its version."""
    versions = {}
    missing = []
    for name in ("scribewire", *LIBRARIES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    detail = ", ".join(f"{name} {version}" for name, version in versions.items())
    if missing == ["scribewire"]:
        return Finding(
            "libraries", "note", detail, "scribewire runs from its folder, not installed: make setup"
        )
    if missing:
        return Finding("libraries", "failed", f"missing: {', '.join(missing)}", "install them: make setup")
    return Finding("libraries", "ok", detail)


def check_mlx(run_child: RunChild, system: str) -> Finding:
    """Check that MLX computes, and on which device."""
    result = run_child(["-c", _MLX_PROBE])
    try:
        said = json.loads(result.stdout)
    except ValueError:
        remedy = "install scribewire again (make clean setup); on Linux, MLX needs glibc 2.35 or newer"
        return Finding("mlx", "failed", how_it_ended(result), remedy)
    detail = f"mlx {said['version']} computes on the {said['device']}"
    if said["sum"] != 64**3:
        return Finding(
            "mlx", "failed", f"{detail}, but wrongly", "install scribewire again: make clean setup"
        )
    if system == "Darwin" and said["device"] != "gpu":
        return Finding("mlx", "note", detail, "Metal is not used here; in a virtual machine that is expected")
    if system == "Linux" and said["device"] == "gpu" and preloadable("gpu") is None:
        return Finding(
            "mlx",
            "note",
            f"{detail}; jemalloc is not installed, without which the server takes up to twice as long for short clips",
            "install it, as in: apt-get install libjemalloc2; the server finds it by itself",
        )
    return Finding("mlx", "ok", detail)


def check_memory(total_bytes: int | None) -> Finding:
    """Check that the default model fits comfortably."""
    if total_bytes is None:
        return Finding("memory", "note", "the system does not say how much there is")
    detail = f"{shown_bytes(total_bytes)} in all"
    if total_bytes < _COMFORTABLE_MEMORY_BYTES:
        return Finding(
            "memory", "note", detail, "enough for the demo; the 0.6B model wants about 4 GB with the system"
        )
    return Finding("memory", "ok", detail)


def check_demo_model() -> Finding:
    """Check that the bundled model's files are complete."""
    try:
        folder = resolve_model(DEMO_MODEL).folder
    except EngineError as error:
        return Finding("demo model", "failed", str(error), "install scribewire again: make clean setup")
    files = [file for file in folder.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return Finding("demo model", "ok", f"{len(files)} files, {shown_bytes(size)}, complete")


def check_transcription(recording: SampleRecording | None, run_child: RunChild) -> Finding:
    """Check that the demo model transcribes the shipped recording, through the same command a user runs."""
    if recording is None or not recording.path.is_file():
        return Finding(
            "transcription",
            "failed",
            "the shipped recording is missing",
            "install scribewire again: make clean setup",
        )
    detail, is_right = _transcribed(recording, run_child, "--model", DEMO_MODEL)
    if is_right is None:
        return Finding("transcription", "failed", detail, "see the line above about mlx; else report it")
    if not is_right:
        return Finding("transcription", "failed", detail, "install scribewire again, or report this line")
    return Finding("transcription", "ok", detail)


def check_model(model: str, recording: SampleRecording, run_child: RunChild, hub: HubAccess) -> Finding:
    """Check that a model loads and transcribes the shipped recording; of an aligner, that it times the demo's words."""
    try:
        folder = str(resolve_model(model, offline=True, hub=hub).folder)
        is_aligner = ModelConfig.from_dict(read_config(Path(folder))).class_count is not None
    except (EngineError, ConfigError) as error:
        return Finding("model", "failed", str(error), "scribewire models lists the published ones")
    options = ("--model", DEMO_MODEL, "--aligner", folder, "--words") if is_aligner else ("--model", folder)
    detail, is_right = _transcribed(recording, run_child, *options)
    if is_right is None:
        return Finding("model", "failed", f"{model}: {detail}", "scribewire models lists the published ones")
    if not is_right:
        return Finding("model", "note", f"{model}: {detail}", "it loads, but does not hear what is said")
    return Finding("model", "ok", f"{model}: {detail}")


def _transcribed(recording: SampleRecording, run_child: RunChild, *options: str) -> tuple[str, bool | None]:
    """A recording's transcription in words, and whether it is right; None when there is none."""
    started = time.perf_counter()
    result = run_child(["-m", "scribewire", "transcribe", *options, "-f", "json", str(recording.path)])
    try:
        said = json.loads(result.stdout)
    except ValueError:
        return how_it_ended(result), None
    # An aligner that cannot be loaded costs a recording its words and no more.
    if untimed := next((line for line in said.get("warnings", ()) if line.startswith(_NO_WORD_TIMES)), None):
        return untimed, None
    seconds = time.perf_counter() - started
    errors, words = word_errors(recording.reference, said["text"])
    detail = (
        f"{said['duration']:.1f} s of speech in {seconds:.1f} s with start and loading, "
        f"{words - min(errors, words)} of {words} words right: {said['text']!r}"
    )
    is_right = errors <= WORD_ERRORS_ALLOWED * words
    return (detail if is_right else f"{detail}; wanted {recording.reference!r}"), is_right


def check_default_model(hub: HubAccess) -> Finding:
    """Check that the real model is on disk; its absence is no failure."""
    try:
        folder = resolve_model(DEFAULT_MODEL, offline=True, hub=hub).folder
    except EngineError:
        return Finding(
            "default model",
            "note",
            f"{DEFAULT_MODEL} is not on this disk",
            f"scribewire pull {DEFAULT_MODEL}",
        )
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Finding("default model", "ok", f"{DEFAULT_MODEL}, {shown_bytes(size)}, complete")


def check_word_times(hub: HubAccess) -> Finding:
    """Check that words can be timed with the real model, in all of the aligner's languages; absence is no failure."""
    missing = [name for name in WORD_PACKAGES.values() if importlib.util.find_spec(name) is None]
    languages = " and ".join(language for language, name in WORD_PACKAGES.items() if name in missing)
    try:
        model_id = find_aligner(AUTO_ALIGNER, model=DEFAULT_MODEL, hub=hub).model_id
    except EngineError:
        return Finding(
            "word times",
            "note",
            f"{DEFAULT_ALIGNER} is not on this disk; words are not timed without an aligner",
            f"scribewire pull {DEFAULT_ALIGNER}",
        )
    if missing:
        detail = f"{model_id}, complete; {languages} need {' and '.join(missing)}"
        return Finding("word times", "note", detail, ".venv/bin/pip install -e '.[cjk]'")
    return Finding("word times", "ok", f"{model_id}, complete")


def check_disk(folder: Path) -> Finding:
    """Free space where models are kept."""
    free_bytes = shutil.disk_usage(_nearest_existing(folder)).free
    detail = f"{shown_bytes(free_bytes)} free for models in {folder}"
    if free_bytes < _COMFORTABLE_DISK_BYTES:
        return Finding(
            "disk", "note", detail, "the default model takes 1 GB: make room, or set HF_HOME to a larger disk"
        )
    return Finding("disk", "ok", detail)


def check_data_folder(folder: Path) -> Finding:
    """Check that keys and uploads can be written; the folder is not made, only its place tried."""
    place = _nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding(
            "data folder", "failed", f"{folder}: {reason}", "choose another: scribewire serve --data DIR"
        )
    return Finding("data folder", "ok", f"{folder} can be written")


def check_kept_recordings(folder: Path) -> Finding:
    """Recordings of unknown jobs that the server has set aside, and what it keeps because the clock may be wrong."""
    orphans, notice = folder / "jobs" / "orphans", folder / "jobs" / "retention-waits"
    try:
        sizes = [path.stat().st_size for path in orphans.iterdir()] if orphans.is_dir() else []
        waits = notice.read_text(encoding="utf-8").strip() if notice.is_file() else ""
    except OSError as error:
        return Finding("kept data", "note", f"{folder}: {error.strerror or error}")
    if waits:
        return Finding(
            "kept data", "note", waits, "set the clock right; a running server then forgets the leap"
        )
    if sizes:
        detail = (
            f"{len(sizes)} recordings ({shown_bytes(sum(sizes))}) of unknown jobs are set aside in {orphans}"
        )
        return Finding("kept data", "note", detail, "erase them: scribewire jobs purge --orphans")
    return Finding("kept data", "ok", "no recording is set aside")


def check_port(port: int) -> Finding:
    """Check that `serve` could listen, or that a scribewire already does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if _answers_as_scribewire(port):
                return Finding("port", "ok", f"a scribewire is serving on 127.0.0.1:{port}")
            detail = f"127.0.0.1:{port}: {error.strerror or error}"
            return Finding(
                "port", "failed", detail, "stop what listens there, or scribewire serve --port PORT"
            )
    return Finding("port", "ok", f"127.0.0.1:{port} is free")


# ---- helpers -------------------------------------------------------------------------------------------------


def word_errors(wanted: str, said: str) -> tuple[int, int]:
    """Word-level edit distance after case and punctuation folding, and the number of wanted words."""
    left, right = _folded_words(wanted), _folded_words(said)
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, start=1):
        previous, row[0] = row[0], i
        for j, other in enumerate(right, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1], len(left)


def _folded_words(text: str) -> list[str]:
    return re.findall(r"[\w']+", unicodedata.normalize("NFC", text).casefold())


def _answers_as_scribewire(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _nearest_existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())
