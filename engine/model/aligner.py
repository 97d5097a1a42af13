"""The forced aligner: the recognizer's encoder and decoder, and a head that names a time in place of a token.

One pass over audio, words and timestamp marks gives a class for every mark; nothing is generated.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from engine.model.asr import AudioPromptedModel
from engine.model.cache import OnePass
from engine.model.config import ModelConfig
from engine.model.projection import Weights


class AlignerModel(AudioPromptedModel):
    """Qwen3-ForcedAligner."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        if config.class_count is None:
            raise ValueError("the configuration names no number of timestamp classes")
        super().__init__(config, weights)
        self.class_count = config.class_count

    def mark_logits(self, prompts: list[list[int]], audio: list[mx.array], mark_id: int) -> list[mx.array]:
        """Logits of every timestamp mark of several prompts, (marks, classes) each.

        prompts: ids with one audio pad for each row of `audio`, (tokens, hidden). mark_id: of the timestamp mark.
        Rows are padded behind their end, where nothing that comes before can see it: a prompt's result does not
        depend on which others are in the call, and no mask is needed beyond the causal one.
        raises: ValueError as embed_prompt
        """
        if not prompts:
            return []
        embedded = [self.embed_prompt(ids, part) for ids, part in zip(prompts, audio, strict=True)]
        width = max(one.shape[0] for one in embedded)
        rows = mx.stack([mx.pad(one, [(0, width - one.shape[0]), (0, 0)]) for one in embedded])
        hidden = self.decoder(rows, OnePass())
        places = [np.flatnonzero(np.asarray(ids) == mark_id) + row * width for row, ids in enumerate(prompts)]
        marks = hidden.reshape(-1, hidden.shape[-1])[mx.array(np.concatenate(places).astype(np.int32))]
        logits = self.decoder.head(marks)
        ends = np.cumsum([len(one) for one in places]).tolist()
        return [logits[end - len(one) : end] for end, one in zip(ends, places, strict=True)]
