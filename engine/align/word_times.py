"""Word times for decoded chunks: plans made beside the engine's thread, the aligner loaded when first needed.

A failure after a chunk was decoded costs its words and nothing else: the segment keeps its times, and the
transcript says why. The scheduler decides the order of alignments (`scribewire.engine.batching.scheduler`).
"""

from __future__ import annotations

import itertools
import logging
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from scribewire.engine.align.aligner import (
    Aligner,
    AlignmentPrompt,
    AlignmentPromptBuilder,
    AlignmentTask,
    expected_bytes,
)
from scribewire.engine.batching.scheduler import Scheduler, Ticket
from scribewire.engine.checkpoint.aligners import find_aligner
from scribewire.engine.checkpoint.load import read_checkpoint
from scribewire.engine.model.projection import Placement
from scribewire.engine.protocol.config import NO_ALIGNER, EngineConfig, TranscribeOptions
from scribewire.engine.protocol.errors import AlignerMissing, EngineError
from scribewire.engine.recording.work import ChunkPart, RecordingWork
from scribewire.engine.text.words import WordsUnavailable

_log = logging.getLogger(__name__)

_OFF = "they are turned off here (--aligner none)"


@dataclass(frozen=True, slots=True)
class _Planned:
    piece: ChunkPart
    plan: AlignmentPrompt | None
    reason: str = ""


class WordTimes:
    """The aligner of one resident model; one thread owns it, only planning happens elsewhere."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        model: str,
        placement: Placement,
        wake: Callable[[], None],
        reserve: Callable[[int], None],
    ) -> None:
        """model: the recognizer that it is for. placement: of the aligner.

        wake: called when `take_planned` may have something.
        reserve: takes so many bytes off the memory for keys and values; raises OptionInvalid where they are not there.
        """
        self._config = config
        self._model = model
        self._placement = placement
        self._wake = wake
        self._reserve = reserve
        self._planner: AlignmentPromptBuilder | None = None
        self._aligner: Aligner | None = None
        self._problem = _OFF if config.aligner == NO_ALIGNER else ""
        self._planning = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scribewire-words")
        self._planned: queue.SimpleQueue[_Planned] = queue.SimpleQueue()
        self._waiting: dict[int, ChunkPart] = {}
        self._ticket_ids = itertools.count()

    @property
    def is_loaded(self) -> bool:
        """True when the aligner is in memory."""
        return self._aligner is not None

    def check(self, options: TranscribeOptions) -> None:
        """Refuse a recording at once whose words cannot be timed; raises AlignerMissing."""
        if options.words and not options.words_optional and self._aligner is None and not self._problem:
            try:
                find_aligner(self._config.aligner, model=self._model)
            except OSError as problem:
                raise AlignerMissing(f"the aligner's files cannot be read: {problem.strerror}") from problem

    def preload(self) -> None:
        """Load the aligner now, fetching it first if it is not there; raises ModelError, OptionInvalid."""
        if not self._problem:
            self._aligner = self._loaded(download=True)
            self._aligner.warm_up()

    def wants(self, piece: ChunkPart) -> bool:
        """True when this decoded piece has words whose times are requested."""
        options = piece.work.options
        if options.words_optional and self._config.aligner == NO_ALIGNER:
            return False  # switched off on purpose, which needs no warning
        return options.words and piece.segment is not None and bool(piece.segment.text)

    def plan(self, piece: ChunkPart) -> None:
        """Have a decoded piece's text split into words; `take_planned` gives it back."""
        if self._problem:
            self._planned.put(_Planned(piece, None, self._problem))
            self._wake()
        else:
            self._planning.submit(self._plan, piece)

    def take_planned(self, scheduler: Scheduler) -> list[ChunkPart]:
        """Queue pieces whose words are known for alignment; returns those that need none."""
        done = []
        while not self._planned.empty():
            planned = self._planned.get()
            piece, plan = planned.piece, planned.plan
            if piece.work.is_over:
                continue
            if planned.reason:
                piece.work.lack_words(planned.reason)
            if plan is None or not plan.units:
                done.append(piece)
                continue
            piece.alignment = plan
            ticket_id = next(self._ticket_ids)
            self._waiting[ticket_id] = piece
            tokens = len(plan.prompt_ids)
            scheduler.offer_alignment(Ticket(ticket_id, piece.work.work_id, piece.index, tokens, tokens))
        return done

    def take_group(self, scheduler: Scheduler) -> list[ChunkPart]:
        """The pieces to align next."""
        return [self._waiting.pop(ticket.ticket_id) for ticket in scheduler.align()]

    def forget(self, work: RecordingWork) -> None:
        """Drop a recording that has ended; the scheduler has closed it."""
        self._waiting = {number: piece for number, piece in self._waiting.items() if piece.work is not work}

    def align(self, pieces: list[ChunkPart]) -> int:
        """Give planned pieces' segments their words, all in one pass; returns how many words that were."""
        aligner = self._aligner_if_any()
        if aligner is None:
            for piece in pieces:
                piece.work.lack_words(self._problem)
            return 0
        tasks = []
        for piece in pieces:
            assert piece.alignment is not None
            chunk = piece.chunk
            seconds = chunk.end_seconds - chunk.start_seconds
            tasks.append(AlignmentTask(piece.alignment, chunk.samples, chunk.start_seconds, seconds))
        words = aligner.align(tasks)
        for piece, found in zip(pieces, words, strict=True):
            assert piece.segment is not None
            piece.segment = replace(piece.segment, words=found)
        return sum(map(len, words))

    def close(self) -> None:
        """Give the aligner's memory back."""
        self._planning.shutdown(wait=True, cancel_futures=True)
        self._aligner = None

    # ---- on the planning thread ------------------------------------------------------------------------------

    def _plan(self, piece: ChunkPart) -> None:
        assert piece.segment is not None
        plan, reason = None, ""
        try:
            if self._planner is None:
                self._planner = AlignmentPromptBuilder(
                    find_aligner(self._config.aligner, model=self._model).folder
                )
            plan = self._planner.plan(piece.segment.text, piece.segment.language, piece.chunk.samples.size)
        except WordsUnavailable as problem:
            reason = str(problem)
        except EngineError as problem:
            reason = f"the aligner cannot be used: {problem}"
        except Exception as problem:
            # A third-party tokenizer that fails on a text must not cost the text.
            _log.exception("splitting a text into words failed")
            reason = f"splitting the text into words failed ({type(problem).__name__})"
        self._planned.put(_Planned(piece, plan, reason))
        self._wake()

    # ---- on the engine's thread ------------------------------------------------------------------------------

    def _aligner_if_any(self) -> Aligner | None:
        if self._aligner is None and not self._problem:
            try:
                self._aligner = self._loaded(download=False)
            except (EngineError, OSError) as problem:
                _log.warning("no word times: %s", problem)
                self._problem = f"the aligner could not be loaded: {problem}"
        return self._aligner

    def _loaded(self, *, download: bool) -> Aligner:
        found = find_aligner(
            self._config.aligner, model=self._model, offline=self._config.offline, download=download
        )
        self._planner = self._planner or AlignmentPromptBuilder(found.folder)
        checkpoint = read_checkpoint(found.folder)
        self._reserve(expected_bytes(checkpoint, self._placement))
        try:
            aligner = Aligner(checkpoint, self._planner, self._placement)
        except EngineError:
            self._reserve(0)
            raise
        _log.info("the aligner %s is loaded", found.model_id)
        return aligner
