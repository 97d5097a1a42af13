"""One recording written to the disk: counted, hashed and written off the event loop.

While one block is hashed and written in a thread, the next one is received. The file is 0600 and new; the descriptor
is closed only when no thread writes to it, because a descriptor closed too early may be reused for another file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path

from scribewire.server.access.gate import upload_too_large

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
    ) -> None:
        self.path = path
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._executor = executor
        self._write = write
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self._descriptor = -1
        self._working: Future[None] | None = None
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
        self.size_bytes += len(data)
        if self.size_bytes > self._max_bytes:
            raise upload_too_large(self._max_bytes)
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

    async def copy_from(self, open_source: Callable[[], int]) -> None:
        """Copy a whole file, opened in the thread; raises the opening's errors, ApiError 413 and OSError."""
        self._working = self._executor.submit(self._copy, open_source)
        await self._settled()

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

    def _copy(self, open_source: Callable[[], int]) -> None:
        descriptor = self._descriptor
        source = open_source()
        try:
            while not self._is_closed.is_set() and (block := os.read(source, BLOCK_BYTES)):
                self.size_bytes += len(block)
                if self.size_bytes > self._max_bytes:
                    raise upload_too_large(self._max_bytes)
                self._write_block(descriptor, block)
        finally:
            os.close(source)
