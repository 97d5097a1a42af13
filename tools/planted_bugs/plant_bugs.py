"""Plant porting mistakes one at a time into a copy of the engine, and demand that the parity tests notice each.

    python tools/planted_bugs/plant_bugs.py            every mistake, after a run of the untouched copy (a few minutes)
    python tools/planted_bugs/plant_bugs.py -k window  those whose name holds the word

Exit status 1 when a mistake goes unnoticed, when the untouched copy fails, or when a plant no longer fits the engine's
text. The engine itself is never written to.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(
        0, str(ROOT)
    )  # so that `python tools/planted_bugs/plant_bugs.py` finds the package `tests`

from tools.planted_bugs.plants import PLANTS, Plant  # noqa: E402  # needs the line above

_TESTS = ("test_parity.py", "test_aligner_parity.py", "test_text_parity.py")
_SUPPORT = ("clips.py", "loading.py", "random_model.py")
"""Of tests/fakes."""
# A plant that only breaks Python has shown nothing.
_BREAKAGE = re.compile(r"NameError|SyntaxError|ImportError|ModuleNotFoundError|AttributeError|TypeError")


class PlantDoesNotFit(Exception):
    """The text to be replaced does not stand in the engine exactly once."""


@dataclass(frozen=True)
class Verdict:
    """The tests' verdict. failed: first failing test and its reason; None when all passed."""

    failed: str | None
    is_breakage: bool
    seconds: float


def copy_engine(folder: Path) -> None:
    """The engine (without the demo model), the parity tests and the pytest settings, into an empty folder."""
    ignored = shutil.ignore_patterns("__pycache__", "demo")
    shutil.copytree(ROOT / "engine", folder / "engine", ignore=ignored)
    (folder / "scribewire").mkdir()
    shutil.copy(ROOT / "scribewire" / "__init__.py", folder / "scribewire")
    (folder / "scribewire" / "engine").symlink_to("../engine")
    for place, names in (("parity", _TESTS), ("fakes", _SUPPORT)):
        tests = folder / "tests" / place
        tests.mkdir(parents=True)
        for name in names:
            shutil.copy(ROOT / "tests" / place / name, tests)
    shutil.copytree(ROOT / "tests" / "parity" / "fixtures", folder / "tests" / "parity" / "fixtures")
    shutil.copy(ROOT / "pyproject.toml", folder)


@contextmanager
def planted(folder: Path, plant: Plant) -> Iterator[None]:
    """The copy with one mistake in it; as before afterwards.

    raises: PlantDoesNotFit
    """
    before = {edit.path: (folder / edit.path).read_text(encoding="utf-8") for edit in plant.edits}
    after = dict(before)
    for edit in plant.edits:
        if after[edit.path].count(edit.old) != 1:
            raise PlantDoesNotFit(
                f"{plant.name}: {edit.path} holds {after[edit.path].count(edit.old)} x {edit.old!r}"
            )
        after[edit.path] = after[edit.path].replace(edit.old, edit.new)
    try:
        for path, text in after.items():
            (folder / path).write_text(text, encoding="utf-8")
        yield
    finally:
        for path, text in before.items():
            (folder / path).write_text(text, encoding="utf-8")


def run_tests(folder: Path, only: str | None = None) -> Verdict:
    """Run the copy's parity tests up to the first failure."""
    command = [sys.executable, "-m", "pytest", *(f"tests/parity/{name}" for name in _TESTS)]
    command += ["-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", *(["-k", only] if only else [])]
    # No compiled files: two plants within a second, equally long, would pass for one another.
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "250"}
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode == 0:
        return Verdict(None, False, seconds)
    named = re.findall(r"^(?:FAILED|ERROR) (?:tests/parity/)?(.+)$", done.stdout, re.MULTILINE)
    reason = named[0] if named else (done.stdout + done.stderr).strip()[-300:]
    # A file that cannot be collected is named without a test.
    is_breakage = done.returncode != 1 or "::" not in reason or bool(_BREAKAGE.search(reason))
    return Verdict(reason, is_breakage, seconds)


def try_plant(folder: Path, plant: Plant) -> Verdict:
    """Plant it, run the likely tests, then, if they noticed nothing, all of them."""
    with planted(folder, plant):
        verdict = run_tests(folder, plant.likely)
        return run_tests(folder) if verdict.failed is None else verdict


def check_copy_is_used(folder: Path) -> None:
    """Refuse to go on when the tests would import another engine than the copy."""
    command = [sys.executable, "-c", "import scribewire.engine; print(scribewire.engine.__file__)"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    if not Path(found.stdout.strip()).resolve().is_relative_to(folder.resolve()):
        raise SystemExit(f"the tests would import {found.stdout.strip()}, not the copy")


def main() -> int:
    """Plant what was asked for; 0 when every mistake was noticed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-k", metavar="WORD", default="", help="only mistakes whose name holds this word")
    parser.add_argument("--list", action="store_true", help="name the mistakes and stop")
    options = parser.parse_args()
    chosen = [plant for plant in PLANTS if options.k.lower() in plant.name.lower()]
    if options.list:
        print("\n".join(plant.name for plant in chosen))
        return 0
    if not chosen:
        print(f"no mistake is named like {options.k!r}", file=sys.stderr)
        return 1
    unnoticed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_engine(folder)
        check_copy_is_used(folder)
        if not options.k:
            untouched = run_tests(folder)
            print(
                f"untouched copy: {untouched.failed or 'all tests pass'} ({untouched.seconds:.0f} s)",
                flush=True,
            )
            if untouched.failed:
                return 1
        width = max(len(plant.name) for plant in chosen)
        for number, plant in enumerate(chosen, start=1):
            try:
                verdict = try_plant(folder, plant)
            except PlantDoesNotFit as error:
                print(f"[{number:2}/{len(chosen)}] DOES NOT FIT  {error}", flush=True)
                unnoticed += 1
                continue
            is_caught = verdict.failed is not None and not verdict.is_breakage
            unnoticed += not is_caught
            word = "noticed" if is_caught else ("BREAKS" if verdict.is_breakage else "UNNOTICED")
            outcome = (verdict.failed or "every test passes")[:150]
            print(
                f"[{number:2}/{len(chosen)}] {word:9} {verdict.seconds:4.0f} s  {plant.name:{width}}  {outcome}",
                flush=True,
            )
    print(f"{len(chosen) - unnoticed} of {len(chosen)} planted mistakes were noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
