"""Retried uploads: the same recording with the same parameters from the same key is decoded once.

A request joins the running work of an equal one, or takes the transcript of one that succeeded a short while ago.
Requests are equal when they have the same owner, the same bytes and the same options, whatever name of the resident
model they use; response format and stream flag do not matter as long as what they need is computed (a result with
log-probabilities serves requests without; a stream joins only work that sends deltas, so that it stays live).
Sampling at a temperature without a seed is no exception: a retry gets the first answer, not another one.

Work runs in its own task and is cancelled at once when its last waiter leaves, because a client that disconnects must
free its capacity. So a retry finds work that another request still waits for, or a finished result; cancelled work is
decoded again. There is no grace period: most clients that disconnect do not come back, and work kept for them would
delay the others.

It never remembers failures, shows nothing to another owner, and holds a bounded number of results and bytes. Jobs are
not shared: they have ids by which their results are found.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.errors import EngineUnavailable
from scribewire.engine.protocol.messages import Completed, Progress, SegmentDone, Started, TextDelta
from scribewire.engine.protocol.transcript import TokenLogprob, Transcript
from scribewire.server.engine.client import TranscriptionEvent
from scribewire.server.intake.uploads import Upload

Retry = Literal["joined", "finished"]
RETRY_HEADER = "x-scribewire-retry"
"""On answers that needed no decoding: `joined` running work, or took a `finished` result."""

MAX_RESULTS = 512
MAX_RESULT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class _WorkSpec:
    """Outputs that a request needs, or that some work computes."""

    owner: str
    sha256: str
    options: TranscribeOptions
    has_deltas: bool
    has_segments: bool

    def is_met_by_result_of(self, other: _WorkSpec) -> bool:
        mine, its = self.options, other.options
        return (
            (self.owner, self.sha256) == (other.owner, other.sha256)
            and (its.logprobs or not mine.logprobs)
            and (its.token_logprobs or not mine.token_logprobs)
            and replace(mine, logprobs=False, token_logprobs=False)
            == replace(its, logprobs=False, token_logprobs=False)
        )

    def asks_for(self, event: TranscriptionEvent) -> bool:
        return {TextDelta: self.has_deltas, SegmentDone: self.has_segments}.get(type(event), True)

    def is_met_by_work_for(self, other: _WorkSpec) -> bool:
        return (
            self.is_met_by_result_of(other)
            and (other.has_deltas or not self.has_deltas)
            and (other.has_segments or not self.has_segments)
        )


class SharedEvents:
    """One request's view of a transcription: an iterator up to `Completed` that takes nothing before it is asked.

    Work that runs keeps one list of what was reported, in which each of its requests has a position; what a slow client
    has not taken yet is held once for all of them. A wait that is cancelled loses nothing: the next one goes on.
    """

    def __init__(
        self, spec: _WorkSpec, retry: Retry | None, begun: list[TranscriptionEvent], work: _Work | None
    ) -> None:
        """begun: what was reported before it joined `work`, or where there is none, all of a finished result."""
        self.retry = retry
        """How an earlier upload served this one; None where the work was begun for it."""
        self._spec = spec
        self._begun = deque(begun)
        self._work = work
        self._position = 0 if work is None else len(work.reported)
        self._is_over = False

    def __aiter__(self) -> SharedEvents:
        return self

    async def __anext__(self) -> TranscriptionEvent:
        """The next event; raises the work's errors, and EngineUnavailable when the server stops."""
        if self._is_over:
            raise StopAsyncIteration
        while True:
            if self._begun:
                event = self._begun.popleft()
            else:
                assert self._work is not None
                event = await self._work.event_at(self._position)
                self._position += 1
            if self._spec.asks_for(event):
                self._is_over = isinstance(event, Completed)
                break
        if isinstance(event, TextDelta) and not self._spec.options.token_logprobs:
            # Work that another request started may have computed log-probabilities.
            return replace(event, logprobs=())
        return event

    async def transcript(self) -> Transcript:
        """The transcript at the end; raises as `anext`."""
        async for event in self:
            if isinstance(event, Completed):
                return event.transcript
        raise RuntimeError("the transcript was taken already")


