"""The networks in a process of their own, without pipeline or server: `python -m engine.bench.component_side JSON`.

Answers requests for the machine's limits, the encoder, the prefill and the decode step (see `engine.bench.child`).
Rows of a batch get clips of slightly different lengths, so that every row has an offset of its own, as in real work.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from engine.audio.mel import log_mel_batch
from engine.batching.sequence import Marks, Sequence
from engine.batching.step import RunningBatch, prefill
from engine.bench.answering import answer_requests
from engine.bench.audio import speech
from engine.bench.launches import counted_evaluations, started_kernels
from engine.bench.limits import StepNeeds, measured_bandwidth, measured_products
from engine.bench.measuring import summary
from engine.checkpoint.load import build_model, read_checkpoint
from engine.device import HostProducts, choose_device, choose_dtype, device_name, dtype_name
from engine.model.projection import Placement
from engine.protocol.config import SAMPLE_RATE_HZ
from engine.protocol.process_memory import peak_resident_bytes

_PROMPT_BEFORE, _PROMPT_AFTER = 9, 6
_WARM_STEPS = 8


class Components:
    """A loaded model and what is measured of it."""

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        self.device = choose_device(device)
        mx.set_default_device(self.device)
        self.dtype = choose_dtype(dtype, self.device)
        checkpoint = read_checkpoint(folder)
        self.placement = Placement.for_device(self.device, self.dtype)
        self.needs = StepNeeds.of_checkpoint(checkpoint, self.placement)
        self.model = build_model(checkpoint, dtype=self.dtype, device=self.device)
        self._host_products = HostProducts(self.device)

    def limits(self, array_bytes: int, product_size: int) -> dict[str, Any]:
        """Bandwidth and products; numpy's on one thread, as the engine has it."""
        on_host = self.placement.multiplies_on_host
        with self._host_products.on_one_thread():
            return {
                "bandwidth": measured_bandwidth(array_bytes, on_host_too=on_host),
                "products": measured_products(product_size, self.dtype, on_host_too=on_host),
            }

    def encoder(self, rows: int, seconds: float, repeats: int) -> dict[str, Any]:
        """Samples to audio embeddings of several clips in one call, and of that the log-mel frames alone."""
        clips = [
            mx.array(speech(seconds - row / 100, skip_seconds=0.73 * row)).astype(mx.float32)
            for row in range(rows)
        ]
        mels = log_mel_batch(clips)
        mx.eval(clips, mels)
        mel = self._timed(lambda: mx.eval(log_mel_batch(clips)), repeats)
        encode = self._timed(lambda: mx.eval(self.model.encode(mels)), repeats)
        return {"mel": summary(mel), "encode": summary(encode), "audio_seconds": rows * seconds}

    def prefill(self, rows: int, seconds: float, repeats: int) -> dict[str, Any]:
        """Prompts of several clips into a cache, all together, and the logits of what follows."""
        sequences = self.sequences(rows, seconds)
        values = self._timed(lambda: mx.eval(prefill(self.model, sequences)[1]), repeats)
        return {"prefill": summary(values), "prompt_tokens": sum(len(one.prompt_ids) for one in sequences)}

    def step(self, rows: int, seconds: float, steps: int) -> dict[str, Any]:
        """Decode steps of a running batch in steady state, behind prompts of clips of about that length."""
        batch = RunningBatch(self.model, Marks(end_ids=frozenset()))
        sequences = self.sequences(rows, seconds)
        values = []
        with self._host_products.on_one_thread():
            batch.join(sequences)
            for _ in range(_WARM_STEPS):
                batch.step()
            mx.reset_peak_memory()
            for _ in range(steps):
                started = time.perf_counter()
                batch.step()
                values.append(time.perf_counter() - started)
            with counted_evaluations() as primitives:
                batch.step()
        # Products made by numpy cut the graph into stretches of which only the last would be seen.
        is_whole = not self.placement.multiplies_on_host
        held = sum(len(one.prompt_ids) + _WARM_STEPS + steps // 2 for one in sequences)
        return {
            "step": summary(values),
            "mean_seconds": sum(values) / len(values),
            "slots": getattr(batch, "slot_count", rows),
            "tokens_held": held,
            "read_bytes": self.needs.read_bytes(held),
            "operations": self.needs.operations(rows, held),
            "graph_primitives": sum(primitives.values()),
            "estimated_launches": started_kernels(primitives) if is_whole else None,
            "most_frequent": dict(primitives.most_common(8)),
            "peak_mlx_bytes": mx.get_peak_memory(),
        }

    def memory(self) -> dict[str, Any]:
        """What MLX holds now and held at most, and the process's peak."""
        return {
            "active_mlx_bytes": mx.get_active_memory(),
            "peak_mlx_bytes": mx.get_peak_memory(),
            "peak_resident_bytes": peak_resident_bytes(),
        }

    def sequences(self, rows: int, seconds: float) -> list[Sequence]:
        """So many clips of about that length, encoded to noise, each a little shorter than the one before."""
        hidden = self.model.config.text.hidden_size
        frames = [round((seconds - (row % 16) / 10) * 100) for row in range(rows)]
        counts = [self.model.config.audio.token_count(max(count, 8)) for count in frames]
        audio = [
            (0.1 * mx.random.normal((count, hidden), key=mx.random.key(row))).astype(self.dtype)
            for row, count in enumerate(counts)
        ]
        mx.eval(audio)
        pad = self.model.audio_token_id
        return [
            Sequence(
                prompt_ids=[*range(_PROMPT_BEFORE), *[pad] * count, *range(_PROMPT_AFTER)],
                audio=embeddings,
                token_budget=1 << 30,
            )
            for count, embeddings in zip(counts, audio, strict=True)
        ]

    def _timed(self, work: Callable[[], object], repeats: int) -> list[float]:
        values = []
        with self._host_products.on_one_thread():
            work()
            work()
            for _ in range(repeats):
                started = time.perf_counter()
                work()
                values.append(time.perf_counter() - started)
        return values


def device_description() -> dict[str, Any]:
    """What MLX says of its default device, names of hosts and paths left out."""
    told = mx.device_info()
    names = ("device_name", "architecture", "memory_size", "max_recommended_working_set_size")
    return {name: told[name] for name in names if name in told}


def main(arguments: dict[str, Any]) -> None:
    """Load, then answer until the input ends."""
    started = time.perf_counter()
    components = Components(Path(arguments["folder"]), arguments["device"], arguments["dtype"])
    needs = components.needs
    answer_requests(
        {
            "limits": components.limits,
            "encoder": components.encoder,
            "prefill": components.prefill,
            "step": components.step,
            "memory": components.memory,
        },
        load_seconds=time.perf_counter() - started,
        device=device_name(components.device),
        dtype=dtype_name(components.dtype),
        device_description=device_description(),
        sample_rate_hz=SAMPLE_RATE_HZ,
        step_weight_bytes=needs.weight_bytes,
        step_product_operations_per_row=needs.product_operations_per_row,
        kv_bytes_per_token=needs.kv_bytes_per_token,
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
