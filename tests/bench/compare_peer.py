"""Side by side with mlx-qwen3-asr: the same demo weights, the same samples, one run, turn and turn about.

    python -m venv PEER && PEER/bin/pip install mlx-qwen3-asr==0.4.4 "mlx[cpu]"
    python -m tests.bench.compare_peer --peer-python PEER/bin/python

(on a Mac without the `mlx[cpu]`). The peer cannot read the shipped 8-bit encoder, so it gets the same weights
dequantized to float32 in the original layout; ours runs both on those and as shipped. Each side first tries the
number types it can compute in on a short clip and then runs with its fastest; all tries are recorded.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from engine.checkpoint.fetch import resolve_model
from engine.demo.recipe.export import TOKENIZER_FILES, dequantized
from tests.bench.clips import speech
from tests.bench.measuring import machine, show, summary, write_result
from tests.bench.side import Side, SideFailed, side

PEER_SIDE = Path(__file__).resolve().parent / "peer_side.py"
PEER_TYPES = ("float32", "float16", "bfloat16")
TRY_SECONDS, TRY_LIMIT_SECONDS = 3.0, 120.0


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, help="a Python that has mlx-qwen3-asr 0.4.4")
    parser.add_argument("--model", default="demo", help="a folder in the shipped layout instead of the demo")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 10.0, 30.0])
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: tests/bench/results)")
    arguments = parser.parse_args()
    at_start = machine()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as running:
        folder = Path(scratch)
        shipped = resolve_model(arguments.model).folder
        plain = write_dequantized(shipped, folder / "float32")
        ids = token_ids(shipped)
        clips = {seconds: folder / f"clip-{seconds:g}.npy" for seconds in (TRY_SECONDS, *arguments.seconds)}
        for seconds, path in clips.items():
            np.save(path, speech(seconds))

        def peer(dtype: str) -> list[str]:
            return [arguments.peer_python, str(PEER_SIDE), str(plain), dtype, json.dumps(ids)]

        tries = {dtype: tried(peer(dtype), clips[TRY_SECONDS]) for dtype in PEER_TYPES}
        best = min((seconds, dtype) for dtype, seconds in tries.items() if seconds is not None)[1]
        ours = [sys.executable, "-m", "tests.bench.engine_side"]
        sides = [
            running.enter_context(side("ours, as shipped", [*ours, arguments.model])),
            running.enter_context(side("ours, same float32 weights", [*ours, str(plain)])),
            running.enter_context(side(f"mlx-qwen3-asr, {best}", peer(best))),
        ]
        results = {
            f"{seconds:g} s": compared(sides, clips[seconds], arguments.rounds)
            for seconds in arguments.seconds
        }
        loads = {one.name: one.load for one in sides}
    rows = [(f"{clip}: {name}", one) for clip, each in results.items() for name, one in each["times"].items()]
    show(rows)
    for clip, each in results.items():
        print(
            f"{clip}: peer / ours = {each['peer_over_ours']:.2f}; texts {'agree' if each['texts_agree'] else 'differ'}"
        )
    content = {
        "machine": at_start,
        "peer": {
            "package": "mlx-qwen3-asr 0.4.4",
            "mlx": loads[f"mlx-qwen3-asr, {best}"]["mlx"],
            "patched": "ids of turn start, turn end and stop tokens, taken from the demo model's tokenizer",
            f"seconds_by_type_on_{TRY_SECONDS:g}_s": tries,
            "chosen_type": best,
        },
        "ours": {name: {"dtype": load["dtype"]} for name, load in loads.items() if name.startswith("ours")},
        "order": f"{arguments.rounds} rounds after one warm-up each; the order turns round every round",
        "load_seconds": {name: round(load["ready_seconds"], 4) for name, load in loads.items()},
        "results": results,
    }
    written = write_result(
        "peer_cpu",
        "python -m tests.bench.compare_peer --peer-python PEER/bin/python",
        content,
        *([arguments.out] if arguments.out else []),
    )
    print(f"\nwritten to {written.name}")


def compared(sides: list[Side], clip: Path, rounds: int) -> dict[str, Any]:
    """One clip on every side, one after another, in an order that turns round; nothing runs at the same time."""
    answers: dict[str, list[dict[str, Any]]] = {one.name: [] for one in sides}
    for one in sides:
        one.ask(clip)
    for number in range(rounds):
        for one in sides if number % 2 == 0 else reversed(sides):
            answers[one.name].append(one.ask(clip))
    times = {name: summary([each["seconds"] for each in given]) for name, given in answers.items()}
    texts = {name: given[-1]["text"] for name, given in answers.items()}
    peer_name = next(name for name in times if not name.startswith("ours"))
    ours = min(one["median"] for name, one in times.items() if name != peer_name)
    same_round = [
        peer["seconds"] / mine["seconds"]
        for peer, mine in zip(answers[peer_name], answers["ours, as shipped"], strict=True)
    ]
    return {
        "times": times,
        "output_tokens": {name: given[-1]["output_tokens"] for name, given in answers.items()},
        "texts_agree": len(set(texts.values())) == 1,
        "texts": texts,
        "peer_over_ours": round(times[peer_name]["median"] / ours, 3),
        "peer_over_ours_as_shipped_by_round": {
            "median": round(statistics.median(same_round), 3),
            "min": round(min(same_round), 3),
            "max": round(max(same_round), 3),
        },
    }


def tried(command: list[str], clip: Path) -> float | None:
    """Best of three on a short clip after a warm-up; None when it fails or takes far too long."""
    try:
        with side("the peer", command) as one:
            one.ask(clip, TRY_LIMIT_SECONDS)
            return round(min(one.ask(clip, TRY_LIMIT_SECONDS)["seconds"] for _ in range(3)), 4)
    except SideFailed as error:
        print(f"left out: {error}", file=sys.stderr)
        return None


def write_dequantized(shipped: Path, folder: Path) -> Path:
    """The shipped weights as float32 under their original names, with the tokenizer beside them."""
    folder.mkdir()
    packed: dict[str, mx.array] = {}
    for path in sorted(shipped.glob("*.safetensors")):
        loaded = mx.load(str(path))
        assert isinstance(loaded, dict)
        packed |= loaded
    mx.save_safetensors(str(folder / "model.safetensors"), dequantized(packed), metadata={"format": "pt"})
    config = json.loads((shipped / "config.json").read_text(encoding="utf-8"))
    for name in ("quantization", "quantization_config"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (shipped / name).is_file():
            shutil.copy(shipped / name, folder / name)
    return folder


def token_ids(folder: Path) -> dict[str, int]:
    """Control tokens of the model and their ids."""
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return {entry["content"]: int(number) for number, entry in settings["added_tokens_decoder"].items()}


if __name__ == "__main__":
    main()
