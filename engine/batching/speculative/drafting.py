"""The draft's side of speculative decoding: models that fit together, and the smaller one's proposals.

A draft hears the same log-mel frames through its own encoder, because hidden sizes differ, and holds its own keys and
values. It drafts greedily and decides nothing: the text is the target's choice alone.
"""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx

from scribewire.engine.batching.sequence import Sequence
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.config import ModelConfig
from scribewire.engine.protocol.errors import OptionInvalid
from scribewire.engine.text.tokenizer import Tokenizer

DRAFT_TOKENS = 1280
"""Tokens that a draft may hold keys and values for: a 30 s chunk's prompt and answer (see
scribewire.engine.resident.memory).
"""


class Drafter(Protocol):
    """A drafter of the next tokens of one sequence. After each `propose` comes one `settle`."""

    def propose(self, last: mx.array, count: int) -> mx.array:
        """(count,) int32 tokens guessed to follow `last`, (1,) int32, the newest accepted one; not yet evaluated."""
        ...

    def settle(self, right: int) -> None:
        """The first `right` of these guesses were the target's own choice; the next `last` follows them."""
        ...


class ModelDrafter:
    """A smaller model with a cache of its own."""

    def __init__(self, model: SpeechModel, sequence: Sequence) -> None:
        """Encode and prefill prompt and answer so far, all but the newest token; started, not waited for.

        raises: ValueError for a sequence without `mel` or without a token
        """
        if sequence.mel is None or not sequence.tokens:
            raise ValueError("a draft needs the sequence's frames and its first token")
        self._model = model
        embeddings = model.embed_prompt(sequence.prompt_ids, model.encode([sequence.mel])[0])
        if len(sequence.tokens) > 1:
            said = model.decoder.embed(mx.array(sequence.tokens[:-1], dtype=mx.int32))
            embeddings = mx.concatenate([embeddings, said])
        self._cache = model.decoder.new_cache()
        self._cache.start_rows([embeddings.shape[0]])
        # Room for what follows, or the first guesses would move the buffers.
        self._cache.reserve(embeddings.shape[0] + 1)
        model.decoder(embeddings[None], self._cache)
        mx.async_eval(self._cache.state())
        self._count = 0
        self._newest: mx.array | None = None
        self._left_out: mx.array | None = None

    def wait(self) -> None:
        """Wait until what was started is done."""
        mx.eval(self._cache.state())

    def propose(self, last: mx.array, count: int) -> mx.array:
        """See Drafter: one chained step per guess, one lazy graph."""
        decoder = self._model.decoder
        fed = last if self._left_out is None else mx.concatenate([self._left_out, last])
        guesses: list[mx.array] = []
        for _ in range(count):
            hidden = decoder(decoder.embed(fed)[None], self._cache)
            fed = mx.argmax(decoder.head(hidden[:, -1]), axis=-1).astype(mx.int32)
            guesses.append(fed)
        self._count, self._newest = count, fed
        return mx.concatenate(guesses)

    def settle(self, right: int) -> None:
        """See Drafter. The newest guess was never fed: where all were right, the next feeding begins with it."""
        if right == self._count:
            self._left_out = self._newest
        else:
            self._left_out = None
            self._cache.rewind(self._count - 1 - right)


def check_pair(
    ours: ModelConfig, our_tokenizer: Tokenizer, theirs: ModelConfig, their_tokenizer: Tokenizer
) -> None:
    """Refuse a draft (theirs) whose ids or frames mean something else than the model's; raises OptionInvalid."""
    difference = None
    if ours.audio.mel_bins != theirs.audio.mel_bins:
        difference = f"it hears {theirs.audio.mel_bins} mel bins, the model {ours.audio.mel_bins}"
    elif ours.audio.chunk_frames != theirs.audio.chunk_frames:
        difference = "it makes another number of tokens of the same audio"
    elif ours.text.vocab_size != theirs.text.vocab_size:
        difference = f"it has {theirs.text.vocab_size} tokens, the model {ours.text.vocab_size}"
    elif ours.audio_token_id != theirs.audio_token_id or not _are_alike(our_tokenizer, their_tokenizer):
        difference = "its tokens are other ones"
    if difference is not None:
        raise OptionInvalid(
            f"this draft model does not fit the model: {difference}; take a smaller one of the same family",
            parameter="draft_model",
        )


def _are_alike(ours: Tokenizer, theirs: Tokenizer) -> bool:
    return (
        ours.largest_id == theirs.largest_id
        and ours.end_ids == theirs.end_ids
        and all(ours.token_bytes(token) == theirs.token_bytes(token) for token in range(ours.largest_id + 1))
    )
