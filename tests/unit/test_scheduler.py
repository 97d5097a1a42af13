"""Who runs next, in numbers alone: budgets, turns between owners, and what a long recording may cost a short one."""

from __future__ import annotations

import random

import pytest

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import URGENT_CHUNKS, Action, Scheduler, Ticket
from tests.unit.scheduler_desk import Desk, names


def test_nothing_to_do_is_idle() -> None:
    desk = Desk()
    assert desk.scheduler.next_action() is Action.IDLE
    desk.scheduler.open("a", owner="a", is_interactive=True)
    assert desk.scheduler.next_action() is Action.IDLE


def test_everything_that_fits_is_admitted_in_one_prefill() -> None:
    desk = Desk()
    for name in "abcde":
        desk.recording(name, 1)
    assert sorted(names(desk.next_prefill())) == list("abcde")
    assert desk.scheduler.next_action() is Action.STEP


def test_admitted_tokens_never_exceed_the_budget() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1000, prefill_tokens=100_000))
    for name in "abcdefgh":
        desk.recording(name, 1)
    first = desk.next_prefill()
    assert len(first) == 5
    assert desk.scheduler.reserved_tokens == 1000
    assert desk.scheduler.next_action() is Action.STEP
    desk.end(first[:2])
    assert len(desk.next_prefill()) == 2


def test_admitted_rows_never_exceed_their_number() -> None:
    desk = Desk(BatchLimits(max_rows=3, token_budget=1_000_000, prefill_tokens=100_000))
    for name in "abcde":
        desk.recording(name, 1)
    assert len(desk.next_prefill()) == 3
    assert desk.scheduler.row_count == 3


def test_chunk_larger_than_the_budget_runs_alone() -> None:
    desk = Desk(BatchLimits(max_rows=8, token_budget=100, prefill_tokens=100_000))
    desk.recording("large", 0)
    desk.chunk("large", 0, prompt=90, reserve=500)
    desk.recording("small", 1, prompt=10)
    assert names(desk.next_prefill()) == ["large"]
    assert desk.scheduler.next_action() is Action.STEP


def test_what_comes_first_is_not_overtaken_by_what_is_smaller() -> None:
    desk = Desk(BatchLimits(max_rows=8, token_budget=400, prefill_tokens=100_000))
    desk.recording("running", 1)
    running = desk.next_prefill()
    desk.recording("large", 1, prompt=150)
    desk.recording("small", 1, prompt=50)
    assert desk.scheduler.next_action() is Action.STEP
    desk.scheduler.stepped()
    assert desk.scheduler.next_action() is Action.STEP
    desk.end(running)
    assert names(desk.next_prefill()) == ["large", "small"]


def test_short_recording_waits_for_one_prefill_of_a_long_one_at_most() -> None:
    desk = Desk(BatchLimits(max_rows=8, token_budget=1_000_000, prefill_tokens=400))
    desk.recording("long", 50, owner="ada")
    for _ in range(3):
        desk.next_prefill()
    desk.recording("short", 1, owner="grace")
    desk.end(list(desk.scheduler._admitted.values()))
    groups = [names(desk.next_prefill()) for _ in range(2)]
    assert any("short" in group for group in groups)


def test_rows_and_tokens_are_kept_free_for_urgent_work() -> None:
    desk = Desk(BatchLimits(max_rows=8, token_budget=1_000_000, prefill_tokens=100_000))
    desk.recording("long", 50)
    taken = [ticket for _ in range(3) for ticket in desk.next_prefill()]
    assert len(taken) == 7
    desk.recording("short", 1)
    assert names(desk.next_prefill()) == ["short"]


def test_job_is_never_urgent_but_the_first_minute_of_a_waited_for_recording_is() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    desk.recording("job", 3, interactive=False)
    desk.recording("waited", 4, owner="other")
    order = []
    for _ in range(6):
        [ticket] = desk.next_prefill()
        order.append((ticket.recording_id, ticket.index))
    assert order[:URGENT_CHUNKS] == [("waited", 0), ("waited", 1)]
    assert {name for name, _ in order[URGENT_CHUNKS:]} == {"job", "waited"}


def test_long_work_gets_every_fourth_prefill_under_unending_urgent_work() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    desk.recording("long", 30, interactive=False)
    for number in range(40):
        desk.recording(f"urgent {number}", 1)
    groups = []
    for _ in range(24):
        group = desk.next_prefill()
        groups.append(names(group))
        desk.end(group)
    long_places = [place for place, group in enumerate(groups) if "long" in group]
    assert long_places == [3, 7, 11, 15, 19, 23]


