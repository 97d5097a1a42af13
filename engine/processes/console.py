"""Standard streams of a command: results on stdout, everything else on stderr; tables.

For the commands of the engine and of the server's client alike, with progress bars, pauses and questions.
"""

from __future__ import annotations

import codecs
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from typing import BinaryIO, Self, TextIO

from scribewire.engine.processes.bars import Bar

PROGRAM = "scribewire"
_AS_IT_WAS = "scribewire.as_it_was"
_NAME_COLUMNS = 32
_LEAST_COLUMNS = 12
_BETWEEN = "  "


@dataclass(frozen=True, slots=True)
class Console:
    """The streams of one run. asks: True when a user can answer questions."""

    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO
    asks: bool = False
    pause: Callable[[float], None] = time.sleep
    _bars: list[Bar] = field(default_factory=list)

    @classmethod
    def of_this_process(cls) -> Self:
        """The process's own; a character that the terminal cannot show is written as an escape."""
        if isinstance(sys.stdout, TextIOWrapper):
            codecs.register_error(_AS_IT_WAS, _as_it_was)
            sys.stdout.reconfigure(errors=_AS_IT_WAS)
        asks = sys.stdin.isatty() and sys.stderr.isatty()
        return cls(stdin=sys.stdin.buffer, stdout=sys.stdout, stderr=sys.stderr, asks=asks)

    @property
    def columns(self) -> int | None:
        """Width of the terminal that the result goes to; None where it goes to no terminal."""
        return shutil.get_terminal_size().columns if self.stdout.isatty() else None

    def say(self, text: str) -> None:
        """Write a line of the result."""
        print(text, file=self.stdout, flush=True)

    def write(self, text: str) -> None:
        """Write a part of the result, unchanged; a bar on the same terminal ends where it begins."""
        if self.stdout.isatty():
            for bar in self._bars:
                bar.close()
        self.stdout.write(text)
        self.stdout.flush()

    def warn(self, text: str) -> None:
        """Write one line to stderr, without the text's line breaks."""
        with ExitStack() as aside:
            for bar in self._bars:
                aside.enter_context(bar.aside())
            print(f"{PROGRAM}: {' '.join(text.split())}", file=self.stderr, flush=True)

    @contextmanager
    def bar(self, name: str, counts: str) -> Iterator[Bar]:
        """A bar that is removed at its end; nothing at all when stderr is no terminal. counts: see Bar."""
        bar = Bar(self.stderr, shortened(name), counts)
        self._bars.append(bar)
        try:
            yield bar
        finally:
            self._bars.remove(bar)
            bar.close()

    def confirm(self, question: str) -> bool:
        """Ask a question; True only for an explicit yes."""
        print(f"{question} [y/N] ", end="", file=self.stderr, flush=True)
        answer = self.stdin.readline().decode("utf-8", "replace").strip().lower()
        return answer in ("y", "yes")


def _as_it_was(error: UnicodeError) -> tuple[str | bytes, int]:
    """A byte of a file's name that is not UTF-8 as that byte, so that the name can be used; all else as an escape."""
    assert isinstance(error, UnicodeEncodeError)
    first = ord(error.object[error.start])
    if 0xDC80 <= first <= 0xDCFF:
        return bytes([first - 0xDC00]), error.start + 1
    return error.object[error.start].encode("ascii", "backslashreplace"), error.start + 1


def json_text(values: object, *, indent: int | None = None) -> str:
    """Values as JSON, characters as they are, and what is no character (see `os.fsdecode`) escaped."""
    return json.dumps(values, ensure_ascii=False, indent=indent).encode("utf-8", "backslashreplace").decode()


def table(rows: Sequence[Sequence[str]], *, indent: str = "", columns: int | None = None) -> list[str]:
    """Rows as lines with aligned columns; the last column is not padded.

    columns: of the terminal: cells of the widest column but the first are cut until the lines fit; None for any width.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = None if columns is None else columns - len(indent) - len(_BETWEEN) * (len(widths) - 1)
    while room is not None and sum(widths) > room:
        place = max(range(1, len(widths)), key=widths.__getitem__, default=0)
        if widths[place] <= _LEAST_COLUMNS:
            break
        widths[place] = max(_LEAST_COLUMNS, widths[place] - (sum(widths) - room))
    lines = []
    for row in rows:
        cells = [_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append((indent + _BETWEEN.join(cells)).rstrip())
    return lines


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 3] + "..."


def shown_bytes(count: int) -> str:
    """A size to be read, in decimal units, as for disks and downloads."""
    if count >= 999_500_000:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1e3:.1f} kB"


def shown_duration(seconds: float) -> str:
    """`0:07`, `12:30` or `1:02:03`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def shortened(name: str) -> str:
    """A name that fits before a progress bar."""
    return name if len(name) <= _NAME_COLUMNS else "..." + name[3 - _NAME_COLUMNS :]
