"""The engine's one configuration object and the options of one transcription, defaults written once.

CLI flags and the README's table of settings derive from the fields here (see each field's `help`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from scribewire.engine.protocol.errors import OptionInvalid
from scribewire.engine.protocol.speakers import SpeakerOptions

DEFAULT_MODEL = "mlx-community/Qwen3-ASR-0.6B-8bit"
DEFAULT_ALIGNER = "mlx-community/Qwen3-ForcedAligner-0.6B-8bit"
DEMO_MODEL = "demo"

AUTO_ALIGNER = "auto"
NO_ALIGNER = "none"

SAMPLE_RATE_HZ = 16_000
MIN_SAMPLES = 201
"""A reflect-padded 400-point transform needs more than 200 samples. Source: torch.stft, center=True, n_fft=400."""


MAX_TEMPERATURE = 1
"""Source: OpenAI's API reference; everywhere the same."""

MAX_VOICE_MILLISECONDS = 60_000
"""Longest padding and silence that voice detection accepts."""


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """Hard bounds on what a decoder may produce, independent of what a file claims."""

    max_duration_seconds: float = 12 * 3600.0
    max_channels: int = 8
    min_sample_rate_hz: int = 4_000
    max_sample_rate_hz: int = 384_000


@dataclass(frozen=True, slots=True)
class Chunking:
    """Rules for cutting a recording into the chunks that are decoded at once.

    rule: `pauses` cuts at pauses that are found by loudness and leaves out long silence; `voice` does the same with a
    voice detector; `quietest` is the official rule, which cuts where it is quietest and leaves nothing out.
    The others matter to `voice` only. threshold: probability from which it is speech. prefix_padding_ms: kept before
    speech. silence_duration_ms: shorter silence does not end speech.
    Source of the defaults: `chunking_strategy` of OpenAI's API.
    """

    rule: Literal["pauses", "voice", "quietest"] = "pauses"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 200

    def __post_init__(self) -> None:
        """Refuse values outside their range; raises OptionInvalid naming the field."""
        name = "chunking_strategy"
        if self.rule not in ("pauses", "voice", "quietest"):
            raise OptionInvalid(
                f"the rule of chunking must be pauses, voice or quietest, not {self.rule!r}", parameter=name
            )
        if not 0.0 <= self.threshold <= 1.0:
            raise OptionInvalid(
                f"threshold must be a number from 0 to 1, not {self.threshold!r}",
                parameter=f"{name}[threshold]",
            )
        for field_name in ("prefix_padding_ms", "silence_duration_ms"):
            if not 0 <= getattr(self, field_name) <= MAX_VOICE_MILLISECONDS:
                raise OptionInvalid(
                    f"{field_name} must be from 0 to {MAX_VOICE_MILLISECONDS}, not {getattr(self, field_name)}",
                    parameter=f"{name}[{field_name}]",
                )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Configuration of an engine worker.

    model: a folder, a Hugging Face id, or `demo`.
    dtype: `auto`, `float32`, `float16` or `bfloat16`; `auto` is float32 on the CPU and bfloat16 on a GPU.
    device: `auto`, `cpu` or `gpu`.
    offline: never ask the hub, even for a missing model.
    max_chunk_seconds: a chunk is never longer. min_chunk_seconds: no place for a cut is searched before; 0 is two
    thirds of the longest.
    max_batch_rows: sequences decoded together at most; 0 chooses by the device.
    memory_limit_bytes: what weights, caches and buffers may take together; 0 chooses by the machine.
    idle_unload_seconds: give the model's memory back after so long without work, and load it again when work comes;
    0 keeps it resident.
    draft_model: a smaller model that drafts for a lone sequence (speculative decoding); None for none.
    aligner: the forced aligner that finds word times: a folder, a Hugging Face id, `auto` (the published one, for the
    demo model its own) or `none`. It is loaded when words are first requested.
    preload_aligner: load it with the model, fetching it first if it is not there.
    forced_tokens_per_second: for benchmarks on random weights, which never end by themselves: every chunk gets a token
    count of about this rate, whatever the model says; 0 decodes normally.
    """

    model: str = DEFAULT_MODEL
    dtype: str = "auto"
    device: str = "auto"
    offline: bool = False
    max_chunk_seconds: float = 30.0
    min_chunk_seconds: float = 0.0
    max_batch_rows: int = 0
    memory_limit_bytes: int = 0
    idle_unload_seconds: float = 0.0
    draft_model: str | None = None
    aligner: str = AUTO_ALIGNER
    preload_aligner: bool = False
    forced_tokens_per_second: float = 0.0
    audio: AudioLimits = field(default_factory=AudioLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeOptions:
    """Options of one recording.

    language: English name, ISO code or region tag; None detects it per chunk.
    prompt: context for the model (names, spellings, the subject); inserted as plain text, never as control tokens.
    temperature: 0 is greedy; above it tokens are sampled, reproducibly when `seed` is given.
    max_tokens: budget per chunk; None derives it from the chunk's length.
    logprobs: also compute log-probabilities (avg_logprob, no_speech_prob), which costs a little time.
    token_logprobs: also keep each token's (Segment.token_logprobs); needs `logprobs`.
    languages: with no `language`, detection chooses among these only (names, codes or tags); one is as `language`.
    keywords: names and terms that the recording may contain, added to the prompt as a list.
    repetition_penalty: above 1, tokens that this chunk's text holds already become less likely; 1 changes nothing.
    words: also find out when each word was said (Segment.words). Where that cannot be done, the transcript's warnings
    say so and the segments' times are all there is.
    words_optional: with `words`: an aligner that is not there costs the words and not the recording, as for subtitles.
    speakers: also tell the speakers apart, which a process beside the engine does; the engine itself ignores it.
    chunking: how the recording is cut.
    model: the id of the model, None for the one that is resident.
    min_p: above temperature 0, tokens less likely than this share of the likeliest one's probability are never drawn; 0
    leaves all of them.
    """

    language: str | None = None
    prompt: str | None = None
    temperature: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    logprobs: bool = False
    token_logprobs: bool = False
    languages: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    words: bool = False
    words_optional: bool = False
    speakers: SpeakerOptions | None = None
    chunking: Chunking = field(default_factory=Chunking)
    model: str | None = None
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their range; raises OptionInvalid naming the field."""
        if not 0.0 <= self.temperature <= MAX_TEMPERATURE:  # NaN is not
            raise OptionInvalid(
                f"temperature must be a number from 0 to {MAX_TEMPERATURE:g}, not {self.temperature!r}",
                parameter="temperature",
            )
        if self.max_tokens is not None and not 1 <= self.max_tokens <= 65_536:
            raise OptionInvalid(
                f"max_tokens must be from 1 to 65536, not {self.max_tokens}", parameter="max_tokens"
            )
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise OptionInvalid(f"seed must be from 0 to 2^63-1, not {self.seed}", parameter="seed")
        if not math.isfinite(self.repetition_penalty) or not 1.0 <= self.repetition_penalty <= 2.0:
            raise OptionInvalid(
                f"repetition_penalty must be a number from 1 to 2, not {self.repetition_penalty!r}",
                parameter="repetition_penalty",
            )
        if not 0.0 <= self.min_p <= 1.0:
            raise OptionInvalid(f"min_p must be a number from 0 to 1, not {self.min_p!r}", parameter="min_p")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Description of the loaded model, as the ready handshake gives it.

    languages: English names that this model speaks, in the checkpoint's order.
    language_codes: the ISO codes of `languages`, in the same order, for answers that name codes.
    is_demo: the bundled small model, whose every answer must say so.
    weight_bits: bits of the decoder's weights as stored (16 when not quantized).
    """

    model_id: str
    is_demo: bool
    languages: tuple[str, ...]
    device: str
    dtype: str
    weight_bits: int
    parameter_count: int
    resident_bytes: int
    load_seconds: float
    language_codes: tuple[str, ...] = ()
