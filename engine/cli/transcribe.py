"""`scribewire transcribe`: recordings in, text, JSON or subtitles out, one file after another.

Plain text for standard output appears while it is decoded. A recording that fails costs one line on stderr and exit
code 1, and the others are still done. Files are written whole or not at all, and never over an input; of a recording
that is interrupted, what is there is kept under a name that says so.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from scribewire.engine.cli.live import Engine, LiveText, Transcription
from scribewire.engine.cli.results import EXTENSIONS, result_text
from scribewire.engine.cli.speakers import Diarizer
from scribewire.engine.processes.console import Console, shown_duration
from scribewire.engine.protocol.config import DEFAULT_MODEL, TranscribeOptions
from scribewire.engine.protocol.errors import AudioEmpty, AudioUnreadable, EngineError
from scribewire.engine.protocol.transcript import Transcript
from scribewire.engine.protocol.whole_file import (
    STANDARD_INPUT,
    Output,
    Planned,
    Recording,
    planned,
    write_whole,
)

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


@dataclass(frozen=True, slots=True)
class Request:
    """The command line's recordings and options. formats: of scribewire.engine.cli.results, one for stdout."""

    recordings: tuple[Recording, ...]
    formats: tuple[str, ...] = ("txt",)
    output: Output = field(default_factory=Output)
    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    shows_tracebacks: bool = False


def transcribe_files(
    request: Request,
    load: Callable[[], AbstractContextManager[Engine]],
    console: Console,
    *,
    speakers: Diarizer | None = None,
) -> int:
    """Transcribe every recording; returns the exit code, 1 when any failed.

    load: gives the engine; called once, and not at all when nothing is to be done.
    speakers: the diarizer, where one is wanted; entered before the engine is loaded.
    raises: EngineError when a model cannot be loaded, OSError when stdout cannot be written
    """
    plan = planned(request.recordings, request.formats, request.output, EXTENSIONS)
    if (done := sum(one.is_done for one in plan)) > 0:
        console.warn(f"{done} of {len(plan)} recordings have their results already and are passed over")
    failures, open_plan = 0, []
    for one in plan:
        if one.problem is not None:
            failures += 1
            console.warn(f"{one.recording.shown}: {one.problem}")
        elif not one.is_done:
            open_plan.append(one)
    if not open_plan:
        return EXIT_FAILED if failures else 0
    with contextlib.ExitStack() as held:
        held.enter_context(_logs_as_messages(console))
        if speakers is not None:
            held.enter_context(speakers)  # what is missing is reported before a large model is loaded
        engine = held.enter_context(load())
        if engine.info.is_demo:
            console.warn(
                "this is the bundled demo model, trained on synthetic speech: it shows that everything works but "
                f"does not understand real voices; for those: --model {DEFAULT_MODEL}"
            )
        for index, one in enumerate(open_plan):
            turn = _Turn(request, one, engine, console, speakers, is_first=index == 0)
            try:
                turn.run()
            except EngineError as error:
                failures += 1
                console.warn(f"{one.recording.shown}: {error}")
            except KeyboardInterrupt:
                turn.keep_what_is_there()
                return EXIT_INTERRUPTED
            except OSError:
                raise
            except Exception as error:
                # MLX reports its own failures as RuntimeError; one recording's must not end the others.
                failures += 1
                console.warn(f"{one.recording.shown}: failed unexpectedly ({type(error).__name__}: {error})")
                if request.shows_tracebacks:
                    traceback.print_exception(error, file=console.stderr)
    return EXIT_FAILED if failures else 0


