"""An encoder and a decoder as one network, audio embeddings in its prompt, and the speech recognizer made so."""

from __future__ import annotations

import mlx.core as mx

from scribewire.engine.model.config import ModelConfig
from scribewire.engine.model.decoder import Decoder
from scribewire.engine.model.encoder import AudioEncoder
from scribewire.engine.model.projection import Weights


class AudioPromptedModel:
    """A decoder that reads audio embeddings among its tokens. Holds weights; keeps no state between calls."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.dtype = weights.placement.dtype
        self.audio_token_id = config.audio_token_id
        self.encoder = AudioEncoder(config.audio, weights.scope("audio_tower"))
        self.decoder = Decoder(config.text, weights)

    def encode(self, mels: list[mx.array]) -> list[mx.array]:
        """Log-mel frames (frames, mel_bins) of several clips -> audio embeddings (tokens, hidden) of each."""
        return self.encoder(mels)

    def embed_prompt(self, prompt_ids: list[int], audio: mx.array | None) -> mx.array:
        """Prompt embeddings (len(prompt_ids), hidden), the audio pad positions replaced by `audio` in order.

        raises: ValueError when the number of pad positions is not the number of audio embeddings.
        """
        pads = prompt_ids.count(self.audio_token_id)
        if pads != (0 if audio is None else audio.shape[0]):
            raise ValueError(
                f"{pads} audio positions for {0 if audio is None else audio.shape[0]} embeddings"
            )
        if audio is None:
            return self.decoder.embed(mx.array(prompt_ids))
        first = prompt_ids.index(self.audio_token_id)
        if any(token != self.audio_token_id for token in prompt_ids[first : first + pads]):
            raise ValueError("the audio positions of a prompt must be contiguous")
        before = self.decoder.embed(mx.array(prompt_ids[:first], dtype=mx.int32))
        after = self.decoder.embed(mx.array(prompt_ids[first + pads :], dtype=mx.int32))
        return mx.concatenate([before, audio.astype(self.dtype), after])


class SpeechModel(AudioPromptedModel):
    """Qwen3-ASR, whose head is the vocabulary."""

    def score(self, prompt_ids: list[int], audio: mx.array | None, target_ids: list[int]) -> mx.array:
        """Teacher-forced logits (len(target_ids), vocab): row i predicts target i.

        raises: ValueError as embed_prompt.
        """
        prompt = self.embed_prompt(prompt_ids, audio)
        targets = self.decoder.embed(mx.array(target_ids[:-1], dtype=mx.int32))
        embeddings = mx.concatenate([prompt, targets])[None]
        cache = self.decoder.new_cache()
        cache.start_rows([embeddings.shape[1]])
        hidden = self.decoder(embeddings, cache)
        return self.decoder.head(hidden[0, len(prompt_ids) - 1 :])
