"""Options shared by the evaluation scripts' command lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path


def add_set_options(parser: argparse.ArgumentParser, sets: Iterable[str]) -> None:
    """Add the choice of clips: `sets` and `limit`."""
    parser.add_argument("--sets", nargs="+", choices=list(sets), metavar="SET", help="only these sets")
    parser.add_argument("--limit", type=count, metavar="N", help="at most N clips of each set")


def add_report_options(parser: argparse.ArgumentParser, results: Path) -> None:
    """Add the destinations of the figures: `output`, `report_only` and `fill_model_card`."""
    parser.add_argument(
        "--output",
        type=Path,
        default=results,
        metavar="FILE",
        help=f"the JSON report (default: results/{results.name} beside this script, for whole runs only)",
    )
    parser.add_argument("--report-only", action="store_true", help="run nothing; show the report in --output")
    parser.add_argument(
        "--fill-model-card", action="store_true", help="write the table into engine/demo/MODEL_CARD.md"
    )


def count(text_given: str) -> int:
    """A whole number from 1, for argparse."""
    number = int(text_given)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
