"""The resident model: weights and tokenizer, and the sequence that it makes of one chunk.

Everything here touches MLX and belongs to one thread. It decodes nothing by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Several
from dataclasses import dataclass

import mlx.core as mx

from scribewire.engine.audio.mel import HOP_SAMPLES, log_mel_batch
from scribewire.engine.audio.pcm import Samples
from scribewire.engine.batching.forcing import forced_token_count
from scribewire.engine.batching.sequence import (
    LONGEST_LOOP_PERIOD,
    LOOP_REPEATS,
    LoopGuard,
    Sequence,
    max_tokens_for_audio,
)
from scribewire.engine.batching.speculation import DRAFT_TOKENS, Speculator
from scribewire.engine.checkpoint.fetch import resolve_model
from scribewire.engine.checkpoint.load import build_model, read_checkpoint, read_tokenizer, resident_arrays
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.config import ModelConfig
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, EngineConfig, ModelInfo, TranscribeOptions
from scribewire.engine.protocol.errors import OptionInvalid, PromptTooLong
from scribewire.engine.protocol.languages import LANGUAGES, iso_code, spoken_language
from scribewire.engine.recording.output import asr_special_tokens
from scribewire.engine.resident.profile import DeviceProfile
from scribewire.engine.text.prompt import build_context, build_prompt
from scribewire.engine.text.tokenizer import Tokenizer

MAX_CONTEXT_TOKENS = 4096
"""Of a prompt with its keywords: every chunk pays for them again, and every neighbor waits meanwhile."""

_LEAST_ROOM = 32
"""Tokens of answer below which a prompt counts as too long."""

_ROOM_TO_SEE_A_LOOP = 2 * LONGEST_LOOP_PERIOD
"""A budget ends this far past the most that the audio can hold, so that a loop is seen as one before it is cut off."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """One recording's options for decoding, made ready for the model.

    language: canonical English name when forced. context: the system turn's text. head_choices: see Sequence.
    """

    options: TranscribeOptions
    language: str | None
    context: str | None
    head_choices: tuple[int, ...] | None
    context_tokens: int


class ResidentModel:
    """A loaded model, and its draft model for speculative decoding, if one is configured.

    raises: ModelError subtypes, each naming what is wrong and what to do; OptionInvalid for a draft that does not fit
    """

    draft: SpeechModel | None = None

    def __init__(self, config: EngineConfig, profile: DeviceProfile) -> None:
        started = time.perf_counter()
        self._config = config
        self._profile = profile
        mx.set_default_device(profile.device)
        resolved = resolve_model(config.model, offline=config.offline, download=not config.offline)
        checkpoint = read_checkpoint(resolved.folder)
        self.tokenizer = read_tokenizer(resolved.folder, checkpoint.config)
        self.network = build_model(checkpoint, profile.placement)
        if config.draft_model is not None:
            self.draft = self._load_draft(config.draft_model)
        self.special_tokens = asr_special_tokens(self.tokenizer)
        known = tuple(language.name for language in LANGUAGES)
        # A name that the table lacks could be neither requested nor answered with a code.
        self._languages = tuple(name for name in checkpoint.config.languages if name in known) or known
        self.info = ModelInfo(
            model_id=resolved.model_id,
            is_demo=resolved.is_demo,
            languages=self._languages,
            language_codes=tuple(iso_code(name) for name in self._languages),
            device=profile.device_name,
            dtype=profile.dtype_name,
            weight_bits=checkpoint.decoder_bits,
            parameter_count=checkpoint.parameter_count,
            resident_bytes=sum(array.nbytes for array in resident_arrays(self.network)),
            load_seconds=time.perf_counter() - started,
        )

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values that one token takes."""
        return _token_bytes(self.network)

    @property
    def held_bytes(self) -> int:
        """Bytes of weights, and for a draft of keys and values of the one sequence that it drafts for."""
        if self.draft is None:
            return self.info.resident_bytes
        draft_weights = sum(array.nbytes for array in resident_arrays(self.draft))
        return self.info.resident_bytes + draft_weights + DRAFT_TOKENS * _token_bytes(self.draft)

    def speculator(self) -> Speculator | None:
        """Speculative decoding with the draft, None without one; the log says what it gains or costs here."""
        if self.draft is None:
            return None
        with self._profile.on_one_thread():
            speculator, told = Speculator.measured(self.network, self.draft, self.special_tokens)
        _log.info("%s", told)
        return speculator

    def encode(self, clips: Several[Samples]) -> tuple[list[mx.array], list[mx.array]]:
        """Log-mel frames (frames, mel_bins) and embeddings (tokens, hidden) of clips, (n,) float32 at 16 kHz each.

        Where the device queues work they are not waited for, so that the prompts' graph is built meanwhile.
        """
        mels = log_mel_batch([mx.array(samples) for samples in clips])
        embeddings = self.network.encode(mels)
        (mx.async_eval if self._profile.queues_work else mx.eval)(embeddings)
        return mels, embeddings

    def decoding(self, options: TranscribeOptions) -> DecodingOptions:
        """Check a recording's options against this model; raises LanguageUnknown, LanguageUnsupported."""
        language = spoken_language(options.language or "", self._languages)
        choices = dict.fromkeys(
            spoken_language(one, self._languages, parameter="languages") for one in options.languages
        )
        names = [name for name in choices if name is not None]
        head_choices = None
        if language is None and len(names) == 1:
            language = names[0]
        elif language is None and names:
            head_choices = self._head_choices(names)
        context = build_context(options.prompt, options.keywords)
        context_tokens = len(self.tokenizer.encode_text(context)) if context else 0
        if context_tokens > MAX_CONTEXT_TOKENS:
            raise PromptTooLong(
                f"the prompt and its keywords take {context_tokens} tokens, of which at most {MAX_CONTEXT_TOKENS} "
                "are accepted; shorten them",
                parameter="prompt",
            )
        return DecodingOptions(options, language, context, head_choices, context_tokens)

    def prompt_ids(self, decoding: DecodingOptions, samples: int) -> list[int]:
        """The prompt of a chunk of so many samples."""
        audio_tokens = self.network.config.audio.token_count(samples // HOP_SAMPLES)
        return build_prompt(
            self.tokenizer, audio_tokens=audio_tokens, context=decoding.context, language=decoding.language
        )

    def sequence(
        self, decoding: DecodingOptions, prompt_ids: list[int], *, samples: int, start_sample: int, seed: int
    ) -> Sequence:
        """A sequence for a chunk, its audio still to come; raises PromptTooLong."""
        options = decoding.options
        seconds = samples / SAMPLE_RATE_HZ
        audio_holds = max_tokens_for_audio(seconds)
        budget = (
            options.max_tokens or max(audio_holds, LOOP_REPEATS * LONGEST_LOOP_PERIOD) + _ROOM_TO_SEE_A_LOOP
        )
        positions = self.network.config.text.max_positions
        room = positions - len(prompt_ids)
        if room < min(budget, _LEAST_ROOM):
            raise PromptTooLong(
                f"the prompt is too long: with the audio it takes {len(prompt_ids)} of the model's {positions} "
                "positions; shorten the prompt",
                parameter="prompt",
            )
        forced_rate = self._config.forced_tokens_per_second
        forced_count = forced_token_count(seconds, start_sample, forced_rate) if forced_rate else None
        return Sequence(
            prompt_ids=prompt_ids,
            audio=None,
            token_budget=forced_count or min(budget, room),
            options=options,
            seed=seed,
            wants_logprobs=options.logprobs,
            head_choices=decoding.head_choices,
            guard=None if forced_count else LoopGuard(audio_holds),
            forced_count=forced_count,
            prompt_after_prefix=self._prompt_after_prefix(decoding, prompt_ids),
        )

    def _prompt_after_prefix(self, decoding: DecodingOptions, prompt_ids: list[int]) -> int | None:
        """Place in a prompt that names the language where the model would have said that it hears none."""
        prefix = self.special_tokens.none_prefix
        if decoding.language is None or not prefix or not decoding.options.logprobs:
            return None
        # What follows is the name and the tag.
        after = len(self.tokenizer.encode_text(f"language {decoding.language}")) - len(prefix) + 1
        is_there = tuple(prompt_ids[-after - len(prefix) : -after]) == prefix
        return after if is_there else None

    def _load_draft(self, model: str) -> SpeechModel:
        offline = self._config.offline
        folder = resolve_model(model, offline=offline, download=not offline).folder
        checkpoint = read_checkpoint(folder)
        draft_tokenizer = read_tokenizer(folder, checkpoint.config)
        check_draft(self.network.config, self.tokenizer, checkpoint.config, draft_tokenizer)
        return build_model(checkpoint, self._profile.placement)

    def _head_choices(self, names: list[str]) -> tuple[int, ...]:
        """The tokens that begin these names, and the one for no speech, behind `SpecialTokens.none_prefix`."""
        place = len(self.special_tokens.none_prefix)
        choices = [self.tokenizer.encode_text(f"language {name}")[place] for name in names]
        if self.special_tokens.none_token is not None:
            choices.append(self.special_tokens.none_token)
        return tuple(dict.fromkeys(choices))


def check_draft(
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
    elif ours.audio_token_id != theirs.audio_token_id or not our_tokenizer.has_the_ids_of(their_tokenizer):
        difference = "its tokens are other ones"
    if difference is not None:
        raise OptionInvalid(
            f"this draft model does not fit the model: {difference}; take a smaller one of the same family",
            parameter="draft_model",
        )


def _token_bytes(network: SpeechModel) -> int:
    text = network.config.text
    return 2 * text.layer_count * text.kv_head_count * text.head_dim * network.dtype.size
