"""The longest call into C, during which no other thread gets Python's lock unless the call gives it up."""

from __future__ import annotations

import gc
import sys
import time
from types import FrameType
from typing import Any


class LongestCall:
    """Use as a context manager around work of the calling thread; `seconds` and `name` are of its longest call so far.

    Seconds are the thread's own CPU time, in which other threads and programs have no part. No garbage is collected
    meanwhile: a collection takes as long as this process, with all that its other tests left, is large.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.name = ""
        self._started: list[float] = []

    def __enter__(self) -> LongestCall:
        self._collects = gc.isenabled()
        gc.disable()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        if self._collects:
            gc.enable()
        self._started.clear()

    def _note(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            self._started.append(time.thread_time())
        elif event in ("c_return", "c_exception") and self._started:
            seconds = time.thread_time() - self._started.pop()
            if seconds > self.seconds:
                self.seconds = seconds
                self.name = getattr(called, "__qualname__", repr(called))
