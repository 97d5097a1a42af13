"""The process that is measured: `python -m scribewire.engine.bench.measured PART JSON`, one part of the benchmark to
its end.

Writes lines of JSON on stdout: a `note` for the reader of the progress, or what was `found` so far. The argument holds
the part's settings, `engine` (fields of EngineConfig) and, where they are needed, `long_file` and `limits`.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from scribewire.engine.batching.sequence import Sequence, SpecialTokens
from scribewire.engine.batching.step import RunningBatch
from scribewire.engine.bench.audio import Samples, speech, wav_seconds
from scribewire.engine.bench.limits import StepNeeds, measured_bandwidth, measured_products
from scribewire.engine.bench.measuring import OURS, summary
from scribewire.engine.checkpoint.load import build_model, read_checkpoint
from scribewire.engine.processes.memory import peak_resident_bytes
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, EngineConfig
from scribewire.engine.resident.profile import choose_profile
from scribewire.engine.transcriber import Transcriber

Found = dict[str, Any]
Say = Callable[..., None]
Part = Callable[[Found, Say], None]

_PHASES = ("encode_seconds", "prefill_seconds", "generate_seconds")
_PROMPT_BEFORE, _PROMPT_AFTER = 9, 6
_WARM_STEPS = 8
_DESCRIBED = ("device_name", "architecture", "memory_size", "max_recommended_working_set_size")


class Networks:
    """A loaded model without pipeline or server."""

    def __init__(self, given: Found, say: Say) -> None:
        say(note="loading the networks")
        started = time.perf_counter()
        config = EngineConfig(**given["engine"])
        self.profile = choose_profile(config)
        mx.set_default_device(self.profile.device)
        checkpoint = read_checkpoint(Path(config.model))
        self.needs = StepNeeds.of_checkpoint(checkpoint, self.profile.placement)
        # Exactly the rows that are asked for, or a device's table of slots could not be held against others.
        placement = replace(self.profile.placement, slot_counts=tuple(sorted(given.get("rows", ()))))
        self.model = build_model(checkpoint, placement)
        facts = mx.device_info()
        about = {
            "load_seconds": time.perf_counter() - started,
            "device": self.profile.device_name,
            "dtype": self.profile.dtype_name,
            "device_description": {name: facts[name] for name in _DESCRIBED if name in facts},
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "step_weight_bytes": self.needs.weight_bytes,
            "step_product_operations_per_row": self.needs.product_operations_per_row,
            "kv_bytes_per_token": self.needs.kv_bytes_per_token,
        }
        say(engine=about)  # no name of a host, no path

    def limits(self, given: Found, say: Say) -> Found:
        """Bandwidth and products; numpy's on one thread, as the engine has it."""
        say(note="memory bandwidth and matrix products")
        on_host = self.profile.blas is not None
        with self.profile.on_one_thread():
            return {
                "bandwidth": measured_bandwidth(given["limit_bytes"], on_host_too=on_host),
                "products": measured_products(given["product_size"], self.profile.dtype, on_host_too=on_host),
            }

    def step(self, rows: int, seconds: float, steps: int) -> Found:
        """Decode steps of a running batch in steady state, behind prompts of clips of about that length."""
        sequences = self.sequences(rows, seconds)
        values = []
        with self.profile.on_one_thread():
            batch = self.warm_batch(sequences)
            mx.reset_peak_memory()
            for _ in range(steps):
                started = time.perf_counter()
                batch.step()
                values.append(time.perf_counter() - started)
        held = sum(len(one.prompt_ids) + _WARM_STEPS + steps // 2 for one in sequences)
        return {
            "step": summary(values),
            "mean_seconds": sum(values) / len(values),
            "slots": getattr(batch, "slot_count", rows),
            "tokens_held": held,
            "read_bytes": self.needs.read_bytes(held),
            "operations": self.needs.operations(rows, held),
            "peak_mlx_bytes": mx.get_peak_memory(),
        }

    def warm_batch(self, sequences: list[Sequence]) -> RunningBatch:
        """A batch of these sequences that has made its first steps."""
        batch = RunningBatch(self.model, SpecialTokens(end_ids=frozenset()))
        batch.join(sequences)
        for _ in range(_WARM_STEPS):
            batch.step()
        return batch

    def sequences(self, rows: int, seconds: float) -> list[Sequence]:
        """Sequences for so many clips of about that length, encoded to noise.

        Of slightly different lengths, so that every row has an offset of its own, as in real work.
        """
        config = self.model.config
        found = []
        for row in range(rows):
            count = config.audio.token_count(max(round((seconds - (row % 16) / 10) * 100), 8))
            noise = mx.random.normal((count, config.text.hidden_size), key=mx.random.key(row))
            audio = (0.1 * noise).astype(self.profile.dtype)
            mx.eval(audio)
            prompt = [*range(_PROMPT_BEFORE), *[self.model.audio_token_id] * count, *range(_PROMPT_AFTER)]
            found.append(Sequence(prompt_ids=prompt, audio=audio, token_budget=1 << 30))
        return found


def memory() -> Found:
    """Bytes that MLX holds now and held at most, and the process's peak."""
    return {
        "active_mlx_bytes": mx.get_active_memory(),
        "peak_mlx_bytes": mx.get_peak_memory(),
        "peak_resident_bytes": peak_resident_bytes(),
    }


def measure_limits(given: Found, say: Say) -> None:
    """Memory bandwidth and matrix products."""
    say(found=Networks(given, say).limits(given, say) | {"memory": memory()})


def measure_load(given: Found, say: Say) -> None:
    """One load; `ready_at` is on the performance counter, which is one clock for all processes of a machine."""
    with _transcriber(given) as transcriber:
        about = _about(transcriber, "load_seconds", "parameter_count")
        say(found=about | {"ready_at": time.perf_counter(), "peak_resident_bytes": peak_resident_bytes()})


def measure_step(given: Found, say: Say, kind: type[Networks] = Networks) -> None:
    """Decode steps at each number of rows. kind: measures the steps."""
    networks = kind(given, say)
    limits = given["limits"] if "bandwidth" in given["limits"] else networks.limits(given, say)
    by_rows: Found = {}
    for rows in given["rows"]:
        say(note=f"decode step at {rows} {'row' if rows == 1 else 'rows'}")
        one = networks.step(rows, given["row_seconds"], given["steps"])
        by_rows[str(rows)] = one | shares(one, rows, limits)
        say(found={"weight_bytes": networks.needs.weight_bytes, "by_rows": by_rows})
    say(found={"memory": memory()})


def shares(found: Found, rows: int, limits: Found) -> Found:
    """Tokens per second, and what share of this machine's limits a step uses.

    What it must read and compute at least, by what the machine reads and computes in the step's time.
    """
    seconds = found["step"]["median"]
    read_seconds = found["read_bytes"] / limits["bandwidth"]["bytes_per_second"]
    return {
        "tokens_per_second": round(rows / seconds, 2),
        "share_of_bandwidth": round(read_seconds / seconds, 4),
        "tokens_per_second_at_full_bandwidth": round(rows / read_seconds, 2),
        "share_of_products": round(
            found["operations"] / limits["products"]["operations_per_second"] / seconds, 4
        ),
    }


def measure_clip(given: Found, say: Say) -> None:
    """Clips of each length, samples in to text out, after one that does not count."""
    by_seconds: Found = {}
    with _transcriber(given) as transcriber:
        for seconds in given["clip_seconds"]:
            say(note=f"clip of {seconds:g} s, {given['rounds']} rounds")
            clip = speech(seconds)
            _timed(transcriber, clip, 1)
            by_seconds[f"{seconds:g}"] = _timed(transcriber, clip, given["rounds"])
            say(found={"by_seconds": by_seconds, "ran": _about(transcriber)})


def measure_long(given: Found, say: Say) -> None:
    """The long file, read from disk.

    Its first run does not count, because kernels may be made for shapes that are new to a process; it is separate.
    """
    path = Path(given["long_file"])
    seconds = wav_seconds(path)
    with _transcriber(given) as transcriber:
        _timed(transcriber, speech(10.0), 1)
        say(note=f"first run of the long file of {seconds:g} s")
        first = _timed(transcriber, path, 1)["times"][OURS]["median"]
        say(found={"first_run_seconds": {OURS: first}, "audio_seconds": seconds, "ran": _about(transcriber)})
        say(note="the long file again")
        found = _timed(transcriber, path, given["long_rounds"])
        say(found=found | {"times_real_time": round(seconds / found["times"][OURS]["median"], 2)})


def _transcriber(given: Found) -> Transcriber:
    return Transcriber(config=EngineConfig(offline=True, **given["engine"]))


def _about(transcriber: Transcriber, *more: str) -> Found:
    names = ("device", "dtype", "weight_bits", "resident_bytes", *more)
    return {name: getattr(transcriber.info, name) for name in names}


def _timed(transcriber: Transcriber, recording: Samples | Path, rounds: int) -> Found:
    """Times of some transcriptions, their phases, and peaks of memory."""
    audio = recording if isinstance(recording, Path) else (recording, SAMPLE_RATE_HZ)
    seconds, timings = [], []
    mx.reset_peak_memory()
    for _ in range(rounds):
        started = time.perf_counter()
        transcript = transcriber.transcribe(audio)
        seconds.append(time.perf_counter() - started)
        timings.append(transcript.timings)
    return {
        "times": {OURS: summary(seconds)},
        "output_tokens": {OURS: transcript.usage.output_tokens},
        "phases": {
            name: round(statistics.median(getattr(one, name) for one in timings), 5) for name in _PHASES
        },
        "peak_mlx_bytes": mx.get_peak_memory(),
        "peak_resident_bytes": {OURS: peak_resident_bytes()},
    }


MEASURES: dict[str, Part] = {
    "limits": measure_limits,
    "load": measure_load,
    "step": measure_step,
    "clip": measure_clip,
    "long": measure_long,
}


def main(measures: Mapping[str, Part] = MEASURES) -> None:
    """Measure the part that the command line names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is left to the parent
    # Everything that a library prints goes to stderr; stdout holds lines of JSON and nothing else.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    measures[sys.argv[1]](
        json.loads(sys.argv[2]), lambda **said: print(json.dumps(said), file=out, flush=True)
    )


if __name__ == "__main__":
    main()
