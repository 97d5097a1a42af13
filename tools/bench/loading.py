"""Time and memory of loading, here and in another checkout: `python -m tools.bench.loading FOLDER --before CHECKOUT`.

FOLDER is a model on disk (`python -m tools.bench.random_model` makes one of random weights). It is loaded in fresh
processes, on the CPU, turn about with the other checkout, so that a busy machine slows both. Measured are the
processor's seconds, in user code and in the kernel, the weights that stay, and the most that MLX held meanwhile, which
is to be at most 1.2 times the weights. A processor that others use takes more seconds for the same: the ratio counts.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from scribewire.engine.processes.allocator import allocator_environment
from tools.bench.measuring import RESULTS_FOLDER, machine, ratio, show, summary, write_result

HERE = Path(__file__).resolve().parents[2]
TARGET_PEAK_RATIO = 1.2

# Runs in the checkout that is measured, so it uses nothing but what both have.
_LOAD = """
import json, resource, sys, time
import mlx.core as mx
from scribewire import Transcriber
before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
with Transcriber(sys.argv[1], device="cpu", dtype=sys.argv[2], offline=True) as transcriber:
    after, ended = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    print(json.dumps({
        "user_seconds": after.ru_utime - before.ru_utime,
        "kernel_seconds": after.ru_stime - before.ru_stime,
        "wall_seconds": ended - started,
        "weights_bytes": transcriber.info.resident_bytes,
        "peak_bytes": mx.get_peak_memory(),
        "peak_resident_bytes": after.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }))
"""


def load_once(checkout: Path, model: Path, dtype: str) -> dict[str, float]:
    """One load in a fresh process of a checkout; in this one's, with the allocator that its server's worker has."""
    chosen = allocator_environment("cpu") if checkout == HERE else None
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(model.resolve()), dtype],
        cwd=checkout,
        env={**(chosen or os.environ), "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def summarized(loads: list[dict[str, float]]) -> dict[str, Any]:
    """Several loads of one checkout."""
    seconds = [one["user_seconds"] + one["kernel_seconds"] for one in loads]
    peaks = [one["peak_bytes"] / one["weights_bytes"] for one in loads]
    return {
        "processor": summary(seconds),
        "of_that_kernel": summary([one["kernel_seconds"] for one in loads]),
        "wall": summary([one["wall_seconds"] for one in loads]),
        "weights_bytes": loads[0]["weights_bytes"],
        "peak_resident_bytes": max(one["peak_resident_bytes"] for one in loads),
        "peak_to_weights": summary(peaks, target=TARGET_PEAK_RATIO, unit="x"),
    }


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a model")
    parser.add_argument("--before", type=Path, help="another checkout to load it in as well")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--loads", type=int, default=3, help="loads of each checkout")
    parser.add_argument("--name", default="loading", help="name of the result (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args()
    about = machine()
    sides = {"after": HERE} if arguments.before is None else {"before": arguments.before, "after": HERE}
    loads: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(arguments.loads):
        for side, checkout in sides.items():
            loads[side].append(load_once(checkout.resolve(), arguments.model, arguments.dtype))
    found: dict[str, Any] = {side: summarized(each) for side, each in loads.items()}
    for side, each in found.items():
        print(f"{side}: weights of {each['weights_bytes'] / 1e9:.2f} GB")
        show([("processor", each["processor"]), ("peak to weights", each["peak_to_weights"])])
    if "before" in found:
        values = [found[side]["processor"]["values"] for side in ("after", "before")]
        found["processor_ratio"] = ratio(*values)
        print(f"processor's seconds: {found['processor_ratio']['ratio']} of those before")
    content = {"machine": about, "model": arguments.model.name, "dtype": arguments.dtype, **found}
    write_result(arguments.name, "python -m tools.bench.loading", content, arguments.out)


if __name__ == "__main__":
    main()
