"""Prompts and steps of the usual shapes, computed once before the first request, where new shapes are expensive.

On CUDA attention is planned anew for every number of prompts and every width, for 60 to 250 ms, and some kernels are
compiled at their first use, for seconds: those of quantized products by the number of rows, those that move rows
when some come or leave. Without a warm-up the first busy minute pays for all of it, one request after the other.
"""

from __future__ import annotations

import logging
from itertools import islice

import mlx.core as mx
import numpy as np

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.sequence import Sequence
from scribewire.engine.batching.step import RunningBatch, generate
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, TranscribeOptions
from scribewire.engine.resident.model import ResidentModel
from scribewire.engine.resident.profile import WarmUpShapes

_STEPS = 3
_TOKENS = 64
"""More than a row generates here, so that none ends by itself."""


def warm_up_shapes(model: ResidentModel, shapes: WarmUpShapes, limits: BatchLimits) -> int:
    """Transcribe noise in groups of all these shapes that fit, rows joining and leaving; returns their number."""
    groups = [
        (size, seconds)
        for seconds in shapes.clip_seconds
        for size in shapes.group_sizes
        if size == 1 or _fits(model, size, seconds, limits)
    ]
    # A server shows this while it is not ready yet.
    logging.getLogger(__name__).info("the model is loaded; making kernels for the usual recordings")
    for size, seconds in groups:
        for _ in islice(generate(model.network, _noise(model, size, seconds), model.special_tokens), _STEPS):
            pass
    _come_and_go(model, shapes, limits)
    mx.clear_cache()
    return len(groups)


def _come_and_go(model: ResidentModel, shapes: WarmUpShapes, limits: BatchLimits) -> None:
    batch = RunningBatch(model.network, model.special_tokens)
    seconds = shapes.clip_seconds[0]
    for size in shapes.arriving:
        rows = batch.row_count + size
        if rows > limits.max_rows or not _fits(model, rows, seconds, limits):
            break
        batch.join(_noise(model, size, seconds))
        batch.step()
    for rows in shapes.left_behind:
        batch.remove(batch.sequences[rows:])
        batch.step()
        batch.step()
    batch.remove(batch.sequences)


def _fits(model: ResidentModel, size: int, seconds: float, limits: BatchLimits) -> bool:
    """True when a prefill and the memory can hold so many clips."""
    tokens = len(model.prompt_ids(model.decoding(TranscribeOptions()), int(seconds * SAMPLE_RATE_HZ)))
    return size * tokens <= limits.prefill_tokens and size * (tokens + _TOKENS) <= limits.token_budget


def _noise(model: ResidentModel, size: int, seconds: float) -> list[Sequence]:
    """Sequences of clips of quiet noise, which go on for `_TOKENS` tokens whatever the model says."""
    samples = np.random.default_rng(0).normal(0.0, 1e-3, int(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
    prompt_ids = model.prompt_ids(model.decoding(TranscribeOptions()), samples.size)
    _, embeddings = model.encode([samples] * size)
    return [
        Sequence(prompt_ids=prompt_ids, audio=embedding, token_budget=_TOKENS, forced_count=_TOKENS)
        for embedding in embeddings
    ]
