"""A transcriber with no model: what a file holds decides what becomes of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scribewire.engine.protocol.config import ModelInfo
from scribewire.engine.protocol.errors import AudioUndecodable
from scribewire.engine.protocol.transcript import Segment, Timings, Transcript, Word


class FakeTranscriber:
    """Says what the file says; fails, breaks or is interrupted where the file begins with that word."""

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
        self.heard: list[tuple[bytes, dict[str, Any]]] = []
        self.load_count = 0

    @contextmanager
    def load(self) -> Iterator["FakeTranscriber"]:
        """Stand for loading the model."""
        self.load_count += 1
        yield self

    def transcribe(self, audio: Path, *, on_progress: Any, **options: Any) -> Transcript:
        """Transcribe, by reading."""
        content = audio.read_bytes()
        self.heard.append((content, options))
        on_progress(1.0, 2.0)
        if content.startswith(b"fails"):
            raise AudioUndecodable("no audio could be\ndecoded")
        if content.startswith(b"breaks"):
            raise RuntimeError("[metal] out of memory")
        if content.startswith(b"interrupted"):
            raise KeyboardInterrupt
        text = content.decode()
        words = tuple(Word(word, 0.5, 1.0) for word in text.split()) if options.get("words") else ()
        return Transcript(
            text=text,
            language="English",
            languages=("English",),
            duration_seconds=2.0,
            segments=(Segment(0, 0.0, 2.0, text, "English", tokens=(1, 2), words=words),),
            model_id=self.info.model_id,
            warnings=("it was cut off",) if content.startswith(b"cut") else (),
            timings=Timings(total_seconds=0.5),
        )
