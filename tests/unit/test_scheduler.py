"""The scheduler's order, in numbers alone: budgets, fairness between owners, a long recording's cost to a short one."""

from __future__ import annotations

import random

import pytest

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import URGENT_CHUNKS, Action, Scheduler, Ticket
from tests.unit.scheduler_rig import Rig, names

FEW_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def test_nothing_to_do_is_idle() -> None:
    rig = Rig()
    assert rig.scheduler.next_action() is Action.IDLE
    rig.scheduler.open("a", owner="a", is_interactive=True)
    assert rig.scheduler.next_action() is Action.IDLE


def test_everything_that_fits_is_admitted_in_one_prefill() -> None:
    rig = Rig()
    for name in "abcde":
        rig.recording(name, 1)
    assert sorted(names(rig.next_prefill())) == list("abcde")
    assert rig.scheduler.next_action() is Action.STEP


def test_admitted_tokens_never_exceed_the_budget() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1000, prefill_tokens=100_000))
    for name in "abcdefgh":
        rig.recording(name, 1)
    first = rig.next_prefill()
    assert len(first) == 5
    assert rig.scheduler.reserved_tokens == 1000
    assert rig.scheduler.next_action() is Action.STEP
    rig.end(first[:2])
    assert len(rig.next_prefill()) == 2


def test_admitted_rows_never_exceed_their_number() -> None:
    rig = Rig(BatchLimits(max_rows=3, token_budget=1_000_000, prefill_tokens=100_000))
    for name in "abcde":
        rig.recording(name, 1)
    assert len(rig.next_prefill()) == 3
    assert rig.scheduler.row_count == 3


def test_chunk_larger_than_the_budget_runs_alone() -> None:
    rig = Rig(BatchLimits(max_rows=8, token_budget=100, prefill_tokens=100_000))
    rig.recording("large", 0)
    rig.chunk("large", 0, prompt=90, reserve=500)
    rig.recording("small", 1, prompt=10)
    assert names(rig.next_prefill()) == ["large"]
    assert rig.scheduler.next_action() is Action.STEP


def test_what_comes_first_is_not_overtaken_by_what_is_smaller() -> None:
    rig = Rig(BatchLimits(max_rows=8, token_budget=400, prefill_tokens=100_000))
    rig.recording("running", 1)
    running = rig.next_prefill()
    rig.recording("large", 1, prompt=150)
    rig.recording("small", 1, prompt=50)
    assert rig.scheduler.next_action() is Action.STEP
    rig.scheduler.stepped()
    assert rig.scheduler.next_action() is Action.STEP
    rig.end(running)
    assert names(rig.next_prefill()) == ["large", "small"]


def test_short_recording_waits_for_one_prefill_of_a_long_one_at_most() -> None:
    rig = Rig(BatchLimits(max_rows=8, token_budget=1_000_000, prefill_tokens=400))
    rig.recording("long", 50, owner="ada")
    for _ in range(3):
        rig.next_prefill()
    rig.recording("short", 1, owner="grace")
    rig.end(list(rig.scheduler._admitted.values()))
    groups = [names(rig.next_prefill()) for _ in range(2)]
    assert any("short" in group for group in groups)


def test_rows_and_tokens_are_kept_free_for_urgent_work() -> None:
    rig = Rig(BatchLimits(max_rows=8, token_budget=1_000_000, prefill_tokens=100_000))
    rig.recording("long", 50)
    taken = [ticket for _ in range(3) for ticket in rig.next_prefill()]
    assert len(taken) == 7
    rig.recording("short", 1)
    assert names(rig.next_prefill()) == ["short"]


def test_job_is_never_urgent_but_the_first_minute_of_a_waited_for_recording_is() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    rig.recording("job", 3, interactive=False)
    rig.recording("waited", 4, owner="other")
    order = []
    for _ in range(6):
        [ticket] = rig.next_prefill()
        order.append((ticket.recording_id, ticket.index))
    assert order[:URGENT_CHUNKS] == [("waited", 0), ("waited", 1)]
    assert {name for name, _ in order[URGENT_CHUNKS:]} == {"job", "waited"}


def test_long_work_gets_every_fourth_prefill_under_unending_urgent_work() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    rig.recording("long", 30, interactive=False)
    for number in range(40):
        rig.recording(f"urgent {number}", 1)
    groups = []
    for _ in range(24):
        group = rig.next_prefill()
        groups.append(names(group))
        rig.end(group)
    long_places = [place for place, group in enumerate(groups) if "long" in group]
    assert long_places == [3, 7, 11, 15, 19, 23]


def test_owners_take_turns_however_much_one_of_them_asks() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=200))
    for number in range(20):
        rig.recording(f"many {number}", 1, owner="many")
    rig.recording("one", 1, owner="few")
    rig.recording("two", 1, owner="few")
    first, second = rig.next_prefill(), rig.next_prefill()
    assert {"one"} <= set(names(first))
    assert {"two"} <= set(names(second))


