"""The engine's subcommands: transcribe, models, pull, quantize, languages, doctor, bench.

Importing this loads no MLX, so that help is quick; a model is loaded only by `transcribe`, and by the child processes
of `bench`, and its weights by `quantize`. The `scribewire` command itself is the server's (server/cli.py), which passes
these subcommands on.
Exit codes: 0 done, 1 something failed, 2 the command line makes no sense, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import scribewire
from scribewire.engine.bench.plan import PlanInvalid
from scribewire.engine.checkpoint.aligners import find_aligner
from scribewire.engine.checkpoint.fetch import HubAccess, pull, resolve_model
from scribewire.engine.cli.arguments import (
    TRANSCRIBE_EXAMPLES,
    TRANSCRIBE_HELP,
    UsageError,
    add_transcribe_arguments,
    engine_config_of,
    request_of,
)
from scribewire.engine.cli.bench import BENCH_EXAMPLES, BENCH_HELP, add_bench_arguments, run_bench
from scribewire.engine.cli.doctor import Surroundings, examine, show_findings
from scribewire.engine.cli.findings import RunChild, run_python
from scribewire.engine.cli.listings import show_languages, show_models
from scribewire.engine.cli.live import Engine
from scribewire.engine.cli.quantize import (
    QUANTIZE_EXAMPLES,
    QUANTIZE_HELP,
    add_quantize_arguments,
    run_quantize,
)
from scribewire.engine.cli.speakers import Diarizer
from scribewire.engine.cli.transcribe import transcribe_files
from scribewire.engine.demo import SampleRecording, sample_recordings
from scribewire.engine.processes.arguments import CommandParser
from scribewire.engine.processes.console import PROGRAM, Console, shown_bytes
from scribewire.engine.protocol.config import DEFAULT_MODEL, DEMO_MODEL, NO_ALIGNER, EngineConfig
from scribewire.engine.protocol.errors import EngineError
from scribewire.engine.protocol.speakers import DiarizationConfig, SpeakerOptions

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

COMMANDS = {
    "transcribe": "turn recordings into text",
    "models": "list the models on this disk and the published ones",
    "pull": "download a model, or go on with a download",
    "quantize": "write a copy of a model that takes fewer bits",
    "languages": "list the languages and their codes",
    "doctor": "check this machine by transcribing a shipped recording",
    "bench": "measure a model on this machine",
}

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


@contextmanager
def load_transcriber(config: EngineConfig, console: Console, fetches_aligner: bool) -> Iterator[Engine]:
    """The model, and the aligner where words are required, fetched first when they are not on disk, with a bar."""
    model, aligner = config.model, config.aligner
    with console.bar(f"fetching {model}", "bytes") as bar:
        resolved = resolve_model(model, download=True, progress=bar.advance)
    if fetches_aligner and aligner != NO_ALIGNER:
        with console.bar("fetching the aligner", "bytes") as bar:
            name = DEMO_MODEL if resolved.is_demo else model
            find_aligner(aligner, model=name, download=True, progress=bar.advance)
    with ExitStack() as held:
        with console.bar(f"loading {model}", "seconds"):
            transcriber = held.enter_context(scribewire.Transcriber(config=config))
        yield transcriber


def build_parser() -> argparse.ArgumentParser:
    """The parser of all the engine's subcommands, also for the help of each."""
    parser = CommandParser(prog=PROGRAM)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=PROGRAM)
    add = {name: partial(commands.add_parser, name, help=text) for name, text in COMMANDS.items()}
    add_transcribe_arguments(add["transcribe"](description=TRANSCRIBE_HELP, epilog=TRANSCRIBE_EXAMPLES))
    models = add["models"](
        description="List the models on this disk and the published ones, with sizes. Asks no network."
    )
    models.add_argument("--json", action="store_true", help="print a JSON array instead of a table")
    fetching = add["pull"](description=_PULL_HELP, epilog=_PULL_EXAMPLES)
    fetching.add_argument("model", metavar="MODEL", help=f"a Hugging Face id, such as {DEFAULT_MODEL}")
    add_quantize_arguments(add["quantize"](description=QUANTIZE_HELP, epilog=QUANTIZE_EXAMPLES))
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
            request = request_of(arguments)
            return transcribe_files(
                request,
                lambda: load(engine_config_of(arguments), console, arguments.words),
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
        case "quantize":
            return run_quantize(arguments, console, hub)
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


def _pull(model: str, console: Console, hub: HubAccess | None) -> int:
    if model == DEMO_MODEL:
        console.say("the demo model is bundled; there is nothing to fetch")
        return 0
    with console.bar(model, "bytes") as bar:
        folder = pull(model, progress=bar.advance, hub=hub)
    size = sum(file.stat().st_size for file in folder.iterdir())
    console.say(f"{model} is complete: {shown_bytes(size)} in {folder}")
    return 0


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
