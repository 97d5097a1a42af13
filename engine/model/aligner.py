"""The forced aligner: the recognizer's encoder and decoder, and a head that names a time in place of a token.

One pass over audio, words and timestamp tokens gives a class for every timestamp; nothing is generated.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from scribewire.engine.model.asr import AudioPromptedModel
from scribewire.engine.model.cache import OnePass, slot_bucket
from scribewire.engine.model.config import ModelConfig
from scribewire.engine.model.projection import Weights

# Where kernels are planned by shape, for longer than they run, passes have one of a few shapes.
_WIDTH_STEP = 128
_MARK_STEP = 256


class AlignerModel(AudioPromptedModel):
    """Qwen3-ForcedAligner."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        if config.class_count is None:
            raise ValueError("the configuration names no number of timestamp classes")
        super().__init__(config, weights)
        self.plans_by_shape = weights.placement.plans_by_shape
        self.class_count = config.class_count

    def time_logits(self, prompts: list[list[int]], audio: list[mx.array], time_id: int) -> list[mx.array]:
        """Logits of every timestamp of several prompts, (timestamps, classes) each.

        prompts: ids with one audio pad for each row of `audio`, (tokens, hidden). time_id: of the timestamp token.
        Rows are padded behind their end, where nothing that comes before can see it: a prompt's result does not
        depend on which others are in the call, and no mask is needed beyond the causal one.
        raises: ValueError as embed_prompt
        """
        if not prompts:
            return []
        embedded = [self.embed_prompt(ids, part) for ids, part in zip(prompts, audio, strict=True)]
        width = self._in_steps(max(one.shape[0] for one in embedded), _WIDTH_STEP)
        rows = mx.stack([mx.pad(one, [(0, width - one.shape[0]), (0, 0)]) for one in embedded])
        if self.plans_by_shape:
            rows = mx.pad(rows, [(0, slot_bucket(len(prompts)) - len(prompts)), (0, 0), (0, 0)])
        hidden = self.decoder(rows, OnePass())
        places = [np.flatnonzero(np.asarray(ids) == time_id) + row * width for row, ids in enumerate(prompts)]
        flat = np.concatenate(places).astype(np.int32)
        count = self._in_steps(flat.size, _MARK_STEP)
        timestamps = hidden.reshape(-1, hidden.shape[-1])[mx.array(np.pad(flat, (0, count - flat.size)))]
        logits = self.decoder.head(timestamps)
        ends = np.cumsum([len(one) for one in places]).tolist()
        return [logits[end - len(one) : end] for end, one in zip(ends, places, strict=True)]

    def _in_steps(self, size: int, step: int) -> int:
        return -(-size // step) * step if self.plans_by_shape else size
