"""Output of the client's commands: that of every command, with progress bars on a terminal and questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

from scribewire.engine.processes.console import StandardStreams, shortened

DRAWN_EVERY_SECONDS = 0.1
"""An upload advances thousands of times a second, more than is visible."""

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
                desc=shortened(self._name),
                total=max(total, 1e-9),
                file=self._stream,
                leave=False,
                unit="B" if is_bytes else "",
                unit_scale=is_bytes,
                bar_format=_BAR + _COUNTS[self._counts],
            )
        self._shown.set_description_str(shortened(self._name) + note, refresh=False)
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
class Console(StandardStreams):
    """The streams of one run, and its pauses."""

    pause: Callable[[float], None] = time.sleep

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
