"""When the running batch steps and when the next prefill comes."""

from __future__ import annotations

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import Action, Ticket
from tests.unit.scheduler_desk import Desk, names


def steps_before_each(desk: Desk, count: int) -> list[int]:
    """Recordings come one by one and stay: the steps that are taken before each one's prefill."""
    steps_before = []
    for number in range(count):
        desk.recording(f"{number}", 1)
        steps = 0
        while desk.scheduler.next_action() is Action.STEP:
            desk.scheduler.stepped()
            steps += 1
        desk.scheduler.admit()
        desk.scheduler.joined()
        steps_before.append(steps)
    return steps_before


def test_running_rows_step_between_prefills_and_the_more_rows_the_more_steps() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    steps_between = steps_before_each(desk, 33)
    assert steps_between[0] == 0
    assert steps_between[1] == 1
    assert steps_between[32] == 5


def test_a_device_may_take_a_step_for_each_row_but_never_many() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100, steps_per_row=1.0))
    steps_between = steps_before_each(desk, 20)
    assert steps_between[:5] == [0, 2, 3, 4, 5]
    assert steps_between[10:] == [8] * 10


def test_what_many_steps_are_is_the_device_s_to_say() -> None:
    limits = BatchLimits(
        max_rows=64, token_budget=1_000_000, prefill_tokens=100, steps_per_row=2.0, most_steps=16
    )
    steps_between = steps_before_each(Desk(limits), 20)
    assert steps_between[:4] == [0, 3, 5, 7]
    assert steps_between[10:] == [16] * 10


def test_who_waits_to_begin_waits_for_no_steps_of_rows_that_nobody_waits_for() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100_000, steps_per_row=1.0))
    desk.recording("long", 40, interactive=False)
    desk.next_prefill()
    desk.recording("short", 1)
    assert desk.scheduler.next_action() is Action.STEP
    desk.scheduler.stepped()
    assert desk.scheduler.next_action() is Action.ADMIT
    assert names(desk.scheduler.admit()) == ["short"]


def _short_beside_a_job(short_chunks: int = 1, *, is_read: bool = True) -> tuple[Desk, list[Ticket]]:
    """A short recording has joined; a job with chunks to admit has come since."""
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=400))
    desk.recording("short", short_chunks)
    desk.scheduler.has_read("short", is_last=is_read)
    short = desk.next_prefill()
    desk.recording("long", 50, interactive=False)
    return desk, short


def _steps_to_a_prefill_of(desk: Desk, name: str) -> int:
    steps = 0
    while (move := desk.scheduler.next_action()) is Action.STEP:
        desk.scheduler.stepped()
        steps += 1
    assert move is Action.ADMIT
    assert set(names(desk.scheduler.admit())) == {name}
    desk.scheduler.joined()
    return steps


def test_others_prefills_wait_for_the_end_of_a_short_recording() -> None:
    desk, short = _short_beside_a_job()
    for _ in range(20):
        assert desk.scheduler.next_action() is Action.STEP
        desk.scheduler.stepped()
    desk.end(short)
    desk.scheduler.close("short")
    assert desk.scheduler.next_action() is Action.ADMIT
    assert names(desk.scheduler.admit()) == ["long"] * 4


def test_others_prefills_wait_no_longer_than_a_short_recording_takes() -> None:
    desk, _ = _short_beside_a_job()
    # The second one is apart from the first one by as much: the short recording, which is long after all, still runs.
    assert [_steps_to_a_prefill_of(desk, "long") for _ in range(2)] == [32, 32]


def test_a_recording_that_is_still_read_is_no_short_one_and_holds_nobody_up() -> None:
    desk, _ = _short_beside_a_job(is_read=False)
    assert _steps_to_a_prefill_of(desk, "long") == 16


def test_a_second_short_recording_does_not_wait_for_the_end_of_the_first() -> None:
    desk, _ = _short_beside_a_job()
    desk.recording("another", 1)
    assert _steps_to_a_prefill_of(desk, "another") == 1


def test_first_chunk_is_admitted_before_the_second_and_speaks_before_it_joins() -> None:
    desk = Desk()
    desk.recording("a", 3, interactive=True)
    desk.recording("b", 3, interactive=True)
    first = desk.next_prefill()
    assert [(ticket.recording_id, ticket.index) for ticket in first] == [("a", 0), ("b", 0)]
    steps = 0
    while desk.scheduler.next_action() is Action.STEP:
        desk.scheduler.stepped()
        steps += 1
    assert steps == 16
    assert {ticket.index for ticket in desk.scheduler.admit()} == {1}


def test_who_waits_to_begin_does_not_wait_for_the_first_words_of_others() -> None:
    desk = Desk()
    desk.recording("a", 3)
    desk.next_prefill()
    desk.recording("b", 1)
    assert desk.scheduler.next_action() is Action.STEP
    desk.scheduler.stepped()
    assert desk.scheduler.next_action() is Action.ADMIT


def test_who_goes_away_before_the_beginning_hurries_nobody() -> None:
    desk = Desk()
    desk.recording("a", 3)
    desk.next_prefill()
    desk.recording("b", 1)
    desk.scheduler.close("b")
    for _ in range(16):
        assert desk.scheduler.next_action() is Action.STEP
        desk.scheduler.stepped()
    assert names(desk.next_prefill()) == ["a"]


def test_slices_of_a_long_prefill_alternate_with_steps_of_those_who_run() -> None:
    desk = Desk()
    desk.recording("running", 1)
    desk.next_prefill()
    desk.recording("long prompt", 1, prompt=9_000)
    moves = []
    while (move := desk.scheduler.next_action()) is not Action.ADMIT:
        assert move is Action.STEP
        desk.scheduler.stepped()
    desk.scheduler.admit()
    for _ in range(6):
        move = desk.scheduler.next_action()
        moves.append(move)
        if move is Action.STEP:
            desk.scheduler.stepped()
        else:
            desk.scheduler.fed()
    assert moves == [Action.FEED, Action.STEP] * 3
