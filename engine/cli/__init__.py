"""The engine's subcommands: transcribe, models, pull, languages, doctor, bench.

Importing this loads no MLX, so that help is quick; a model is loaded only by `transcribe`, and by the child processes
of `bench`. The `scribewire` command itself is the server's (server/cli.py), which passes these subcommands on.
Exit codes: 0 done, 1 something failed, 2 the command line makes no sense, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import scribewire
from scribewire.engine.bench.plan import PlanInvalid
from scribewire.engine.checkpoint.aligners import find_aligner
from scribewire.engine.checkpoint.fetch import HubAccess, pull, resolve_model
from scribewire.engine.cli.bench import BENCH_EXAMPLES, BENCH_HELP, add_bench_arguments, run_bench
from scribewire.engine.cli.console import Console
from scribewire.engine.cli.doctor import Surroundings, examine, show_findings
from scribewire.engine.cli.findings import RunChild, run_python
from scribewire.engine.cli.listings import show_languages, show_models
from scribewire.engine.cli.results import ALL_FORMATS, FORMATS
from scribewire.engine.cli.speakers import Diarizer
from scribewire.engine.cli.transcribe import Engine, Request, transcribe_files
from scribewire.engine.demo import SampleRecording, sample_recordings
from scribewire.engine.processes.arguments import CommandParser
from scribewire.engine.processes.console import PROGRAM, shown_bytes
from scribewire.engine.protocol.config import (
    AUTO_ALIGNER,
    DEFAULT_MODEL,
    DEMO_MODEL,
    NO_ALIGNER,
    Chunking,
    EngineConfig,
    TranscribeOptions,
)
from scribewire.engine.protocol.errors import EngineError
from scribewire.engine.protocol.languages import resolve_language
from scribewire.engine.protocol.speakers import DEFAULT_DIARIZATION_MODEL, DiarizationConfig, SpeakerOptions
from scribewire.engine.protocol.whole_file import STANDARD_INPUT
from scribewire.engine.subtitles import RENDERERS

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

COMMANDS = {
    "transcribe": "turn recordings into text",
    "models": "list the models on this disk and the published ones",
    "pull": "download a model, or go on with a download",
    "languages": "list the languages and their codes",
    "doctor": "check this machine by transcribing a shipped recording",
    "bench": "measure a model on this machine",
}

_LONGEST_CHUNK_SECONDS = 180.0
"""Source: the official package cuts so long pieces where words are timed."""

Load = Callable[[EngineConfig, Console, bool], AbstractContextManager[Engine]]
"""What to load, a console for bars, and True when the aligner is to be fetched if need be."""

MakeDiarizer = Callable[[DiarizationConfig, SpeakerOptions], Diarizer]


def main(
    argv: Sequence[str] | None = None,
    *,
    console: Console | None = None,
    load: Load | None = None,
    diarizer: MakeDiarizer = Diarizer,
    run_child: RunChild = run_python,
    hub: HubAccess | None = None,
    data_folder: Path | None = None,
    port: int | None = None,
) -> int:
    """Run one subcommand; returns the exit code.

    load, diarizer, run_child, hub: the ways to load a model, to tell speakers apart, to run child processes and to
    reach the hub.
    data_folder, port: what `serve` would use, for the doctor.
    """
    console = console or Console.of_this_process()
    parser = build_parser()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = parser.parse_args(words)
        if arguments.command == "bench":
            return run_bench(arguments, words, console)
        return _run(arguments, console, load or load_transcriber, diarizer, run_child, hub, data_folder, port)
    except UsageError as error:
        console.warn(f"{error} (see `{PROGRAM} {error.command} --help`)")
        return EXIT_USAGE
    except PlanInvalid as error:
        console.warn(f"{error} (see `{PROGRAM} bench --help`)")
        return EXIT_USAGE
    except EngineError as error:
        console.warn(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        console.warn("interrupted")
        return EXIT_INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        console.warn(f"{where}{error.strerror or error}")
        return EXIT_FAILED


class UsageError(Exception):
    """An option that argparse takes but the command cannot."""

    def __init__(self, command: str, message: str) -> None:
        super().__init__(message)
        self.command = command


@contextmanager
def load_transcriber(config: EngineConfig, console: Console, fetches_aligner: bool) -> Iterator[Engine]:
    """The model, and the aligner where words are required, fetched first when they are not on disk, with a bar."""
    model, aligner = config.model, config.aligner
    with console.bar(f"fetching {model}", of_bytes=True) as advance:
        resolved = resolve_model(model, download=True, progress=advance)
    if fetches_aligner and aligner != NO_ALIGNER:
        with console.bar("fetching the aligner", of_bytes=True) as advance:
            name = DEMO_MODEL if resolved.is_demo else model
            find_aligner(aligner, model=name, download=True, progress=advance)
    with scribewire.Transcriber(config=config) as transcriber:
        yield transcriber


def build_parser() -> argparse.ArgumentParser:
    """The parser of all the engine's subcommands, also for the help of each."""
    parser = CommandParser(prog=PROGRAM)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=PROGRAM)
    add = {name: partial(commands.add_parser, name, help=text) for name, text in COMMANDS.items()}
    _add_transcribe_arguments(add["transcribe"](description=_TRANSCRIBE_HELP, epilog=_TRANSCRIBE_EXAMPLES))
    models = add["models"](
        description="List the models on this disk and the published ones, with sizes. Asks no network."
    )
    models.add_argument("--json", action="store_true", help="print a JSON array instead of a table")
    fetching = add["pull"](description=_PULL_HELP, epilog=_PULL_EXAMPLES)
    fetching.add_argument("model", metavar="MODEL", help=f"a Hugging Face id, such as {DEFAULT_MODEL}")
    languages = add["languages"](description="List the languages that --language takes. Asks no network.")
    languages.add_argument(
        "--model", metavar="MODEL", help="only those that this model, on this disk, speaks"
    )
    languages.add_argument("--json", action="store_true", help="print a JSON array instead of a table")
    doctor = add["doctor"](description=_DOCTOR_HELP)
    doctor.add_argument("--json", action="store_true", help="print a JSON object instead of lines")
    doctor.add_argument("--model", metavar="MODEL", help="also load this model and transcribe with it")
    doctor.add_argument("--port", type=int, metavar="PORT", help="the port that serve would use")
    doctor.add_argument("--data", type=Path, metavar="DIR", help="the data folder that serve would use")
    add_bench_arguments(add["bench"](description=BENCH_HELP, epilog=BENCH_EXAMPLES))
    return parser