def test_owners_take_turns_however_much_one_of_them_asks() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=200))
    for number in range(20):
        desk.recording(f"many {number}", 1, owner="many")
    desk.recording("one", 1, owner="few")
    desk.recording("two", 1, owner="few")
    first, second = desk.next_prefill(), desk.next_prefill()
    assert {"one"} <= set(names(first))
    assert {"two"} <= set(names(second))


def test_owner_who_comes_back_has_saved_no_credit() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=200))
    for number in range(30):
        desk.recording(f"steady {number}", 1, owner="steady")
    for _ in range(5):
        desk.end(desk.next_prefill())
    for number in range(30):
        desk.recording(f"new {number}", 1, owner="new")
    owners = [name.split()[0] for _ in range(5) for name in names(desk.next_prefill())]
    assert 4 <= owners.count("new") <= 6


def test_within_one_owner_the_older_recording_and_the_earlier_chunk_go_first() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100))
    desk.recording("first", 0, owner="ada", interactive=False)
    desk.recording("second", 2, owner="ada", interactive=False)
    desk.chunk("first", 1)
    desk.chunk("first", 0)
    order = [(t.recording_id, t.index) for _ in range(4) for t in desk.next_prefill()]
    assert order == [("first", 0), ("first", 1), ("second", 0), ("second", 1)]


def test_prompts_prefilled_together_are_of_similar_length_and_nobody_starves() -> None:
    desk = Desk(BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=4000))
    for number in range(6):
        desk.recording(f"{number}", 1, prompt=400 if number % 2 else 20)
    groups = [desk.next_prefill() for _ in range(2)]
    assert sorted(len(group) for group in groups) == [3, 3]
    for group in groups:
        lengths = [ticket.prompt_tokens for ticket in group]
        assert max(lengths) * len(lengths) <= 1.5 * sum(lengths)


def test_closed_recording_leaves_nothing_behind() -> None:
    desk = Desk(BatchLimits(max_rows=1, token_budget=1000, prefill_tokens=1000))
    desk.recording("a", 3)
    [running] = desk.next_prefill()
    desk.scheduler.close("a")
    desk.scheduler.release(running.ticket_id)
    assert (desk.scheduler.waiting_count, desk.scheduler.row_count, desk.scheduler.reserved_tokens) == (
        0,
        0,
        0,
    )
    assert desk.scheduler.next_action() is Action.IDLE


def test_reading_ahead_is_bounded_and_shared_between_owners() -> None:
    scheduler = Scheduler(BatchLimits(max_rows=4, token_budget=1000, prefill_tokens=1000))
    for number in range(40):
        scheduler.open(f"many {number}", owner="many", is_interactive=False)
    scheduler.open("one", owner="few", is_interactive=False)
    wanted = scheduler.to_read()
    assert "one" in wanted
    assert len(wanted) == 5
    for name in wanted:
        scheduler.reading(name)
    assert scheduler.to_read() == []


def test_long_recording_read_ahead_does_not_keep_a_short_one_of_the_same_owner_waiting() -> None:
    scheduler = Scheduler(BatchLimits(max_rows=2, token_budget=1000, prefill_tokens=1000))
    scheduler.open("long", owner="ada", is_interactive=True)
    for index in range(4):
        assert scheduler.to_read() == ["long"]
        scheduler.reading("long")
        scheduler.has_read("long", is_last=False)
        scheduler.offer(Ticket(index, "long", index, 10, 20))
    assert scheduler.to_read() == []
    scheduler.open("short", owner="ada", is_interactive=True)
    assert scheduler.to_read() == ["short"]


@pytest.mark.parametrize("seed", range(8))
def test_every_chunk_is_admitted_once_and_no_limit_is_ever_passed(seed: int) -> None:
    chance = random.Random(seed)
    limits = BatchLimits(max_rows=chance.randint(1, 9), token_budget=900, prefill_tokens=300)
    desk = Desk(limits)
    admitted: list[int] = []
    running: list[Ticket] = []
    closed: set[str] = set()
    for number in range(60):
        name = f"r{number}"
        desk.recording(
            name, chance.randint(1, 5), owner=f"o{chance.randint(0, 3)}", prompt=chance.randint(1, 120)
        )
        for _ in range(chance.randint(0, 6)):
            move = desk.scheduler.next_action()
            if move is Action.ADMIT:
                group = desk.scheduler.admit()
                assert group
                admitted += [ticket.ticket_id for ticket in group]
                running += group
                desk.scheduler.joined()
            elif move is Action.STEP:
                desk.scheduler.stepped()
                ending = chance.sample(running, chance.randint(0, min(2, len(running))))
                desk.end(ending)
                running = [ticket for ticket in running if ticket not in ending]
            assert desk.scheduler.row_count <= limits.max_rows
            assert desk.scheduler.reserved_tokens <= limits.token_budget or len(running) == 1
        if chance.random() < 0.2:
            closed.add(name)
            desk.scheduler.close(name)
            desk.end([ticket for ticket in running if ticket.recording_id == name])
            running = [ticket for ticket in running if ticket.recording_id != name]
    while (move := desk.scheduler.next_action()) is not Action.IDLE:
        if move is Action.ADMIT:
            group = desk.scheduler.admit()
            admitted += [ticket.ticket_id for ticket in group]
            desk.scheduler.joined()
            desk.end(running)
            running = group
        else:
            desk.scheduler.stepped()
            desk.end(running)
            running = []
    assert len(admitted) == len(set(admitted))
    assert desk.scheduler.waiting_count == 0
    assert desk.offered - len(admitted) <= 5 * len(closed)


