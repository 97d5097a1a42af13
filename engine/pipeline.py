"""From recordings to transcripts, in reading order: read, cut, encode, prefill, decode, join.

One `Pipeline` holds the resident model and its one running batch, which the chunks of all recordings join and leave.
Each `advance` does one thing that the scheduler chose. It is not thread-safe: one thread owns it
(`scribewire.engine.transcriber` sees to that); only reading happens elsewhere
(`scribewire.engine.audio.recording`).
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import mlx.core as mx

from scribewire.engine.align.word_times import WordTimes
from scribewire.engine.audio.labels import is_silent
from scribewire.engine.audio.recording import ReadAhead, ReadResult
from scribewire.engine.audio.split import can_be_halved
from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import Action, Scheduler, Ticket
from scribewire.engine.batching.sequence import FinishReason, Sequence
from scribewire.engine.batching.step import Prefill, RunningBatch
from scribewire.engine.protocol.config import DEMO_MODEL, EngineConfig, ModelInfo
from scribewire.engine.protocol.errors import EngineError
from scribewire.engine.protocol.transcript import TokenLogprob
from scribewire.engine.recording.output import head_length, read_logprobs, read_sequence, read_so_far
from scribewire.engine.recording.work import ChunkPart, RecordingWork, timed
from scribewire.engine.resident.counters import WorkCounters
from scribewire.engine.resident.memory import apply_limits, choose_limits, read_machine
from scribewire.engine.resident.model import ResidentModel
from scribewire.engine.resident.profile import DeviceProfile, choose_profile
from scribewire.engine.resident.warmup import warm_up_shapes


class Pipeline:
    """A resident model and the way from audio to text."""

    def __init__(
        self,
        config: EngineConfig,
        counters: WorkCounters,
        wake: Callable[[], None],
        load: Callable[[EngineConfig, DeviceProfile], ResidentModel] = ResidentModel,
        profile: Callable[[EngineConfig], DeviceProfile] = choose_profile,
    ) -> None:
        """wake: called from other threads when there may be something to do. raises: ModelError, OptionInvalid"""
        self._config = config
        self._counters = counters
        self._profile = profile(config)
        machine = read_machine(self._profile.kind, self._profile.device)
        self._limits = choose_limits(config.memory_limit_bytes, machine, self._profile.memory)
        # Before the weights are loaded, or MLX's cache would have grown already.
        apply_limits(self._limits)
        self._model = load(config, self._profile)
        self._speculator = self._model.speculator()
        self._scheduler = Scheduler(self._batch_limits())
        self._batch = RunningBatch(self._model.network, self._model.special_tokens)
        self._works: dict[str, RecordingWork] = {}
        self._pieces: dict[int, ChunkPart] = {}
        self._ticket_of: dict[int, int] = {}
        self._ticket_ids = itertools.count()
        self._prefill: Prefill | None = None
        self._prefill_pieces: list[ChunkPart] = []
        self._wake = wake
        self._readers: ReadAhead[RecordingWork] = ReadAhead(lambda work: work.read(config), wake)
        self._has_plans = False
        """True when the words of some piece are known since the last look; set on another thread."""
        self._waits_for_audio: list[str] = []
        self._on_one_thread: AbstractContextManager[object] | None = None
        self._word_times = WordTimes(
            config,
            model=DEMO_MODEL if self.info.is_demo else config.model,
            placement=self._profile.placement,
            wake=self._note_plan,
            reserve=self._reserve_for_aligner,
        )
        if config.preload_aligner:
            self._word_times.preload()

    @property
    def info(self) -> ModelInfo:
        """The loaded model."""
        return self._model.info

    @property
    def has_work(self) -> bool:
        """True while any recording has no end yet."""
        return bool(self._works)

    @property
    def waits_for_audio(self) -> bool:
        """True while some recording's next samples are still being written by another process, without notice."""
        return bool(self._waits_for_audio)

    def warm_up_shapes(self) -> None:
        """Compute the usual shapes before the first request, if none has come yet."""
        if self._profile.warm_up is not None and not self.has_work:
            warm_up_shapes(self._model, self._profile.warm_up, self._scheduler.limits)

    def open(self, work: RecordingWork) -> None:
        """Start a recording; any error in it becomes its end."""
        try:
            if work.options.words:
                self._word_times.check(work.options)
            work.decoding = self._model.decoding(work.options)
        except EngineError as error:
            work.fail(error)
            return
        work.seed = secrets.randbits(32) if work.options.seed is None else work.options.seed
        self._works[work.work_id] = work
        self._scheduler.open(work.work_id, owner=work.owner, is_interactive=work.is_interactive)

    def advance(self) -> bool:
        """Do the next thing; False when there is nothing to do until something is read or submitted."""
        self._cancel_where_asked()
        self._take_read()
        self._take_plans()
        self._start_reads()
        move = self._scheduler.next_action()
        if move is not Action.IDLE:
            if self._on_one_thread is None:
                self._on_one_thread = self._profile.on_one_thread()
                self._on_one_thread.__enter__()
            self._make(move)
        self._counters.batch_rows = self._scheduler.row_count
        self._counters.reserved_tokens = self._scheduler.reserved_tokens
        self._counters.open_recordings = len(self._works)
        return move is not Action.IDLE

    def rest(self) -> None:
        """Release what is needed only while computing, before a pause."""
        if self._on_one_thread is not None:
            self._on_one_thread.__exit__(None, None, None)
            self._on_one_thread = None

    def look_for_audio(self) -> None:
        """Try again to read those recordings that had nothing yet."""
        waiting, self._waits_for_audio = self._waits_for_audio, []
        for work_id in waiting:
            self._scheduler.has_read(work_id, is_last=False)

    def close(self) -> None:
        """End all work as cancelled and give the model's memory back."""
        for work in list(self._works.values()):
            work.fail_as_cancelled()
            self._drop(work)
        self.rest()
        self._readers.close()
        self._word_times.close()
        del self._model, self._batch, self._speculator
        mx.clear_cache()

    def fail_all(self, error: BaseException) -> None:
        """End all work with this error."""
        for work in self._works.values():
            work.fail(error)
        self._works.clear()

    # ---- moves -----------------------------------------------------------------------------------------------

    def _make(self, move: Action) -> None:
        if move is Action.ADMIT:
            self._admit()
        elif move is Action.FEED:
            self._feed()
        elif move is Action.ALIGN:
            self._align()
        else:
            self._step()

    def _admit(self) -> None:
        """Encode the chosen chunks together and begin to feed their prompts."""
        pieces = [self._pieces[ticket.ticket_id] for ticket in self._scheduler.admit()]
        works = [piece.work for piece in pieces]
        for work in works:
            work.begin()
        with timed("encode", works):
            mels, embeddings = self._model.encode([piece.chunk.samples for piece in pieces])
        with timed("prefill", works):
            for piece, mel, embedding in zip(pieces, mels, embeddings, strict=True):
                assert piece.sequence is not None
                piece.sequence.audio = embedding
                piece.sequence.mel = None if self._speculator is None else mel
            sequences = [piece.sequence for piece in pieces if piece.sequence is not None]
            self._prefill_pieces = pieces
            self._prefill = Prefill(
                self._model.network, sequences, slice_tokens=self._scheduler.limits.prefill_tokens
            )
            self._feed_slice()

    def _feed(self) -> None:
        with timed("prefill", [piece.work for piece in self._prefill_pieces]):
            self._feed_slice()

    def _feed_slice(self) -> None:
        assert self._prefill is not None
        self._prefill.feed()
        if not self._prefill.is_fed:
            self._scheduler.fed()
            return
        self._batch.adopt(self._prefill)
        self._scheduler.joined()
        gone = [one for one in self._prefill_pieces if one.work.is_over]
        self._batch.remove([one.sequence for one in gone if one.sequence is not None])
        self._prefill, self._prefill_pieces = None, []

    def _step(self) -> None:
        sequences = self._batch.sequences
        # The end of a prefill is only seen when the first token is read.
        beginning = [self._piece_of(one).work for one in sequences if not one.tokens]
        works = [self._piece_of(one).work for one in sequences if one.tokens]
        with timed("prefill", beginning), timed("generate", works):
            self._counters.row_slots_done += self._batch.slot_count
            self._counters.steps_done += 1
            ended = self._batch.step(self._speculator if self._is_left_alone() else None)
            self._counters.tokens_done += self._batch.tokens_of_last_step
        self._scheduler.stepped()
        for work in dict.fromkeys(beginning + works):
            self._let_speak(work)
        for sequence in ended:
            self._collect(self._piece_of(sequence))

    def _is_left_alone(self) -> bool:
        """True when no other sequence is about to join the batch's one row."""
        if self._batch.row_count != 1 or self._prefill is not None or self._scheduler.waiting_count:
            return False
        return all(work.is_read or work.work_id in self._waits_for_audio for work in self._works.values())

    # ---- reading ---------------------------------------------------------------------------------------------

    def _start_reads(self) -> None:
        for work_id in self._scheduler.to_read():
            if work_id not in self._waits_for_audio:
                self._scheduler.reading(work_id)
                self._readers.start(self._works[work_id])

    def _take_read(self) -> None:
        for result in self._readers.take():
            self._take_result(result)

    def _take_result(self, result: ReadResult[RecordingWork]) -> None:
        work = result.work
        if work.is_over:
            # Cancelled or failed while it was being read; nothing else closes it.
            work.close()
            return
        if result.error is not None:
            self._end(work, result.error)
        elif result.is_last:
            work.is_read = True
            self._scheduler.has_read(work.work_id, is_last=True)
            self._finish_if_done(work)
        elif result.chunk is None:
            self._waits_for_audio.append(work.work_id)
        else:
            self._scheduler.has_read(work.work_id, is_last=False)
            self._offer(work.add(result.chunk))

    def _offer(self, piece: ChunkPart) -> None:
        """Queue a chunk for decoding; digital silence needs none."""
        work, chunk = piece.work, piece.chunk
        assert work.decoding is not None
        if is_silent(chunk.samples):
            piece.is_over = True
            self._settle(work)
            return
        decoding = work.decoding
        if not chunk.has_voice:  # where nobody speaks, a model repeats what the prompt says
            decoding = replace(decoding, context=None, context_tokens=0)
        piece.prompt_ids = self._model.prompt_ids(decoding, chunk.samples.size)
        try:
            piece.sequence = self._model.sequence(
                decoding,
                piece.prompt_ids,
                samples=chunk.samples.size,
                start_sample=chunk.start_sample,
                seed=work.seed + piece.index,
            )
        except EngineError as error:
            self._end(work, error)
            return
        ticket_id = next(self._ticket_ids)
        self._pieces[ticket_id] = piece
        self._ticket_of[id(piece.sequence)] = ticket_id
        tokens = len(piece.prompt_ids)
        self._scheduler.offer(
            Ticket(ticket_id, work.work_id, piece.index, tokens, tokens + piece.sequence.token_budget)
        )

    # ---- what was said ---------------------------------------------------------------------------------------

    def _piece_of(self, sequence: Sequence) -> ChunkPart:
        return self._pieces[self._ticket_of[id(sequence)]]

    def _let_speak(self, work: RecordingWork) -> None:
        """Send the certain text of the recording's current chunk."""
        piece = work.speaking()
        if piece is None or piece.sequence is None or not piece.sequence.tokens or work.live is None:
            return
        assert work.decoding is not None
        tokenizer = self._model.tokenizer
        spoken = read_so_far(piece.sequence, tokenizer, forced_language=work.decoding.language)
        if spoken is None:
            return
        logprobs: tuple[TokenLogprob, ...] = ()
        if work.options.token_logprobs:
            head = head_length(piece.sequence.tokens, tokenizer, work.decoding.language)
            start = head + work.live.logprobs_taken
            logprobs = read_logprobs(piece.sequence, tokenizer, start, spoken.token_count)
        work.live.grow(spoken.text, spoken.language, logprobs, piece.chunk.start_seconds)

    def _collect(self, piece: ChunkPart) -> None:
        """Finish the chunk of a sequence that has left the batch, or retry it in two parts."""
        work, sequence = piece.work, piece.sequence
        assert sequence is not None
        assert work.decoding is not None
        self._scheduler.release(self._forget(piece))
        self._counters.chunks_done += 1
        work.count(piece)
        if sequence.finish_reason is FinishReason.LOOP and not piece.is_retry and can_be_halved(piece.chunk):
            for part in work.cut_in_parts(piece):
                if not work.is_over:
                    self._offer(part)
            return
        piece.segment = read_sequence(
            sequence,
            self._model.tokenizer,
            forced_language=work.decoding.language,
            index=piece.index,
            start_seconds=piece.chunk.start_seconds,
            end_seconds=piece.chunk.end_seconds,
            with_token_logprobs=work.options.token_logprobs,
        )
        piece.is_decoded = True
        if work.options.words and self._word_times.wants(piece):
            self._word_times.plan(piece)
        else:
            self._close_piece(piece)

    def _close_piece(self, piece: ChunkPart) -> None:
        piece.is_over = True
        self._settle(piece.work)

    # ---- when its words were said ----------------------------------------------------------------------------

    def _note_plan(self) -> None:
        self._has_plans = True
        self._wake()

    def _take_plans(self) -> None:
        if not self._has_plans:
            return
        self._has_plans = False
        for piece in self._word_times.take_planned(self._scheduler):
            self._close_piece(piece)

    def _align(self) -> None:
        pieces = self._word_times.take_group(self._scheduler)
        loading = nullcontext() if self._word_times.is_loaded else self._counters.loading()
        with timed("align", [piece.work for piece in pieces]), loading:
            self._counters.words_done += self._word_times.align(pieces)
        for piece in pieces:
            self._close_piece(piece)

    def _reserve_for_aligner(self, size_bytes: int) -> None:
        self._scheduler.limits = self._batch_limits(size_bytes)

    # ---- ends ------------------------------------------------------------------------------------------------

    def _settle(self, work: RecordingWork) -> None:
        if not work.is_over:
            work.settle()
            self._finish_if_done(work)

    def _finish_if_done(self, work: RecordingWork) -> None:
        if work.finish_if_done(self.info.model_id):
            self._drop(work)

    def _end(self, work: RecordingWork, error: BaseException) -> None:
        work.fail(error)
        self._drop(work)

    def _cancel_where_asked(self) -> None:
        for work in [work for work in self._works.values() if work.wants_cancel()]:
            work.fail_as_cancelled()
            self._drop(work)

    def _drop(self, work: RecordingWork) -> None:
        """Remove a recording that has ended from everything."""
        if self._works.pop(work.work_id, None) is None:
            return
        is_being_read = (
            self._scheduler.is_being_read(work.work_id) and work.work_id not in self._waits_for_audio
        )
        self._scheduler.close(work.work_id)
        if work.options.words:
            self._word_times.forget(work)
        if work.work_id in self._waits_for_audio:
            self._waits_for_audio.remove(work.work_id)
        sequences = work.open_sequences()
        # A row that is still being filled leaves with the end of its prefill.
        self._batch.remove(sequences)
        for sequence in sequences:
            self._scheduler.release(self._forget(self._piece_of(sequence)))
        if not is_being_read:
            work.close()

    def _forget(self, piece: ChunkPart) -> int:
        ticket_id = self._ticket_of.pop(id(piece.sequence))
        del self._pieces[ticket_id]
        return ticket_id

    def _batch_limits(self, aligner_bytes: int = 0) -> BatchLimits:
        return self._profile.batch_limits(
            self._limits,
            max_rows=self._config.max_batch_rows,
            held_bytes=self._model.held_bytes + aligner_bytes,
            bytes_per_token=self._model.token_bytes,
        )
