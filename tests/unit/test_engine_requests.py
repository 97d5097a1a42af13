"""One stream of events per request over any number of workers, and the order in which workers get requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Literal

import pytest

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.errors import AudioUndecodable, EngineCrashed
from scribewire.engine.protocol.messages import (
    AudioEnded,
    AudioSource,
    Completed,
    Progress,
    SegmentDone,
    Started,
    TextDelta,
    Transcribe,
)
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript
from scribewire.server.engine.requests import AudioOutcome, EngineRequest, InFlight, TranscriptionEvent
from tests.fakes.streams import transcript_of
from tests.fakes.waiting import let_others_run, run


def on_a_loop(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        run(story())

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


def request(
    name: str = "a",
    *,
    attempts: int = 2,
    priority: Literal["interactive", "background"] = "interactive",
    runs_alone: bool = False,
    options: TranscribeOptions | None = None,
    audio_ended: asyncio.Future[AudioOutcome] | None = None,
    wants_deltas: bool = False,
) -> EngineRequest:
    message = Transcribe(
        name,
        AudioSource("x"),
        options or TranscribeOptions(),
        priority=priority,
        wants_deltas=wants_deltas,
    )
    return EngineRequest(message, attempts=attempts, runs_alone=runs_alone, audio_ended=audio_ended)


async def end_of(request: EngineRequest) -> Transcript:
    """The transcript of a request that is over, or its error."""
    assert request.is_over
    return await transcript_of(request.events())


def transcript(text: str) -> Transcript:
    return Transcript(
        text=text, language=None, languages=(), duration_seconds=1.0, segments=(), model_id="fake"
    )


# ---- text that was sent --------------------------------------------------------------------------------------


class Ear:
    """A request whose events are taken as they come, over two workers."""

    def __init__(self, *first: str, logprobs: bool = False, attempts: int = 2) -> None:
        self.heard: list[TextDelta] = []
        self.request = request(wants_deltas=True, attempts=attempts)
        self._with_logprobs = logprobs
        self.ending = asyncio.create_task(transcript_of(self.request.events(), heard=self.heard))
        self.say(*first)
        self.request.lose_worker("it was killed")
        self.before = len(first)

    def say(self, *texts: str) -> None:
        for text in texts:
            logprobs = (TokenLogprob(text, text.encode(), -1.0),) if self._with_logprobs else ()
            self.request.receive(TextDelta("a", text, logprobs))

    async def end(self, text: str) -> str:
        self.request.receive(Completed("a", transcript(text)))
        return (await self.ending).text

    async def news(self) -> list[str]:
        await let_others_run()
        return [delta.delta for delta in self.heard[self.before :]]


@pytest.mark.parametrize(
    ("second", "news"),
    [
        (["One", " two", " three"], [" three"]),
        (["One two", " three"], [" three"]),
        (["O", "ne t", "wo thr", "ee"], [" thr", "ee"]),
        (["One two three"], [" three"]),
        (["", "One", "", " two", "", " three", ""], [" three", ""]),
    ],
)
def test_second_worker_is_heard_from_where_the_first_one_stopped(second: list[str], news: list[str]):
    async def story() -> None:
        ear = Ear("One", " two")
        ear.say(*second)
        assert await ear.news() == news
        assert await ear.end("One two three") == "One two three"

    run(story())


@on_a_loop
async def test_logprobs_of_text_that_was_sent_are_not_sent_again() -> None:
    ear = Ear("One", " two", logprobs=True)
    ear.say("One", " two", " three", " four")
    assert await ear.news() == [" three", " four"]
    assert [one.text for delta in ear.heard for one in delta.logprobs] == ["One", " two", " three", " four"]


@pytest.mark.parametrize("second", [["Two"], ["One", " too"], ["One t", "oo"], ["one"]])
def test_text_that_begins_otherwise_ends_the_request_and_is_not_heard(second: list[str]):
    async def story() -> None:
        ear = Ear("One", " two")
        ear.say(*second)
        assert await ear.news() == []
        with pytest.raises(EngineCrashed, match="does not begin with what was sent"):
            await ear.ending

    run(story())


@on_a_loop
async def test_whole_text_that_is_shorter_than_what_was_sent_is_no_answer() -> None:
    ear = Ear("One", " two")
    ear.say("One")
    with pytest.raises(EngineCrashed):
        await ear.end("One")


@on_a_loop
async def test_third_worker_is_compared_with_all_that_was_sent() -> None:
    ear = Ear("One", attempts=3)
    ear.say("One", " two")
    ear.request.lose_worker("x")
    ear.say("One two", " three")
    assert await ear.news() == [" two", " three"]
    assert await ear.end("One two three") == "One two three"


@on_a_loop
async def test_what_nobody_heard_may_change_between_two_workers() -> None:
    one = request()
    one.lose_worker("x")
    one.receive(Completed("a", transcript("another text")))
    assert (await end_of(one)).text == "another text"


@on_a_loop
async def test_stream_of_sampled_text_gets_a_seed_so_that_it_can_be_said_again() -> None:
    sampled = TranscribeOptions(temperature=0.7)
    assert request(options=sampled, wants_deltas=True).message.options.seed is not None
    assert request(options=sampled).message.options.seed is None
    assert request(wants_deltas=True).message.options.seed is None
    seeded = TranscribeOptions(temperature=0.7, seed=5)
    assert request(options=seeded, wants_deltas=True).message.options == seeded


@on_a_loop
async def test_attempts_are_as_many_as_were_given() -> None:
    one = request(attempts=3)
    for deaths in (1, 2):
        one.lose_worker("x")
        assert not one.is_over
        assert one.runs_alone == (deaths == 2)
    one.lose_worker("it made no progress")
    with pytest.raises(EngineCrashed, match="it made no progress"):
        await end_of(one)


@on_a_loop
async def test_several_workers_start_once_and_never_go_back() -> None:
    one = request(attempts=2)
    segment = Segment(0, 0.0, 1.0, "One.", "English")
    for _ in range(2):
        one.receive(Started("a"))
        one.receive(Progress("a", 1.0, 4.0))
        one.receive(SegmentDone("a", segment))
        if not one.deaths:
            one.receive(Progress("a", 2.0, 4.0))
            one.lose_worker("x")
    one.receive(SegmentDone("a", replace(segment, index=1)))
    one.receive(Progress("a", 4.0, 4.0))
    one.receive(Completed("a", transcript("One.")))
    one.receive(Progress("a", 4.0, 4.0))
    heard: list[TranscriptionEvent] = []
    await transcript_of(one.events(), heard=heard)
    assert heard == [
        Started("a"),
        Progress("a", 1.0, 4.0),
        SegmentDone("a", segment),
        Progress("a", 2.0, 4.0),
        SegmentDone("a", replace(segment, index=1)),
        Progress("a", 4.0, 4.0),
    ]


@on_a_loop
async def test_end_of_the_audio_is_told_once_to_each_worker() -> None:
    ended: asyncio.Future[AudioOutcome] = asyncio.get_running_loop().create_future()
    one = request(audio_ended=ended)
    assert one.audio_end() is None
    ended.set_result(AudioOutcome(7))
    assert one.audio_end() == AudioEnded("a", 7)
    assert one.audio_end() is None
    one.lose_worker("x")
    assert one.audio_end() == AudioEnded("a", 7)
    failing: asyncio.Future[AudioOutcome] = asyncio.get_running_loop().create_future()
    failing.set_result(AudioOutcome(0, AudioUndecodable("damaged", parameter="file")))
    assert request(audio_ended=failing).audio_end() == AudioEnded(
        "a", 0, ("audio_undecodable", "damaged", "file")
    )


# ---- fairness ------------------------------------------------------------------------------------------------


class Clock:
    """Time that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def turns(in_flight: InFlight) -> list[str]:
    """Hand over all that may be handed over."""
    found = []
    while (one := in_flight.take_next()) is not None:
        found.append(one.request_id)
    return found


