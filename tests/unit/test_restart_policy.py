"""Restarts of a dead engine: growing pauses, a breaker that opens, one worker on trial."""

from __future__ import annotations

import pytest

from scribewire.server.engine.restarts import BACKOFF_SECONDS, RestartPolicy, Restarts

NO_BREAKER = 1000


class Clock:
    """Time that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def restarts(clock: Clock, **policy: object) -> Restarts:
    return Restarts(RestartPolicy(**policy), monotonic=clock, uniform=lambda low, high: (low + high) / 2)


def test_first_start_is_at_once():
    assert restarts(Clock()).pause_seconds() == 0.0


def test_pauses_grow_with_deaths_in_a_row_and_stay_at_the_last():
    record = restarts(Clock(), breaker_deaths=NO_BREAKER)
    pauses = []
    for _ in range(8):
        record.note_death(0.0)
        pauses.append(record.pause_seconds())
    assert pauses == [*BACKOFF_SECONDS, 30.0, 30.0]


def test_worker_that_stayed_up_for_a_while_begins_a_new_row():
    record = restarts(Clock(), breaker_deaths=NO_BREAKER)
    for _ in range(4):
        record.note_death(59.0)
    assert record.pause_seconds() == 5.0
    record.note_death(60.0)
    assert record.pause_seconds() == 0.0
    record.note_death(0.0)
    assert record.pause_seconds() == 1.0


def test_pauses_have_a_fifth_of_chance_in_either_direction():
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    record = Restarts(RestartPolicy(backoff_seconds=(10.0,)), uniform=uniform)
    record.note_death(0.0)
    assert record.pause_seconds() == pytest.approx(12.0)
    assert bounds == [(0.8, 1.2)]


def test_chance_itself_stays_within_its_bounds():
    record = Restarts(RestartPolicy(backoff_seconds=(10.0,)))
    record.note_death(0.0)
    pauses = {record.pause_seconds() for _ in range(200)}
    assert len(pauses) > 1
    assert all(8.0 <= pause <= 12.0 for pause in pauses)


def test_fifth_death_within_the_window_opens_the_breaker_for_its_pause():
    clock = Clock()
    record = restarts(clock)
    for _ in range(4):
        clock.now += 149.0
        record.note_death(0.0)
        assert record.resting_seconds == 0.0
    clock.now += 149.0
    record.note_death(0.0)
    assert record.recent_deaths == 5
    assert record.resting_seconds == record.pause_seconds() == 60.0
    clock.now += 20.0
    assert record.resting_seconds == record.pause_seconds() == 40.0
    assert not record.is_trial


def test_deaths_outside_the_window_do_not_count():
    clock = Clock()
    record = restarts(clock)
    for _ in range(20):
        clock.now += 151.0
        record.note_death(0.0)
        assert record.resting_seconds == 0.0
    assert record.recent_deaths == 4


def test_long_lives_between_deaths_do_not_keep_the_breaker_closed():
    clock = Clock()
    record = restarts(clock)
    for _ in range(5):
        clock.now += 100.0
        record.note_death(100.0)
    assert record.resting_seconds == 60.0


def opened(clock: Clock) -> Restarts:
    record = restarts(clock)
    for _ in range(5):
        record.note_death(0.0)
    return record


def test_after_the_pause_one_worker_is_tried_at_once():
    clock = Clock()
    record = opened(clock)
    clock.now += 60.0
    assert record.resting_seconds == record.pause_seconds() == 0.0
    assert record.is_trial


def test_worker_that_dies_on_trial_opens_the_breaker_again_however_old_the_other_deaths():
    clock = Clock()
    record = opened(clock)
    clock.now += 5000.0
    record.note_death(59.0)
    assert record.recent_deaths == 1
    assert record.resting_seconds == record.pause_seconds() == 60.0


def test_worker_that_stays_up_on_trial_closes_the_breaker_and_wipes_the_record():
    clock = Clock()
    record = opened(clock)
    clock.now += 60.0 + 61.0
    record.note_death(61.0)
    assert not record.is_trial
    assert record.resting_seconds == record.pause_seconds() == 0.0
    assert record.recent_deaths == 1
    for _ in range(3):
        record.note_death(0.0)
        assert record.resting_seconds == 0.0
    record.note_death(0.0)
    assert record.resting_seconds == 60.0
