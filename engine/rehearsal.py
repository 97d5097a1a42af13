"""Prompts and steps of the usual shapes, computed once before the first request, where new shapes are dear.

On CUDA attention is planned anew for every number of prompts and every width, for 60 to 250 ms, and the kernels of
quantized products are compiled, for seconds, by the number of rows. Without a rehearsal the first busy minute pays for
all of it, one request after the other.
"""

from __future__ import annotations

from itertools import islice

import mlx.core as mx
import numpy as np

from engine.batching.limits import BatchLimits
from engine.batching.scheduler import LARGEST_OF_ANY_SIZE
from engine.batching.step import generate
from engine.memory import DeviceKind
from engine.protocol.config import SAMPLE_RATE_HZ, TranscribeOptions
from engine.resident import ResidentModel

GROUP_SIZES = range(1, LARGEST_OF_ANY_SIZE + 1)

CLIP_SECONDS = (1.0, 4.0, 9.0, 14.0, 19.0, 24.0, 28.0)
"""One for each width of a prompt up to a whole chunk's: widths come in steps of 64 tokens, 13 of them a second."""

_STEPS = 3


def rehearse(model: ResidentModel, kind: DeviceKind, limits: BatchLimits) -> int:
    """Transcribe noise in groups of all those shapes that fit; returns how many. Elsewhere than on CUDA none."""
    if kind != "cuda":
        return 0
    count = 0
    for seconds in CLIP_SECONDS:
        for size in GROUP_SIZES:
            count += _transcribe_noise(model, size, seconds, limits)
    mx.clear_cache()
    return count


def _transcribe_noise(model: ResidentModel, size: int, seconds: float, limits: BatchLimits) -> bool:
    """Begin to transcribe so many clips; False when they are more than one prefill may be."""
    noise = np.random.default_rng(0).normal(0.0, 1e-3, int(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
    wish = model.wish(TranscribeOptions())
    prompt_ids = model.prompt_ids(wish, noise.size)
    sequences = [
        model.sequence(wish, prompt_ids, samples=noise.size, start_sample=0, seed=0) for _ in range(size)
    ]
    held = sum(len(prompt_ids) + one.token_budget for one in sequences)
    if size > 1 and (size * len(prompt_ids) > limits.prefill_tokens or held > limits.token_budget):
        return False
    _, embeddings = model.encode([noise] * size)
    for sequence, embedding in zip(sequences, embeddings, strict=True):
        sequence.audio = embedding
    for _ in islice(generate(model.network, sequences, model.marks), _STEPS):
        pass
    return True
