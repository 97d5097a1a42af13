"""A transcriber with no model: what a file holds decides what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from scribewire.engine.protocol.config import ModelInfo
from scribewire.engine.protocol.errors import AudioUndecodable
from scribewire.engine.protocol.transcript import Segment, Timings, Transcript, Word
from scribewire.engine.recording.work import Listener, TranscribeItem

STOP = "<interrupted>"
"""At the end of a file: Ctrl-C is pressed there."""


class FakeWork:
    """A recording that has its end already."""

    def __init__(self) -> None:
        self.future: Future[Transcript] = Future()


class FakeTranscriber:
    """Says what the file says, a segment for each line; fails or breaks where the file begins with that word."""

    def __init__(self, *, is_demo: bool = False) -> None:
        self.info = ModelInfo(
            model_id="demo" if is_demo else "fake",
            is_demo=is_demo,
            languages=("English",),
            device="cpu",
            dtype="float32",
            weight_bits=16,
            parameter_count=0,
            resident_bytes=0,
            load_seconds=0.0,
        )
        self.heard: list[tuple[bytes, TranscribeItem]] = []
        self.load_count = 0

    @contextmanager
    def load(self) -> Iterator[FakeTranscriber]:
        """Stand for loading the model."""
        self.load_count += 1
        yield self

    def submit(self, item: TranscribeItem, *, listener: Listener) -> FakeWork:
        """Transcribe at once, by reading; what it says comes word by word."""
        assert isinstance(item.audio, Path)
        content = item.audio.read_bytes()
        self.heard.append((content, item))
        work = FakeWork()
        assert listener.on_progress is not None
        listener.on_progress(1.0, 2.0)
        if content.startswith(b"fails"):
            work.future.set_exception(AudioUndecodable("no audio could be\ndecoded"))
            return work
        if content.startswith(b"breaks"):
            work.future.set_exception(RuntimeError("[metal] out of memory"))
            return work
        lines = content.decode().removesuffix(STOP).splitlines()
        segments = tuple(_segment(index, line, item.words) for index, line in enumerate(lines))
        for segment in segments:
            _say(segment, listener, is_first=segment.index == 0)
        if content.endswith(STOP.encode()):
            # As Ctrl-C does it; nothing more comes then.
            raise KeyboardInterrupt
        work.future.set_result(
            Transcript(
                text=" ".join(lines),
                language="English",
                languages=("English",),
                duration_seconds=2.0,
                segments=segments,
                model_id=self.info.model_id,
                warnings=("it was cut off",) if content.startswith(b"cut") else (),
                timings=Timings(total_seconds=0.5),
            )
        )
        return work

    def cancel(self, work: FakeWork) -> None:
        """Stop; there is nothing to stop."""


def _segment(index: int, text: str, has_words: bool) -> Segment:
    """Two seconds for each line, two seconds between them; a line that begins with + follows without a pause."""
    start = 4.0 * index
    follows, text = text.startswith("+"), text.removeprefix("+")
    words = tuple(Word(word, start + 0.5, start + 1.0) for word in text.split()) if has_words else ()
    return Segment(
        index, start - 2.0 if follows else start, start + 2.0, text, "English", tokens=(1, 2), words=words
    )


def _say(segment: Segment, listener: Listener, *, is_first: bool) -> None:
    if listener.on_delta is not None and listener.on_chunk is not None:
        listener.on_chunk(segment.start_seconds)
        first, *others = segment.text.split()
        listener.on_delta(first if is_first else f" {first}", ())
        for word in others:
            listener.on_delta(f" {word}", ())
    assert listener.on_segment is not None
    listener.on_segment(segment)
