"""A resident model with scripted answers, through the real cache, batch, scheduler and pipeline.

What a chunk is answered with depends on its length alone. The network's one layer keeps, for every position, how many
audio tokens the prompt has; reading that back through the cache's views, masks and lengths is how it finds out which
answer a row is in and how far it has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np

from scribewire.engine.model.cache import KVCache
from scribewire.engine.protocol.config import EngineConfig, ModelInfo
from scribewire.engine.recording.output import asr_special_tokens
from scribewire.engine.resident.model import ResidentModel
from scribewire.engine.text.tokenizer import ASR_TEXT, IM_END, Tokenizer
from tests.fakes.loading import cpu_profile
from tests.fakes.tiny_model import write_tokenizer

VOCABULARY = 512
Script = Callable[[int], list[int] | str]
"""Audio tokens of a chunk -> what is said of it, as text (with its head, if any) or tokens; the end token is added."""


class ScriptedModel(ResidentModel):
    """Stands in for a loaded one. step_seconds: how long every decode step takes at least."""

    def __init__(
        self, config: EngineConfig, folder: Path, script: Script, *, step_seconds: float = 0.0
    ) -> None:
        if not (folder / "vocab.json").exists():
            write_tokenizer(folder)
        self._config = config
        self._languages = ("English", "Chinese")
        self._profile = cpu_profile()
        mx.set_default_device(self._profile.device)
        self.tokenizer = Tokenizer.from_folder(folder)
        self.special_tokens = asr_special_tokens(self.tokenizer)
        self.network: Any = _Network(self._answer_to(script), step_seconds)
        self.info = ModelInfo(
            model_id="scripted",
            is_demo=False,
            languages=self._languages,
            device="cpu",
            dtype="float32",
            weight_bits=16,
            parameter_count=0,
            resident_bytes=0,
            load_seconds=0.0,
        )

    def _answer_to(self, script: Script) -> Callable[[int], list[int]]:
        end = self.tokenizer.token_id(IM_END)

        def answer(audio_tokens: int) -> list[int]:
            said = script(audio_tokens)
            return [*(self._spelled(said) if isinstance(said, str) else said), end]

        return answer

    def _spelled(self, text: str) -> list[int]:
        head, tag, rest = text.partition(ASR_TEXT)
        tokens = self.tokenizer.encode_text(head)
        return (
            [*tokens, self.tokenizer.token_id(ASR_TEXT), *self.tokenizer.encode_text(rest)] if tag else tokens
        )


class _Network:
    """The parts of a SpeechModel that the pipeline uses."""

    def __init__(self, answer: Callable[[int], list[int]], step_seconds: float) -> None:
        text = SimpleNamespace(max_positions=65_536, layer_count=1, kv_head_count=1, head_dim=1)
        audio = SimpleNamespace(token_count=lambda frames: max(1, frames // 8))
        self.config = SimpleNamespace(text=text, audio=audio)
        self.dtype = mx.float32
        self.decoder = _Decoder(answer, step_seconds)

    def encode(self, mels: list[mx.array]) -> list[mx.array]:
        return [mx.ones((self.config.audio.token_count(mel.shape[0]), 1)) for mel in mels]

    def embed_prompt(self, prompt_ids: list[int], audio: mx.array | None) -> mx.array:
        """Embeddings in which each position holds (audio tokens, prompt length) as one number."""
        count = 0 if audio is None else audio.shape[0]
        return mx.full((len(prompt_ids), 1), float(count * 4096 + len(prompt_ids)))


class _Decoder:
    def __init__(self, answer: Callable[[int], list[int]], step_seconds: float) -> None:
        self._answer = answer
        self._step_seconds = step_seconds
        self.width_one_calls = 0
        self.lock = threading.Lock()

    def new_cache(self) -> KVCache:
        return KVCache(1, 1, 1, mx.float32)

    def embed(self, tokens: mx.array) -> mx.array:
        return mx.zeros((*tokens.shape, 1))

    def __call__(self, embeddings: mx.array, cache: KVCache) -> mx.array:
        """The token to say next, behind the last position of each row; it stands in for the hidden state."""
        rows, width, _ = embeddings.shape
        if width == 1:
            self.width_one_calls += 1
            time.sleep(self._step_seconds)
        cache.reserve(width)
        mask = cache.attention_mask(width)
        _keys, values = cache.append(0, embeddings[:, None], embeddings[:, None])
        cache.advance(width)
        held = np.array(values)[:, 0, :, 0]
        visible = np.array(mask)[:, 0, -1] if isinstance(mask, mx.array) else np.ones(held.shape, dtype=bool)
        following = np.zeros((rows, width, 1), dtype=np.float32)
        for row, length in enumerate(cache.lengths):
            known = np.where(visible[row], held[row], 0.0).max(initial=0.0)
            audio_tokens, prompt_length = divmod(int(known), 4096)
            if length >= prompt_length > 0:
                answer = self._answer(audio_tokens)
                following[row, -1] = answer[min(length - prompt_length, len(answer) - 1)]
        return mx.array(following)

    def head(self, hidden: mx.array) -> mx.array:
        """Logits (rows, vocabulary) that leave no doubt."""
        return 50.0 * (mx.arange(VOCABULARY)[None] == hidden).astype(mx.float32)
