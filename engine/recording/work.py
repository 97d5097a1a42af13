"""One recording on its way: its options, the chunks in flight, the segments so far, and its one end.

Chunks are decoded side by side and end in any order; segments, deltas and the transcript keep the recording's order.
It holds state and no engine: `scribewire.engine.pipeline` moves it along.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace

from scribewire.engine.align.aligner import AlignmentPrompt
from scribewire.engine.audio.pauses import Chunk
from scribewire.engine.audio.recording import OpenRecording, Recording
from scribewire.engine.audio.split import halved
from scribewire.engine.batching.sequence import Sequence
from scribewire.engine.protocol.config import EngineConfig, TranscribeOptions
from scribewire.engine.protocol.errors import RequestCancelled
from scribewire.engine.protocol.languages import join_texts
from scribewire.engine.protocol.transcript import (
    NO_WORD_TIMES,
    Segment,
    Timings,
    TokenUsage,
    Transcript,
    Word,
)
from scribewire.engine.recording.output import (
    ChunkCallback,
    DeltaCallback,
    StreamingText,
    compression_ratio,
    main_language,
)
from scribewire.engine.resident.model import DecodingOptions

ProgressCallback = Callable[[float, float], None]
"""Called with (seconds of audio done, seconds in all) from the engine's thread; the total may still grow."""

SegmentCallback = Callable[[Segment], None]
"""Called with each finished segment, in order, from the engine's thread."""

NO_SPEECH_WARNING = "no speech was found in the recording"

_ids = itertools.count()


@dataclass(frozen=True, slots=True)
class TranscribeItem(TranscribeOptions):
    """One recording with options of its own, checked; raises OptionInvalid."""

    audio: Recording

    @classmethod
    def of(cls, audio: Recording, options: TranscribeOptions) -> TranscribeItem:
        """This recording with these options."""
        return cls(audio, **{one.name: getattr(options, one.name) for one in fields(TranscribeOptions)})


@dataclass(frozen=True, slots=True)
class Listener:
    """Callbacks for a recording's progress, on the engine's thread; None for no call. None of them may block.

    on_chunk: comes before the first `on_delta` of each chunk that has text.
    """

    on_started: Callable[[], None] | None = None
    on_progress: ProgressCallback | None = None
    on_segment: SegmentCallback | None = None
    on_delta: DeltaCallback | None = None
    on_chunk: ChunkCallback | None = None


class SharedProgress:
    """Progress of several recordings as one."""

    def __init__(self, count: int, on_progress: ProgressCallback | None) -> None:
        self._done = [0.0] * count
        self._expected = [0.0] * count
        self._on_progress = on_progress

    def of(self, place: int) -> ProgressCallback | None:
        """The callback for one recording."""
        on_progress = self._on_progress
        if on_progress is None:
            return None

        def report(done: float, expected: float) -> None:
            self._done[place], self._expected[place] = done, expected
            on_progress(sum(self._done), sum(self._expected))

        return report


@dataclass(slots=True, eq=False)
class ChunkPart:
    """A chunk, or a part of one that is decoded again, with the sequence that decodes it.

    is_retry: part of a chunk that fell into a loop; it is not cut a second time.
    segment: its text and times, once it is decoded; None before. Only then may it be aligned.
    alignment: its question to the aligner, where words are wanted and once that is known.
    """

    work: RecordingWork
    chunk: Chunk
    index: int
    is_retry: bool = False
    prompt_ids: list[int] = field(default_factory=list)
    sequence: Sequence | None = None
    segment: Segment | None = None
    is_decoded: bool = False
    alignment: AlignmentPrompt | None = None
    is_over: bool = False


@dataclass(slots=True, eq=False)
class ChunkParts:
    """One chunk of a recording: one piece, or the parts that it was cut into."""

    chunk: Chunk
    pieces: list[ChunkPart]
    retry_notice: str | None = None

    @property
    def is_over(self) -> bool:
        """True when all pieces are over."""
        return all(piece.is_over for piece in self.pieces)


