"""One body from the network to the disk: at a minimum pace, counted, hashed and written off the event loop.

While one block is hashed and written in a thread, the next one is received. The file is 0600 and new; the descriptor
is closed only when no thread writes to it, because a descriptor closed too early may be reused for another file. A body
of JSON lies in such a file too, until its own recording is taken out of it.

The pace allows no long silence, and where places are scarce no fewer than a minimum of bytes per second. A window in
which places were scarce at any time is judged at its end, so that uploads admitted in quiet times give way together
when there are many, and a phone's is taken while there are few. Only time spent waiting for the client counts, not the
server's own time for its disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Executor, Future
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from scribewire.server.access.gate import upload_too_large
from scribewire.server.http.errors import ApiError

T = TypeVar("T")

BLOCK_BYTES = 512 << 10
"""Size of a write to the disk."""


class RecordingFile:
    """The file of one request's recording; `size_bytes` and `sha256` are final after `finish`."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        executor: Executor,
        write: Callable[[int, bytes | memoryview], int] = os.write,
        too_large: Callable[[int], ApiError] = upload_too_large,
    ) -> None:
        """too_large: the refusal of more than `max_bytes`, which it is given."""
        self.path = path
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._executor = executor
        self._write = write
        self._too_large = too_large
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self._descriptor = -1
        self._working: Future[Any] | None = None
        self._is_closed = threading.Event()

    @property
    def sha256(self) -> str:
        """Hex digest of the written bytes."""
        return self._hash.hexdigest()

    def create(self) -> None:
        """Create the file; raises OSError."""
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    def add(self, data: bytes | memoryview) -> None:
        """Add the next bytes of the recording; raises ApiError 413."""
        self._count(len(data))
        self._pending += data

    async def write_if_full(self) -> None:
        """Begin to write the collected bytes if they fill a block; raises OSError of an earlier block."""
        if len(self._pending) >= BLOCK_BYTES:
            await self._begin_block()

    async def finish(self) -> None:
        """Write the rest and wait until all is in the file; raises OSError."""
        if self._pending:
            await self._begin_block()
        await self._settled()

    async def filled_by(self, work: Callable[[], T], executor: Executor | None = None) -> T:
        """Run what calls `append` in a thread; returns its result and raises its errors."""
        self._working = working = (executor or self._executor).submit(work)
        return await asyncio.wrap_future(working)

    def append(self, block: bytes) -> None:
        """Count, hash and write bytes in the calling thread; raises ApiError 413, OSError, and an error once closed."""
        if self._is_closed.is_set():
            raise CancelledError("nobody waits for this recording any more")
        self._count(len(block))
        self._write_block(self._descriptor, block)

    def copy(self, open_source: Callable[[], int]) -> None:
        """Append a whole file, opened here; raises the opening's errors, and those of `append`."""
        source = open_source()
        try:
            while block := os.read(source, BLOCK_BYTES):
                self.append(block)
        finally:
            os.close(source)

    def close(self) -> None:
        """Close the file as soon as no thread uses it; closing again is no error."""
        self._is_closed.set()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        if self._working is None:
            os.close(descriptor)
        else:
            self._working.add_done_callback(lambda _: os.close(descriptor))

    async def _begin_block(self) -> None:
        await self._settled()
        block, self._pending = self._pending, bytearray()
        self._working = self._executor.submit(self._write_block, self._descriptor, block)

    async def _settled(self) -> None:
        if self._working is not None:
            await asyncio.wrap_future(self._working)

    def _write_block(self, descriptor: int, block: bytearray | bytes) -> None:
        self._hash.update(block)
        rest = memoryview(block)
        while rest:
            rest = rest[self._write(descriptor, rest) :]

    def _count(self, byte_count: int) -> None:
        self.size_bytes += byte_count
        if self.size_bytes > self._max_bytes:
            raise self._too_large(self._max_bytes)


class UploadPace:
    """The pace of one upload; with `min_bytes_per_second` 0 only silence is limited."""

    def __init__(
        self,
        *,
        idle_seconds: float,
        min_bytes_per_second: int,
        window_seconds: float,
        is_scarce: Callable[[], bool],
    ) -> None:
        """is_scarce: True while there are so many uploads that slow ones must go."""
        self._idle_seconds = idle_seconds
        self._min_bytes_per_second = min_bytes_per_second
        self._window_seconds = window_seconds
        self._is_scarce = is_scarce
        self._was_scarce = is_scarce()
        self._silent_seconds = 0.0
        self._waited_seconds = 0.0
        self._received_bytes = 0

    async def pieces(self, request: Request) -> AsyncIterator[bytes]:
        """The body as it arrives; raises ApiError 408 and ClientDisconnect."""
        more = True
        while more:
            started = time.monotonic()
            piece = b""
            try:
                # Not request.stream(): a generator that was interrupted by a timeout is exhausted.
                async with asyncio.timeout(self.patience_seconds()):
                    message = await request.receive()
            except TimeoutError:
                self.count(time.monotonic() - started, None)
            else:
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect()
                piece = message.get("body", b"")
                more = message.get("more_body", False)
                if more:
                    self.count(time.monotonic() - started, len(piece))
            yield piece

    def patience_seconds(self) -> float:
        """Time to wait for the next piece before counting again."""
        patience = self._idle_seconds - self._silent_seconds
        if self._min_bytes_per_second:
            patience = min(patience, self._window_seconds - self._waited_seconds)
        return max(0.0, patience)

    def count(self, waited_seconds: float, byte_count: int | None) -> None:
        """Count one wait and the size of its piece, None for no piece; raises ApiError 408."""
        self._silent_seconds = 0.0 if byte_count is not None else self._silent_seconds + waited_seconds
        if self._silent_seconds >= self._idle_seconds:
            raise _stalled(f"sent nothing for {self._idle_seconds:g} s")
        self._waited_seconds += waited_seconds
        self._received_bytes += byte_count or 0
        self._was_scarce = self._was_scarce or self._is_scarce()
        if self._min_bytes_per_second and self._waited_seconds >= self._window_seconds:
            is_slow = self._received_bytes < self._min_bytes_per_second * self._window_seconds
            if is_slow and self._was_scarce:
                raise _stalled(
                    f"sent fewer than {self._min_bytes_per_second} bytes a second while places were scarce"
                )
            self._waited_seconds, self._received_bytes, self._was_scarce = 0.0, 0, self._is_scarce()


def _stalled(what: str) -> ApiError:
    return ApiError(408, "upload_stalled", f"The upload {what} and was dropped.")
