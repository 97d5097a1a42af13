"""One recording's way through the engine, over as many workers as its attempts allow, to exactly one end.

Its callbacks stay consistent over several workers: it starts once, its progress never goes back, no segment and no
text comes twice. Text that was sent is final: a second worker's text must begin with it, and only what follows is
sent. Where it begins otherwise, the request fails, because the sent text cannot be taken back.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
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
from scribewire.engine.protocol.transcript import Segment, Transcript

SUSPECT_DEATHS = 2
"""Work that was in flight at this number of deaths may have caused them; from then on it runs alone."""


@dataclass(frozen=True, slots=True)
class AudioOutcome:
    """Outcome of audio that was still being written when the engine got it: its samples, or why it ended."""

    sample_count: int
    failure: EngineError | None = None


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Callbacks for a request's progress, on the event loop; None for no callback. None of them may block."""

    on_started: Callable[[], None] | None = None
    on_progress: Callable[[Progress], None] | None = None
    on_partial: Callable[[Segment], None] | None = None
    on_delta: Callable[[TextDelta], None] | None = None


class EngineRequest:
    """A request, what was reported of it so far, and its future."""

    def __init__(
        self,
        message: Transcribe,
        callbacks: Callbacks,
        *,
        attempts: int,
        runs_alone: bool,
        audio_ended: asyncio.Future[AudioOutcome] | None,
    ) -> None:
        """attempts: workers that may die with it before it fails. audio_ended: of a growing source, its outcome."""
        if callbacks.on_delta is not None and attempts > 1:
            message = _repeatable(message)
        self.message = message
        self.future: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self.audio_ended = audio_ended
        self.is_audio_end_sent = False
        """True when the worker that holds this was sent the end of its audio."""
        self.deaths = 0
        self._attempts = attempts
        self._runs_alone = runs_alone
        self._callbacks = callbacks
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

    def receive(self, message: FromWorker) -> None:
        """Handle a worker's message; afterwards `future` may be done."""
        if self.future.done():
            return
        match message:
            case Completed():
                self._complete(message.transcript)
            case Failed():
                self.fail(error_from_code(message.code, message.message, message.parameter))
            case Started():
                self._start()
            case Progress():
                self._advance(message)
            case SegmentDone():
                self._take_segment(message.segment)
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
        """End it with an error, unless it has ended."""
        if not self.future.done():
            self.future.set_exception(error)

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

    # ---- what was reported -----------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._has_started:
            self._has_started = True
            if self._callbacks.on_started is not None:
                self._callbacks.on_started()

    def _advance(self, progress: Progress) -> None:
        if progress.audio_seconds_done >= self._seconds_done:
            self._seconds_done = progress.audio_seconds_done
            if self._callbacks.on_progress is not None:
                self._callbacks.on_progress(progress)

    def _take_segment(self, segment: Segment) -> None:
        if segment.index >= self._segment_count:
            self._segment_count = segment.index + 1
            if self._callbacks.on_partial is not None:
                self._callbacks.on_partial(segment)

    def _take_delta(self, delta: TextDelta) -> None:
        if self._callbacks.on_delta is None:
            return
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
        self._callbacks.on_delta(delta)

    def _complete(self, transcript: Transcript) -> None:
        if self.deaths and not transcript.text.startswith("".join(self._texts)):
            self._fail_as_different()
        else:
            self.future.set_result(transcript)

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