class _Work:
    """One recording being transcribed, with what was reported so far, for requests that join later."""

    task: asyncio.Task[Transcript]
    removal: Future[None] | None = None
    """Removal of its recording, once the task has ended."""

    def __init__(self, spec: _WorkSpec) -> None:
        self.spec = spec
        self.waiter_count = 0
        self.reported: list[TranscriptionEvent] = []
        self._has_more = asyncio.Event()

    def report(self, event: TranscriptionEvent) -> None:
        """Add an event for all who wait."""
        self.reported.append(event)
        self.wake()

    def wake(self) -> None:
        """Let all who wait look again."""
        self._has_more.set()
        self._has_more = asyncio.Event()

    def so_far(self) -> list[TranscriptionEvent]:
        """What a request that joins now has missed: of progress the newest, and the text as one delta."""
        kinds: dict[type, list[Any]] = {Started: [], Progress: [], SegmentDone: [], TextDelta: []}
        for event in self.reported:
            kinds[type(event)].append(event)
        deltas: list[TextDelta] = kinds[TextDelta]
        if deltas:
            logprobs: list[TokenLogprob] = [entry for delta in deltas for entry in delta.logprobs]
            text = "".join(delta.delta for delta in deltas)
            kinds[TextDelta] = [replace(deltas[0], delta=text, logprobs=tuple(logprobs))]
        return [*kinds[Started], *kinds[Progress][-1:], *kinds[SegmentDone], *kinds[TextDelta]]

    async def event_at(self, position: int) -> TranscriptionEvent:
        """An event once it is there, `Completed` at the end of all; raises the work's errors."""
        while position >= len(self.reported):
            if self.removal is not None:
                return await self._end(self.removal)
            await self._has_more.wait()
        return self.reported[position]

    async def _end(self, removal: Future[None]) -> Completed:
        if not removal.done():
            # A client that has its answer may rely on the recording being removed.
            await asyncio.wait({asyncio.wrap_future(removal)})
        if self.task.cancelled():
            raise EngineUnavailable("The server is stopping.")
        return Completed("", self.task.result())


@dataclass(frozen=True, slots=True)
class _Result:
    """A finished transcript and its spec; ended_at is on the monotonic clock."""

    spec: _WorkSpec
    transcript: Transcript
    ended_at: float
    held_bytes: int


