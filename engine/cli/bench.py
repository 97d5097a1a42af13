"""`scribewire bench`: how fast a model is on this machine, part by part, alone or beside peers.

This process loads no MLX; what is measured runs in children. The table (or JSON) goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import threading
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from engine.bench.audio import wav_seconds
from engine.bench.child import ChildFailed
from engine.bench.plan import PARTS, PEER_NAMES, Plan, PlanInvalid, default_tokens_per_second
from engine.bench.report import table
from engine.bench.runner import failed_parts, run
from engine.bench.sizes import RECIPES, SIZES
from engine.cli.console import PROGRAM, Console
from engine.protocol.config import DEFAULT_MODEL

_DEFAULTS = Plan()


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench`; those that are fields of the plan are named as the fields."""
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--model", metavar="MODEL", help=f"a folder, a Hugging Face id, or demo (default: {DEFAULT_MODEL})"
    )
    what.add_argument("--random", choices=tuple(SIZES), help="random weights of that size; needs no download")
    what.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        help=f"how random weights are stored (default: {_DEFAULTS.recipe})",
    )
    what.add_argument("--keep", type=Path, metavar="DIR", help="keep random weights here for the next run")
    what.add_argument("--device", choices=("auto", "cpu", "gpu"))
    what.add_argument("--dtype", choices=("auto", "float32", "float16", "bfloat16"))
    what.add_argument(
        "--only", dest="parts", nargs="+", choices=tuple(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    what.add_argument(
        "--tokens-per-second",
        type=float,
        metavar="RATE",
        help="end every chunk by a token count of about this rate (default: 3.5 for random weights, else off)",
    )
    how = parser.add_argument_group("how much of it")
    how.add_argument("--quick", action="store_true", help="everything small: shows that it works in a minute")
    _add_counts(how)
    peers = parser.add_argument_group("peers")
    peers.add_argument("--compare", action="store_true", help="also measure the peers that are installed")
    peers.add_argument("--peers", nargs="+", choices=PEER_NAMES, help="these only")
    peers.add_argument(
        "--peer-python",
        dest="peer_pythons",
        action="append",
        metavar="PYTHON",
        help="an interpreter that has a peer; may be repeated (default: this one)",
    )
    peers.add_argument(
        "--peer-batches", type=int, nargs="+", metavar="N", help="mlx-audio's batch sizes to try"
    )
    out = parser.add_argument_group("what comes out")
    out.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write JSON here after every part, and go on with one that is there",
    )
    out.add_argument("--again", action="store_true", help="measure anew what --out holds already")
    out.add_argument("--json", action="store_true", help="print the JSON instead of a table")


def _add_counts(group: argparse._ArgumentGroup) -> None:
    for name, help_text in _COUNTS.items():
        default = getattr(_DEFAULTS, name)
        is_list = isinstance(default, tuple)
        shown = " ".join(f"{value:g}" for value in default) if is_list else f"{default:g}"
        options: dict[str, Any] = {"nargs": "+"} if is_list else {}
        kind = type(default[0]) if is_list else type(default)
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, type=kind, metavar="N", help=f"{help_text} (default: {shown})", **options)
    group.add_argument("--long-file", type=Path, metavar="WAV", help="this file instead of one made up")


