"""Decode steps and prefill so that copies on Metal show: `python -m tools.bench.mac_steps FOLDER --out FILE`.

A decode step is measured at many numbers of rows, aligned (all rows of one length) and ragged, waited for and not.
While one step runs and the next is handed over, what the first still holds may have to be copied: that shows in time
and in peak memory, and changes with the number of operations in one command buffer (--max-ops). Where no rows are
given, prompts are prefilled: the first time, warm, and after a rest.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from scribewire.engine.batching.sequence import Sequence
from scribewire.engine.batching.step import prefill
from scribewire.engine.bench.measured import Networks
from scribewire.engine.bench.measuring import summary
from tools.bench.measuring import write_result

OPERATIONS_VARIABLE = "MLX_MAX_OPS_PER_BUFFER"
_AROUND_AUDIO = 15
"""Tokens of a prompt that stand for no audio; source: scribewire.engine.bench.measured."""

Found = dict[str, Any]


def measured_steps(networks: Networks, rows: int, seconds: float, steps: int) -> Found:
    """Step times and the memory above what is held, by way: `aligned waited`, `aligned`, `ragged waited`, `ragged`."""
    found: Found = {}
    for shape in ("aligned", "ragged"):
        for is_waited in (True, False):
            sequences = (
                [networks.sequences(1, seconds)[0] for _ in range(rows)]
                if shape == "aligned"
                else networks.sequences(rows, seconds)
            )
            way = f"{shape} waited" if is_waited else shape
            found[way] = _one_way(networks, sequences, steps, is_waited=is_waited)
    return found


def _one_way(networks: Networks, sequences: list[Sequence], steps: int, *, is_waited: bool) -> Found:
    values = []
    with networks.profile.on_one_thread():
        batch = networks.warm_batch(sequences)
        mx.synchronize()
        mx.reset_peak_memory()
        held = mx.get_active_memory()
        for _ in range(steps):
            started = time.perf_counter()
            batch.step()
            if is_waited:
                mx.synchronize()
            values.append(time.perf_counter() - started)
        mx.synchronize()
    return {"step": summary(values), "bytes_over_held": mx.get_peak_memory() - held}


def measured_prefill(networks: Networks, lengths: list[int], rounds: int, idle_seconds: float) -> Found:
    """One prompt of each length into a cache; the shortest also as the first work of all, and after a rest."""
    cold = _prefill_seconds(networks, lengths[0])
    by_tokens = {
        str(length): summary([_prefill_seconds(networks, length) for _ in range(rounds + 1)][1:])
        for length in lengths
    }
    time.sleep(idle_seconds)
    rested = _prefill_seconds(networks, lengths[0])
    return {
        "by_tokens": by_tokens,
        "rest": {
            "tokens": lengths[0],
            "first_seconds": round(cold, 5),
            "idle_seconds": idle_seconds,
            "after_idle_seconds": round(rested, 5),
        },
    }


def _prefill_seconds(networks: Networks, length: int) -> float:
    count = length - _AROUND_AUDIO
    audio = mx.zeros((count, networks.model.config.text.hidden_size), dtype=networks.profile.dtype)
    mx.eval(audio)
    prompt = [*range(_AROUND_AUDIO), *[networks.model.audio_token_id] * count]
    sequence = Sequence(prompt_ids=prompt, audio=audio, token_budget=1)
    with networks.profile.on_one_thread():
        started = time.perf_counter()
        mx.eval(prefill(networks.model, [sequence])[1])
        return time.perf_counter() - started


def main(say: Callable[[str], None] = print) -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of a model")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--max-ops", type=int, metavar="N", help=f"{OPERATIONS_VARIABLE}; MLX's own if left out"
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[], help="of the decode step; none for prefill"
    )
    parser.add_argument("--row-seconds", type=float, default=10.0, help="of audio behind each row")
    parser.add_argument("--steps", type=int, default=16, help="steps timed each way")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096], help="of prompts"
    )
    parser.add_argument("--rounds", type=int, default=5, help="prefills of each length")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="rest before the last prefill")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    given = parser.parse_args()
    if given.max_ops is not None:
        os.environ[OPERATIONS_VARIABLE] = str(given.max_ops)  # MLX reads it with its first work
    content: Found = {"dtype": given.dtype, "max_ops": given.max_ops}
    engine = {"model": str(given.folder), "device": given.device, "dtype": given.dtype}
    networks = Networks({"engine": engine}, lambda **said: content.update(said))
    content.pop("note", None)
    if given.rows:
        content["by_rows"] = {}
        for rows in given.rows:
            say(f"decode step of {rows} rows")
            content["by_rows"][rows] = measured_steps(networks, rows, given.row_seconds, given.steps)
    else:
        content |= measured_prefill(networks, given.tokens, given.rounds, given.idle_seconds)
    say(str(write_result(given.out.stem, "python -m tools.bench.mac_steps", content, given.out.parent)))


if __name__ == "__main__":
    main()