class _Told(logging.Handler):
    """A handler of warnings that writes them as messages."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        self._console.warn(record.getMessage())


@contextmanager
def _logs_as_messages(console: Console) -> Iterator[None]:
    """Have the engine's warnings written as messages are, which do not land inside a bar."""
    handler = _Told(console)
    logger = logging.getLogger("scribewire")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Turn:
    """One recording's turn: transcribed, and its results delivered."""

    def __init__(
        self,
        request: Request,
        plan: Planned,
        engine: Engine,
        console: Console,
        speakers: Diarizer | None,
        *,
        is_first: bool,
    ) -> None:
        self._request = request
        self._plan = plan
        self._engine = engine
        self._console = console
        self._speakers = speakers
        self._shown = plan.recording.shown
        has_heading = not plan.targets and request.formats == ("txt",) and len(request.recordings) > 1
        self._heading = f"{'' if is_first else chr(10)}==> {self._shown} <==\n" if has_heading else ""
        self._live: LiveText | None = None
        self._transcription: Transcription | None = None

    def run(self) -> None:
        """Transcribe, deliver; raises EngineError, OSError."""
        with (
            _input_path(self._plan.recording, self._console) as path,
            _beside(self._speakers, path) as with_speakers,
            self._console.bar(self._shown, "seconds") as bar,
        ):
            self._live = self._live_text()
            self._transcription = Transcription(self._engine, path, self._request.options)
            try:
                transcript = self._transcription.run(bar.advance, self._live)
            except Exception:
                self._end_line()
                raise
            transcript = with_speakers(transcript)
        self._deliver(transcript)

    def keep_what_is_there(self) -> None:
        """Write what an interrupted recording has so far, and say up to where that is."""
        self._end_line()
        work = self._transcription
        found = None if work is None else work.so_far(self._engine.info.model_id)
        if work is None or found is None:
            self._console.warn("interrupted")
            return
        reach = shown_duration(found.duration_seconds)
        if work.seconds_in_all:
            reach += f" of {shown_duration(work.seconds_in_all)}"
        note = f"interrupted at {reach}"
        found = replace(found, warnings=(note,))
        kept = {form: _partial(target) for form, target in self._plan.targets.items()}
        for form, target in kept.items():
            write_whole(target, self._text(found, form, is_file=True))
        if not kept and self._live is None:
            self._console.write(self._text(found, self._request.formats[0], is_file=False))
        where = f"; what is there is in {' and '.join(map(str, kept.values()))}" if kept else ""
        self._console.warn(f"{self._shown}: {note}{where}")

    def _live_text(self) -> LiveText | None:
        """Text that appears while it is decoded: plain, to stdout, and without speakers, who are known at the end."""
        if self._plan.targets or self._request.formats != ("txt",) or self._speakers is not None:
            return None
        return LiveText(self._console.write, self._heading)

    def _end_line(self) -> None:
        if self._live is not None and self._live.is_begun:
            self._console.write("\n")

    def _deliver(self, transcript: Transcript) -> None:
        if self._live is not None:
            self._live.begin()
            self._end_line()
        for warning in transcript.warnings:
            self._console.warn(f"{self._shown}: warning: {warning}")
        for form, target in self._plan.targets.items():
            write_whole(target, self._text(transcript, form, is_file=True))
            self._console.say(str(target))
        if not self._plan.targets and self._live is None:
            [form] = self._request.formats
            self._console.write(self._heading + self._text(transcript, form, is_file=False))

    def _text(self, transcript: Transcript, form: str, *, is_file: bool) -> str:
        return result_text(transcript, form, self._engine.info, self._shown, is_file=is_file)


def _partial(target: Path) -> Path:
    """The name of an interrupted result, which no later run takes for a whole one."""
    return target.with_name(f"{target.stem}.partial{target.suffix}")


def _beside(
    speakers: Diarizer | None, path: Path
) -> AbstractContextManager[Callable[[Transcript], Transcript]]:
    return (
        contextlib.nullcontext(lambda transcript: transcript) if speakers is None else speakers.beside(path)
    )


@contextmanager
def _input_path(recording: Recording, console: Console) -> Iterator[Path]:
    """The recording as a file; standard input is put into a temporary one, however long it is."""
    if recording.name != STANDARD_INPUT:
        if not Path(recording.name).exists():
            raise AudioUnreadable("no such file")
        yield Path(recording.name)
        return
    with tempfile.NamedTemporaryFile(prefix="scribewire-") as spooled:
        shutil.copyfileobj(console.stdin, spooled)
        spooled.flush()
        if spooled.tell() == 0:
            raise AudioEmpty("no recording came; pipe one in: `cat talk.mp3 | scribewire transcribe -`")
        yield Path(spooled.name)
