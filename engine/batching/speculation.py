"""Speculative decoding of a lone greedy sequence: a draft model guesses tokens, one pass of the target checks them.

Every token is the target's own greedy choice: guesses are accepted up to the first place where it would have chosen
another, and there its choice goes on. A wide pass may give other logits than single steps; by how much is measured at
start. Where the best two are nearer than that, plain steps decide: all since the last such place are fed again one by
one, so that the keys and values behind the decision are plain ones too. A row that joins ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from scribewire.engine.audio.mel import log_mel
from scribewire.engine.batching.forcing import NATURAL_TOKENS_PER_SECOND
from scribewire.engine.batching.sequence import Sequence, SpecialTokens
from scribewire.engine.batching.step import RunningBatch
from scribewire.engine.batching.verify import Verified, drift, verify
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.cache import KVCache
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ

GUESSES = 4
"""Tokens guessed before each pass. On a Linux CPU, products of eight rows and more are made by another library."""

DRAFT_TOKENS = 1280
"""Tokens that a draft may hold keys and values for: a 30 s chunk's prompt and answer."""

DOUBT_PER_DRIFT = 8.0
"""Two logits may drift apart, and there are more answers than the probe saw."""

_EXPECTED_ACCEPTANCE = 0.8
_MEASURED_SECONDS = 10.0


class Draft:
    """A smaller model that hears the same frames and proposes tokens from a cache of its own."""

    def __init__(self, model: SpeechModel, sequence: Sequence) -> None:
        """Encode and prefill prompt and answer so far, all but the newest token; started, not waited for."""
        assert sequence.mel is not None
        self._decoder = model.decoder
        embeddings = model.embed_prompt(sequence.prompt_ids, model.encode([sequence.mel])[0])
        if said := sequence.tokens[:-1]:
            embeddings = mx.concatenate([embeddings, self._decoder.embed(mx.array(said, dtype=mx.int32))])
        self._cache = self._decoder.new_cache()
        self._cache.start_rows([embeddings.shape[0]])
        # Room for what follows, or the first guesses would move the buffers.
        self._cache.reserve(embeddings.shape[0] + 1)
        self._decoder(embeddings[None], self._cache)
        mx.async_eval(self._cache.state())
        self._left_out: list[int] = []

    def propose(self, last: int, count: int) -> list[int]:
        """Guesses of the tokens behind `last`, the newest accepted one: one chained step each, then read back."""
        fed = mx.array([*self._left_out, last], dtype=mx.int32)
        guesses: list[mx.array] = []
        for _ in range(count):
            hidden = self._decoder(self._decoder.embed(fed)[None], self._cache)
            fed = mx.argmax(self._decoder.head(hidden[:, -1]), axis=-1).astype(mx.int32)
            guesses.append(fed)
        return [int(token) for token in np.array(mx.concatenate(guesses))]

    def settle(self, right: int, guesses: list[int]) -> None:
        """Keep the first `right` of the newest guesses; the last of them was never fed, so the next feeding has it."""
        self._left_out = guesses[-1:] if right == len(guesses) else []
        self._cache.rewind(max(0, len(guesses) - 1 - right))


