"""Every benchmark that wants a GPU, one after the other: `python -m tools.bench.on_gpu --out DIR`.

Each part is a command of its own, printed before it runs and killed with all that it started when it takes longer than
its limit, so that one that hangs costs no other. The order is that of worth, and --minutes ends the run in time: a part
that no longer fits is left out and said to be. What each did is in DIR/on_gpu.json; parts that are done there are not
run again, so the same command goes on where it was broken off.

    python -m tools.bench.on_gpu --list
    python -m tools.bench.on_gpu --out results --keep models --minutes 25
    python -m tools.bench.on_gpu --out results --keep models --peer-python PEER/bin/python --only clients-bf16 long-bf16
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 10.0
HOUR_SECONDS = 3600
LINEAR_SECONDS = (600, HOUR_SECONDS, 4 * HOUR_SECONDS)
TINY_DIVISOR = 60
SUMMARY = "on_gpu.json"
COMPILE_SECONDS = 250.0
"""For the first part of a run, whichever it is: a bare machine compiles there what every part needs.

With it the short clip, which was ended after its 150 s on such a machine and took 62 s the second time, has 400.
"""


@dataclass(frozen=True)
class Part:
    """One command. limit_seconds: longer than it ever took where it worked, on a machine that has compiled."""

    name: str
    what: str
    limit_seconds: float
    command: tuple[str, ...]


def parts(
    out: Path, keep: Path, peer_python: Path | None, *, device: str = "gpu", is_tiny: bool = False
) -> list[Part]:
    """All of them, by worth. is_tiny: tiny weights and a sixtieth of the audio, to try the commands anywhere."""
    size, divisor = ("tiny", TINY_DIVISOR) if is_tiny else ("0.6b", 1)
    hour_seconds = str(HOUR_SECONDS // divisor)

    def bench(name: str, *arguments: str, model: Sequence[str]) -> tuple[str, ...]:
        where = ("--device", device, "--out", str(out / f"{name}.json"))
        return (sys.executable, "-m", "tools.bench", *model, *arguments, *where)

    def beside(*names: str) -> tuple[str, ...]:
        return ("--compare", "--peers", *names, "--peer-python", str(peer_python)) if peer_python else ()

    def random(recipe: str) -> tuple[str, ...]:
        return ("--random", size, "--recipe", recipe, "--keep", str(keep))

    def own(module: str, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", f"tools.bench.{module}", *arguments)

    both, one = beside("mlx-qwen3-asr", "mlx-audio"), beside("mlx-qwen3-asr")
    aligner: tuple[str, ...] = ("--peer-python", str(peer_python)) if peer_python else ()
    clip = ("--only", "clip", "--clip-seconds", "10", "--rounds", "7")
    clients = ("--only", "clients", "--clients", "1", "8", "32", "--client-rounds", "2")
    pace = ("--requests-per-client", "2", "--round-seconds", "8")
    hour = ("--only", "long", "--long-seconds", hour_seconds, "--peer-batches", "32", "64")
    middle = ("--only", "middle", "--long-seconds", hour_seconds)
    steps = ("--only", "limits", "step", "--rows", "1", "8", "32", "64")
    found = []
    for recipe in ("bf16", "8bit"):
        name, model = f"{device}_{size}_{recipe}", random(recipe)
        # The first use of each quantized kernel compiles it, ours and the peers'.
        more = 0 if recipe == "bf16" else 180
        found += [
            Part(f"clip-{recipe}", "a 10 s clip", 150 + more, bench(name, *clip, *both, model=model)),
            Part(
                f"clients-{recipe}",
                "clients over HTTP",
                330 + more,
                bench(name, *clients, *pace, *one, model=model),
            ),
            # Every program runs the hour twice.
            Part(f"long-{recipe}", "an hour in one file", 600 + more, bench(name, *hour, *both, model=model)),
            Part(f"middle-{recipe}", "requests in its middle", 120 + more, bench(name, *middle, model=model)),
            Part(f"step-{recipe}", "decode steps", 120 + more, bench(name, *steps, model=model)),
        ]
    aligner += ("--device", device, "--rounds", "3", "--keep", str(keep), "--out", str(out))
    aligner += ("--size", f"aligner-{size}", "--seconds", hour_seconds)
    found.append(Part("align", "an hour of words", 240, own("align_speed", *aligner)))
    for seconds in LINEAR_SECONDS:
        long = ("--tokens-per-second", "3.5", "--only", "long", "--long-seconds", str(seconds // divisor))
        command = bench(f"{device}_demo_{seconds}", *long, model=("--model", "demo"))
        found.append(
            Part(f"linear-{seconds}", f"{seconds} s with the demo model", 60 + seconds / 60, command)
        )
    agree = own("agreement", "--device", device, "--name", f"agreement_{device}", "--out", str(out))
    found.append(Part("agreement", "a batch against single runs", 300, agree))
    return found


def run(
    chosen: Sequence[Part],
    out: Path,
    minutes: float,
    *,
    compile_seconds: float = COMPILE_SECONDS,
    show: Callable[[str], None] = print,
) -> list[dict[str, object]]:
    """Run what is not done yet and still fits; returns what each part did, as it is in the summary.

    compile_seconds: added to the limit of the first part that is run.
    """
    out.mkdir(parents=True, exist_ok=True)
    summary = out / SUMMARY
    kept = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else []
    done = {one["name"]: one for one in kept}
    end = time.monotonic() + 60 * minutes
    more_seconds = compile_seconds
    for part in chosen:
        if done.get(part.name, {}).get("outcome") == "done":
            show(f"{part.name}: done before")
            continue
        limit_seconds = part.limit_seconds + more_seconds
        if end - time.monotonic() < limit_seconds:
            show(f"{part.name}: left out, it may take {limit_seconds:.0f} s")
            done[part.name] = {"name": part.name, "outcome": "left out"}
        else:
            done[part.name] = _run_one(part, limit_seconds, out, show)
            more_seconds = 0.0
        summary.write_text(json.dumps(list(done.values()), indent=1) + "\n", encoding="utf-8")
    return list(done.values())


def _run_one(part: Part, limit_seconds: float, out: Path, show: Callable[[str], None]) -> dict[str, object]:
    show(f"{part.name}: {' '.join(part.command)}")
    started = time.monotonic()
    with (out / f"{part.name}.log").open("wb") as log:
        # A session of its own, so that servers which the part started end with it.
        process = subprocess.Popen(part.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit_seconds)
            outcome = "done" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {limit_seconds:.0f} s"
        finally:
            _end(process)
    seconds = round(time.monotonic() - started, 1)
    show(f"{part.name}: {outcome}, {seconds} s; {out / part.name}.log")
    return {"name": part.name, "outcome": outcome, "seconds": seconds, "command": _shown(part.command)}


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _shown(command: Sequence[str]) -> str:
    return " ".join(["python", *(word if "/" not in word else Path(word).name for word in command[1:])])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see --help. Exit code: 0 when every chosen part is done."""
    parser = argparse.ArgumentParser(
        prog="on_gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of results and logs")
    parser.add_argument("--keep", type=Path, default=Path("build/models"), help="folder of random weights")
    parser.add_argument("--peer-python", type=Path, help="a Python that has the peers; without it ours alone")
    parser.add_argument("--device", default="gpu", choices=["auto", "cpu", "gpu"])
    parser.add_argument("--tiny", action="store_true", help="tiny weights, short audio: tries the commands")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing that may end later (60)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, in this order")
    parser.add_argument("--list", action="store_true", help="show the parts and their commands, run nothing")
    options = parser.parse_args(arguments)
    every = parts(options.out, options.keep, options.peer_python, device=options.device, is_tiny=options.tiny)
    known = {part.name: part for part in every}
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = [known[name] for name in options.only] if options.only else list(known.values())
    if options.list:
        for part in chosen:
            print(f"{part.name}  ({part.what}; at most {part.limit_seconds:.0f} s)\n  {_shown(part.command)}")
        print(f"the first that runs has {COMPILE_SECONDS:.0f} s more, to compile")
        return 0
    found = {one["name"]: one["outcome"] for one in run(chosen, options.out, options.minutes)}
    return 0 if all(found[part.name] == "done" for part in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
