"""`make mac-check`: what a Mac's owner runs once, in a quarter of an hour: the tests marked `mac`, then measurements.

Writes DIR/mac_check.json and DIR/mac_check.md, a page that can be posted: it names the chip, versions and figures, and
no host, user or path. Weights are random ones of the published 0.6B size, made on the machine; nothing is downloaded.
What no longer fits into --minutes is left out and said to be; the same command then goes on with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.bench.mac_page import comparison, page
from tools.bench.measuring import machine, write_result
from tools.bench.on_gpu import Part, run

ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 24, 32)
TOKENS = (256, 512, 1024, 2048, 4096)
DTYPES = ("float16", "bfloat16")
MAX_OPS = (10, 200)
CLIPS = (("fp16", "float16"), ("8bit", "bfloat16"), ("8bit", "float16"), ("4bit", "float16"))
"""Recipes of weights, and the type that is computed in."""


def parts(
    out: Path, keep: Path, peer_python: Path | None, *, device: str = "gpu", is_tiny: bool = False
) -> list[Part]:
    """All of them, by worth. is_tiny: tiny weights and few rounds, to try the commands anywhere."""
    size = "tiny" if is_tiny else "0.6b"
    weights = keep / f"random-{size}-8bit"
    python = (sys.executable, "-m")
    few = tuple(map(str, ROWS[:3] if is_tiny else ROWS))
    peers = ("--compare", *(("--peer-python", str(peer_python)) if peer_python else ()))
    tests = (*python, "pytest", "-q", "-m", "mac", "tests/unit", "tests/process")
    found = [Part("tests", "what only a Mac can show", 180, tests)]
    for recipe, dtype in CLIPS:
        name = f"clip-{recipe}-{dtype}"
        model = (
            "--random",
            size,
            "--recipe",
            recipe,
            "--keep",
            str(keep),
            "--device",
            device,
            "--dtype",
            dtype,
        )
        kind = ("--only", "limits", "clip", "--clip-seconds", "10", "--rounds", "2" if is_tiny else "5")
        quick = ("--quick",) if is_tiny else ()
        command = (*python, "tools.bench", *model, *kind, *quick, *peers, "--out", str(out / f"{name}.json"))
        found.append(Part(name, f"a 10 s clip, {recipe} weights in {dtype}", 90, command))

    def steps(name: str, dtype: str, *more: str) -> tuple[str, ...]:
        where = ("--device", device, "--dtype", dtype, "--out", str(out / f"{name}.json"))
        return (*python, "tools.bench.mac_steps", str(weights), *where, *more)

    for dtype in DTYPES:
        small = ("--tokens", *map(str, TOKENS[:2]), "--rounds", "1", "--idle-seconds", "0") if is_tiny else ()
        name = f"prefill-{dtype}"
        found.append(
            Part(name, f"prompts in {dtype}, cold and after a rest", 120, steps(name, dtype, *small))
        )
    for operations in MAX_OPS:
        for dtype in DTYPES:
            name = f"steps-{dtype}-{operations}"
            small = ("--steps", "2", "--row-seconds", "2") if is_tiny else ()
            more = ("--max-ops", str(operations), "--rows", *few, *small)
            what = f"decode steps in {dtype}, {operations} operations to a buffer"
            found.append(Part(name, what, 120, steps(name, dtype, *more)))
    return found


def document(out: Path, chosen: Sequence[Part], outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Everything that the parts have written, in one."""
    results = {}
    for part in chosen:
        path = out / f"{part.name}.json"
        if path.exists():
            results[part.name] = json.loads(path.read_text(encoding="utf-8"))
    names = {part.name for part in chosen}
    kept = [one for one in outcomes if one["name"] in names]
    return {"machine": machine(), "parts": kept, "results": results}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see --help. Exit code: 0 when every part is done."""
    parser = argparse.ArgumentParser(
        prog="on_mac", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/mac-check"), help="folder of results and logs"
    )
    parser.add_argument("--keep", type=Path, default=Path("build/models"), help="folder of random weights")
    parser.add_argument("--peer-python", type=Path, help="a Python that has the peers (this one if left out)")
    parser.add_argument("--device", default="gpu", choices=["auto", "cpu", "gpu"])
    parser.add_argument("--tiny", action="store_true", help="tiny weights, few rounds: tries the commands")
    parser.add_argument("--minutes", type=float, default=15.0, help="begin nothing that may end later (15)")
    options = parser.parse_args(arguments)
    chosen = parts(
        options.out, options.keep, options.peer_python, device=options.device, is_tiny=options.tiny
    )
    outcomes = run(chosen, options.out, options.minutes, compile_seconds=0.0)
    content = document(options.out, chosen, outcomes)
    command = "make mac-check" if not options.tiny else "python -m tools.bench.on_mac --tiny"
    written = write_result("mac_check", command, content, options.out)
    found = json.loads(written.read_text(encoding="utf-8"))
    written.with_suffix(".md").write_text("\n".join(page(found)) + "\n", encoding="utf-8")
    print("\n".join(["", *comparison(found), "", f"{written} and {written.with_suffix('.md')}"]))
    by_name = {one["name"]: one["outcome"] for one in content["parts"]}
    return 0 if all(by_name.get(part.name) == "done" for part in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