@dataclass(slots=True)
class Speculator:
    """Starts drafting for lone rows that can have it. doubt: margin below which plain steps decide, 0 for none."""

    target: SpeechModel
    make_draft: Callable[[Sequence], Draft]
    special_tokens: SpecialTokens
    doubt: float
    width: int = GUESSES
    starts: int = 0
    rounds: int = 0
    tokens: int = 0
    doubts: int = 0

    @classmethod
    def measured(
        cls, target: SpeechModel, draft: SpeechModel, marks: SpecialTokens
    ) -> tuple[Speculator, str]:
        """A speculator for this pair, and one line on what it gains or costs on this machine, measured on noise."""
        never = SpecialTokens(end_ids=frozenset())
        count = int(_MEASURED_SECONDS * SAMPLE_RATE_HZ)
        mel = log_mel(0.01 * mx.random.normal((count,), key=mx.random.key(0)))
        audio = target.encode([mel])[0]
        prompt = [*range(9), *[target.audio_token_id] * audio.shape[0], *range(6)]
        blind = cls(target, lambda one: Draft(draft, one), never, doubt=0.0)
        runs = []
        # The first run compiles and does not count.
        for _ in range(4):
            batch = RunningBatch(target, never)
            batch.join([Sequence(prompt, audio, 1 << 20, forced_count=1 << 20, mel=mel)])
            batch.step()
            times = [time.perf_counter()]
            for steps, ahead in ((GUESSES, None), (1, blind), (GUESSES, blind)):
                for _ in range(steps):
                    batch.step(ahead)
                mx.synchronize()
                times.append(time.perf_counter())
            runs.append(np.diff(times) / (GUESSES, 1, GUESSES))
        plain, prepare, rounds = np.median(runs[1:], axis=0)
        tokens = NATURAL_TOKENS_PER_SECOND * _MEASURED_SECONDS
        per_round = sum(_EXPECTED_ACCEPTANCE**power for power in range(GUESSES + 1))
        ratio = tokens * plain / (prepare + tokens / per_round * rounds)
        doubt = DOUBT_PER_DRIFT * drift(target, GUESSES + 1)
        return replace(blind, special_tokens=marks, doubt=doubt), (
            f"speculative decoding {'gains' if ratio > 1 else 'costs'} time here: a lone 10 s clip at {ratio:.2f} "
            f"times the plain speed where {_EXPECTED_ACCEPTANCE:.0%} of {GUESSES} guesses are right (plain step "
            f"{1e3 * plain:.2f} ms, round {1e3 * rounds:.2f} ms, preparation {1e3 * prepare:.2f} ms, doubt {doubt:.3g})"
        )

    def suits(self, sequence: Sequence) -> bool:
        """True when from here on the most likely token is always chosen, and the draft has room for the answer."""
        if sequence.mel is None or sequence.options.temperature or sequence.options.repetition_penalty != 1.0:
            return False
        is_free = sequence.head_choices is None or len(sequence.tokens) > len(self.special_tokens.none_prefix)
        return is_free and len(sequence.prompt_ids) + len(sequence.tokens) + self.width < DRAFT_TOKENS

    def start(self, sequence: Sequence, cache: KVCache) -> Rounds:
        """Begin rounds for the one row of this cache, which holds all but the sequence's newest token."""
        self.starts += 1
        return Rounds(self, self.make_draft(sequence), sequence, cache)


class Rounds:
    """Rounds of one sequence, until it ends, its draft is full, or others join."""

    def __init__(self, speculator: Speculator, draft: Draft, sequence: Sequence, cache: KVCache) -> None:
        self.sequence = sequence
        self._of = speculator
        self._draft = draft
        self._cache = cache
        self._note_plain()

    @property
    def is_over(self) -> bool:
        """True when the draft has no more room."""
        return not self._of.suits(self.sequence)

    def round(self) -> int:
        """Guess, check, and let the sequence accept what is right and one token more; returns how many it took."""
        last, doubt = self.sequence.tokens[-1], self._of.doubt
        guesses = self._draft.propose(last, self._of.width)
        found = self._verify([last, *guesses])
        right = found.right(guesses)
        sure = min(found.sure(doubt), right + 1)
        taken = self._accept(found, sure)
        if self.sequence.finish_reason is None:
            if sure <= right:
                right = sure
                self._of.doubts += 1
                taken += self._accept(self._feed_plainly(None)[-1], 1)
                self._note_plain()
            else:
                self._cache.rewind(len(guesses) - right)
            self._draft.settle(right, guesses)
        self._of.rounds += 1
        self._of.tokens += taken
        return taken

    def stop(self) -> int:
        """Leave the cache as plain steps have it, unless others join, which is wide too; returns the newest token."""
        if self.is_over and self._of.doubt:
            self._feed_plainly(-1)
        return self.sequence.tokens[-1]

    def _feed_plainly(self, stop: int | None) -> list[Verified]:
        """Feed all accepted since the last plain step once more, one by one: what each of them chooses."""
        self._cache.rewind(self._cache.lengths[0] - self._plain_columns)
        return [self._verify([token]) for token in self.sequence.tokens[self._plain_count - 1 : stop]]

    def _note_plain(self) -> None:
        self._plain_columns, self._plain_count = self._cache.lengths[0], len(self.sequence.tokens)

    def _verify(self, tokens: list[int]) -> Verified:
        wanted = self.sequence.wants_logprobs
        of = self._of
        return verify(of.target, self._cache, mx.array(tokens), of.special_tokens, with_logprobs=wanted)

    def _accept(self, found: Verified, count: int) -> int:
        """Let the sequence take the first choices, to its end at most; returns how many."""
        logprobs, none_probs = found.choice.values()
        for place, token in enumerate(found.tokens()[:count]):
            self.sequence.accept(token, logprobs[place], none_probs[place], self._of.special_tokens)
            if self.sequence.finish_reason is not None:
                return place + 1
        return count
