"""A small target, a smaller draft and one clip, decoded plainly or with draft tokens of a chosen accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.audio.mel import log_mel_batch
from scribewire.engine.batching.sequence import Sequence, SpecialTokens
from scribewire.engine.batching.speculation import Draft, Speculator
from scribewire.engine.batching.step import RunningBatch
from scribewire.engine.model.asr import SpeechModel
from tests.fakes.clips import uniform
from tests.fakes.loading import load_checkpoint
from tests.fakes.random_model import TRUE_WINDOWS, prompt_ids
from tests.fakes.rigged_draft import RiggedDraft
from tests.fakes.tiny_model import write_tiny_model

NEVER = SpecialTokens(end_ids=frozenset())
SAMPLES = 130_000
DRAFT_SIZES = replace(
    TRUE_WINDOWS, name="draft", hidden_size=48, intermediate_size=64, num_hidden_layers=1, d_model=64
)


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Folders of a target and of a draft that fits it."""
    return write_tiny_model(folder / "target"), write_tiny_model(folder / "draft", sizes=DRAFT_SIZES)


def load_setting(target: Path, draft: Path) -> Setting:
    """Both in float32."""
    return Setting(load_checkpoint(target, dtype=mx.float32), load_checkpoint(draft, dtype=mx.float32))


class Setting:
    """A target, a draft and one clip."""

    def __init__(self, target: SpeechModel, draft: SpeechModel) -> None:
        self.target, self.draft = target, draft
        samples = (0.3 * uniform("speculation", SAMPLES)).astype(np.float32)
        [self.mel] = log_mel_batch([mx.array(samples)])
        [self.audio] = target.encode([self.mel])

    def with_target(self, target: SpeechModel) -> Setting:
        """The same with another target."""
        return Setting(target, self.draft)

    def sequence(self, budget: int = 60, **options: Any) -> Sequence:
        settings = {"token_budget": budget, "wants_logprobs": True, "mel": self.mel} | options
        return Sequence(prompt_ids=prompt_ids(self.audio.shape[0]), audio=self.audio, **settings)

    def plain(self, budget: int = 60, special_tokens: SpecialTokens = NEVER, **options: Any) -> Sequence:
        one = self.sequence(budget, **options)
        batch = RunningBatch(self.target, special_tokens)
        batch.join([one])
        run(batch)
        return one

    def rigged(
        self,
        acceptance: float,
        width: int = 4,
        *,
        known: Sequence,
        special_tokens: SpecialTokens = NEVER,
        doubt: float = 0.0,
    ) -> Speculator:
        """A speculator whose guesses follow a known answer."""
        answer = [*known.tokens, *special_tokens.end_ids]

        def make(sequence: Sequence) -> RiggedDraft:
            real = Draft(self.draft, sequence)
            return RiggedDraft(real, answer[len(sequence.tokens) :], acceptance, seed=width)

        return Speculator(self.target, make, special_tokens, doubt, width)

    def drafted(self, draft: SpeechModel, width: int, special_tokens: SpecialTokens = NEVER) -> Speculator:
        """A speculator whose guesses are this model's."""
        return Speculator(self.target, lambda one: Draft(draft, one), special_tokens, 0.0, width)

    def ahead(self, speculator: Speculator, sequence: Sequence, special_tokens: SpecialTokens = NEVER) -> int:
        """Decode with this speculator; returns the number of steps."""
        batch = RunningBatch(self.target, special_tokens)
        batch.join([sequence])
        return run(batch, speculator)


def run(batch: RunningBatch, ahead: Speculator | None = None) -> int:
    steps = 0
    while batch.row_count:
        batch.step(ahead)
        steps += 1
    return steps


def assert_same(found: Sequence, expected: Sequence) -> None:
    assert found.tokens == expected.tokens
    assert found.finish_reason == expected.finish_reason
    assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-5)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=0, atol=1e-4)
