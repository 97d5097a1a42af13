"""From recordings to transcripts, in reading order: read, cut, encode, decode, join.

A `Pipeline` holds the resident model and everything that touches MLX. It is not thread-safe: one thread
owns it (`engine.transcriber` sees to that).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import mlx.core as mx

from engine.audio.mel import log_mel_batch
from engine.audio.recording import OpenRecording, Recording
from engine.audio.split import Chunk, is_silent
from engine.batching.sequence import Sequence
from engine.batching.step import generate
from engine.checkpoint.fetch import resolve_model
from engine.checkpoint.load import build_model, read_checkpoint, resident_arrays
from engine.device import HostProducts, choose_device, choose_dtype, device_name, dtype_name
from engine.protocol.config import SAMPLE_RATE_HZ, EngineConfig, ModelInfo, TranscribeOptions
from engine.protocol.errors import CheckpointMismatch, LanguageUnsupported, PromptTooLong, RequestCancelled
from engine.protocol.transcript import Segment, Timings, TokenUsage, Transcript
from engine.reading import main_language, read_sequence, recognition_marks
from engine.text.joining import join_texts
from engine.text.languages import LANGUAGES, iso_code, resolve_language
from engine.text.prompt import build_prompt
from engine.text.tokenizer import Tokenizer

ProgressCallback = Callable[[float, float], None]
"""Called with (seconds of audio done, seconds in all) from the engine's thread; the total may still grow."""

SegmentCallback = Callable[[Segment], None]
"""Called with each finished segment, in order, from the engine's thread."""

_TOKENS_PER_SECOND = 15
_TOKENS_BESIDES = 32


@dataclass(frozen=True, slots=True)
class TranscribeItem:
    """One recording with options of its own; the fields are those of TranscribeOptions."""

    audio: Recording
    language: str | None = None
    prompt: str | None = None
    temperature: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    logprobs: bool = False

    def options(self) -> TranscribeOptions:
        """The same without the audio, checked; raises OptionInvalid."""
        return TranscribeOptions(
            language=self.language,
            prompt=self.prompt,
            temperature=self.temperature,
            seed=self.seed,
            max_tokens=self.max_tokens,
            logprobs=self.logprobs,
        )


@dataclass(slots=True)
class WorkCounters:
    """Grow with every chunk and token, so that a watcher can tell slow from stuck."""

    chunks_done: int = 0
    tokens_done: int = 0


@dataclass(slots=True)
class _Work:
    """One recording on its way."""

    recording: OpenRecording
    options: TranscribeOptions
    language: str | None
    seed: int
    segments: list[Segment] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    usage: TokenUsage = field(default_factory=TokenUsage)
    seconds_done: float = 0.0


@dataclass(frozen=True, slots=True)
class _Piece:
    """One chunk of one recording."""

    work: _Work
    index: int
    chunk: Chunk


