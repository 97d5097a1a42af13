"""One chunk on its way through the decoder: what goes in, what has come out, and why it ended.

Knows nothing of text or of the batch it is in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import mlx.core as mx

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.text.repetition import LoopGuard


class FinishReason(Enum):
    """Reason for the end of a sequence."""

    END_TOKEN = "end_mark"
    BUDGET = "budget"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token ids that decoding itself must know.

    end_ids: any of them ends a sequence and is not part of its tokens.
    none_prefix, none_token: after exactly this prefix, the probability of that token is the probability
    that the model hears no speech; none_token is None where it is not needed.
    """

    end_ids: frozenset[int]
    none_prefix: tuple[int, ...] = ()
    none_token: int | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt, its audio, and the tokens generated so far.

    prompt_ids: with audio pad positions. audio: (tokens, hidden) embeddings for them, None without audio.
    token_budget: tokens generated at most. options: the recording's, for the sampler. seed: of this sequence's own
    random stream, so that its result does not depend on the batch. wants_logprobs: also keep log-probabilities.
    head_choices: right after `SpecialTokens.none_prefix` only these tokens may follow; None leaves the choice to the
    model.
    guard: watches for degenerate loops; None lets them run to the budget.
    forced_count: for benchmarks: end tokens are ignored and exactly so many tokens are generated; None otherwise.
    mel: (frames, mel_bins), kept only while a draft may need it (scribewire.engine.batching.speculation).
    logprobs: natural log-probability of every token and of the end token (one more than tokens then),
    under the model itself: before temperature, penalty and choices.
    prompt_after_prefix: tokens of the prompt behind `SpecialTokens.none_prefix`, where the language was written for the
    model; None where the model is to write it.
    no_speech_prob: see SpecialTokens; None when not requested or when the prefix never came.
    """

    prompt_ids: list[int]
    audio: mx.array | None
    token_budget: int
    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    seed: int = 0
    wants_logprobs: bool = False
    head_choices: tuple[int, ...] | None = None
    guard: LoopGuard | None = None
    forced_count: int | None = None
    prompt_after_prefix: int | None = None
    mel: mx.array | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    no_speech_prob: float | None = None
    finish_reason: FinishReason | None = None

    def accept(
        self, token: int, logprob: float | None, none_prob: float | None, special_tokens: SpecialTokens
    ) -> None:
        """Take the next token; sets `finish_reason` when this was the last one."""
        if logprob is not None and self.wants_logprobs:
            self.logprobs.append(logprob)
        if none_prob is not None and self.wants_logprobs and tuple(self.tokens) == special_tokens.none_prefix:
            self.no_speech_prob = none_prob
        if token in special_tokens.end_ids and self.forced_count is None:
            self.finish_reason = FinishReason.END_TOKEN
            return
        self.tokens.append(token)
        if self.forced_count is not None:
            self.finish_reason = FinishReason.END_TOKEN if len(self.tokens) >= self.forced_count else None
            return
        if self.guard is not None:
            self.guard.push(token)
            if self.guard.loop is not None:
                self.finish_reason = FinishReason.LOOP
                return
        if len(self.tokens) >= self.token_budget:
            self.finish_reason = FinishReason.BUDGET
