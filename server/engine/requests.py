"""One recording's way through the engine, over as many workers as its attempts allow, to exactly one end.

Its events stay consistent over several workers: it starts once, its progress never goes back, no segment and no text
comes twice. Text that was sent is final: a second worker's text must begin with it, and only what follows is sent.
Where it begins otherwise, the request fails, because the sent text cannot be taken back.

The worker schedules what it holds itself, so everything is sent as soon as there is a worker, except work that must
run alone: it waits until nothing is in flight, and while it runs nothing else is sent. Interactive requests go before
work that must run alone, so that a suspect does not delay them; but only for a bounded time, so that they cannot starve
it. Nothing here sends anything itself.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

from scribewire.engine.protocol.errors import EngineCrashed, EngineError, error_from_code
from scribewire.engine.protocol.messages import (
    AudioEnded,
    Completed,
    Failed,
    FromWorker,
    Progress,
    SegmentDone,
    Started,
    TextDelta,
    Transcribe,
)

TranscriptionEvent = Started | Progress | TextDelta | SegmentDone | Completed
"""What a transcription yields, in this order where it applies: `Started` once, and `Completed` last."""

SUSPECT_DEATHS = 2
"""Work that was in flight at this number of deaths may have caused them; from then on it runs alone."""

LONE_WORK_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class AudioOutcome:
    """Outcome of audio that was still being written when the engine got it: its samples, or why it ended."""

    sample_count: int
    failure: EngineError | None = None


class EngineRequest:
    """A request, what was reported of it so far, and its events for the caller that waits."""

    def __init__(
        self,
        message: Transcribe,
        *,
        attempts: int,
        runs_alone: bool,
        audio_ended: asyncio.Future[AudioOutcome] | None,
    ) -> None:
        """attempts: workers that may die with it before it fails. audio_ended: of a growing source, its outcome."""
        if message.wants_deltas and attempts > 1:
            message = _repeatable(message)
        self.message = message
        self.audio_ended = audio_ended
        self.is_audio_end_sent = False
        """True when the worker that holds this was sent the end of its audio."""
        self.deaths = 0
        self.is_over = False
        """True when it has its end, or its caller has left: what a worker still sends of it is dropped."""
        self._attempts = attempts
        self._runs_alone = runs_alone
        self._events: asyncio.Queue[TranscriptionEvent | EngineError] = asyncio.Queue()
        self._has_started = False
        self._seconds_done = 0.0
        self._segment_count = 0
        self._texts: list[str] = []
        self._logprob_count = 0
        self._repetition: _Repetition | None = None

    @property
    def request_id(self) -> str:
        """The id, the same with every worker."""
        return self.message.request_id

    @property
    def is_interactive(self) -> bool:
        """True when a client waits for it."""
        return self.message.priority == "interactive"

    @property
    def runs_alone(self) -> bool:
        """True when nothing else may be in flight with it."""
        return self._runs_alone or self.deaths >= SUSPECT_DEATHS

    async def events(self) -> AsyncGenerator[TranscriptionEvent, None]:
        """Its events up to `Completed`, for one caller; raises the error that it ended with.

        What is not taken yet is kept: at most the text of one transcript and its times.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, EngineError):
                raise event
            yield event
            if isinstance(event, Completed):
                return

    def receive(self, message: FromWorker) -> None:
        """Handle a worker's message; afterwards it may be over."""
        if self.is_over:
            return
        match message:
            case Completed():
                self._complete(message)
            case Failed():
                self.fail(error_from_code(message.code, message.message, message.parameter))
            case Started() if not self._has_started:
                self._has_started = True
                self._events.put_nowait(message)
            case Progress() if message.audio_seconds_done >= self._seconds_done:
                self._seconds_done = message.audio_seconds_done
                self._events.put_nowait(message)
            case SegmentDone() if message.segment.index >= self._segment_count:
                self._segment_count = message.segment.index + 1
                self._events.put_nowait(message)
            case TextDelta():
                self._take_delta(message)
            case _:
                pass

    def lose_worker(self, reason: str) -> None:
        """Note the death of the worker that held it; unless its attempts are used up, it can be sent to the next."""
        self.deaths += 1
        self.is_audio_end_sent = False
        if self.deaths >= self._attempts:
            self.fail(
                EngineCrashed(f"The engine stopped while it worked on this, because {reason}; try again.")
            )
            return
        self._repetition = _Repetition("".join(self._texts), self._logprob_count) if self._texts else None

    def fail(self, error: EngineError) -> None:
        """End it with an error, unless it is over."""
        if not self.is_over:
            self.is_over = True
            self._events.put_nowait(error)

    def audio_end(self) -> AudioEnded | None:
        """The message for its worker about the end of its audio; None when there is nothing to send."""
        ended = self.audio_ended
        if ended is None or not ended.done() or ended.cancelled() or self.is_audio_end_sent:
            return None
        outcome = ended.result()
        error = outcome.failure
        failure = None if error is None else (error.code, error.message, error.parameter)
        self.is_audio_end_sent = True
        return AudioEnded(self.request_id, outcome.sample_count, failure)

    def _take_delta(self, delta: TextDelta) -> None:
        if self._repetition is not None:
            news = self._repetition.news_in(delta)
            if self._repetition.differs:
                self._fail_as_different()
                return
            if news is None:
                return
            delta, self._repetition = news, None
        self._texts.append(delta.delta)
        self._logprob_count += len(delta.logprobs)
        self._events.put_nowait(delta)

    def _complete(self, end: Completed) -> None:
        if self.deaths and not end.transcript.text.startswith("".join(self._texts)):
            self._fail_as_different()
        else:
            self.is_over = True
            self._events.put_nowait(end)

    def _fail_as_different(self) -> None:
        self.fail(
            EngineCrashed(
                "The engine was replaced in the middle of this, and the new one's text does not begin with what was "
                "sent already; try again."
            )
        )


