"""The order of steps of the running batch and of prefills."""

from __future__ import annotations

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import Action, Ticket
from tests.unit.scheduler_rig import Rig, names


def steps_before_each(rig: Rig, count: int) -> list[int]:
    """Recordings come one by one and stay: the steps that are taken before each one's prefill."""
    steps_before = []
    for number in range(count):
        rig.recording(f"{number}", 1)
        steps = 0
        while rig.scheduler.next_action() is Action.STEP:
            rig.scheduler.stepped()
            steps += 1
        rig.scheduler.admit()
        rig.scheduler.joined()
        steps_before.append(steps)
    return steps_before


def test_running_rows_step_between_prefills_and_the_more_rows_the_more_steps() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    steps_between = steps_before_each(rig, 33)
    assert steps_between[0] == 0
    assert steps_between[1] == 1
    assert steps_between[32] == 5


def test_a_device_may_take_a_step_for_each_row_but_never_many() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100, steps_per_row=1.0))
    steps_between = steps_before_each(rig, 20)
    assert steps_between[:5] == [0, 2, 3, 4, 5]
    assert steps_between[10:] == [8] * 10


def test_what_many_steps_are_is_the_device_s_to_say() -> None:
    limits = BatchLimits(
        max_rows=64, token_budget=1_000_000, prefill_tokens=100, steps_per_row=2.0, most_steps=16
    )
    steps_between = steps_before_each(Rig(limits), 20)
    assert steps_between[:4] == [0, 3, 5, 7]
    assert steps_between[10:] == [16] * 10


def test_who_waits_to_begin_waits_for_no_steps_of_rows_that_nobody_waits_for() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100_000, steps_per_row=1.0))
    rig.recording("long", 40, interactive=False)
    rig.next_prefill()
    rig.recording("short", 1)
    assert rig.scheduler.next_action() is Action.STEP
    rig.scheduler.stepped()
    assert rig.scheduler.next_action() is Action.ADMIT
    assert names(rig.scheduler.admit()) == ["short"]


def _short_beside_a_job(short_chunks: int = 1, *, is_read: bool = True) -> tuple[Rig, list[Ticket]]:
    """A short recording has joined; a job with chunks to admit has come since."""
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=400))
    rig.recording("short", short_chunks)
    rig.scheduler.has_read("short", is_last=is_read)
    short = rig.next_prefill()
    rig.recording("long", 50, interactive=False)
    return rig, short


def _steps_to_a_prefill_of(rig: Rig, name: str) -> int:
    steps = 0
    while (move := rig.scheduler.next_action()) is Action.STEP:
        rig.scheduler.stepped()
        steps += 1
    assert move is Action.ADMIT
    assert set(names(rig.scheduler.admit())) == {name}
    rig.scheduler.joined()
    return steps


def test_others_prefills_wait_for_the_end_of_a_short_recording() -> None:
    rig, short = _short_beside_a_job()
    for _ in range(20):
        assert rig.scheduler.next_action() is Action.STEP
        rig.scheduler.stepped()
    rig.end(short)
    rig.scheduler.close("short")
    assert rig.scheduler.next_action() is Action.ADMIT
    assert names(rig.scheduler.admit()) == ["long"] * 4


def test_others_prefills_wait_no_longer_than_a_short_recording_takes() -> None:
    rig, _ = _short_beside_a_job()
    # The second one is apart from the first one by as much: the short recording, which is long after all, still runs.
    assert [_steps_to_a_prefill_of(rig, "long") for _ in range(2)] == [32, 32]


def _short_job_beside_a_long_one() -> tuple[Rig, list[Ticket]]:
    """A short job has joined, and a long one of the same owner has chunks to admit."""
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    rig.recording("long", 50, owner="ada", interactive=False)
    rig.next_prefill()
    return rig, _joined_short_job(rig, "short")


def _joined_short_job(rig: Rig, name: str) -> list[Ticket]:
    rig.recording(name, 1, owner="ada", interactive=False)
    rig.scheduler.has_read(name, is_last=True)
    return rig.next_prefill()


def test_long_jobs_prefills_wait_for_the_end_of_a_short_job_or_for_as_long_as_one_takes() -> None:
    rig, short = _short_job_beside_a_long_one()
    assert names(short) == ["short"]
    for _ in range(20):
        assert rig.scheduler.next_action() is Action.STEP
        rig.scheduler.stepped()
    rig.end(short)
    rig.scheduler.close("short")
    assert rig.scheduler.next_action() is Action.ADMIT
    assert names(rig.scheduler.admit()) == ["long"]
    rig, _ = _short_job_beside_a_long_one()
    assert _steps_to_a_prefill_of(rig, "long") == 32


def test_short_jobs_join_beside_one_another_and_each_fourth_prefill_is_a_long_one_s() -> None:
    rig, short = _short_job_beside_a_long_one()
    joined = []
    for number in range(8):
        ended, short = short, _joined_short_job(rig, f"short {number}")
        joined += names(short)
        rig.end(ended)
        for name in {*names(ended)} - {"long"}:
            rig.scheduler.close(name)
    assert [place for place, name in enumerate(joined) if name == "long"] == [1, 5]


def test_a_recording_that_is_still_read_is_no_short_one_and_holds_nobody_up() -> None:
    rig, _ = _short_beside_a_job(is_read=False)
    assert _steps_to_a_prefill_of(rig, "long") == 16


def test_a_second_short_recording_does_not_wait_for_the_end_of_the_first() -> None:
    rig, _ = _short_beside_a_job()
    rig.recording("another", 1)
    assert _steps_to_a_prefill_of(rig, "another") == 1


def test_first_chunk_is_admitted_before_the_second_and_speaks_before_it_joins() -> None:
    rig = Rig()
    rig.recording("a", 3, interactive=True)
    rig.recording("b", 3, interactive=True)
    first = rig.next_prefill()
    assert [(ticket.recording_id, ticket.index) for ticket in first] == [("a", 0), ("b", 0)]
    steps = 0
    while rig.scheduler.next_action() is Action.STEP:
        rig.scheduler.stepped()
        steps += 1
    assert steps == 16
    assert {ticket.index for ticket in rig.scheduler.admit()} == {1}


def test_who_waits_to_begin_does_not_wait_for_the_first_words_of_others() -> None:
    rig = Rig()
    rig.recording("a", 3)
    rig.next_prefill()
    rig.recording("b", 1)
    assert rig.scheduler.next_action() is Action.STEP
    rig.scheduler.stepped()
    assert rig.scheduler.next_action() is Action.ADMIT


def test_who_goes_away_before_the_beginning_hurries_nobody() -> None:
    rig = Rig()
    rig.recording("a", 3)
    rig.next_prefill()
    rig.recording("b", 1)
    rig.scheduler.close("b")
    for _ in range(16):
        assert rig.scheduler.next_action() is Action.STEP
        rig.scheduler.stepped()
    assert names(rig.next_prefill()) == ["a"]


def test_slices_of_a_long_prefill_alternate_with_steps_of_those_who_run() -> None:
    rig = Rig()
    rig.recording("running", 1)
    rig.next_prefill()
    rig.recording("long prompt", 1, prompt=9_000)
    moves = []
    while (move := rig.scheduler.next_action()) is not Action.ADMIT:
        assert move is Action.STEP
        rig.scheduler.stepped()
    rig.scheduler.admit()
    for _ in range(6):
        move = rig.scheduler.next_action()
        moves.append(move)
        if move is Action.STEP:
            rig.scheduler.stepped()
        else:
            rig.scheduler.fed()
    assert moves == [Action.FEED, Action.STEP] * 3
