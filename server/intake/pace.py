"""Minimum pace of an upload: no long silence, and where places are scarce a minimum of bytes per second.

A window in which places were scarce at any time is judged at its end, so that uploads admitted in quiet times give way
together when there are many, and a phone's is taken while there are few. Only time spent waiting for the client counts,
not the server's own time for its disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from starlette.requests import ClientDisconnect, Request

from scribewire.server.http.errors import ApiError


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
