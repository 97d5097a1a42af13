"""Standard streams of a command: results on stdout, everything else on stderr; tables.

For the commands of the engine and of the server's client alike; each adds its own progress bars.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import BinaryIO, Self, TextIO

PROGRAM = "scribewire"
_NAME_COLUMNS = 32


@dataclass(frozen=True, slots=True)
class StandardStreams:
    """The streams of one run. asks: True when a user can answer questions."""

    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO
    asks: bool = False

    @classmethod
    def of_this_process(cls) -> Self:
        """The process's own; a character that the terminal cannot show is written as an escape."""
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        asks = sys.stdin.isatty() and sys.stderr.isatty()
        return cls(stdin=sys.stdin.buffer, stdout=sys.stdout, stderr=sys.stderr, asks=asks)

    def say(self, text: str) -> None:
        """Write a line of the result."""
        print(text, file=self.stdout, flush=True)

    def warn(self, text: str) -> None:
        """Write one line to stderr, without the text's line breaks."""
        print(f"{PROGRAM}: {' '.join(text.split())}", file=self.stderr, flush=True)


def table(rows: Sequence[Sequence[str]], *, indent: str = "") -> list[str]:
    """Rows as lines with aligned columns; the last column is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] if rows else []
    return [
        (
            indent
            + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        ).rstrip()
        for row in rows
    ]


def shortened(name: str) -> str:
    """A name that fits before a progress bar."""
    return name if len(name) <= _NAME_COLUMNS else "..." + name[3 - _NAME_COLUMNS :]
