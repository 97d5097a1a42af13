"""Time and memory of `scribewire quantize`: `python -m tools.bench.quantizing FOLDER --recipe 4bit`.

FOLDER is a model on disk (`python -m tools.bench.random_model DIR 1.7b bf16` makes one of random weights). The command
runs in a process of its own, which is watched from outside: its time on the clock, its processor's seconds and the most
memory it had. The copy is written to a folder that is removed afterwards; its size is kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.bench.measuring import RESULTS_FOLDER, machine, write_result

HERE = Path(__file__).resolve().parents[2]
TARGET_SECONDS = 180.0
"""Of 1.7B to 4bit on two cores."""
_PEAK_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def quantized_once(source: Path, recipe: str, target: Path) -> dict[str, Any]:
    """One run of the command; raises SystemExit with its words where it fails."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "scribewire", "quantize", str(source), str(target), "--recipe", recipe],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        words = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(words)
    return {
        "wall_seconds": round(time.perf_counter() - started, 2),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_resident_bytes": used.ru_maxrss * _PEAK_UNIT_BYTES,
        "source_bytes": _size(source),
        "result_bytes": _size(target),
    }


def _size(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.glob("*.safetensors"))


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a model in 16 bits")
    parser.add_argument(
        "--recipe", default="4bit", help="as `scribewire quantize` takes it (default: %(default)s)"
    )
    parser.add_argument("--name", default="quantizing", help="name of the result (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args(argv)
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        found = quantized_once(arguments.model.resolve(), arguments.recipe, Path(folder) / "copy")
    for name, value in found.items():
        print(f"{name:24} {value}")
    content = {
        "machine": about,
        "model": arguments.model.name,
        "recipe": arguments.recipe,
        "target_wall_seconds": TARGET_SECONDS,
        **found,
    }
    write_result(arguments.name, "python -m tools.bench.quantizing", content, arguments.out)


if __name__ == "__main__":
    main()
