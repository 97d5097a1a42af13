"""An hour of words by our aligner and by mlx-qwen3-asr's, in turn: `python -m tools.bench.align_speed --peer-python P`.

Both are given the same random weights of full size, the same chunks of speech and the same words, and go from samples
and text to words with times. The peer runs in each number type it can have here, and its fastest counts. Rounds
alternate; the first of each side compiles kernels and is not counted. Needs no network and no download:

    python -m tools.bench.align_speed --peer-python PEER/bin/python
    python -m tools.bench.align_speed --peer-python PEER/bin/python --size aligner-tiny --seconds 60 --rounds 2
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tools.bench.align_task import write_task
from tools.bench.child import Child, ChildFailed, child, run_to_end
from tools.bench.measuring import RESULTS_FOLDER, machine, ratio, summary, write_result
from tools.bench.sizes import ALIGNER_SIZES, RECIPES

TARGET = 1 / 3
TIMEOUT_SECONDS = 3600.0
PEER_TYPES = {"gpu": ("float16", "bfloat16"), "cpu": ("float32",)}
PEER_SCRIPT = Path(__file__).with_name("align_peer.py")


def main() -> None:
    """Measure, print the medians, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer-python", help="a Python that has mlx-qwen3-asr; without it only ours is measured"
    )
    parser.add_argument("--size", choices=tuple(ALIGNER_SIZES), default="aligner-0.6b")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="bf16", help="how the weights are stored")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--dtype", default="auto", help="ours; auto is bfloat16 on a GPU")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="keep the random weights here for the next run")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER, help="folder of the JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        content = measure(options, Path(name))
    shown = [word if not word.startswith(("/", ".")) else Path(word).name for word in sys.argv[1:]]
    path = write_result(
        f"align_speed_{options.size}_{options.recipe}_{content['ours']['device']}",
        shlex.join(["python", "-m", "tools.bench.align_speed", *shown]),
        content,
        options.out,
    )
    for side, found in content["seconds"].items():
        print(
            f"{side:28} {found['median']:9.3f} s   {found['min']:9.3f} to {found['max']:.3f}, n={found['count']}"
        )
    for name, found in content.get("ours_to_peer", {}).items():
        print(f"ours to {name}: {found['ratio']:.3f} {found['interval_95'] or ''}")
    print(path.name)


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Every side's seconds, round by round, and the ratio to the peer's fastest type."""
    model = (options.keep or scratch).absolute() / f"random-{options.size}-{options.recipe}"
    run_to_end(
        "making random weights",
        [sys.executable, "-m", "tools.bench.random_model", str(model), options.size, options.recipe],
    )
    task = write_task(scratch, options.seconds)
    arguments = {"model": str(model), "task": str(scratch), "device": options.device, "dtype": options.dtype}
    content: dict[str, Any] = {
        "machine": machine(),
        "subject": {"model": f"random {options.size} {options.recipe}", **task},
    }
    with ExitStack() as held:
        ours = held.enter_context(
            child("ours", [sys.executable, "-m", "tools.bench.align_ours", json.dumps(arguments)])
        )
        content["ours"] = ours.started
        sides = {"ours": ours}
        if options.peer_python:
            for dtype in PEER_TYPES[ours.started["device"]]:
                sides |= _peer(held, options.peer_python, arguments | {"dtype": dtype}, scratch, content)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for round_number in range(options.rounds + 1):
            for side, running in sides.items():
                answer = running.ask(TIMEOUT_SECONDS, do="align")
                if answer["words"] != task["words"]:
                    raise SystemExit(f"{side} returned {answer['words']} words of {task['words']}")
                if round_number:
                    seconds[side].append(answer["seconds"])
                if "passes" in answer:
                    content["ours"]["passes"] = answer["passes"]
    content["seconds"] = {side: summary(values) for side, values in seconds.items()}
    peers = [side for side in seconds if side != "ours"]
    if peers:
        best = min(peers, key=lambda side: content["seconds"][side]["median"])
        found = ratio(seconds["ours"], seconds[best])
        content["ours_to_peer"] = {
            best: found | {"target": round(TARGET, 4), "met": found["ratio"] <= TARGET}
        }
    return content


def _peer(
    held: ExitStack, python: str, arguments: dict[str, str], scratch: Path, content: dict[str, Any]
) -> dict[str, Child]:
    """The peer in one number type; none where it cannot run so, which the result says."""
    side = f"mlx-qwen3-asr {arguments['dtype']}"
    try:
        running = held.enter_context(
            child(side, [python, str(PEER_SCRIPT), json.dumps(arguments)], runs_in=scratch)
        )
    except ChildFailed as error:
        print(error, file=sys.stderr)
        content.setdefault("peer_failures", {})[side] = str(error)
        return {}
    content["peer"] = running.started
    return {side: running}


if __name__ == "__main__":
    main()