def test_owner_who_comes_back_has_saved_no_credit() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=200))
    for number in range(30):
        rig.recording(f"steady {number}", 1, owner="steady")
    for _ in range(5):
        rig.end(rig.next_prefill())
    for number in range(30):
        rig.recording(f"new {number}", 1, owner="new")
    owners = [name.split()[0] for _ in range(5) for name in names(rig.next_prefill())]
    assert 4 <= owners.count("new") <= 6


def test_recordings_of_one_owner_take_turns_the_older_first_and_each_from_its_beginning() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    rig.recording("first", 0, owner="ada", interactive=False)
    rig.recording("second", 2, owner="ada", interactive=False)
    rig.chunk("first", 1)
    rig.chunk("first", 0)
    order = [(t.recording_id, t.index) for _ in range(4) for t in rig.next_prefill()]
    assert order == [("first", 0), ("second", 0), ("first", 1), ("second", 1)]


def test_a_short_job_goes_before_the_longer_ones_of_its_owner() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    for name in ("hour", "lecture"):
        rig.recording(name, 100, owner="ada", interactive=False)
    before = [names(rig.next_prefill()) for _ in range(20)]
    assert before == [["hour"], ["lecture"]] * 10
    rig.recording("short", 1, owner="ada", interactive=False)
    assert [names(rig.next_prefill()) for _ in range(4)] == [["short"], ["hour"], ["lecture"], ["hour"]]


def test_a_recording_that_comes_later_has_saved_no_credit_beside_its_owner_s_others() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    rig.recording("old", 30, owner="ada", interactive=False)
    for _ in range(10):
        rig.end(rig.next_prefill())
    rig.recording("new", 30, owner="ada", interactive=False)
    taken = [names(rig.next_prefill()) for _ in range(6)]
    # Its first chunk, and then in turn.
    assert taken == [["new"], ["old"], ["old"], ["new"], ["old"], ["new"]]


def test_prompts_prefilled_together_are_of_similar_length_and_nobody_starves() -> None:
    rig = Rig(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=4000))
    for number in range(6):
        rig.recording(f"{number}", 1, prompt=400 if number % 2 else 20)
    groups = [rig.next_prefill() for _ in range(2)]
    assert sorted(len(group) for group in groups) == [3, 3]
    for group in groups:
        lengths = [ticket.prompt_tokens for ticket in group]
        assert max(lengths) * len(lengths) <= 1.5 * sum(lengths)


def test_closed_recording_leaves_nothing_behind() -> None:
    rig = Rig(BatchLimits(max_rows=1, token_budget=1000, prefill_tokens=1000))
    rig.recording("a", 3)
    [running] = rig.next_prefill()
    rig.scheduler.close("a")
    rig.scheduler.release(running.ticket_id)
    assert (rig.scheduler.waiting_count, rig.scheduler.row_count, rig.scheduler.reserved_tokens) == (
        0,
        0,
        0,
    )
    assert rig.scheduler.next_action() is Action.IDLE


def test_reading_ahead_is_bounded_and_shared_between_owners() -> None:
    scheduler = Scheduler(BatchLimits(max_rows=4, token_budget=1000, prefill_tokens=1000))
    for number in range(40):
        scheduler.open(f"many {number}", owner="many", is_interactive=False)
    scheduler.open("one", owner="few", is_interactive=False)
    wanted = scheduler.to_read()
    assert "one" in wanted
    assert len(wanted) == 13
    for name in wanted:
        scheduler.reading(name)
    assert scheduler.to_read() == []


@pytest.mark.parametrize("is_interactive", [True, False])
def test_long_recording_read_ahead_does_not_keep_a_short_one_of_the_same_owner_waiting(
    is_interactive: bool,
) -> None:
    scheduler = Scheduler(BatchLimits(max_rows=2, token_budget=1000, prefill_tokens=1000))
    scheduler.open("long", owner="ada", is_interactive=is_interactive)
    for index in range(4):
        assert scheduler.to_read() == ["long"]
        scheduler.reading("long")
        scheduler.has_read("long", is_last=False)
        scheduler.offer(Ticket(index, "long", index, 10, 20))
    assert scheduler.to_read() == []
    scheduler.open("short", owner="ada", is_interactive=is_interactive)
    assert scheduler.to_read() == ["short"]


