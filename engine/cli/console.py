"""Output of a command: results on stdout, everything else on stderr, bars on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from typing import BinaryIO, TextIO

from tqdm import tqdm

PROGRAM = "scribewire"

Advance = Callable[[float, float], None]
"""Called with the amount done and the total."""

_NAME_COLUMNS = 32


@dataclass(frozen=True, slots=True)
class Console:
    """The three streams of one run."""

    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO

    @classmethod
    def of_this_process(cls) -> Console:
        """The process's own streams; a character that the terminal cannot show is written as an escape."""
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        return cls(stdin=sys.stdin.buffer, stdout=sys.stdout, stderr=sys.stderr)

    def say(self, text: str) -> None:
        """A line of the result."""
        print(text, file=self.stdout, flush=True)

    def warn(self, text: str) -> None:
        """One line beside the result, line breaks in the text removed."""
        print(f"{PROGRAM}: {' '.join(text.split())}", file=self.stderr, flush=True)

    @contextmanager
    def bar(self, name: str, *, of_bytes: bool = False) -> Iterator[Advance]:
        """A progress bar that disappears when it is done; nothing at all when stderr is no terminal.

        It counts seconds of audio, or bytes.
        """
        count = "{n_fmt}/{total_fmt}" if of_bytes else "{n:.0f}/{total:.0f} s of audio"
        shown: tqdm | None = None

        def advance(done: float, total: float) -> None:
            nonlocal shown
            if not self.stderr.isatty():
                return
            if shown is None:  # only now is it known that there is something to wait for
                shown = tqdm(
                    desc=_shortened(name),
                    total=max(total, 1e-9),
                    file=self.stderr,
                    leave=False,
                    unit="B" if of_bytes else "s",
                    unit_scale=of_bytes,
                    bar_format="{desc} {percentage:3.0f}%|{bar}| " + count + " [{elapsed}<{remaining}]",
                )
            shown.total = max(total, done, 1e-9)
            shown.n = done
            shown.refresh()

        try:
            yield advance
        finally:
            if shown is not None:
                shown.close()


def table(rows: Sequence[Sequence[str]], *, indent: str = "  ") -> list[str]:
    """Rows as lines with aligned columns; the last column is left as long as it is."""
    widths = [
        max((len(row[column]) for row in rows), default=0)
        for column in range(len(rows[0]) - 1 if rows else 0)
    ]
    return [
        (
            indent
            + "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]])
        ).rstrip()
        for row in rows
    ]


def shown_bytes(count: int) -> str:
    """A size to be read, in decimal units, as for disks and downloads."""
    if count >= 999_500_000:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1e3:.1f} kB"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_COLUMNS else "..." + name[3 - _NAME_COLUMNS :]
