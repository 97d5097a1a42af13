"""Notes of what one upload makes a process do, taken in the front, the worker and the audio child.

Each process looks at one byte of a shared file. While that is not zero, it notes each function of ours that is entered,
in every thread (`sys.setprofile`), and each way by which a thread hands something to another: a queue, a wake-up of the
event loop, a pipe. When the byte is zero again, it writes its notes down. `main` is what the front starts in place of
the worker and of the audio child; it runs the real one.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import mmap
import multiprocessing.connection
import os
import queue
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from scribewire.engine.processes.launch import TRANSCODE_CHILD_MODULE, WORKER_MODULE
from scribewire.engine.protocol.config import EngineConfig

FOLDER = "WALK_FOLDER"
SWITCH = "switch"
OURS = "scribewire."
NO_HEARTBEAT_SECONDS = 50.0
"""The front ends a worker that says nothing for 60 s."""

_POLL_SECONDS = 0.02

TASKS_OF_THEIR_OWN = frozenset({"Task-1", "engine-watchdog"})
"""Of an event loop: uvicorn's main loop, which looks at its clock ten times a second, and the worker's watchdog."""

_WAKE = asyncio.BaseEventLoop.call_soon_threadsafe.__code__
_read, _write = os.read, os.write


class Notes:
    """What one process noted since the switch was set."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._folder = Path(os.environ[FOLDER])
        with (self._folder / SWITCH).open("rb") as file:
            self._switch = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
        self._events: list[tuple[int, str, str, str, str]] = []

    def begin(self) -> None:
        """Note from now on, in this thread and in all that it starts."""
        threading.Thread(target=self._write_down, name="walk-notes", daemon=True).start()
        os.read, os.write = self._watched_read, self._watched_write
        # The library has bound the functions where it was loaded.
        connection: Any = multiprocessing.connection.Connection
        connection._recv.__defaults__ = (self._watched_read,)
        connection._send.__defaults__ = (self._watched_write,)
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def note(self, kind: str, what: str, detail: str = "") -> None:
        """Note one event of the current thread."""
        if self._switch[0] and not _runs_on_its_own():
            self._events.append((time.monotonic_ns(), threading.current_thread().name, kind, what, detail))

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        if not self._switch[0]:
            return
        if event == "call":
            module = frame.f_globals.get("__name__", "")
            if module.startswith(OURS):
                # What a dataclass writes for itself has no file.
                is_written = not frame.f_code.co_filename.startswith("<")
                self.note("enter" if is_written else "make", module, frame.f_code.co_qualname)
            elif frame.f_code is _WAKE:
                self.note("wake", "")
        elif event != "return":
            self._note_call(event, argument)

    def _note_call(self, event: str, function: Any) -> None:
        """Note what is given when the call begins, and what is taken when it has succeeded."""
        owner, name = function.__self__, function.__name__
        if isinstance(owner, queue.SimpleQueue):
            if (event, name) == ("c_call", "put"):
                self.note("put", str(id(owner)))
            elif event == "c_return" and name in ("get", "get_nowait"):
                self.note("got", str(id(owner)))
        elif isinstance(owner, socket.socket) and owner.family == socket.AF_UNIX:
            if (event, name) == ("c_call", "send"):
                self.note("write", str(os.fstat(owner.fileno()).st_ino))
            elif (event, name) == ("c_return", "recv"):
                self.note("read", str(os.fstat(owner.fileno()).st_ino))

    def _watched_read(self, descriptor: int, size: int) -> bytes:
        data = _read(descriptor, size)
        if data and self._switch[0]:
            self.note("read", str(os.fstat(descriptor).st_ino))
        return data

    def _watched_write(self, descriptor: int, data: Any) -> int:
        if self._switch[0]:
            self.note("write", str(os.fstat(descriptor).st_ino))
        return _write(descriptor, data)

    def _write_down(self) -> None:
        while True:
            while not (number := self._switch[0]):
                time.sleep(_POLL_SECONDS)
            while self._switch[0]:
                time.sleep(_POLL_SECONDS)
            events, self._events = self._events, []
            path = self._folder / f"{number}-{self._role}-{os.getpid()}"
            path.with_suffix(".draft").write_text(json.dumps([self._role, os.getpid(), events]))
            path.with_suffix(".draft").rename(path.with_suffix(".json"))


def _runs_on_its_own() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop in this thread
        return False
    return task is not None and task.get_name() in TASKS_OF_THEIR_OWN


def main(setup: Any, pipe: Any) -> int:
    """Run the worker or the audio child, whichever the setup is for, and note what it does."""
    is_worker = isinstance(setup, EngineConfig)
    Notes("worker" if is_worker else "audio child").begin()
    child: Any = importlib.import_module(WORKER_MODULE if is_worker else TRANSCODE_CHILD_MODULE)
    if is_worker:
        # On a busy machine a heartbeat would fall into every upload, and seem to be a part of it.
        child._HEARTBEAT_SECONDS = NO_HEARTBEAT_SECONDS
    code: int = child.main(setup, pipe)
    return code
