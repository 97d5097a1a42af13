"""A progress bar on a terminal: it moves by itself, estimates by a steady pace, and makes room for messages.

A thread draws it twice a second, so that a bar is seen to live also while nothing reports for long, as when a model is
loaded. Between two reports it goes on at the pace so far, at most by as much as the largest step that was reported.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

DRAWN_EVERY_SECONDS = 0.1
"""An upload advances thousands of times a second, more than is visible."""

_MOVED_EVERY_SECONDS = 0.5
_LEAST_BAR_COLUMNS = 5


class Bar:
    """A bar that is only drawn on a terminal. counts: `bytes`, `seconds` (of audio) or `jobs`."""

    def __init__(
        self, stream: TextIO, name: str, counts: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._name = name
        self._counts = counts
        self._clock = clock
        self._is_open = stream.isatty()
        self._began = self._moved = clock()
        self._drawn = float("-inf")
        self._first: tuple[float, float] | None = None
        self._grown: tuple[float, float] | None = None
        self._done = self._total = self._step = 0.0
        self._note = ""
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._move, name="scribewire-bar", daemon=True)
        if self._is_open:
            self._thread.start()

    def advance(self, done: float, total: float, *, note: str = "") -> None:
        """Show `done` of `total`."""
        with self._lock:
            now = self._clock()
            if done > self._done or self._first is None:
                self._first = self._first or (now, done)
                self._step = max(self._step, done - max(self._done, self._first[1]))
                self._moved = now
                if self._grown is None and done > self._first[1]:
                    self._grown = (now, done)
            self._done, self._total, self._note = done, total, note
            if now - self._drawn >= DRAWN_EVERY_SECONDS or note or 0 < total <= done:
                self.draw()

    def say(self, text: str) -> None:
        """Show what is waited for, beside the name, until there is progress again."""
        self.advance(self._done, self._total, note=f" ({text})")

    def draw(self) -> None:
        """Draw it as it stands now."""
        with self._lock:
            if self._is_open:
                self._drawn = self._clock()
                self._put(self.line(shutil.get_terminal_size().columns - 1))

    def line(self, columns: int) -> str:
        """The bar in so many columns."""
        now = self._clock()
        pace = self._pace()
        done = min(self._total, self._done + min(pace * (now - self._moved), self._step))
        left = _shown_time((self._total - done) / pace) if pace > 0 else "?"
        share = done / self._total if self._total > 0 else 0.0
        head = f"{self._name}{self._note} {share:4.0%}|"
        amount = f" {_shown_amount(done, self._total, self._counts)}" if self._total > 0 else ""
        tail = f"|{amount} [{_shown_time(now - self._began)}<{left}]"
        width = max(columns - len(head) - len(tail), _LEAST_BAR_COLUMNS)
        return (head + ("#" * int(share * width)).ljust(width) + tail)[:columns]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Make room for a message."""
        with self._lock:
            if self._is_open:
                self._put("")
            yield
            self.draw()

    def close(self) -> None:
        """Remove it."""
        with self._lock:
            if self._is_open:
                self._put("")
            self._is_open = False
        self._ended.set()

    def _pace(self) -> float:
        """Done in a second, on average since the first growth; 0.0 until that is known.

        What came before the first growth, as a batch is filled, would count as slowness; so it is left out, and the
        pace is trusted only when it was watched for as long as that took.
        """
        if self._first is None or self._grown is None:
            return 0.0
        watched_seconds = self._moved - self._grown[0]
        if watched_seconds <= 0.0 or watched_seconds < self._grown[0] - self._first[0]:
            return 0.0
        return (self._done - self._grown[1]) / watched_seconds

    def _put(self, line: str) -> None:
        self._stream.write(f"\r{line}\x1b[K" if line else "\r\x1b[K\r")
        self._stream.flush()

    def _move(self) -> None:
        while not self._ended.wait(_MOVED_EVERY_SECONDS):
            self.draw()


def _shown_amount(done: float, total: float, counts: str) -> str:
    if counts == "bytes":
        return f"{done / 1e6:.1f}/{total / 1e6:.1f} MB"
    return f"{done:.0f}/{total:.0f}{' s of audio' if counts == 'seconds' else ''}"


def _shown_time(seconds: float) -> str:
    minutes, whole = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes:02}:{whole:02}"
