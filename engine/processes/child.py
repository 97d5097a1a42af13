"""A child process: spawned, watched to its end, stopped, and its exit in words. Standard library only.

This is what all children have in common, and nothing of what they say: a pipe for their messages, which are each
child's own; a pair of sockets whose closing tells either side at once that the other is gone, however it died; and the
end of what the child wrote to its standard output and error. When to stop or replace one is its owner's decision.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import multiprocessing.connection
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection

EXIT_PARENT_GONE = 70
EXIT_OVER_MEMORY = 71
EXIT_ENGINE_FAULT = 75

TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to the whole process group; only the parent decides what they mean."""

OUTPUT_BYTES = 64 << 10
"""How much is kept of what a child writes to its standard output and error."""

TERMINATE_SECONDS = 3.0
"""Time from SIGTERM to SIGKILL."""

KILL_SECONDS = 5.0
"""A process that has not ended so long after SIGKILL waits for a device, and is left behind."""

_MEANINGS = {
    EXIT_PARENT_GONE: "its parent is gone",
    EXIT_OVER_MEMORY: "it needed more memory than it may",
    EXIT_ENGINE_FAULT: "the engine failed",
}
_READ_BYTES = 16 << 10
_READS_AFTER_DEATH = 16
"""Enough to empty a pipe; a process that the child left behind may go on writing."""

_PROGRAM = """
import sys  # -P: the working folder may hold modules of its own
from multiprocessing.connection import Connection
pipe, life = Connection(int(sys.argv[2])), Connection(int(sys.argv[3]))
sys.path[:] = pipe.recv()
from scribewire.engine.processes.child import run_child
run_child(pipe, life)
"""


class ChildProcess:
    """A started process. Every method may be called from any thread.

    pipe: duplex, carries messages. ended: the exit code, once the process has ended and its output is read.
    """

    def __init__(
        self, module: str, setup: object, *, name: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Spawn a fresh interpreter that runs `module.main(setup, pipe)`, whose result is its exit code.

        setup: any value that can be pickled. name: shown in the list of processes. environment: all of it; None for
        this process's.
        raises: OSError
        """
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            our_life, their_life = socket.socketpair()
            for one in (ours, our_life):
                undo.callback(one.close)
            with theirs, their_life:
                # The child inherits the mask, until it ignores them.
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
                try:
                    self._process = subprocess.Popen(
                        [
                            sys.executable,
                            *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]  # as multiprocessing
                            *("-P", "-c", _PROGRAM, name, str(theirs.fileno()), str(their_life.fileno())),
                        ],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        pass_fds=(theirs.fileno(), their_life.fileno()),
                        env=environment,
                    )
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            undo.pop_all()
        self.process_id = self._process.pid
        self.pipe = Connection(ours.detach())
        self.ended: concurrent.futures.Future[int] = concurrent.futures.Future()
        self.ended.set_running_or_notify_cancel()  # a waiter that is cancelled cancels nothing
        self._life = our_life
        self._output = bytearray()
        with contextlib.suppress(BrokenPipeError):  # it has died already
            self.pipe.send(sys.path)
            self.pipe.send((module, setup))
        threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """True until the process has ended."""
        return not self.ended.done()

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal; None while the process runs."""
        return self.ended.result() if self.ended.done() else None

    def exit_in_words(self) -> str:
        """The way in which the process ended, such as "killed by signal 9 (SIGKILL)"."""
        return exit_in_words(self.exit_code)

    def last_lines(self, count: int = 20) -> list[str]:
        """The newest lines of its standard output and error."""
        text = bytes(self._output).decode("utf-8", "replace").replace("\r", "\n")
        return [line.rstrip() for line in text.split("\n") if line.strip()][-count:]

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; False when it did not end within the time."""
        return bool(concurrent.futures.wait([self.ended], seconds).done)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended gets none."""
        if self.is_alive:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL, and return at once."""
        self.send_signal(signal.SIGKILL)

    def stop(self, *, word_seconds: float = 0.0, terminate_seconds: float = TERMINATE_SECONDS) -> None:
        """Wait for its end: by itself within `word_seconds`, if it was told to leave, else by SIGTERM, else by SIGKILL.

        A process that waits for a device survives even that, and is left behind.
        """
        if not self.wait(word_seconds):
            self.send_signal(signal.SIGTERM)
            if not self.wait(terminate_seconds):
                self.kill()
                self.wait(KILL_SECONDS)

    def close(self) -> None:
        """End the process at once, and release the pipe; again is no error."""
        self.kill()
        self.wait(KILL_SECONDS)
        self.pipe.close()

    def _watch(self) -> None:
        """Keep the end of its output until it has ended, and note how."""
        assert self._process.stdout is not None
        with self._life, self._process.stdout as stream:
            output = stream.fileno()
            watched = {self._life.fileno(), output}
            while self._life.fileno() not in (ready := multiprocessing.connection.wait(watched)):
                if output in ready and not self._keep(output):
                    watched.remove(output)
            exit_code = self._process.wait()
            os.set_blocking(output, False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(_READS_AFTER_DEATH):
                    self._keep(output)
        self.ended.set_result(exit_code)

    def _keep(self, descriptor: int) -> bool:
        data = os.read(descriptor, _READ_BYTES)
        self._output += data
        del self._output[:-OUTPUT_BYTES]
        return bool(data)


def exit_in_words(exit_code: int | None) -> str:
    """An exit code for people; None is a process that would not end."""
    if exit_code is None:
        return "not even SIGKILL ended it"
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by signal {-exit_code} ({signal.Signals(-exit_code).name})"
        return f"killed by signal {-exit_code}"
    meaning = _MEANINGS.get(exit_code)
    return f"exit code {exit_code}" if meaning is None else f"exit code {exit_code}: {meaning}"


def raw_socket(pipe: Connection, timeout_seconds: float | None = None) -> socket.socket:
    """The pipe as a socket of its own, for a child whose messages are bytes. timeout_seconds: of each operation."""
    raw = socket.socket(fileno=os.dup(pipe.fileno()))
    raw.settimeout(timeout_seconds)
    return raw


def run_child(pipe: Connection, life: Connection) -> None:
    """Run the program that the parent sends over the pipe, and exit; called in the child only."""
    for one in (pipe, life):
        os.set_inheritable(one.fileno(), False)
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
    threading.Thread(target=_die_with_parent, args=(life,), name="liveness", daemon=True).start()
    try:
        module, setup = pipe.recv()
    except EOFError:
        sys.exit(EXIT_PARENT_GONE)
    sys.exit(importlib.import_module(module).main(setup, pipe))


def _die_with_parent(life: Connection) -> None:
    """Block until the parent's end closes, however it died."""
    with contextlib.suppress(EOFError, OSError):
        life.recv_bytes()
    os._exit(EXIT_PARENT_GONE)
