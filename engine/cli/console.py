"""Progress bars of a command, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from scribewire.engine.processes.console import StandardStreams, shortened

Advance = Callable[[float, float], None]
"""Called with the amount done and the total."""


class Console(StandardStreams):
    """The three streams of one run, and its bars."""

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
                    desc=shortened(name),
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