class Pipeline:
    """A resident model, its tokenizer, and the way from audio to text."""

    def __init__(self, config: EngineConfig, counters: WorkCounters) -> None:
        started = time.perf_counter()
        self._config = config
        self._counters = counters
        device = choose_device(config.device)
        mx.set_default_device(device)
        dtype = choose_dtype(config.dtype, device)
        resolved = resolve_model(config.model, offline=config.offline, download=not config.offline)
        checkpoint = read_checkpoint(resolved.folder)
        self._tokenizer = Tokenizer.from_folder(resolved.folder)
        if self._tokenizer.largest_id >= checkpoint.config.text.vocab_size:
            raise CheckpointMismatch(
                f"the tokenizer knows id {self._tokenizer.largest_id}, the weights only "
                f"{checkpoint.config.text.vocab_size} rows: they are not of one model"
            )
        self._model = build_model(checkpoint, dtype=dtype, device=device)
        self._marks = recognition_marks(self._tokenizer)
        self._host_products = HostProducts(device)
        known = tuple(language.name for language in LANGUAGES)
        # A name that the table lacks could be neither asked for nor answered with a code.
        self._languages = tuple(name for name in checkpoint.config.languages if name in known) or known
        self.info = ModelInfo(
            model_id=resolved.model_id,
            is_demo=resolved.is_demo,
            languages=self._languages,
            language_codes=tuple(iso_code(name) for name in self._languages),
            device=device_name(device),
            dtype=dtype_name(dtype),
            weight_bits=checkpoint.decoder_bits,
            parameter_count=checkpoint.parameter_count,
            resident_bytes=sum(array.nbytes for array in resident_arrays(self._model)),
            load_seconds=time.perf_counter() - started,
        )

    def transcribe(
        self,
        items: list[TranscribeItem],
        on_progress: ProgressCallback | None,
        on_segment: SegmentCallback | None,
        is_cancelled: Callable[[], bool],
    ) -> list[Transcript]:
        """Transcribe all recordings of one call, their chunks batched together; results in order.

        raises: AudioError, LanguageUnknown, LanguageUnsupported, OptionInvalid, PromptTooLong,
        RequestCancelled.
        """
        clock = _Clock()
        works: list[_Work] = []
        try:
            for item in items:
                works.append(self._begin(item))
            report = _progress_reporter(works, on_progress)
            report()
            for batch in self._batches(works, clock, is_cancelled):
                spoken = [piece for piece in batch if not is_silent(piece.chunk.samples)]
                if spoken:
                    with self._host_products.on_one_thread():
                        self._decode(spoken, clock, is_cancelled, on_segment)
                for piece in batch:
                    piece.work.seconds_done += piece.chunk.sample_count / SAMPLE_RATE_HZ
                report()
            return [self._finish(work, clock) for work in works]
        finally:
            for work in works:
                work.recording.close()

    def close(self) -> None:
        """Give the model's memory back."""
        del self._model
        mx.clear_cache()

    def _begin(self, item: TranscribeItem) -> _Work:
        options = item.options()
        language = self._forced_language(options.language)
        recording = OpenRecording(
            item.audio, limits=self._config.audio, max_chunk_seconds=self._config.max_chunk_seconds
        )
        seed = secrets.randbits(32) if options.seed is None else options.seed
        return _Work(recording, options, language, seed)

    def _forced_language(self, wanted: str | None) -> str | None:
        language = None if wanted is None else resolve_language(wanted)
        if language is None:
            return None
        if language.name not in self._languages:
            raise LanguageUnsupported(
                f"the loaded model does not speak {language.name}; it speaks {', '.join(self._languages)}",
                parameter="language",
            )
        return language.name

    def _batches(
        self, works: list[_Work], clock: _Clock, is_cancelled: Callable[[], bool]
    ) -> Iterator[list[_Piece]]:
        """Chunks of all recordings, read as they are needed, a batch's worth at a time."""
        batch: list[_Piece] = []
        for work in works:
            for index, chunk in enumerate(clock.timed("decode_audio", work.recording.chunks())):
                if is_cancelled():
                    raise RequestCancelled("the transcription was cancelled")
                batch.append(_Piece(work, index, chunk))
                if len(batch) == (self._config.max_batch_rows or 8):
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _decode(
        self,
        pieces: list[_Piece],
        clock: _Clock,
        is_cancelled: Callable[[], bool],
        on_segment: SegmentCallback | None,
    ) -> None:
        with clock.phase("encode"):
            mels = log_mel_batch([mx.array(piece.chunk.samples) for piece in pieces])
            embeddings = self._model.encode(mels)
            mx.eval(embeddings)
        sequences = [self._sequence(*pair) for pair in zip(pieces, embeddings, strict=True)]
        steps = generate(self._model, sequences, self._marks)
        for phase, some_steps in (("prefill", islice(steps, 1)), ("generate", steps)):
            with clock.phase(phase):
                for _ in some_steps:
                    self._counters.tokens_done += 1
                    if is_cancelled():
                        raise RequestCancelled("the transcription was cancelled")
        for piece, sequence in zip(pieces, sequences, strict=True):
            self._counters.chunks_done += 1
            self._collect(piece, sequence, on_segment)

    def _sequence(self, piece: _Piece, audio: mx.array) -> Sequence:
        work, options = piece.work, piece.work.options
        prompt = build_prompt(
            self._tokenizer, audio_tokens=audio.shape[0], context=options.prompt, language=work.language
        )
        seconds = piece.chunk.samples.size / SAMPLE_RATE_HZ
        budget = options.max_tokens or _TOKENS_BESIDES + int(_TOKENS_PER_SECOND * seconds)
        positions = self._model.config.text.max_positions
        room = positions - len(prompt)
        if room < min(budget, _TOKENS_BESIDES):
            raise PromptTooLong(
                f"the prompt is too long: with the audio it takes {len(prompt)} of the model's {positions} "
                "positions; shorten the prompt",
                parameter="prompt",
            )
        return Sequence(
            prompt_ids=prompt,
            audio=audio,
            token_budget=min(budget, room),
            temperature=options.temperature,
            seed=work.seed + piece.index,
            wants_logprobs=options.logprobs,
        )

    def _collect(self, piece: _Piece, sequence: Sequence, on_segment: SegmentCallback | None) -> None:
        work = piece.work
        segment = read_sequence(
            sequence,
            self._tokenizer,
            forced_language=work.language,
            index=len(work.segments),
            start_seconds=piece.chunk.start_seconds,
            end_seconds=piece.chunk.end_seconds,
        )
        audio_tokens = 0 if sequence.audio is None else sequence.audio.shape[0]
        work.usage = TokenUsage(
            audio_tokens=work.usage.audio_tokens + audio_tokens,
            text_tokens=work.usage.text_tokens + len(sequence.prompt_ids) - audio_tokens,
            output_tokens=work.usage.output_tokens + len(sequence.tokens),
        )
        if segment.notice:
            work.notices.append(segment.notice)
        if segment.text:
            work.segments.append(segment)
            if on_segment is not None:
                on_segment(segment)

    def _finish(self, work: _Work, clock: _Clock) -> Transcript:
        segments = tuple(work.segments)
        return Transcript(
            text=join_texts([(segment.text, segment.language) for segment in segments]),
            language=main_language(segments),
            languages=tuple(dict.fromkeys(segment.language for segment in segments if segment.language)),
            duration_seconds=work.recording.seconds_read,
            segments=segments,
            model_id=self.info.model_id,
            usage=work.usage,
            warnings=(*work.recording.warnings, *work.notices),
            timings=clock.timings(),
        )


def _progress_reporter(works: list[_Work], on_progress: ProgressCallback | None) -> Callable[[], None]:
    def report() -> None:
        if on_progress is not None:
            expected = sum(work.recording.seconds_expected for work in works)
            on_progress(min(expected, sum(work.seconds_done for work in works)), expected)

    return report


class _Clock:
    """Seconds spent per phase of one call."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._spent: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - started

    def timed(self, name: str, items: Iterator[Chunk]) -> Iterator[Chunk]:
        """Count the time spent waiting for each item."""
        while True:
            with self.phase(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def timings(self) -> Timings:
        """What was counted so far."""
        return Timings(
            decode_audio_seconds=self._spent.get("decode_audio", 0.0),
            encode_seconds=self._spent.get("encode", 0.0),
            prefill_seconds=self._spent.get("prefill", 0.0),
            generate_seconds=self._spent.get("generate", 0.0),
            total_seconds=time.perf_counter() - self._started,
        )
