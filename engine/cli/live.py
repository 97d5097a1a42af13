"""One recording's way through the engine, seen from the command: text that appears while it is decoded, and the bar.

The engine calls back on its own thread, which must not wait for a terminal or a pipe; so events go through a queue to
the main thread, which alone writes.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from statistics import mode
from typing import Any, Protocol

import scribewire
from scribewire.engine.cli.results import Paragraphs
from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.engine.protocol.languages import join_texts
from scribewire.engine.protocol.transcript import Segment, Transcript


class Work(Protocol):
    """The part of a submitted recording that this command needs."""

    @property
    def future(self) -> Future[Transcript]:
        """Its one end."""


class Engine(Protocol):
    """The part of a Transcriber that this command needs."""

    @property
    def info(self) -> ModelInfo:
        """The loaded model."""

    def submit(self, item: Any, *, listener: Any) -> Work:
        """Begin a recording."""

    def cancel(self, work: Any) -> None:
        """Stop it."""


class LiveText:
    """Text written as it comes, with an empty line where a paragraph begins."""

    def __init__(self, write: Callable[[str], None], heading: str) -> None:
        """heading: written before the first text."""
        self._write = write
        self._heading = heading
        self._places = Paragraphs()
        self._begins_paragraph = False
        self.is_begun = False

    def chunk(self, start_seconds: float) -> None:
        """Take the place of the text that comes next."""
        self._begins_paragraph = self._places.begins_at(start_seconds)

    def delta(self, text: str) -> None:
        """Write more text."""
        self.begin()
        self._write(f"\n\n{text.lstrip()}" if self._begins_paragraph else text)
        self._begins_paragraph = False

    def segment(self, segment: Segment) -> None:
        """Take a segment whose text is complete."""
        self._places.add(segment)

    def begin(self) -> None:
        """Write the heading, if it was not yet."""
        if not self.is_begun:
            self.is_begun = True
            self._write(self._heading)


class Transcription:
    """One recording being transcribed, with what is there of it so far."""

    def __init__(self, engine: Engine, path: Path, options: TranscribeOptions) -> None:
        self._engine = engine
        self._item = scribewire.TranscribeItem.of(path, options)
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.segments: list[Segment] = []
        self.seconds_in_all = 0.0

    def run(self, advance: Callable[[float, float], None], live: LiveText | None) -> Transcript:
        """Transcribe; the calls of `advance` and `live` come from this thread. What is raised stops the engine's work.

        raises: EngineError
        """

        def on_progress(done: float, total: float) -> None:
            self._events.put(partial(self._progress, advance, done, total))

        def on_segment(segment: Segment) -> None:
            self._events.put(partial(self._segment, segment, live))

        listener = scribewire.Listener(on_progress=on_progress, on_segment=on_segment)
        if live is not None:
            listener = scribewire.Listener(
                on_progress=on_progress,
                on_segment=on_segment,
                on_chunk=lambda start_seconds: self._events.put(partial(live.chunk, start_seconds)),
                on_delta=lambda text, _: self._events.put(partial(live.delta, text)),
            )
        work: Work | None = None
        try:
            work = self._engine.submit(self._item, listener=listener)
            work.future.add_done_callback(lambda _: self._events.put(None))
            while (event := self._events.get()) is not None:
                event()
            return work.future.result()
        except BaseException:
            if work is not None:
                self._engine.cancel(work)
            self._take_rest()
            raise

    def so_far(self, model_id: str) -> Transcript | None:
        """The transcript up to the last whole segment; None where there is none."""
        if not self.segments:
            return None
        languages = [segment.language for segment in self.segments if segment.language]
        return Transcript(
            text=join_texts([(segment.text, segment.language) for segment in self.segments]),
            language=mode(languages) if languages else None,
            languages=tuple(dict.fromkeys(languages)),
            duration_seconds=self.segments[-1].end_seconds,
            segments=tuple(self.segments),
            model_id=model_id,
        )

    def _progress(self, advance: Callable[[float, float], None], done: float, total: float) -> None:
        self.seconds_in_all = total
        advance(done, total)

    def _segment(self, segment: Segment, live: LiveText | None) -> None:
        self.segments.append(segment)
        if live is not None:
            live.segment(segment)

    def _take_rest(self) -> None:
        """Take what came before the end."""
        while not self._events.empty():
            event = self._events.get()
            if event is not None:
                event()
