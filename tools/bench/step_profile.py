"""Profile of a decode step on a CUDA GPU: `python -m tools.bench.step_profile FOLDER`.

FOLDER: a model's, for instance of random weights (`scribewire bench --random 0.6b --keep DIR`). Kernels are counted and
timed through PyTorch's profiler, which sees every kernel of the process, MLX's too; so it needs torch with CUDA beside
`mlx[cuda13]`, and is run by hand. Three numbers of a step: from start to start, what Python and MLX take to build and
hand over its graph while the device waits, and what the kernels themselves take. Of the handing over, the calls of
CUDA's own that took longest, where the profiler lists them.
"""

from __future__ import annotations

import argparse
import collections
import re
import statistics
import time
from pathlib import Path
from typing import Any

import mlx.core as mx

from scribewire.engine.batching.sequence import SpecialTokens
from scribewire.engine.batching.step import RunningBatch
from scribewire.engine.bench.measured import Networks
from tools.bench.measuring import RESULTS_FOLDER, machine, write_result

STEPS, WARM_STEPS, SHOWN = 20, 12, 14


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio behind each row")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args()
    engine = {"model": arguments.folder, "device": "gpu", "dtype": arguments.dtype}
    networks = Networks({"engine": engine}, lambda **_: None)
    found = [_profiled(networks, rows, arguments.seconds) for rows in arguments.rows]
    for one in found:
        print(
            {name: value for name, value in one.items() if name not in ("kernels", "host_calls")}, flush=True
        )
    command = f"python -m tools.bench.step_profile {arguments.folder.name} --dtype {arguments.dtype}"
    content = {
        "model": arguments.folder.name,
        "dtype": arguments.dtype,
        "machine": machine(),
        "by_rows": found,
    }
    print(write_result("step_profile_gpu", command, content, arguments.out))


def _profiled(networks: Networks, rows: int, seconds: float) -> dict[str, Any]:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    batch = RunningBatch(networks.model, SpecialTokens(end_ids=frozenset()))
    batch.join(networks.sequences(rows, seconds))
    for _ in range(WARM_STEPS):
        batch.step()
    started = time.perf_counter()
    for _ in range(STEPS):
        batch.step()
    step_seconds = (time.perf_counter() - started) / STEPS
    handing_over = [_hand_over_seconds(batch) for _ in range(STEPS // 2)]
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(STEPS):
            batch.step()
        mx.synchronize()
    kernels, calls = _Tally(), _Tally()
    for event in profiler.events():
        tally = kernels if event.device_type == DeviceType.CUDA else calls
        tally.add(_plain_name(event.name), event.time_range.elapsed_us())
    return {
        "rows": rows,
        "step_ms": round(step_seconds * 1e3, 3),
        "build_and_encode_ms": round(statistics.median(handing_over) * 1e3, 3),
        "kernels_per_step": round(kernels.counts.total() / STEPS, 1),
        "gpu_busy_ms": round(sum(kernels.microseconds.values()) / STEPS / 1000, 3),
        "kernels": kernels.longest(),
        "host_calls": calls.longest(),
    }


class _Tally:
    """Number of occurrences, and their time in all."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.microseconds: dict[str, float] = collections.defaultdict(float)

    def add(self, name: str, microseconds: float) -> None:
        self.counts[name] += 1
        self.microseconds[name] += microseconds

    def longest(self) -> list[dict[str, Any]]:
        """Of one step, what took longest first."""
        return [
            {
                "name": name,
                "per_step": round(self.counts[name] / STEPS, 1),
                "ms": round(spent / STEPS / 1000, 4),
            }
            for name, spent in sorted(self.microseconds.items(), key=lambda one: -one[1])[:SHOWN]
        ]


def _hand_over_seconds(batch: RunningBatch) -> float:
    """Of a step on an idle device: the tokens it reads are there, so it returns when its graph is handed over."""
    mx.synchronize()
    started = time.perf_counter()
    batch.step()
    spent = time.perf_counter() - started
    mx.synchronize()
    return spent


def _plain_name(name: str) -> str:
    return re.sub(r"<.*", "", name).split("(")[0].split("::")[-1][:60]


if __name__ == "__main__":
    main()
