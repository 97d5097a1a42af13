"""Slow or stuck: what the watchdog makes of what a worker was given and of what it says."""

from __future__ import annotations

import pytest

from scribewire.engine.protocol.messages import (
    AudioEnded,
    AudioSource,
    Cancel,
    Failed,
    FromWorker,
    Heartbeat,
    Progress,
    Started,
    TextDelta,
    ToWorker,
    Transcribe,
)
from scribewire.server.engine.watchdog import WatchLimits, WorkerWatch

LIMITS = WatchLimits(stall_seconds=60.0, stall_chunks=10.0)


def beat(chunks: int = 0, tokens: int = 0, words: int = 0, *, is_loading: bool = False) -> Heartbeat:
    return Heartbeat(chunks, tokens, 1, 0, 0, words_done=words, is_loading=is_loading)


def whole(request_id: str = "a") -> Transcribe:
    return Transcribe(request_id, AudioSource("x"))


def growing(request_id: str = "a") -> Transcribe:
    return Transcribe(request_id, AudioSource("x", kind="pcm_float32", is_growing=True))


def watch(*sent: ToWorker) -> WorkerWatch:
    one = WorkerWatch(LIMITS, 0.0)
    for message in sent:
        one.sent(message, 0.0)
    return one


def beaten_until(one: WorkerWatch, end: int, start: int = 0, **counters: int) -> None:
    for second in range(start, end + 1):
        one.received(beat(**counters), float(second))


def test_worker_without_work_may_stand_still_as_long_as_it_beats():
    one = watch()
    beaten_until(one, 1000)
    assert one.verdict(1000.0) is None


@pytest.mark.parametrize("sent", [(), (whole(),)])
def test_worker_that_says_nothing_is_stuck_with_or_without_work(sent: tuple[ToWorker, ...]):
    one = watch(*sent)
    one.received(beat(), 1.0)
    assert one.verdict(59.0) is None
    assert "said nothing" in str(one.verdict(61.0))


def test_worker_that_beats_but_does_not_move_is_stuck_after_its_time():
    one = watch(whole())
    beaten_until(one, 59, tokens=7)
    assert one.verdict(59.0) is None
    assert "no progress for 60.0 s" in str(one.verdict(60.0))


def test_worker_that_loads_its_model_again_has_the_time_that_a_load_may_take():
    one = watch(whole())
    beaten_until(one, 400, is_loading=True)
    assert one.verdict(400.0) is None
    one.received(beat(), 401.0)
    beaten_until(one, 460, start=402)
    assert one.verdict(460.0) is None, "what could not move while it loaded is not held against it"
    assert "no progress" in str(one.verdict(462.0))
    assert one.chunk_seconds is None, "a load teaches nothing about chunks"


def test_load_that_takes_too_long_is_stuck_and_so_is_one_that_says_nothing():
    one = watch(whole())
    beaten_until(one, 1799, is_loading=True)
    assert one.verdict(1799.0) is None
    assert "loading a model for 1800.0 s" in str(one.verdict(1800.0))
    silent = watch(whole())
    silent.received(beat(is_loading=True), 1.0)
    assert "said nothing" in str(silent.verdict(61.0))


@pytest.mark.parametrize("counters", [{"chunks": 1}, {"tokens": 1}, {"words": 1}])
def test_a_chunk_or_a_token_is_progress(counters: dict[str, int]):
    one = watch(whole())
    beaten_until(one, 50)
    one.received(beat(**counters), 51.0)
    beaten_until(one, 110, start=52, **counters)
    assert one.verdict(110.0) is None
    assert one.deadline() == 51.0 + one.patience_seconds


@pytest.mark.parametrize("message", [Started("a"), Progress("a", 1, 2), TextDelta("a", "x")])
def test_what_is_said_of_a_request_is_progress(message: FromWorker):
    one = watch(whole())
    beaten_until(one, 50)
    one.received(message, 50.0)
    beaten_until(one, 100, start=51)
    assert one.verdict(100.0) is None
    assert one.verdict(110.0) is not None


def test_time_is_counted_from_when_there_was_something_to_do():
    one = watch()
    beaten_until(one, 500)
    one.sent(whole(), 500.0)
    beaten_until(one, 559, start=501)
    assert one.verdict(559.0) is None
    assert one.verdict(560.0) is not None


def test_second_request_does_not_give_a_stuck_worker_more_time():
    one = watch(whole())
    beaten_until(one, 50)
    one.sent(whole("b"), 50.0)
    one.received(beat(), 60.0)
    assert one.verdict(60.0) is not None


def test_answered_work_is_no_work():
    one = watch(whole())
    one.received(Failed("a", "audio_empty", "x"), 1.0)
    beaten_until(one, 200, start=2)
    assert one.verdict(200.0) is None


def test_waiting_for_audio_that_something_else_writes_is_not_being_stuck():
    one = watch(growing())
    beaten_until(one, 300)
    assert one.verdict(300.0) is None
    one.sent(AudioEnded("a", 1), 300.0)
    beaten_until(one, 360, start=301)
    assert one.verdict(359.0) is None
    assert one.verdict(360.0) is not None


def test_cancel_that_is_not_obeyed_is_being_stuck():
    one = watch(growing())
    one.sent(Cancel("a"), 0.0)
    beaten_until(one, 60)
    assert one.verdict(60.0) is not None


def test_slow_workers_own_history_gives_it_more_time():
    one = watch(whole())
    one.received(beat(), 0.0)
    for second in range(1, 101):
        one.received(beat(chunks=second // 20, tokens=second), float(second))
    assert one.chunk_seconds == pytest.approx(20.0)
    assert one.patience_seconds == pytest.approx(200.0)
    beaten_until(one, 299, start=101, chunks=5, tokens=100)
    assert one.verdict(299.0) is None
    assert one.verdict(301.0) is not None


def test_standing_still_and_idling_are_no_part_of_the_history():
    one = watch(whole())
    one.received(beat(), 0.0)
    one.received(beat(chunks=1), 10.0)
    beaten_until(one, 69, start=11, chunks=1)
    assert one.chunk_seconds == 10.0
    assert one.patience_seconds == 100.0
    one.received(Failed("a", "cancelled", "x"), 70.0)
    one.received(beat(chunks=1), 500.0)
    one.sent(whole("b"), 500.0)
    one.received(beat(chunks=2), 510.0)
    assert one.chunk_seconds == 10.0


def test_chunks_of_the_warm_up_are_not_counted():
    one = watch(whole())
    one.received(beat(chunks=9), 1.0)
    assert one.chunk_seconds is None


def test_time_in_which_the_watcher_stood_still_does_not_count():
    one = watch(whole())
    one.received(beat(), 1.0)
    one.pardon(3600.0)
    assert one.verdict(3600.0) is None
    assert one.verdict(3661.0) is not None
