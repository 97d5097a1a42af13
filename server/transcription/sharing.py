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
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.errors import EngineUnavailable
from scribewire.engine.protocol.messages import Progress, TextDelta
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript
from scribewire.server.intake.uploads import Upload

Retry = Literal["joined", "finished"]
RETRY_HEADER = "x-scribewire-retry"
"""On answers that needed no decoding: `joined` running work, or took a `finished` result."""

MAX_RESULTS = 512
MAX_RESULT_BYTES = 64 << 20


class Transcribes(Protocol):
    """The function that does the work: one recording in, one transcript out, cancelled with its awaiting task."""

    async def __call__(
        self,
        upload_path: Path,
        options: TranscribeOptions,
        *,
        owner: str,
        on_started: Callable[[], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_partial: Callable[[Segment], None] | None = None,
        on_delta: Callable[[TextDelta], None] | None = None,
    ) -> Transcript:
        """Transcribe; raises EngineError, ApiError."""


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

    def is_met_by_work_for(self, other: _WorkSpec) -> bool:
        return (
            self.is_met_by_result_of(other)
            and (other.has_deltas or not self.has_deltas)
            and (other.has_segments or not self.has_segments)
        )


@dataclass(eq=False, slots=True)
class _Waiter:
    """One request that waits, with its callbacks."""

    spec: _WorkSpec
    on_started: Callable[[], None] | None
    on_progress: Callable[[Progress], None] | None
    on_partial: Callable[[Segment], None] | None
    on_delta: Callable[[TextDelta], None] | None

    def hear_delta(self, delta: TextDelta) -> None:
        if self.on_delta is not None:
            # A waiter that did not ask for log-probabilities gets none from work that another one started.
            self.on_delta(delta if self.spec.options.token_logprobs else replace(delta, logprobs=()))

    def hear_result(self, transcript: Transcript) -> None:
        """Report a finished result as if it had just been computed."""
        if self.on_started is not None:
            self.on_started()
        if self.on_partial is not None:
            for segment in transcript.segments:
                self.on_partial(segment)
        if transcript.text:
            logprobs = tuple(entry for segment in transcript.segments for entry in segment.token_logprobs)
            self.hear_delta(TextDelta("", transcript.text, logprobs))


class _Work:
    """One recording being transcribed, with what was reported so far, for waiters that join later."""

    task: asyncio.Task[Transcript]
    removal: Future[None] | None = None
    """Removal of its recording, once the task has ended."""

    def __init__(self, spec: _WorkSpec) -> None:
        self.spec = spec
        self.waiters: list[_Waiter] = []
        self._is_started = False
        self._progress: Progress | None = None
        self._partials: list[Segment] = []
        self._deltas: list[TextDelta] = []

    def admit(self, waiter: _Waiter) -> None:
        """Add a waiter and report what it missed; the text so far is its first delta."""
        self.waiters.append(waiter)
        if self._is_started and waiter.on_started is not None:
            waiter.on_started()
        if self._progress is not None and waiter.on_progress is not None:
            waiter.on_progress(self._progress)
        if waiter.on_partial is not None:
            for segment in self._partials:
                waiter.on_partial(segment)
        if self._deltas:
            logprobs: list[TokenLogprob] = [entry for delta in self._deltas for entry in delta.logprobs]
            text = "".join(delta.delta for delta in self._deltas)
            waiter.hear_delta(replace(self._deltas[0], delta=text, logprobs=tuple(logprobs)))

    def on_started(self) -> None:
        self._is_started = True
        for waiter in tuple(self.waiters):
            if waiter.on_started is not None:
                waiter.on_started()

    def on_progress(self, progress: Progress) -> None:
        self._progress = progress
        for waiter in tuple(self.waiters):
            if waiter.on_progress is not None:
                waiter.on_progress(progress)

    def on_partial(self, segment: Segment) -> None:
        self._partials.append(segment)
        for waiter in tuple(self.waiters):
            if waiter.on_partial is not None:
                waiter.on_partial(segment)

    def on_delta(self, delta: TextDelta) -> None:
        self._deltas.append(delta)
        for waiter in tuple(self.waiters):
            waiter.hear_delta(delta)


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
        recognize: Transcribes,
        *,
        window_seconds: float,
        max_results: int = MAX_RESULTS,
        max_result_bytes: int = MAX_RESULT_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """window_seconds: how long a result may be taken after its end; 0 shares nothing at all."""
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

    async def transcribe(
        self,
        upload: Upload,
        options: TranscribeOptions,
        *,
        owner: str,
        on_retry: Callable[[Retry], None] | None = None,
        on_started: Callable[[], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_partial: Callable[[Segment], None] | None = None,
        on_delta: Callable[[TextDelta], None] | None = None,
    ) -> Transcript:
        """The recording's transcript, decoded for this request or shared with an equal one.

        upload: taken over; its file is moved away as soon as this has begun.
        on_retry: called before every other callback, and only when no work was begun for this request.
        The deltas that on_delta gets, joined, are the transcript's text, always.
        Cancelling the awaiting task cancels the work when it has no other waiter.
        raises: the work's errors; EngineUnavailable when the server stops.
        """
        spec = _WorkSpec(owner, upload.sha256, options, on_delta is not None, on_partial is not None)
        waiter = _Waiter(spec, on_started, on_progress, on_partial, on_delta)
        retry: Retry | None = None
        if (result := self._result_for(spec)) is not None:
            retry = "finished"
        elif (work := self._work_for(spec)) is not None:
            retry = "joined"
        else:
            work = self._begin(spec, upload)
        if retry is not None:
            # Not waited for: the work that was found must not end before this request has joined it.
            upload.begin_delete()
            if on_retry is not None:
                on_retry(retry)
        if result is not None:
            waiter.hear_result(result.transcript)
            return result.transcript
        assert work is not None
        return await self._wait(work, waiter)

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
        usable = (work for work in self._running if work.waiters and not work.task.done())
        return next((work for work in usable if spec.is_met_by_work_for(work.spec)), None)

    def _begin(self, spec: _WorkSpec, upload: Upload) -> _Work:
        work = _Work(spec)
        own = _taken_over(upload)

        def on_end(task: asyncio.Task[Transcript]) -> None:
            self._running.discard(work)
            work.removal = own.begin_delete()
            if not task.cancelled():
                task.exception()  # retrieved, also without a waiter

        # Not a `with` inside the task: a task that is cancelled before its first step runs none of its code.
        work.task = asyncio.create_task(self._run(work, own), name="shared-work")
        work.task.add_done_callback(on_end)
        self._running.add(work)
        return work

    async def _run(self, work: _Work, upload: Upload) -> Transcript:
        transcript = await self._recognize(
            upload.path,
            work.spec.options,
            owner=work.spec.owner,
            on_started=work.on_started,
            on_progress=work.on_progress,
            # Only when requested: deltas fix text that the engine could otherwise still revise.
            on_partial=work.on_partial if work.spec.has_segments else None,
            on_delta=work.on_delta if work.spec.has_deltas else None,
        )
        self._remember(work.spec, transcript)
        return transcript

    async def _wait(self, work: _Work, waiter: _Waiter) -> Transcript:
        work.admit(waiter)
        try:
            await asyncio.wait({work.task})
            if work.removal is not None and not work.removal.done():
                # A client that has its answer may rely on the recording being removed.
                await asyncio.wait({asyncio.wrap_future(work.removal)})
        finally:
            work.waiters.remove(waiter)
            if not work.waiters:
                work.task.cancel()  # no effect on a task that has ended
        if work.task.cancelled():
            raise EngineUnavailable("The server is stopping.")
        return work.task.result()

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
