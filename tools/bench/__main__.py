"""Beside peers, on random weights, with forced counts: `python -m tools.bench`, from a checkout.

The flags of `scribewire bench` and more. Speed depends on the shapes of weights and not on their values, so --random
needs no model; token counts are then forced to a natural rate, for every program. With --compare the peers that are
installed run on the same weights and audio, in turn.

    python -m tools.bench --random 0.6b --recipe 8bit --keep models --out 0.6b-8bit.json
    python -m tools.bench --random 0.6b --recipe 8bit --keep models --out 0.6b-8bit.json --only long --long-seconds 3600
    python -m tools.bench --compare --peer-python PEER/bin/python --only clip clients
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scribewire.engine.bench.plan import PlanInvalid
from scribewire.engine.bench.runner import Results, run
from scribewire.engine.cli.bench import add_bench_arguments, command_shown, ended_by_signals, plan_of, show
from scribewire.engine.processes.console import Console
from scribewire.engine.protocol.errors import EngineError
from tools.bench.child import ChildFailed
from tools.bench.plan import PEER_NAMES, ComparingPlan, default_tokens_per_second
from tools.bench.report import table
from tools.bench.runner import ComparingRunner
from tools.bench.sizes import RECIPES, SIZES

_PROGRAM = ("python", "-m", "tools.bench")


def build_parser() -> argparse.ArgumentParser:
    """An owner's flags, and a developer's."""
    parser = argparse.ArgumentParser(
        prog=" ".join(_PROGRAM), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_bench_arguments(parser, ComparingPlan)
    weights = parser.add_argument_group("random weights and forced counts")
    weights.add_argument(
        "--random", choices=tuple(SIZES), help="random weights of that size; needs no download"
    )
    weights.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        help=f"how random weights are stored (default: {ComparingPlan.recipe})",
    )
    weights.add_argument("--keep", type=Path, metavar="DIR", help="keep random weights here for the next run")
    weights.add_argument(
        "--tokens-per-second",
        type=float,
        metavar="RATE",
        help="end every chunk by a token count of about this rate (default: 3.5 for random weights, else off)",
    )
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
    return parser


def comparing_plan(arguments: argparse.Namespace) -> ComparingPlan:
    """The plan that the flags ask for; raises PlanInvalid."""
    if arguments.model is not None and arguments.random is not None:
        raise PlanInvalid("--model and --random are two different things to measure; give one")
    if arguments.random is None and (arguments.recipe is not None or arguments.keep is not None):
        raise PlanInvalid("--recipe and --keep are for --random")
    more: dict[str, Any] = {}
    if arguments.tokens_per_second is None:
        more["tokens_per_second"] = default_tokens_per_second(arguments.random)
    if arguments.compare:
        more["peers"] = tuple(arguments.peers or PEER_NAMES)
        more["peer_pythons"] = tuple(_program(name) for name in arguments.peer_pythons or ())
    elif arguments.peers or arguments.peer_pythons or arguments.peer_batches:
        raise PlanInvalid("peers are measured only with --compare")
    return plan_of(arguments, ComparingPlan, **more)


def _program(name: str) -> str:
    """A path stays what it is in whatever folder a child runs; links are kept, they make a virtual environment."""
    return os.path.abspath(name) if os.sep in name else name


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Measure and print; returns the exit code: 2 for options that make no sense, 1 when a part failed."""
    words = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(words)
    console = console or Console.of_this_process()
    try:
        plan = comparing_plan(arguments)
        results = Results(plan, command_shown(words, _PROGRAM), arguments.out)
        if arguments.again:
            results.document.pop("peers", None)  # in which type each is fastest is found out anew
        with ended_by_signals():
            run(plan, results, console.warn, again=arguments.again, kind=ComparingRunner)
    except PlanInvalid as error:
        console.warn(f"{error} (see `{' '.join(_PROGRAM)} --help`)")
        return 2
    except (EngineError, ChildFailed, OSError) as error:
        console.warn(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return show(results, table(results.document), arguments, console)


if __name__ == "__main__":
    sys.exit(main())