def _add_transcribe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a recording or a video; - reads standard input"
    )
    parser.add_argument(
        "-f",
        "--format",
        choices=(*FORMATS, ALL_FORMATS),
        default="txt",
        metavar="FORMAT",
        help="txt (default), json, subtitles as srt, vtt, tsv or lrc, or all of them at once",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="write NAME.txt, NAME.srt and so on here instead (with -f all the default is this folder)",
    )
    parser.add_argument(
        "--language",
        metavar="LANG",
        help="name, ISO code or region tag (es, Spanish, es-MX); default: detected",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="context: names, spellings, the subject")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        default=DEFAULT_MODEL,
        help="a folder, a Hugging Face id, or demo (default: %(default)s)",
    )
    parser.add_argument(
        "--words",
        action="store_true",
        help="find out when each word was said, fetching the aligner if need be; subtitles do it anyway if it is there",
    )
    parser.add_argument(
        "--aligner",
        metavar="MODEL",
        default=AUTO_ALIGNER,
        help="the forced aligner of words: a folder, a Hugging Face id, auto (default) or none",
    )
    parser.add_argument(
        "--diarize",
        action="store_true",
        help="tell the speakers apart (.venv/bin/pip install -e '.[speakers]'); they are named A, B, C",
    )
    parser.add_argument("--num-speakers", type=int, metavar="N", help="how many there are, if you know")
    parser.add_argument("--min-speakers", type=int, metavar="N", help="there are at least so many")
    parser.add_argument("--max-speakers", type=int, metavar="N", help="there are at most so many")
    parser.add_argument(
        "--diarization-model",
        metavar="MODEL",
        default=DEFAULT_DIARIZATION_MODEL,
        help="a pipeline of pyannote.audio: a folder or a Hugging Face id (default: %(default)s)",
    )
    parser.add_argument(
        "--diarization-device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where it computes (default: %(default)s)",
    )
    parser.add_argument(
        "--vad",
        action="store_true",
        help="find speech by voice detection instead of by loudness: music and noise between speech are left out",
    )
    parser.add_argument(
        "--vad-threshold",
        type=float,
        default=Chunking().threshold,
        metavar="P",
        help="with --vad: probability from which it is speech, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-chunk-seconds",
        type=float,
        default=EngineConfig().max_chunk_seconds,
        metavar="S",
        help="longest stretch that is decoded at once; longer ones are cut at pauses (default: %(default)g)",
    )
    parser.add_argument(
        "--min-chunk-seconds",
        type=float,
        default=EngineConfig().min_chunk_seconds,
        metavar="S",
        help="no cut is looked for before; 0 (default) is two thirds of the longest",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 (default) is deterministic"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="makes a temperature above 0 repeatable")
    parser.add_argument("--traceback", action="store_true", help="show where an unexpected failure came from")


def _run(
    arguments: argparse.Namespace,
    console: Console,
    load: Load,
    diarizer: MakeDiarizer,
    run_child: RunChild,
    hub: HubAccess | None,
    data_folder: Path | None,
    port: int | None,
) -> int:
    match arguments.command:
        case "transcribe":
            request = _request(arguments)
            return transcribe_files(
                request,
                lambda: load(_engine_config(arguments), console, arguments.words),
                console,
                speakers=None
                if request.options.speakers is None
                else diarizer(
                    DiarizationConfig(arguments.diarization_model, arguments.diarization_device),
                    request.options.speakers,
                ),
            )
        case "models":
            return show_models(console, as_json=arguments.json, hub=hub)
        case "pull":
            return _pull(arguments.model, console, hub)
        case "languages":
            return show_languages(console, model=arguments.model, as_json=arguments.json, hub=hub)
        case _:
            surroundings = Surroundings(
                data_folder=arguments.data or data_folder,
                port=arguments.port if arguments.port is not None else port,
                recording=_shipped_recording(),
                hub=hub,
                model=arguments.model,
            )
            return show_findings(examine(surroundings, run_child), console, as_json=arguments.json)


def _shipped_recording() -> SampleRecording | None:
    """The first one; None when the installation lacks it, which the doctor reports."""
    try:
        return sample_recordings()[0]
    except (OSError, IndexError):
        return None


def _engine_config(arguments: argparse.Namespace) -> EngineConfig:
    return EngineConfig(
        model=arguments.model,
        aligner=arguments.aligner,
        max_chunk_seconds=arguments.max_chunk_seconds,
        min_chunk_seconds=arguments.min_chunk_seconds,
    )


def _request(arguments: argparse.Namespace) -> Request:
    if arguments.files.count(STANDARD_INPUT) > 1:
        raise UsageError("transcribe", "standard input (-) can be read only once")
    if arguments.output is not None and arguments.output.exists() and not arguments.output.is_dir():
        raise UsageError("transcribe", f"-o takes a folder, and {arguments.output} is a file")
    if not 2.0 <= arguments.max_chunk_seconds <= _LONGEST_CHUNK_SECONDS:
        raise UsageError(
            "transcribe",
            f"--max-chunk-seconds must be from 2 to {_LONGEST_CHUNK_SECONDS:g}, not {arguments.max_chunk_seconds:g}",
        )
    if not 0.0 <= arguments.min_chunk_seconds < arguments.max_chunk_seconds:
        raise UsageError(
            "transcribe",
            f"--min-chunk-seconds must be below --max-chunk-seconds, not {arguments.min_chunk_seconds:g}",
        )
    if arguments.words and arguments.format == "txt":
        raise UsageError("transcribe", "--words has no place in plain text; add -f json")
    if arguments.format == ALL_FORMATS and arguments.output is None:
        arguments.output = Path()
    if arguments.format in RENDERERS and arguments.output is None and len(arguments.files) > 1:
        raise UsageError("transcribe", "subtitles of several recordings need a folder: add -o DIR")
    times_words = arguments.diarize or arguments.format in (*RENDERERS, ALL_FORMATS)
    counts = (arguments.num_speakers, arguments.min_speakers, arguments.max_speakers)
    if not arguments.diarize and any(count is not None for count in counts):
        raise UsageError("transcribe", "a number of speakers is for --diarize; add it")
    try:
        if arguments.language is not None:
            resolve_language(arguments.language)
        options = TranscribeOptions(
            language=arguments.language,
            prompt=arguments.prompt,
            temperature=arguments.temperature,
            seed=arguments.seed,
            words=arguments.words or times_words,
            words_optional=not arguments.words and times_words,
            speakers=SpeakerOptions(*counts) if arguments.diarize else None,
            logprobs=arguments.format in ("json", ALL_FORMATS),
            chunking=Chunking("voice" if arguments.vad else "pauses", threshold=arguments.vad_threshold),
        )
    except EngineError as error:
        raise UsageError("transcribe", str(error)) from None
    return Request(
        files=tuple(arguments.files),
        format=arguments.format,
        folder=arguments.output,
        options=options,
        shows_tracebacks=arguments.traceback,
    )


def _pull(model: str, console: Console, hub: HubAccess | None) -> int:
    if model == DEMO_MODEL:
        console.say("the demo model is bundled; there is nothing to fetch")
        return 0
    with console.bar(model, of_bytes=True) as advance:
        folder = pull(model, progress=advance, hub=hub)
    size = sum(file.stat().st_size for file in folder.iterdir())
    console.say(f"{model} is complete: {shown_bytes(size)} in {folder}")
    return 0


_TRANSCRIBE_HELP = """\
Turn recordings into text: wav, flac, mp3, m4a, ogg, opus, webm, aac, or the sound of a video.

The text goes to stdout; with several files, each under a line `==> name <==`. With -f json there is one JSON
document a line for each file. Subtitles are srt, vtt, tsv (Whisper's columns, milliseconds) or lrc. With -o DIR each
result is a file of its own, and its path goes to stdout; results of an earlier run are replaced, an input never is.
With -f all there is a file of every format, in this folder unless -o names another. With --diarize the text has a
line for each turn of a speaker, and JSON and subtitles name the speakers. A file that fails is one line on stderr and
exit code 1 at the end; the others are still done."""

_TRANSCRIBE_EXAMPLES = """\
examples:
  scribewire transcribe talk.mp3
  scribewire transcribe --model demo engine/demo/recordings/*.wav
  scribewire transcribe -f json interview.m4a | jq -r '.segments[].text'
  scribewire transcribe -f json --words talk.mp3 | jq '.segments[].words[]'
  scribewire transcribe -f srt film.mkv > film.srt
  scribewire transcribe --diarize --num-speakers 2 interview.m4a
  scribewire transcribe -f all -o texts --language es *.ogg
  scribewire transcribe --prompt "Kubernetes, etcd, Anneliese Kohlrausch" standup.webm
  curl -s https://example.org/news.mp3 | scribewire transcribe -"""

_PULL_HELP = """\
Download a model from the Hugging Face hub into the cache that Hugging Face's tools share (HF_HOME moves it).
Only safetensors, JSON and text files are fetched, and each is checked against the hub's hash. A download that broke
off goes on where it stopped. `scribewire models` lists what is published."""

_PULL_EXAMPLES = f"""\
examples:
  scribewire pull {DEFAULT_MODEL}
  HF_TOKEN=hf_... scribewire pull my-company/private-asr"""

_DOCTOR_HELP = """\
Check Python, the platform, MLX and its device, memory, the demo model, disk, data folder and port, and transcribe a
shipped recording. With --model, a folder or an id on this disk is checked besides, without being served: it is loaded
and transcribes the same recording; an aligner times the words of the demo model. Each failure comes with what to do;
exit code 1 when there is one. Asks no network."""