class RecordingWork:
    """One recording; `future` is its one end. Any thread may call `cancel`; all else belongs to the engine's."""

    def __init__(
        self,
        item: TranscribeItem,
        *,
        listener: Listener | None = None,
        owner: str = "",
        is_interactive: bool = True,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """raises: OptionInvalid"""
        self.work_id = str(next(_ids))
        self.audio = item.audio
        self.options: TranscribeOptions = item
        self.owner = owner
        self.is_interactive = is_interactive
        self.listener = listener or Listener()
        self.future: Future[Transcript] = Future()
        self.future.set_running_or_notify_cancel()
        self.seed = 0
        self.decoding: DecodingOptions | None = None
        self.recording: OpenRecording | None = None
        self.chunks: Iterator[Chunk | None] | None = None
        self.is_read = False
        self.decode_audio_seconds = 0.0
        self.clock = PhaseClock()
        self._is_cancelled = is_cancelled
        self._was_cancelled = threading.Event()
        # Held while it gets its one end. The future's callbacks run meanwhile and must not end it again.
        self._end_lock = threading.Lock()
        self._has_started = False
        self._chunk_parts: deque[ChunkParts] = deque()
        self._segments: list[Segment] = []
        self._notices: list[str] = []
        self._wordless: Counter[str] = Counter()
        self._usage = TokenUsage()
        self._seconds_done = 0.0
        self._chunk_count = 0
        self.live = (
            None
            if self.listener.on_delta is None
            else StreamingText(self.listener.on_delta, self.listener.on_chunk)
        )

    # ---- from any thread -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop at the next decode step, or at once while it waits; `future` then ends in RequestCancelled."""
        self._was_cancelled.set()
        if not self._has_started:
            # Nothing of it is in the batch; the engine forgets it at its next step.
            self.fail_as_cancelled()

    # ---- on a reader's thread --------------------------------------------------------------------------------

    def read(self, config: EngineConfig) -> Chunk | None:
        """The next chunk, None when it is not there yet; opens the recording if need be.

        raises: StopIteration at the end, AudioError
        """
        started = time.perf_counter()
        try:
            if self.recording is None:
                self.recording = OpenRecording(
                    self.audio,
                    limits=config.audio,
                    max_chunk_seconds=config.max_chunk_seconds,
                    min_chunk_seconds=config.min_chunk_seconds,
                    chunking=self.options.chunking,
                    has_prompt=bool(self.options.prompt or self.options.keywords),
                )
                self.chunks = self.recording.chunks()
            assert self.chunks is not None
            return next(self.chunks)
        finally:
            self.decode_audio_seconds += time.perf_counter() - started

    # ---- on the engine's thread ------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """True when it has its end."""
        return self.future.done()

    def wants_cancel(self) -> bool:
        """True when its owner has cancelled it."""
        return self._was_cancelled.is_set() or (self._is_cancelled is not None and self._is_cancelled())

    def begin(self) -> None:
        """Mark it as no longer queued behind others."""
        if not self._has_started and not self.is_over:
            self._has_started = True
            if self.listener.on_started is not None:
                self.listener.on_started()
            self.report_progress()

    def add(self, chunk: Chunk) -> ChunkPart:
        """Add the next chunk, just read."""
        piece = ChunkPart(self, chunk, self._chunk_count)
        self._chunk_count += 1
        self._chunk_parts.append(ChunkParts(chunk, [piece]))
        return piece

    def parts_of(self, piece: ChunkPart) -> ChunkParts:
        """The parts of the chunk that this piece belongs to."""
        return next(parts for parts in self._chunk_parts if piece in parts.pieces)

    def cut_in_parts(self, piece: ChunkPart) -> list[ChunkPart]:
        """Cut a looping chunk where it is quietest: a decoder rarely loops on both halves."""
        chunk, parts = piece.chunk, self.parts_of(piece)
        parts.retry_notice = (
            f"decoding the text from {chunk.start_seconds:.1f} s to {chunk.end_seconds:.1f} s fell into a loop; "
            "the stretch was cut in two and decoded again"
        )
        parts.pieces = [ChunkPart(self, part, piece.index, is_retry=True) for part in halved(chunk)]
        return parts.pieces

    def open_sequences(self) -> list[Sequence]:
        """Pieces that are waiting or being decoded."""
        return [
            piece.sequence
            for parts in self._chunk_parts
            for piece in parts.pieces
            if piece.sequence is not None and not piece.is_decoded
        ]

    def lack_words(self, reason: str) -> None:
        """Leave a segment without words; the transcript's warnings say so once for all segments of this reason."""
        self._wordless[reason] += 1

    def count(self, piece: ChunkPart) -> None:
        """Add a piece's tokens to the usage."""
        sequence = piece.sequence
        assert sequence is not None
        audio_tokens = 0 if sequence.audio is None else sequence.audio.shape[0]
        self._usage = TokenUsage(
            audio_tokens=self._usage.audio_tokens + audio_tokens,
            text_tokens=self._usage.text_tokens + len(sequence.prompt_ids) - audio_tokens,
            output_tokens=self._usage.output_tokens + len(sequence.tokens),
        )

    def speaking(self) -> ChunkPart | None:
        """The piece whose text may be sent while it is decoded: that of the earliest chunk that is not over."""
        if self.live is None or not self._chunk_parts:
            return None
        parts = self._chunk_parts[0]
        return None if parts.retry_notice else parts.pieces[0]

    def settle(self) -> None:
        """Send, in order, what is done: segments, text and progress."""
        has_moved = False
        while self._chunk_parts and self._chunk_parts[0].is_over:
            parts = self._chunk_parts.popleft()
            for segment in self._segments_of(parts):
                self._take(segment)
            # Silence that was left out before it is done as well.
            self._seconds_done = parts.chunk.end_seconds
            has_moved = True
        if has_moved:
            self.report_progress()

    def report_progress(self) -> None:
        """Report its progress."""
        if self.listener.on_progress is not None and self.recording is not None:
            expected = self.recording.seconds_expected
            self.listener.on_progress(min(expected, self._seconds_done), expected)

    def finish_if_done(self, model_id: str) -> bool:
        """Give it its end when all of it is read and decoded; returns whether it has one."""
        if not self.is_over and self.is_read and not self._chunk_parts:
            self.begin()
            transcript = self._transcript(model_id)
            self.close()
            with self._end_lock:
                if not self.is_over:
                    self.future.set_result(transcript)
        return self.is_over

    def fail(self, error: BaseException) -> None:
        """Give it its end, when it has none. Any thread may call this."""
        with self._end_lock:
            if not self.is_over:
                self.future.set_exception(error)

    def fail_as_cancelled(self) -> None:
        """End it as cancelled."""
        self.fail(RequestCancelled("the transcription was cancelled"))

    def close(self) -> None:
        """Release the recording's file; not while it is being read."""
        if self.chunks is not None:
            self.chunks.close()  # type: ignore[attr-defined]  # a generator, which closes what it holds open
        if self.recording is not None:
            self.recording.close()

    def _segments_of(self, parts: ChunkParts) -> list[Segment]:
        segments = [piece.segment for piece in parts.pieces if piece.segment is not None]
        if parts.retry_notice is None:
            return segments
        # Notices of the parts say more than that there were parts.
        segments = [replace(one, notice=one.notice or parts.retry_notice) for one in segments]
        if self.live is None or not self.live.sent:
            return segments
        # What was sent of the first attempt is kept, and it may reach across both parts.
        whole = join_texts([(one.text, one.language) for one in segments])
        first = segments[0]
        return [
            replace(
                first,
                text=whole,
                end_seconds=parts.chunk.end_seconds,
                words=_joined_words(segments),
                tokens=tuple(itertools.chain.from_iterable(one.tokens for one in segments)),
                token_logprobs=tuple(itertools.chain.from_iterable(one.token_logprobs for one in segments)),
            )
        ]

    def _take(self, segment: Segment) -> None:
        if segment.notice:
            self._notices.append(segment.notice)
        if self.live is not None:
            text = self.live.finish(
                segment.text, segment.language, segment.token_logprobs, segment.start_seconds
            )
            if text != segment.text:
                if segment.words:
                    self.lack_words("the text was decoded twice, and what was sent of the first time is kept")
                segment = replace(segment, text=text, words=(), compression_ratio=compression_ratio(text))
        if segment.text:
            segment = replace(segment, index=len(self._segments))
            self._segments.append(segment)
            if self.listener.on_segment is not None:
                self.listener.on_segment(segment)

    def _transcript(self, model_id: str) -> Transcript:
        assert self.recording is not None
        segments = tuple(self._segments)
        silent = () if segments else (NO_SPEECH_WARNING,)
        return Transcript(
            text=join_texts([(segment.text, segment.language) for segment in segments]),
            language=main_language(segments),
            languages=tuple(dict.fromkeys(segment.language for segment in segments if segment.language)),
            duration_seconds=self.recording.seconds_read,
            segments=segments,
            model_id=model_id,
            usage=self._usage,
            warnings=(*self.recording.warnings, *self._notices, *self._word_notices(), *silent),
            timings=self.clock.timings(self.decode_audio_seconds),
        )

    def _word_notices(self) -> list[str]:
        count = len(self._segments)
        return [
            f"{NO_WORD_TIMES}{'' if lacking >= count else f' for {lacking} of {count} segments'}: {reason}. "
            "The times of segments are given"
            for reason, lacking in self._wordless.items()
        ]


def _joined_words(segments: list[Segment]) -> tuple[Word, ...]:
    """The words of a text joined from these segments; none where one of them has none."""
    spoken = [segment for segment in segments if segment.text]
    if not all(segment.words for segment in spoken):
        return ()
    words: list[Word] = []
    joined = ""
    for segment in spoken:
        first = segment.words[0]
        begun = join_texts([(joined, segment.language), (first.text, segment.language)])
        spacing = " " if words and begun.endswith(" " + first.text) else ""
        words += [replace(first, spacing=spacing), *segment.words[1:]]
        joined = segment.text
    return tuple(words)


class PhaseClock:
    """Seconds that one recording spent in each phase; phases of different chunks may overlap in time."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._spent: dict[str, float] = {}

    def add(self, phase: str, seconds: float) -> None:
        """Count time."""
        self._spent[phase] = self._spent.get(phase, 0.0) + seconds

    def timings(self, decode_audio_seconds: float) -> Timings:
        """Timings counted so far."""
        return Timings(
            decode_audio_seconds=decode_audio_seconds,
            encode_seconds=self._spent.get("encode", 0.0),
            prefill_seconds=self._spent.get("prefill", 0.0),
            generate_seconds=self._spent.get("generate", 0.0),
            align_seconds=self._spent.get("align", 0.0),
            total_seconds=time.perf_counter() - self._started,
        )


@contextlib.contextmanager
def timed(phase: str, works: list[RecordingWork]) -> Iterator[None]:
    """Count the block's time for every recording in it."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - started
        for work in dict.fromkeys(works):
            work.clock.add(phase, seconds)
