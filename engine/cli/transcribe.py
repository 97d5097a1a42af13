"""`scribewire transcribe`: recordings in, text, JSON or subtitles out, one file after another.

A recording that fails costs one line on stderr and exit code 1, and the others are still done. Files are written
whole or not at all, and never over an input.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from scribewire.engine.cli.console import Console
from scribewire.engine.cli.results import formats_of, result_text
from scribewire.engine.cli.speakers import Diarizer
from scribewire.engine.protocol.config import DEFAULT_MODEL, Chunking, ModelInfo, TranscribeOptions
from scribewire.engine.protocol.errors import AudioEmpty, AudioUnreadable, EngineError
from scribewire.engine.protocol.transcript import Transcript
from scribewire.engine.protocol.whole_file import STANDARD_INPUT, output_names, write_whole


class Engine(Protocol):
    """The part of a Transcriber that this command needs."""

    @property
    def info(self) -> ModelInfo:
        """The loaded model."""

    def transcribe(
        self,
        audio: Path,
        *,
        language: str | None,
        prompt: str | None,
        temperature: float,
        seed: int | None,
        words: bool,
        words_optional: bool,
        logprobs: bool,
        chunking: Chunking,
        on_progress: Callable[[float, float], None] | None,
    ) -> Transcript:
        """Transcribe one recording."""


@dataclass(frozen=True, slots=True)
class Request:
    """The command line's recordings and options.

    files: paths as typed, `-` for standard input. format: one of scribewire.engine.cli.results, or all.
    folder: where results go, None for stdout.
    """

    files: tuple[str, ...]
    format: str = "txt"
    folder: Path | None = None
    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    shows_tracebacks: bool = False


def transcribe_files(
    request: Request,
    load: Callable[[], AbstractContextManager[Engine]],
    console: Console,
    *,
    speakers: Diarizer | None = None,
) -> int:
    """Transcribe every file; returns the exit code, 1 when any file failed.

    load: gives the engine; called once, and not at all when no file is there to be read.
    speakers: the diarizer, where one is wanted; entered before the engine is loaded.
    raises: EngineError when a model cannot be loaded, OSError when stdout cannot be written
    """
    names = output_names(request.files)
    if not any(name == STANDARD_INPUT or Path(name).exists() for name in request.files):
        for name in request.files:
            console.warn(f"{name}: no such file")
        return 1
    if request.folder is not None:
        request.folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    with contextlib.ExitStack() as held:
        if speakers is not None:
            held.enter_context(speakers)  # what is missing is reported before a large model is loaded
        engine = held.enter_context(load())
        if engine.info.is_demo:
            console.warn(
                "this is the bundled demo model, trained on synthetic speech: it shows that everything works but "
                f"does not understand real voices; for those: --model {DEFAULT_MODEL}"
            )
        for index, (name, output_name) in enumerate(zip(request.files, names, strict=True)):
            shown = shown_name(name)
            try:
                with (
                    _input_path(name, console) as path,
                    _beside(speakers, path) as with_speakers,
                    console.bar(shown) as advance,
                ):
                    advance(0.0, 0.0)  # its length is not known yet
                    transcript = engine.transcribe(
                        path,
                        language=request.options.language,
                        prompt=request.options.prompt,
                        temperature=request.options.temperature,
                        seed=request.options.seed,
                        words=request.options.words,
                        words_optional=request.options.words_optional,
                        logprobs=request.options.logprobs,
                        chunking=request.options.chunking,
                        on_progress=advance,
                    )
                    transcript = with_speakers(transcript)
                _deliver(request, transcript, engine.info, shown, output_name, console, is_first=index == 0)
            except EngineError as error:
                failures += 1
                console.warn(f"{shown}: {error}")
            except (OSError, KeyboardInterrupt):
                raise
            except Exception as error:
                # MLX reports its own failures as RuntimeError; one recording's must not end the others.
                failures += 1
                console.warn(f"{shown}: failed unexpectedly ({type(error).__name__}: {error})")
                if request.shows_tracebacks:
                    traceback.print_exception(error, file=console.stderr)
    return 1 if failures else 0


def _beside(
    speakers: Diarizer | None, path: Path
) -> AbstractContextManager[Callable[[Transcript], Transcript]]:
    return (
        contextlib.nullcontext(lambda transcript: transcript) if speakers is None else speakers.beside(path)
    )


def shown_name(name: str) -> str:
    """A file as messages name it."""
    return "standard input" if name == STANDARD_INPUT else name


def _deliver(
    request: Request,
    transcript: Transcript,
    info: ModelInfo,
    shown: str,
    output_name: str,
    console: Console,
    *,
    is_first: bool,
) -> None:
    for warning in transcript.warnings:
        console.warn(f"{shown}: warning: {warning}")
    if request.folder is not None:
        targets = {form: request.folder / f"{output_name}.{form}" for form in formats_of(request.format)}
        for target in targets.values():
            _refuse_to_overwrite_inputs(target, request.files)
        for form, target in targets.items():
            write_whole(target, result_text(transcript, form, info, shown, is_file=True))
            console.say(str(target))
        return
    if request.format == "txt" and len(request.files) > 1:
        console.say(f"{'' if is_first else chr(10)}==> {shown} <==")
    console.say(result_text(transcript, request.format, info, shown, is_file=False).removesuffix("\n"))


def _refuse_to_overwrite_inputs(target: Path, files: Sequence[str]) -> None:
    for name in files:
        if name != STANDARD_INPUT and target.exists() and Path(name).exists() and target.samefile(name):
            raise AudioUnreadable(
                f"its result would overwrite the input {name}; choose another folder with -o"
            )


@contextmanager
def _input_path(name: str, console: Console) -> Iterator[Path]:
    """The recording as a file; standard input is put into a temporary one, however long it is."""
    if name != STANDARD_INPUT:
        if not Path(name).exists():
            raise AudioUnreadable("no such file")
        yield Path(name)
        return
    with tempfile.NamedTemporaryFile(prefix="scribewire-") as spooled:
        shutil.copyfileobj(console.stdin, spooled)
        spooled.flush()
        if spooled.tell() == 0:
            raise AudioEmpty("no recording came; pipe one in: `cat talk.mp3 | scribewire transcribe -`")
        yield Path(spooled.name)
