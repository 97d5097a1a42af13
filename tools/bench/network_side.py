"""The process that is measured, for developers: `python -m tools.bench.network_side PART JSON`.

As `scribewire.engine.bench.measured`, and besides its parts encoder, prefill, and how many kernels a decode step
starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from scribewire.engine.audio.mel import log_mel_batch
from scribewire.engine.batching.step import prefill
from scribewire.engine.bench.audio import speech
from scribewire.engine.bench.measured import MEASURES, Found, Networks, Say, main, measure_step, memory
from scribewire.engine.bench.measuring import summary
from tools.bench.launches import counted_evaluations, started_kernels


class CountedNetworks(Networks):
    """A loaded model whose encoder and prefill are measured too, and whose step's kernels are counted."""

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
        """The product's step, and one more whose graph is counted."""
        found = super().step(rows, seconds, steps)
        with self.profile.on_one_thread():
            batch = self.warm_batch(self.sequences(rows, seconds))
            with counted_evaluations() as primitives:
                batch.step()
        # Products made by numpy cut the graph into stretches of which only the last would be seen.
        launches = None if self.profile.blas is not None else started_kernels(primitives)
        return found | {
            "graph_primitives": sum(primitives.values()),
            "estimated_launches": launches,
            "launches_per_token": None if launches is None else round(launches / rows, 2),
            "most_frequent": dict(primitives.most_common(8)),
        }

    def _timed(self, work: Callable[[], object], repeats: int) -> list[float]:
        values = []
        with self.profile.on_one_thread():
            work()
            work()
            for _ in range(repeats):
                started = time.perf_counter()
                work()
                values.append(time.perf_counter() - started)
        return values


def measure_counted_step(given: Found, say: Say) -> None:
    """Decode steps, and their kernels."""
    measure_step(given, say, CountedNetworks)


def measure_encoder(given: Found, say: Say) -> None:
    """One clip and batches of them to embeddings."""
    networks = CountedNetworks(given, say)
    _by_rows(networks.encoder, "encoder", given, say)


def measure_prefill(given: Found, say: Say) -> None:
    """Prompts into the cache."""
    networks = CountedNetworks(given, say)
    _by_rows(networks.prefill, "prefill", given, say)


def _by_rows(measure: Callable[[int, float, int], Found], part: str, given: Found, say: Say) -> None:
    by_rows: Found = {}
    for rows in given["rows"]:
        say(note=f"{part} of {rows} {'clip' if rows == 1 else 'clips'} of {given['row_seconds']:g} s")
        by_rows[str(rows)] = measure(rows, given["row_seconds"], given["rounds"])
        say(found={"by_rows": by_rows})
    say(found={"memory": memory()})


if __name__ == "__main__":
    own = {"step": measure_counted_step, "encoder": measure_encoder, "prefill": measure_prefill}
    main(MEASURES | own)
