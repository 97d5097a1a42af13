"""`scribewire bench`: how fast a model is on this machine, part by part.

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
from typing import Any, TypeVar

from scribewire.engine.bench.audio import wav_seconds
from scribewire.engine.bench.plan import Plan, PlanInvalid, each
from scribewire.engine.bench.report import table
from scribewire.engine.bench.runner import Results, run
from scribewire.engine.processes.console import PROGRAM, Console
from scribewire.engine.protocol.config import DEFAULT_MODEL

_Plan = TypeVar("_Plan", bound=Plan)


def add_bench_arguments(parser: argparse.ArgumentParser, kind: type[Plan] = Plan) -> None:
    """The flags of `bench`, named as the fields of the plan. kind: the plan whose settings get flags."""
    what = parser.add_argument_group("what is measured")
    named = f"a folder, a Hugging Face id, or demo (default: {DEFAULT_MODEL})"
    what.add_argument("--model", metavar="MODEL", help=named)
    what.add_argument("--device", choices=("auto", "cpu", "gpu"))
    what.add_argument("--dtype", choices=("auto", "float32", "float16", "bfloat16"))
    shown = f"of {', '.join(kind.all_parts)}"
    what.add_argument("--only", dest="parts", nargs="+", choices=kind.all_parts, metavar="PART", help=shown)
    how = parser.add_argument_group("how much of it")
    how.add_argument("--quick", action="store_true", help="everything small: shows that it works in a minute")
    for one in kind.numbers():
        if help_text := one.metadata["help"]:
            values = each(one.default)
            shown = f"{help_text} (default: {' '.join(f'{value:g}' for value in values)})"
            several: dict[str, Any] = {"nargs": "+"} if isinstance(one.default, tuple) else {}
            flag = "--" + one.name.replace("_", "-")
            how.add_argument(flag, type=type(values[0]), metavar="N", help=shown, **several)
    how.add_argument("--long-file", type=Path, metavar="WAV", help="this file instead of one made up")
    out = parser.add_argument_group("what comes out")
    out_help = "write JSON here after every part, and go on with one that is there"
    out.add_argument("--out", type=Path, metavar="FILE", help=out_help)
    out.add_argument("--again", action="store_true", help="measure anew what --out holds already")
    out.add_argument("--json", action="store_true", help="print the JSON instead of a table")


def plan_of(arguments: argparse.Namespace, kind: type[_Plan], **more: Any) -> _Plan:
    """The plan that the flags ask for. more: fields that no flag has. Raises PlanInvalid."""
    flags = {one.name: getattr(arguments, one.name, None) for one in fields(kind)}
    chosen: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    if "long_file" in chosen:
        chosen["long_file"] = chosen["long_file"].absolute()
        if not chosen["long_file"].is_file():
            raise PlanInvalid(f"there is no file {chosen['long_file']}")
        try:
            wav_seconds(chosen["long_file"])
        except (wave.Error, EOFError):
            raise PlanInvalid(f"{chosen['long_file'].name} is no WAV file") from None
    plan = kind(**chosen | more)
    return plan.quick(keep=chosen) if arguments.quick else plan


def run_bench(arguments: argparse.Namespace, argv: Sequence[str], console: Console) -> int:
    """Measure and print; returns the exit code, 1 when a part failed.

    raises: PlanInvalid, EngineError when there is no such model, OSError when the result cannot be written
    """
    plan = plan_of(arguments, Plan)
    results = Results(plan, command_shown(argv), arguments.out)
    with ended_by_signals():
        run(plan, results, console.warn, again=arguments.again)
    return show(results, table(results.document), arguments, console)


def show(results: Results, lines: Sequence[str], arguments: argparse.Namespace, console: Console) -> int:
    """Print the table's lines or the JSON, and what failed; returns the exit code."""
    for line in [json.dumps(results.document, indent=1)] if arguments.json else lines:
        console.say(line)
    for part in results.failed():
        console.warn(f"{part} failed: {results.parts[part]['error']}")
    return 1 if results.failed() else 0


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block in order, which ends the children, even where they were ignored."""
    # Only the main thread may set handlers; another thread's caller has its own.
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_shown(argv: Sequence[str], program: Sequence[str] = (PROGRAM,)) -> str:
    """The command for the result, every path cut to its last name: a result says nothing of this machine's disk."""
    shown = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if equals and flag.startswith("--") and os.sep in value:
            word = f"{flag}={Path(value).name}"
        elif not word.startswith("-") and (word.startswith((os.sep, ".", "~")) or Path(word).exists()):
            word = Path(word).name
        shown.append(word)
    return shlex.join([*program, *shown])


BENCH_HELP = """\
Measure a model on this machine: loading, decode step, single clips, clients over HTTP and a long file, with the memory
they take, each against what the machine can do at best.

With --out every part is written as soon as it is measured, and the same command goes on where it was broken off."""

BENCH_EXAMPLES = """\
examples:
  scribewire bench --model demo --quick
  scribewire bench --model mlx-community/Qwen3-ASR-0.6B-8bit --out mine.json
  scribewire bench --only long --long-file meeting.wav"""