def test_rows_of_a_full_batch_are_let_become_free_until_several_chunks_share_a_prefill() -> None:
    desk = Desk(BatchLimits(max_rows=16, token_budget=1_000_000, prefill_tokens=100_000, rows_together=4))
    desk.recording("long", 40, interactive=False)
    full = desk.next_prefill()
    assert len(full) == desk.scheduler.limits.rows_for_others == 14
    for ticket in full[:3]:
        desk.end([ticket])
        assert desk.scheduler.next_action() is Action.STEP
        desk.scheduler.stepped()
    desk.end([full[3]])
    assert len(desk.next_prefill()) == 4


def test_what_is_urgent_does_not_wait_for_rows_and_the_last_chunks_do_not_either() -> None:
    desk = Desk(BatchLimits(max_rows=16, token_budget=1_000_000, prefill_tokens=100_000, rows_together=4))
    desk.recording("long", 16, interactive=False)
    full = desk.next_prefill()
    desk.recording("short", 1)
    assert names(desk.next_prefill()) == ["short"]
    # Two chunks are left. Of three rows that become free the short recording has taken the place of one.
    desk.end(full[:3])
    assert names(desk.next_prefill()) == ["long", "long"]


def test_where_shapes_are_to_be_few_groups_have_few_sizes_and_nobody_is_left_behind() -> None:
    desk = Desk(BatchLimits(max_rows=32, token_budget=1_000_000, prefill_tokens=100_000, has_few_sizes=True))
    desk.recording("long", 23, interactive=False)
    assert [len(desk.next_prefill()) for _ in range(3)] == [16, 6, 1]
    assert desk.scheduler.waiting_count == 0
    for number in range(5):
        desk.recording(f"{number}", 1)
    assert len(desk.next_prefill()) == 5, "who waits is not told to wait for a number"
    desk = Desk(desk.scheduler.limits)
    for number in range(11):
        desk.recording(f"later {number}", 1)
    assert [len(desk.next_prefill()) for _ in range(2)] == [8, 3], (
        "nor longer than the largest usual group takes"
    )


def test_where_shapes_are_few_a_running_batch_gets_no_larger_groups_than_it_usually_does() -> None:
    limits = BatchLimits(
        max_rows=64, token_budget=1_000_000, prefill_tokens=100_000, rows_together=8, has_few_sizes=True
    )
    desk = Desk(limits)
    desk.recording("long", 50, interactive=False)
    assert [len(desk.next_prefill()) for _ in range(2)] == [48, 2]
    desk = Desk(limits)
    desk.recording("long", 23, interactive=False)
    running = desk.next_prefill()
    for index in range(23, 40):
        desk.chunk("long", index)
    assert len(running) == 16
    assert [len(desk.next_prefill()) for _ in range(3)] == [8, 8, 8]


def test_an_empty_batch_waits_for_no_rows() -> None:
    desk = Desk(BatchLimits(max_rows=4, token_budget=1_000_000, prefill_tokens=100_000, rows_together=8))
    desk.recording("long", 9, interactive=False)
    first = desk.next_prefill()
    assert len(first) == 3
    desk.end(first)
    assert len(desk.next_prefill()) == 3


def test_waiting_for_rows_does_not_let_urgent_chunks_keep_the_others_out() -> None:
    desk = Desk(BatchLimits(max_rows=16, token_budget=1_000_000, prefill_tokens=1_000, rows_together=8))
    for number in range(11):
        desk.recording(f"short {number}", 1)
    while desk.scheduler.row_count < 11:
        desk.next_prefill()
    desk.recording("long", 30, interactive=False)
    held = desk.next_prefill()
    # The eleven urgent ones stay, so never more than three rows are free for the long one.
    assert names(held) == ["long"] * 3
    for _ in range(5):
        desk.end(held[:1])
        assert desk.scheduler.next_action() is Action.STEP
        desk.scheduler.stepped()
        desk.end(held[1:2])
        held = held[2:] + desk.next_prefill()
        assert names(held) == ["long"] * 3
