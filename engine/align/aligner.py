"""A forced aligner in memory, which gives each word of a decoded chunk its time; its prompts and its answers.

Planning (splitting a text into words, writing the prompt) touches no MLX and may run on any thread; loading and
aligning belong to the engine's. Chunks of different recordings are aligned in one call, none padded by what its result
could see. The order of alignments is not decided here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence as Several
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from scribewire.engine.align.timestamps import repaired, with_lengths
from scribewire.engine.audio.mel import HOP_SAMPLES, log_mel_batch
from scribewire.engine.checkpoint.integrity import read_config
from scribewire.engine.checkpoint.load import Checkpoint, build_aligner, read_tokenizer, resident_arrays
from scribewire.engine.model.aligner import AlignerModel
from scribewire.engine.model.config import ConfigError, ModelConfig
from scribewire.engine.model.projection import Placement, QuantizedTensor
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ
from scribewire.engine.protocol.errors import CheckpointMismatch
from scribewire.engine.protocol.languages import LANGUAGES
from scribewire.engine.protocol.transcript import Word
from scribewire.engine.text.tokenizer import AUDIO_END, AUDIO_PAD, AUDIO_START, TIMESTAMP
from scribewire.engine.text.words import ShownWord, Unit, WordSplitter, WordsUnavailable, shown_words

LEAST_WORD_MILLISECONDS = 80
"""Length of a word that the aligner gave no length: one class of the published aligner."""

_ALIGNED_LANGUAGES = tuple(language.name for language in LANGUAGES if language.has_aligner)


@dataclass(frozen=True, slots=True)
class AlignmentPrompt:
    """One chunk's text as a question to the aligner.

    units: the words that it reads. shown: the same as readers see them. prompt_ids: with a pad for each audio token and
    two timestamp tokens for each unit.
    """

    units: list[Unit]
    shown: list[ShownWord]
    prompt_ids: list[int]


class AlignmentPromptBuilder:
    """The aligner's languages, tokenizer and sizes, without its weights. Any thread may use it."""

    def __init__(self, folder: Path) -> None:
        """raises: ModelError subtypes"""
        try:
            config = ModelConfig.from_dict(read_config(folder))
        except ConfigError as error:
            raise CheckpointMismatch(f"{folder.name}: {error}") from error
        self._tokenizer = read_tokenizer(
            folder, config, required=(AUDIO_START, AUDIO_END, AUDIO_PAD, TIMESTAMP)
        )
        if config.class_count is None:
            raise CheckpointMismatch("this is no forced aligner; choose a Qwen3-ForcedAligner model")
        self.time_id = self._tokenizer.token_id(TIMESTAMP)
        self._audio_start, self._audio_end, self._pad = map(
            self._tokenizer.token_id, (AUDIO_START, AUDIO_END, AUDIO_PAD)
        )
        self._config = config
        self._longest_seconds = config.class_count * config.milliseconds_per_class / 1000
        self.languages = config.languages or _ALIGNED_LANGUAGES
        self._splitter = WordSplitter([folder])

    def plan(self, text: str, language: str | None, samples: int) -> AlignmentPrompt:
        """The prompt for a chunk of so many samples whose text is this.

        raises: WordsUnavailable, its message the end of a sentence that begins `no word times: `
        """
        if language is None:
            raise WordsUnavailable("its language is unknown")
        if language not in self.languages:
            raise WordsUnavailable(
                f"the aligner does not know {language}; it knows {', '.join(self.languages)}"
            )
        if samples / SAMPLE_RATE_HZ > self._longest_seconds:
            raise WordsUnavailable(f"the aligner takes at most {self._longest_seconds:.0f} s at once")
        units = self._splitter.split(text, language)
        audio_tokens = self._config.audio.token_count(samples // HOP_SAMPLES)
        ids = [self._audio_start, *[self._pad] * audio_tokens, self._audio_end]
        for unit in units:
            ids += [*self._tokenizer.encode_text(unit.text), self.time_id, self.time_id]
        if len(ids) > self._config.text.max_positions:
            raise WordsUnavailable(
                f"its text and audio take {len(ids)} of the aligner's {self._config.text.max_positions} positions"
            )
        return AlignmentPrompt(units, shown_words(text, units), ids)


@dataclass(frozen=True, slots=True)
class AlignmentTask:
    """A prompt, and the chunk that it is for: samples (n,) float32 mono 16 kHz, its start and its length in seconds."""

    plan: AlignmentPrompt
    samples: np.ndarray
    start_seconds: float
    seconds: float


class Aligner:
    """A forced aligner in memory; belongs to one thread."""

    def __init__(self, checkpoint: Checkpoint, planner: AlignmentPromptBuilder, placement: Placement) -> None:
        """raises: CheckpointMismatch"""
        self._planner = planner
        self._step_milliseconds = checkpoint.config.milliseconds_per_class
        self.network: AlignerModel = build_aligner(checkpoint, placement)
        self.resident_bytes = sum(array.nbytes for array in resident_arrays(self.network))

    def align(self, tasks: Several[AlignmentTask]) -> list[tuple[Word, ...]]:
        """The words of each chunk with their times in the recording, all in one pass."""
        audio = self.network.encode(log_mel_batch([mx.array(task.samples) for task in tasks]))
        prompts = [task.plan.prompt_ids for task in tasks]
        logits = self.network.time_logits(prompts, audio, self._planner.time_id)
        classes = [mx.argmax(one, axis=-1) for one in logits]
        mx.eval(classes)
        return [self._words(task, np.array(found)) for task, found in zip(tasks, classes, strict=True)]

    def warm_up(self) -> None:
        """Compile every kernel before the first recording pays for it: a second of quiet noise and two words."""
        noise = np.random.default_rng(0).normal(0.0, 1e-3, SAMPLE_RATE_HZ).astype(np.float32)
        with contextlib.suppress(WordsUnavailable):
            plan = self._planner.plan("a b", self._planner.languages[0], noise.size)
            self.align([AlignmentTask(plan, noise, 0.0, 1.0)])

    def _words(self, task: AlignmentTask, classes: np.ndarray) -> tuple[Word, ...]:
        times = repaired([float(one) * self._step_milliseconds for one in classes])
        bounds = with_lengths(times, least=LEAST_WORD_MILLISECONDS, whole=int(task.seconds * 1000))
        return tuple(
            Word(
                shown.text,
                round(task.start_seconds + bounds[2 * shown.first] / 1000, 3),
                round(task.start_seconds + bounds[2 * shown.last + 1] / 1000, 3),
                shown.spacing,
            )
            for shown in task.plan.shown
        )


def expected_bytes(checkpoint: Checkpoint, placement: Placement) -> int:
    """Bytes that its weights will take in memory, before they are loaded."""
    if placement.dequantizes:
        return checkpoint.parameter_count * placement.dtype.size
    total = 0
    for tensor in checkpoint.tensors.values():
        if isinstance(tensor, QuantizedTensor):
            parts = [tensor.packed, tensor.scales, tensor.biases]
            total += sum(part.nbytes for part in parts if part is not None)
        else:
            total += tensor.size * placement.dtype.size
    return total
