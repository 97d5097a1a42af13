"""Limits of one key, at once and per minute: checked and counted in one step, before a body byte is read.

Only submissions of recordings count, and event streams, which hold a connection: reading results and states is free.
Where no key is required, all clients together count as one. Every refusal carries the time until a retry.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from scribewire.server.http.errors import ApiError

WINDOW_SECONDS = 60.0
_UPLOAD_PAUSE_SECONDS = 2.0
_QUEUE_PAUSE_SECONDS = 5.0
_STREAM_PAUSE_SECONDS = 5.0


@dataclass(slots=True)
class _Usage:
    submitted_at: deque[float] = field(default_factory=deque)
    uploads: int = 0
    unfinished: int = 0


class KeyLimits:
    """Limits that hold for every key; 0 is no limit. May be used from any thread."""

    def __init__(
        self,
        *,
        requests_per_minute: int = 0,
        concurrent_uploads: int = 0,
        queued_recordings: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests_per_minute = requests_per_minute
        self._concurrent_uploads = concurrent_uploads
        self._queued_recordings = queued_recordings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._usage: dict[str, _Usage] = {}

    def admit(self, owner: str) -> Lease:
        """Count one more recording of this owner; raises ApiError 429, and then counts nothing."""
        return self._lease(owner, self._check, is_uploading=True)

    def occupy(self, owner: str, *, is_checked: bool) -> Lease:
        """Count an unfinished recording that is stored already, such as a job's of an earlier start.

        is_checked: raises ApiError 429 when the owner is at its limit, and then counts nothing.
        """
        return self._lease(owner, self._check_queued if is_checked else None, is_uploading=False)

    def _lease(self, owner: str, check: Callable[[_Usage], None] | None, *, is_uploading: bool) -> Lease:
        with self._lock:
            usage = self._usage.setdefault(owner, _Usage())
            try:
                if check is not None:
                    check(usage)
            except ApiError:
                self._forget_if_idle(owner)
                raise
            if is_uploading and self._requests_per_minute:
                usage.submitted_at.append(self._monotonic())
            usage.uploads += is_uploading
            usage.unfinished += 1
        return Lease(self, owner, is_uploading=is_uploading)

    def _check(self, usage: _Usage) -> None:
        if self._concurrent_uploads and usage.uploads >= self._concurrent_uploads:
            raise over_limit(
                "key_uploads_exceeded",
                f"This key may send {self._concurrent_uploads} recordings at once.",
                _UPLOAD_PAUSE_SECONDS,
            )
        self._check_queued(usage)
        if self._requests_per_minute:
            now = self._monotonic()
            while usage.submitted_at and usage.submitted_at[0] <= now - WINDOW_SECONDS:
                usage.submitted_at.popleft()
            if len(usage.submitted_at) >= self._requests_per_minute:
                raise over_limit(
                    "key_rate_exceeded",
                    f"This key may submit {self._requests_per_minute} recordings a minute.",
                    usage.submitted_at[0] + WINDOW_SECONDS - now,
                )

    def _check_queued(self, usage: _Usage) -> None:
        if self._queued_recordings and usage.unfinished >= self._queued_recordings:
            raise over_limit(
                "key_queue_full",
                f"This key may have {self._queued_recordings} recordings unfinished at once.",
                _QUEUE_PAUSE_SECONDS,
            )

    def _forget_if_idle(self, owner: str) -> None:
        usage = self._usage[owner]
        if not (usage.uploads or usage.unfinished or usage.submitted_at):
            del self._usage[owner]

    def _leave(self, owner: str, *, uploads: int, unfinished: int) -> None:
        usage = self._usage[owner]
        usage.uploads -= uploads
        usage.unfinished -= unfinished
        self._forget_if_idle(owner)


class Lease:
    """One recording's claim on its owner's limits; released in two steps, each of which may be repeated."""

    def __init__(self, limits: KeyLimits, owner: str, *, is_uploading: bool) -> None:
        self.owner = owner
        self._limits = limits
        self._is_uploading = is_uploading
        self._is_unfinished = True

    def end_upload(self) -> None:
        """Release the upload's share: the recording has arrived, or its upload failed."""
        self._leave(is_finished=False)

    def release(self) -> None:
        """Release the recording's share: it is finished, however it ended."""
        self._leave(is_finished=True)

    def _leave(self, *, is_finished: bool) -> None:
        with self._limits._lock:
            uploads = int(self._is_uploading)
            unfinished = int(self._is_unfinished and is_finished)
            if uploads or unfinished:
                self._is_uploading = False
                self._is_unfinished = self._is_unfinished and not is_finished
                self._limits._leave(self.owner, uploads=uploads, unfinished=unfinished)


class StreamLimits:
    """Event streams open at once: of one client (a key, or an address where none is required), and of all.

    All together hold half of the connections. A quarter may wait for transcripts, and so a quarter stays for the rest.
    Lives on one event loop.
    """

    def __init__(self, connections: int, *, of_one: int = 0) -> None:
        """of_one: 0 for an eighth of the connections."""
        self._most = connections // 2
        self._most_of_one = of_one or connections // 8
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def hold(self, client: str) -> Iterator[None]:
        """Count a stream while the context is entered; raises ApiError 429 or 503, and then counts nothing."""
        if self._open[client] >= self._most_of_one:
            message = f"This client may hold {self._most_of_one} event streams open."
            raise over_limit("key_streams_exceeded", message, _STREAM_PAUSE_SECONDS)
        if self._open.total() >= self._most:
            message = (
                "Too many event streams are open; try again shortly, or ask for the job's state instead."
            )
            raise ApiError(503, "too_many_streams", message, retry_after_seconds=5)
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            self._open += Counter()  # drops what is 0


def over_limit(code: str, message: str, pause_seconds: float) -> ApiError:
    """A 429 with the pause in both headers that clients read, in whole seconds and in milliseconds."""
    return ApiError(
        429,
        code,
        f"{message} Try again in {math.ceil(pause_seconds)} s.",
        retry_after_seconds=math.ceil(pause_seconds),
        headers={"retry-after-ms": str(math.ceil(pause_seconds * 1000))},
    )