def filled(*requests: EngineRequest, clock: Clock | None = None) -> InFlight:
    in_flight = InFlight(lone_work_patience_seconds=60.0, monotonic=clock or Clock())
    for one in requests:
        in_flight.add(one)
    return in_flight


@on_a_loop
async def test_everything_is_handed_over_at_once_in_order() -> None:
    in_flight = filled(request("a"), request("b", priority="background"), request("c"))
    assert turns(in_flight) == ["a", "b", "c"]
    assert in_flight.held_count == 3


@on_a_loop
async def test_lone_work_waits_for_empty_hands_and_keeps_them() -> None:
    in_flight = filled(request("a"))
    assert turns(in_flight) == ["a"]
    in_flight.add(request("lone", priority="background", runs_alone=True))
    in_flight.add(request("job", priority="background"))
    assert turns(in_flight) == []
    in_flight.release("a")
    assert turns(in_flight) == ["lone"]
    in_flight.add(request("late"))
    assert turns(in_flight) == []
    in_flight.release("lone")
    assert turns(in_flight) == ["job", "late"]


@on_a_loop
async def test_those_who_wait_for_an_answer_pass_lone_work_but_not_for_ever() -> None:
    clock = Clock()
    in_flight = filled(request("a"), request("lone", priority="background", runs_alone=True), clock=clock)
    assert turns(in_flight) == ["a"]
    clock.now = 59.0
    in_flight.add(request("b"))
    assert turns(in_flight) == ["b"]
    in_flight.release("a")
    clock.now = 60.0
    in_flight.add(request("c"))
    assert turns(in_flight) == []
    in_flight.release("b")
    assert turns(in_flight) == ["lone"]
    in_flight.release("lone")
    assert turns(in_flight) == ["c"]


@on_a_loop
async def test_several_suspects_run_one_after_the_other_with_room_for_others_between() -> None:
    clock = Clock()
    in_flight = filled(
        *(request(name, priority="background", runs_alone=True) for name in "xyz"), clock=clock
    )
    assert turns(in_flight) == ["x"]
    clock.now = 500.0
    in_flight.add(request("live"))
    in_flight.release("x")
    assert turns(in_flight) == ["live"]
    in_flight.release("live")
    assert turns(in_flight) == ["y"]
    in_flight.release("y")
    assert turns(in_flight) == ["z"]


@on_a_loop
async def test_what_a_dead_worker_held_goes_before_what_never_had_its_turn() -> None:
    in_flight = filled(request("a"), request("b"))
    assert turns(in_flight) == ["a", "b"]
    in_flight.add(request("late"))
    dropped = in_flight.drop_all()
    assert (in_flight.held_count, [one.request_id for one in dropped]) == (0, ["a", "b"])
    in_flight.take_back(dropped)
    assert turns(in_flight) == ["a", "b", "late"]


@on_a_loop
async def test_request_given_up_is_held_until_the_worker_has_answered() -> None:
    given_up = request("a")
    in_flight = filled(given_up)
    assert turns(in_flight) == ["a"]
    in_flight.withdraw(given_up)
    in_flight.add(request("lone", runs_alone=True))
    assert turns(in_flight) == []
    in_flight.release("a")
    assert turns(in_flight) == ["lone"]