_COUNTS = {
    "loads": "loads in fresh processes",
    "rounds": "runs of each clip, and of encoder and prefill",
    "clip_seconds": "lengths of the clips",
    "rows": "rows of encoder, prefill and decode step",
    "row_seconds": "seconds of audio behind each row",
    "steps": "decode steps timed",
    "clients": "how many clients at once",
    "client_seconds": "length of their clips",
    "requests_per_client": "requests of each in a round",
    "client_rounds": "rounds of each number of clients",
    "round_seconds": "least length of such a round, and of the warm-up before the first",
    "long_seconds": "length of the long file",
    "long_rounds": "runs of the long file",
    "short_seconds": "length of the requests in its middle",
    "short_requests": "how many of them",
}


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the flags ask for; raises PlanInvalid."""
    if arguments.model is not None and arguments.random is not None:
        raise PlanInvalid("--model and --random are two different things to measure; give one")
    if arguments.random is None and (arguments.recipe is not None or arguments.keep is not None):
        raise PlanInvalid("--recipe and --keep are for --random")
    chosen: dict[str, Any] = {"tokens_per_second": default_tokens_per_second(arguments.random)}
    for one in fields(Plan):
        value = getattr(arguments, one.name, None)
        if value is not None:
            chosen[one.name] = tuple(value) if isinstance(value, list) else value
    if not arguments.compare:
        if arguments.peers or arguments.peer_pythons or arguments.peer_batches:
            raise PlanInvalid("peers are measured only with --compare")
    else:
        chosen.setdefault("peers", PEER_NAMES)
        chosen["peer_pythons"] = tuple(_program(name) for name in arguments.peer_pythons or ())
    if "long_file" in chosen:
        chosen["long_file"] = chosen["long_file"].absolute()
        if not chosen["long_file"].is_file():
            raise PlanInvalid(f"there is no file {chosen['long_file']}")
        try:
            wav_seconds(chosen["long_file"])
        except (wave.Error, EOFError):
            raise PlanInvalid(f"{chosen['long_file'].name} is no WAV file, which peers need") from None
    return _with_flags_kept(Plan(**chosen), arguments) if arguments.quick else Plan(**chosen)


def _with_flags_kept(plan: Plan, arguments: argparse.Namespace) -> Plan:
    """The quick form of a plan, but with what was given as a flag."""
    quick = plan.quick()
    given = {name for name in _COUNTS if getattr(arguments, name, None) is not None}
    values = {one.name: getattr(plan if one.name in given else quick, one.name) for one in fields(Plan)}
    return Plan(**values)


def _program(name: str) -> str:
    """A path stays what it is in whatever folder a child runs; links are kept, they make a virtual environment."""
    return os.path.abspath(name) if os.sep in name else name


def run_bench(arguments: argparse.Namespace, argv: Sequence[str], console: Console) -> int:
    """Measure and print; returns the exit code, 1 when a part failed.

    raises: PlanInvalid, EngineError when there is no such model, OSError when the result cannot be written
    """
    plan = plan_of(arguments)
    try:
        with _ended_by_signals():
            document = run(plan, _command_shown(argv), arguments.out, console.warn, again=arguments.again)
    except ChildFailed as error:
        console.warn(str(error))
        return 1
    if arguments.json:
        console.say(json.dumps(document, indent=1))
    else:
        for line in table(document):
            console.say(line)
    failed = failed_parts(document, plan)
    for part in failed:
        console.warn(f"{part} failed: {document['parts'][part]['error']}")
    return 1 if failed else 0


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM both end the block in order, which ends the children; where they were ignored, too."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and whoever runs this elsewhere has its own
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_TAKES_PATHS = ("--keep", "--out", "--peer-python", "--long-file", "--model")


def _command_shown(argv: Sequence[str]) -> str:
    """The command for the result, every path cut to its last name: a result says nothing of this machine's disk."""
    shown = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if equals and flag in _TAKES_PATHS and os.sep in value:
            word = f"{flag}={Path(value).name}"
        elif not word.startswith("-") and (word.startswith((os.sep, ".", "~")) or Path(word).exists()):
            word = Path(word).name
        shown.append(word)
    return shlex.join([PROGRAM, *shown])


BENCH_HELP = f"""\
Measure a model on this machine: loading, encoder, prefill, decode step, single clips, clients over HTTP, a long file,
and short requests in its middle; each against what the machine can do at best. With --random no model is needed: speed
depends on the shapes of weights and not on their values; token counts are then forced to a natural rate, for everyone.
With --compare the peers that are installed run on the same weights and audio, in turn ({" and ".join(PEER_NAMES)}).

With --out every part is written as soon as it is measured, and the same command goes on where it was broken off."""

BENCH_EXAMPLES = """\
examples:
  scribewire bench --model demo --quick
  scribewire bench --random 0.6b --recipe 8bit --keep models --out 0.6b-8bit.json
  scribewire bench --random 0.6b --recipe 8bit --keep models --out 0.6b-8bit.json --only long --long-seconds 3600
  scribewire bench --compare --peer-python PEER/bin/python --only clip clients"""