class SharedWork:
    """Running work and fresh results by owner, bytes and options; lives on one event loop."""

    def __init__(
        self,
        recognize: Callable[..., AsyncGenerator[TranscriptionEvent, None]],
        *,
        window_seconds: float,
        max_results: int = MAX_RESULTS,
        max_result_bytes: int = MAX_RESULT_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """recognize: as TranscriptionService.transcribe, which does the work; closing its events cancels it.

        window_seconds: how long a result may be taken after its end; 0 shares nothing at all.
        """
        self._recognize = recognize
        self._window_seconds = window_seconds
        self._max_results = max_results
        self._max_result_bytes = max_result_bytes
        self._monotonic = monotonic
        self._running: set[_Work] = set()
        self._results: deque[_Result] = deque()
        """Oldest first."""
        self._held_bytes = 0
        self._forgetting: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def transcribe(
        self,
        upload: Upload,
        options: TranscribeOptions,
        *,
        owner: str,
        wants_deltas: bool = False,
        wants_segments: bool = False,
    ) -> Iterator[SharedEvents]:
        """The recording's events, of work for this request or shared with an equal one, up to `Completed`.

        upload: taken over; its file is moved away as soon as this has begun.
        wants_deltas: the deltas, joined, are the transcript's text, always.
        Leaving the context cancels the work when no other request waits for it.
        """
        spec = _WorkSpec(owner, upload.sha256, options, wants_deltas, wants_segments)
        if (result := self._result_for(spec)) is not None:
            upload.begin_delete()
            yield SharedEvents(spec, "finished", _replay(result.transcript), None)
            return
        joined = self._work_for(spec)
        work = self._begin(spec, upload) if joined is None else joined
        work.waiter_count += 1
        try:
            if joined is not None:
                # Not waited for: the work that was found must not end before this request has joined it.
                upload.begin_delete()
            yield SharedEvents(spec, None if joined is None else "joined", work.so_far(), work)
        finally:
            work.waiter_count -= 1
            if not work.waiter_count:
                work.task.cancel()  # no effect on a task that has ended

    async def stop(self) -> None:
        """Cancel running work, whose requests then fail with EngineUnavailable, and forget every result."""
        tasks = [work.task for work in self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._results.clear()
        self._held_bytes = 0
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None

    # ---- running work ----------------------------------------------------------------------------------------

    def _work_for(self, spec: _WorkSpec) -> _Work | None:
        if not self._window_seconds:
            return None
        # Cancelled work has no waiters until its task has ended.
        usable = (work for work in self._running if work.waiter_count and not work.task.done())
        return next((work for work in usable if spec.is_met_by_work_for(work.spec)), None)

    def _begin(self, spec: _WorkSpec, upload: Upload) -> _Work:
        work = _Work(spec)
        own = _taken_over(upload)

        def on_end(task: asyncio.Task[Transcript]) -> None:
            self._running.discard(work)
            work.removal = own.begin_delete()
            if not task.cancelled():
                task.exception()  # retrieved, also without a waiter
            work.wake()

        # Not a `with` inside the task: a task that is cancelled before its first step runs none of its code.
        work.task = asyncio.create_task(self._run(work, own), name="shared-work")
        work.task.add_done_callback(on_end)
        self._running.add(work)
        return work

    async def _run(self, work: _Work, upload: Upload) -> Transcript:
        spec = work.spec
        events = self._recognize(
            upload.path,
            spec.options,
            owner=spec.owner,
            # Only when requested: deltas fix text that the engine could otherwise still revise.
            wants_deltas=spec.has_deltas,
            wants_segments=spec.has_segments,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Completed):
                    self._remember(spec, event.transcript)
                    return event.transcript
                work.report(event)
        raise RuntimeError("a transcription ended without a transcript")

    # ---- finished results ------------------------------------------------------------------------------------

    def _result_for(self, spec: _WorkSpec) -> _Result | None:
        self._forget_old()
        fitting = (result for result in reversed(self._results) if spec.is_met_by_result_of(result.spec))
        return next(fitting, None)

    def _remember(self, spec: _WorkSpec, transcript: Transcript) -> None:
        if not self._window_seconds:
            return
        result = _Result(spec, transcript, self._monotonic(), held_bytes(transcript))
        self._results.append(result)
        self._held_bytes += result.held_bytes
        while len(self._results) > self._max_results or self._held_bytes > self._max_result_bytes:
            self._held_bytes -= self._results.popleft().held_bytes
        self._forget_in_time()

    def _forget_old(self) -> None:
        oldest_kept = self._monotonic() - self._window_seconds
        while self._results and self._results[0].ended_at <= oldest_kept:
            self._held_bytes -= self._results.popleft().held_bytes

    def _forget_in_time(self) -> None:
        """Forget results also when no request comes: no text is kept longer than documented."""
        if self._forgetting is None and self._results:
            wait_seconds = self._results[0].ended_at + self._window_seconds - self._monotonic()
            self._forgetting = asyncio.get_running_loop().call_later(max(wait_seconds, 0.01), self._on_time)

    def _on_time(self) -> None:
        self._forgetting = None
        self._forget_old()
        self._forget_in_time()


def _replay(transcript: Transcript) -> list[TranscriptionEvent]:
    """A finished result as if it had just been computed."""
    events: list[TranscriptionEvent] = [Started("")]
    events += [SegmentDone("", segment) for segment in transcript.segments]
    if transcript.text:
        logprobs = tuple(entry for segment in transcript.segments for entry in segment.token_logprobs)
        events.append(TextDelta("", transcript.text, logprobs))
    return [*events, Completed("", transcript)]


def held_bytes(transcript: Transcript) -> int:
    """Memory of a transcript in bytes, estimated from above."""
    total = 2000 + _text_bytes(transcript.text)
    for segment in transcript.segments:
        total += 600 + _text_bytes(segment.text) + 40 * len(segment.tokens)
        total += sum(400 + _text_bytes(word.text) for word in segment.words)
        total += sum(400 + _text_bytes(entry.text) for entry in segment.token_logprobs)
    return total


def _text_bytes(text: str) -> int:
    return 100 + 4 * len(text)


def _taken_over(upload: Upload) -> Upload:
    """The upload in a folder of another name, which its previous holder does not delete."""
    folder = upload.path.parent.with_name(secrets.token_hex(16))
    os.rename(upload.path.parent, folder)
    return replace(upload, path=folder / upload.path.name)