class _Repetition:
    """Text of one worker that its successor repeats."""

    def __init__(self, text: str, logprob_count: int) -> None:
        self._text = text
        self._position = 0
        self._logprobs_left = logprob_count
        self.differs = False

    def news_in(self, delta: TextDelta) -> TextDelta | None:
        """The part of a delta that goes beyond the text; None when nothing does."""
        expected = self._text[self._position : self._position + len(delta.delta)]
        if not delta.delta.startswith(expected):
            self.differs = True
            return None
        self._position += len(expected)
        logprobs = delta.logprobs[self._logprobs_left :]
        self._logprobs_left = max(0, self._logprobs_left - len(delta.logprobs))
        rest = delta.delta[len(expected) :]
        return replace(delta, delta=rest, logprobs=logprobs) if rest else None


def _repeatable(message: Transcribe) -> Transcribe:
    """The message with a seed where its text is sampled, so that a second worker produces the same text."""
    options = message.options
    if options.seed is not None or not options.temperature:
        return message
    return replace(message, options=replace(options, seed=secrets.randbits(32)))


class InFlight:
    """Requests that wait and requests that the worker holds; a request is one or the other at most."""

    def __init__(
        self,
        *,
        lone_work_patience_seconds: float = LONE_WORK_PATIENCE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """lone_work_patience_seconds: how long work that must run alone lets others pass, each time it waits."""
        self._patience_seconds = lone_work_patience_seconds
        self._monotonic = monotonic
        self._waiting: list[EngineRequest] = []
        self._held: dict[str, EngineRequest] = {}
        self._lone_work_since: float | None = None
        """Time since which lone work waits, None without any."""

    @property
    def waiting(self) -> tuple[EngineRequest, ...]:
        """Requests that wait, in order of arrival."""
        return tuple(self._waiting)

    @property
    def held_count(self) -> int:
        """Number of requests that the worker has not answered yet, cancelled ones included."""
        return len(self._held)

    def held(self, request_id: str) -> EngineRequest | None:
        """The request with this id, None unless the worker holds it."""
        return self._held.get(request_id)

    def add(self, request: EngineRequest) -> None:
        """Add a request to those that wait."""
        self._waiting.append(request)

    def withdraw(self, request: EngineRequest) -> None:
        """Remove a request that still waits; one that the worker holds stays until it is answered."""
        if request in self._waiting:
            self._waiting.remove(request)

    def release(self, request_id: str) -> None:
        """Remove a request that the worker has answered."""
        self._held.pop(request_id, None)

    def drop_all(self) -> tuple[EngineRequest, ...]:
        """Remove and return all that a dead worker held, in the order in which it was sent."""
        held, self._held = tuple(self._held.values()), {}
        return held

    def take_back(self, requests: tuple[EngineRequest, ...]) -> None:
        """Let requests wait again, before those that were never sent."""
        self._waiting[:0] = requests

    def take_next(self) -> EngineRequest | None:
        """The next request to send, which counts as held from now on; None when none may be sent now."""
        request = self._next()
        if request is not None:
            self._waiting.remove(request)
            self._held[request.request_id] = request
            if request.runs_alone:
                self._lone_work_since = None
        return request

    def _next(self) -> EngineRequest | None:
        if any(request.runs_alone for request in self._held.values()):
            self._lone_work_since = None
            return None
        lone = next((request for request in self._waiting if request.runs_alone), None)
        others = [request for request in self._waiting if not request.runs_alone]
        if lone is None:
            self._lone_work_since = None
            return others[0] if others else None
        now = self._monotonic()
        if self._lone_work_since is None:
            self._lone_work_since = now
        if now - self._lone_work_since < self._patience_seconds:
            for request in others:
                if request.is_interactive:
                    return request
        return None if self._held else lone
