"""A child of typed, pickled messages, for use on an event loop. Only for children that open no untrusted file.

Nothing here blocks, so neither a hung child nor one killed in the middle of a message holds up the event loop. The
child itself uses `Connection.send` and `recv`. It handles no requests and restarts nothing.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import signal
import struct
from typing import Generic, Self, TypeVar

from scribewire.engine.processes.child import KILL_SECONDS, TERMINATE_SECONDS, ChildProcess, raw_socket

MAX_MESSAGE_BYTES = 1 << 30

_SIZE = struct.Struct("!i")
"""Precedes every message. Source: multiprocessing.connection, which has another form for those above 2 GiB."""

_LARGE_BYTES = 1 << 16
"""A message above this size is unpickled beside the event loop."""

_LAST_WORDS_SECONDS = 1.0
_EXIT_GRACE_SECONDS = 0.5
_DUMP_LINES = 100

logger = logging.getLogger("scribewire.engine")

To = TypeVar("To")
From = TypeVar("From")


class AsyncChild(Generic[To, From]):
    """A started child. gone: done when the process has ended; no waiter cancels it."""

    def __init__(
        self, child: ChildProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Made by `of`."""
        self.child = child
        self.gone = asyncio.wrap_future(child.ended)
        self._reader = reader
        self._writer = writer
        self._next_size: int | None = None
        # Messages sent before the child's death still count; a grandchild may hold the other end open after it.
        loop = asyncio.get_running_loop()
        self.gone.add_done_callback(lambda _: loop.call_later(_LAST_WORDS_SECONDS, self.hang_up))

    @classmethod
    async def of(cls, child: ChildProcess) -> Self:
        """Take over the messages of a child that was just started."""
        try:
            return cls(child, *await asyncio.open_unix_connection(sock=raw_socket(child.pipe)))
        except BaseException:
            child.kill()
            raise

    def send(self, message: To) -> None:
        """Queue a message for the child without waiting; one that is dead does not get it."""
        data = pickle.dumps(message)
        if not self._writer.is_closing():
            self._writer.write(_SIZE.pack(len(data)) + data)

    def hang_up(self) -> None:
        """Expect no more messages: `next_message` returns None after those that arrived before."""
        self._reader.feed_eof()

    async def next_message(self, timeout_seconds: float | None) -> From | None:
        """The next message, or None at the end; raises TimeoutError. One waiter at a time."""
        async with asyncio.timeout(timeout_seconds):
            try:
                if self._next_size is None:
                    (self._next_size,) = _SIZE.unpack(await self._reader.readexactly(_SIZE.size))
                if not 0 <= self._next_size <= MAX_MESSAGE_BYTES:
                    raise pickle.UnpicklingError(f"a message of {self._next_size} bytes")
                data = await self._reader.readexactly(self._next_size)
                self._next_size = None
                large = len(data) > _LARGE_BYTES
                message: From = await asyncio.to_thread(pickle.loads, data) if large else pickle.loads(data)
                return message
            except (asyncio.IncompleteReadError, OSError):
                return None  # the child ended, between two messages or in the middle of one
            except Exception:
                logger.exception("engine_message_unreadable")
                return None

    async def wait_gone(self, timeout_seconds: float) -> bool:
        """Wait for the process to end; False when it did not within the time."""
        return bool((await asyncio.wait({self.gone}, timeout=timeout_seconds))[0])

    async def dump_stacks(self, seconds: float) -> list[str]:
        """Make a worker write the stacks of its threads; returns the newest lines of its output within `seconds`.

        A process that is stopped (SIGSTOP) writes none; one without a handler for SIGUSR1 dies of it.
        """
        self.child.send_signal(signal.SIGUSR1)
        await self.wait_gone(seconds)
        return self.child.last_lines(_DUMP_LINES)

    async def terminate(self, seconds: float) -> None:
        """Send SIGTERM, and SIGKILL after `seconds` if it still runs; returns when it has ended."""
        self.child.send_signal(signal.SIGTERM)
        if not await self.wait_gone(seconds):
            self.child.kill()
            await self.wait_gone(KILL_SECONDS)

    async def end(self) -> int | None:
        """Ensure that the process has ended and release its resources; returns its exit code."""
        # A child closes its pipe a moment before it exits; terminating it then would hide its exit code.
        if not await self.wait_gone(_EXIT_GRACE_SECONDS):
            await self.terminate(TERMINATE_SECONDS)
        self._writer.close()
        self.child.pipe.close()
        return self.child.exit_code
