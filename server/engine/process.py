"""One engine worker process with its pipe and its standard error, for use on the event loop.

Two threads do the blocking pipe I/O and a third drains standard error, so that neither a hung worker nor one killed in
the middle of a message can block the event loop. It handles no requests and restarts nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import signal
import socket
import threading
from collections import deque

from scribewire.engine.processes.launch import WorkerHandle
from scribewire.engine.protocol.messages import FromWorker, ToWorker

STDERR_BYTES = 64 << 10

_LAST_WORDS_SECONDS = 1.0
_EXIT_GRACE_SECONDS = 0.5
_TERMINATE_SECONDS = 3.0
_STDERR_LINES_LOGGED = 20
_DUMP_LINES = 100

logger = logging.getLogger("scribewire.engine")


class WorkerProcess:
    """One process with its threads; everything but the thread bodies runs on the event loop."""

    def __init__(self, handle: WorkerHandle) -> None:
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._outbox: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._gone = asyncio.Event()
        self._stderr: deque[bytes] = deque()
        self._stderr_size = 0
        self._threads = [
            threading.Thread(target=body, name=f"engine-{name}", daemon=True)
            for name, body in (("reader", self._read), ("writer", self._write), ("stderr", self._drain))
        ]
        self.process_id = handle.process.pid
        for thread in self._threads:
            thread.start()
        self._loop.add_reader(handle.process.sentinel, self._on_exit)

    def send(self, message: ToWorker) -> None:
        """Queue a message for the worker without waiting."""
        self._outbox.put(message)

    def hang_up(self) -> None:
        """Expect no more messages: `next_message` returns None after those that arrived before."""
        self._inbox.put_nowait(None)

    async def next_message(self, timeout_seconds: float | None) -> FromWorker | None:
        """The next message, or None at the end; raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            return await self._inbox.get()

    async def wait_gone(self, timeout_seconds: float) -> bool:
        """Wait for the process to end; False when it did not within the time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

    async def dump_stacks(self, seconds: float) -> list[str]:
        """Make it write the stacks of its threads; returns the newest lines of its standard error within `seconds`.

        A process that is stopped (SIGSTOP) writes none.
        """
        if self.process_id is not None and self._handle.process.is_alive():
            os.kill(self.process_id, signal.SIGUSR1)
        await self.wait_gone(seconds)
        return self.stderr_lines(_DUMP_LINES)

    async def terminate(self, seconds: float) -> None:
        """Send SIGTERM, and SIGKILL after `seconds` if it still runs; returns when it has ended."""
        process = self._handle.process
        process.terminate()
        if not await self.wait_gone(seconds):
            process.kill()
            await self.wait_gone(_TERMINATE_SECONDS)

    async def end(self) -> int | None:
        """Ensure that the process has ended and release its resources; returns its exit code."""
        process = self._handle.process
        # A worker closes its pipe a moment before it exits; terminating it then would hide its exit code.
        if not await self.wait_gone(_EXIT_GRACE_SECONDS):
            await self.terminate(_TERMINATE_SECONDS)
        self._loop.remove_reader(process.sentinel)
        self._outbox.put(None)
        self._unblock()
        process.join(0.1)
        exit_code = process.exitcode
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 0.5)
        # A descriptor closed under a thread that still uses it could be reused for another file.
        if not any(thread.is_alive() for thread in self._threads):
            self._handle.close()
            if exit_code is not None:
                process.close()
        return exit_code

    def stderr_lines(self, count: int = _STDERR_LINES_LOGGED) -> list[str]:
        """The newest lines of its standard error."""
        text = b"".join(self._stderr).decode("utf-8", "replace").replace("\r", "\n")
        return [line.rstrip() for line in text.split("\n") if line.strip()][-count:]

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._handle.process.sentinel)
        self._gone.set()
        # Messages sent before the worker's death still count. The reader stops at the end of the pipe; if a grandchild
        # holds the other end open, it is cut off.
        self._loop.call_later(_LAST_WORDS_SECONDS, self._unblock)

    def _unblock(self) -> None:
        with contextlib.suppress(OSError):
            duplicate = socket.socket(fileno=os.dup(self._handle.pipe.fileno()))
            with duplicate, contextlib.suppress(OSError):
                duplicate.shutdown(socket.SHUT_RDWR)

    def _post(self, message: FromWorker | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, message)

    def _read(self) -> None:
        try:
            while True:
                self._post(self._handle.pipe.recv())
        except (EOFError, OSError):
            pass  # the worker ended, between two messages or in the middle of one
        except Exception:
            logger.exception("engine_message_unreadable")
        finally:
            self._post(None)

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (message := self._outbox.get()) is not None:
                self._handle.pipe.send(message)

    def _drain(self) -> None:
        descriptor = self._handle.stderr.fileno()
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, 1 << 14):
                self._stderr.append(data)
                self._stderr_size += len(data)
                while self._stderr_size > STDERR_BYTES:
                    self._stderr_size -= len(self._stderr.popleft())