@pytest.mark.parametrize("seed", range(8))
def test_every_chunk_is_admitted_once_and_no_limit_is_ever_passed(seed: int) -> None:
    chance = random.Random(seed)
    limits = BatchLimits(max_rows=chance.randint(1, 9), token_budget=900, prefill_tokens=300)
    rig = Rig(limits)
    admitted: list[int] = []
    running: list[Ticket] = []
    closed: set[str] = set()
    for number in range(60):
        name = f"r{number}"
        rig.recording(
            name, chance.randint(1, 5), owner=f"o{chance.randint(0, 3)}", prompt=chance.randint(1, 120)
        )
        for _ in range(chance.randint(0, 6)):
            move = rig.scheduler.next_action()
            if move is Action.ADMIT:
                group = rig.scheduler.admit()
                assert group
                admitted += [ticket.ticket_id for ticket in group]
                running += group
                rig.scheduler.joined()
            elif move is Action.STEP:
                rig.scheduler.stepped()
                ending = chance.sample(running, chance.randint(0, min(2, len(running))))
                rig.end(ending)
                running = [ticket for ticket in running if ticket not in ending]
            assert rig.scheduler.row_count <= limits.max_rows
            assert rig.scheduler.reserved_tokens <= limits.token_budget or len(running) == 1
        if chance.random() < 0.2:
            closed.add(name)
            rig.scheduler.close(name)
            rig.end([ticket for ticket in running if ticket.recording_id == name])
            running = [ticket for ticket in running if ticket.recording_id != name]
    while (move := rig.scheduler.next_action()) is not Action.IDLE:
        if move is Action.ADMIT:
            group = rig.scheduler.admit()
            admitted += [ticket.ticket_id for ticket in group]
            rig.scheduler.joined()
            rig.end(running)
            running = group
        else:
            rig.scheduler.stepped()
            rig.end(running)
            running = []
    assert len(admitted) == len(set(admitted))
    assert rig.scheduler.waiting_count == 0
    assert rig.offered - len(admitted) <= 5 * len(closed)


def test_rows_of_a_full_batch_are_let_become_free_until_several_chunks_share_a_prefill() -> None:
    rig = Rig(BatchLimits(max_rows=16, token_budget=1_000_000, prefill_tokens=100_000, rows_together=4))
    rig.recording("long", 40, interactive=False)
    full = rig.next_prefill()
    assert len(full) == rig.scheduler.limits.rows_for_others == 14
    for ticket in full[:3]:
        rig.end([ticket])
        assert rig.scheduler.next_action() is Action.STEP
        rig.scheduler.stepped()
    rig.end([full[3]])
    assert len(rig.next_prefill()) == 4


def test_what_is_urgent_does_not_wait_for_rows_and_the_last_chunks_do_not_either() -> None:
    rig = Rig(BatchLimits(max_rows=16, token_budget=1_000_000, prefill_tokens=100_000, rows_together=4))
    rig.recording("long", 16, interactive=False)
    full = rig.next_prefill()
    rig.recording("short", 1)
    assert names(rig.next_prefill()) == ["short"]
    # Two chunks are left. Of three rows that become free the short recording has taken the place of one.
    rig.end(full[:3])
    assert names(rig.next_prefill()) == ["long", "long"]


def test_where_group_sizes_are_few_groups_have_them_and_nobody_is_left_behind() -> None:
    rig = Rig(BatchLimits(max_rows=32, token_budget=1_000_000, prefill_tokens=100_000, group_sizes=FEW_SIZES))
    rig.recording("long", 23, interactive=False)
    assert [len(rig.next_prefill()) for _ in range(3)] == [16, 6, 1]
    assert rig.scheduler.waiting_count == 0
    for number in range(5):
        rig.recording(f"{number}", 1)
    assert len(rig.next_prefill()) == 5, "who waits is not told to wait for a number"
    rig = Rig(rig.scheduler.limits)
    for number in range(11):
        rig.recording(f"later {number}", 1)
    assert [len(rig.next_prefill()) for _ in range(2)] == [8, 3], (
        "nor longer than the largest usual group takes"
    )


def test_where_group_sizes_are_few_a_running_batch_gets_no_larger_groups_than_it_usually_does() -> None:
    limits = BatchLimits(
        max_rows=64, token_budget=1_000_000, prefill_tokens=100_000, rows_together=8, group_sizes=FEW_SIZES
    )
    rig = Rig(limits)
    rig.recording("long", 50, interactive=False)
    assert [len(rig.next_prefill()) for _ in range(2)] == [48, 2]
    rig = Rig(limits)
    rig.recording("long", 23, interactive=False)
    running = rig.next_prefill()
    for index in range(23, 40):
        rig.chunk("long", index)
    assert len(running) == 16
    assert [len(rig.next_prefill()) for _ in range(3)] == [8, 8, 8]


def test_an_empty_batch_waits_for_no_rows() -> None:
    rig = Rig(BatchLimits(max_rows=4, token_budget=1_000_000, prefill_tokens=100_000, rows_together=8))
    rig.recording("long", 9, interactive=False)
    first = rig.next_prefill()
    assert len(first) == 3
    rig.end(first)
    assert len(rig.next_prefill()) == 3


def test_waiting_for_rows_does_not_let_urgent_chunks_keep_the_others_out() -> None:
    rig = Rig(BatchLimits(max_rows=16, token_budget=1_000_000, prefill_tokens=1_000, rows_together=8))
    for number in range(11):
        rig.recording(f"short {number}", 1)
    while rig.scheduler.row_count < 11:
        rig.next_prefill()
    rig.recording("long", 30, interactive=False)
    held = rig.next_prefill()
    # The eleven urgent ones stay, so never more than three rows are free for the long one.
    assert names(held) == ["long"] * 3
    for _ in range(5):
        rig.end(held[:1])
        assert rig.scheduler.next_action() is Action.STEP
        rig.scheduler.stepped()
        rig.end(held[1:2])
        held = held[2:] + rig.next_prefill()
        assert names(held) == ["long"] * 3
