"""Counters of the engine's work, which a watcher reads while another thread counts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class WorkCounters:
    """Counters that grow with every chunk, token and word, to distinguish slow from stuck; the rest is current state.

    steps_done: of the running batch. row_slots_done: rows that those steps computed, free ones included.
    is_loading: a model is being read into memory.
    """

    chunks_done: int = 0
    tokens_done: int = 0
    words_done: int = 0
    steps_done: int = 0
    row_slots_done: int = 0
    batch_rows: int = 0
    reserved_tokens: int = 0
    open_recordings: int = 0
    is_loading: bool = False

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Say that a model is being loaded, for as long as that takes."""
        self.is_loading = True
        try:
            yield
        finally:
            self.is_loading = False
