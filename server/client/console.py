"""Output of the client's commands: results on stdout, everything else on stderr, bars on a terminal only.

The same as the engine's commands, which this package may not import.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from typing import BinaryIO, TextIO

from tqdm import tqdm

PROGRAM = "scribewire"
DRAWN_EVERY_SECONDS = 0.1
"""An upload advances thousands of times a second, more than is visible."""

_NAME_COLUMNS = 32
_BAR = "{desc} {percentage:3.0f}%|{bar}| "
_COUNTS = {
    "bytes": "{n_fmt}/{total_fmt} [{elapsed}<{remaining}]",
    "seconds": "{n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]",
    "jobs": "{n:.0f}/{total:.0f} [{elapsed}<{remaining}]",
}


class Bar:
    """A progress bar that is only drawn on a terminal."""

    def __init__(self, stream: TextIO, name: str, counts: str) -> None:
        self._stream = stream
        self._name = name
        self._counts = counts
        self._shown: tqdm | None = None
        self._drawn_at = 0.0

    def advance(self, done: float, total: float, *, note: str = "") -> None:
        """Show `done` of `total`."""
        now = time.monotonic()
        is_over = 0 < total <= done
        if not self._stream.isatty() or (
            now - self._drawn_at < DRAWN_EVERY_SECONDS and not (note or is_over)
        ):
            return
        self._drawn_at = now
        if self._shown is None:
            is_bytes = self._counts == "bytes"
            self._shown = tqdm(
                desc=_shortened(self._name),
                total=max(total, 1e-9),
                file=self._stream,
                leave=False,
                unit="B" if is_bytes else "",
                unit_scale=is_bytes,
                bar_format=_BAR + _COUNTS[self._counts],
            )
        self._shown.set_description_str(_shortened(self._name) + note, refresh=False)
        self._shown.total = max(total, done, 1e-9)
        self._shown.n = done
        self._shown.refresh()

    def say(self, text: str) -> None:
        """Show what is waited for, beside the name, until there is progress again."""
        self.advance(0.0, 0.0, note=f" ({text})")

    def close(self) -> None:
        """Remove the bar."""
        if self._shown is not None:
            self._shown.close()
            self._shown = None


@dataclass(frozen=True, slots=True)
class Console:
    """The streams of one run, and its pauses. asks: True when a user can answer questions."""

    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO
    asks: bool = False
    pause: Callable[[float], None] = time.sleep

    @classmethod
    def of_this_process(cls) -> Console:
        """The console of this process; a character that the terminal cannot show is written as an escape."""
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        return cls(
            stdin=sys.stdin.buffer,
            stdout=sys.stdout,
            stderr=sys.stderr,
            asks=sys.stdin.isatty() and sys.stderr.isatty(),
        )

    def say(self, text: str) -> None:
        """Write a line of the result."""
        print(text, file=self.stdout, flush=True)

    def write(self, text: str) -> None:
        """Write a part of the result, unchanged."""
        self.stdout.write(text)
        self.stdout.flush()

    def warn(self, text: str) -> None:
        """Write one line to stderr, without the text's line breaks."""
        print(f"{PROGRAM}: {' '.join(text.split())}", file=self.stderr, flush=True)

    @contextmanager
    def bar(self, name: str, counts: str) -> Iterator[Bar]:
        """A bar that is removed at its end. counts: `bytes`, `seconds` (of audio) or `jobs`."""
        bar = Bar(self.stderr, name, counts)
        try:
            yield bar
        finally:
            bar.close()

    def confirm(self, question: str) -> bool:
        """Ask a question; True only for an explicit yes."""
        print(f"{question} [y/N] ", end="", file=self.stderr, flush=True)
        answer = self.stdin.readline().decode("utf-8", "replace").strip().lower()
        return answer in ("y", "yes")


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns; the last column is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] if rows else []
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_COLUMNS else "..." + name[3 - _NAME_COLUMNS :]
