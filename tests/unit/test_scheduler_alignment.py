"""Alignment of decoded chunks: in full groups or for a waiting request, between steps of all other work."""

from __future__ import annotations

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import Action, Scheduler, Ticket

LIMITS = BatchLimits(max_rows=8, token_budget=100_000, prefill_tokens=1000)


class Story:
    """A scheduler, and tickets by number."""

    def __init__(self, limits: BatchLimits = LIMITS) -> None:
        self.scheduler = Scheduler(limits)
        self._next = 0

    def open(
        self, name: str, *, owner: str = "ada", is_interactive: bool = False, is_read: bool = False
    ) -> None:
        self.scheduler.open(name, owner=owner, is_interactive=is_interactive)
        if is_read:
            self.scheduler.has_read(name, is_last=True)

    def ticket(self, name: str, index: int = 5, tokens: int = 300) -> Ticket:
        self._next += 1
        return Ticket(self._next, name, index, tokens, tokens)

    def decode(self, name: str, index: int = 5, tokens: int = 300) -> Ticket:
        """A chunk becomes a row of the running batch."""
        ticket = self.ticket(name, index, tokens)
        self.scheduler.offer(ticket)
        while ticket.ticket_id not in self.scheduler._admitted:
            assert self.move() is not Action.IDLE
        while self.scheduler._is_prefilling:
            self.move()
        return ticket

    def to_align(self, name: str, index: int = 5, tokens: int = 300) -> Ticket:
        ticket = self.ticket(name, index, tokens)
        self.scheduler.offer_alignment(ticket)
        return ticket

    def move(self) -> Action:
        """The next move, made."""
        move = self.scheduler.next_action()
        if move is Action.ADMIT:
            self.scheduler.admit()
            self.scheduler.joined()
        elif move is Action.FEED:
            self.scheduler.joined()
        elif move is Action.STEP:
            self.scheduler.stepped()
        elif move is Action.ALIGN:
            self.aligned = self.scheduler.align()
        return move

    def until_aligned(self, *, most: int = 100) -> list[Action]:
        """Moves up to the alignment, which is left out."""
        moves: list[Action] = []
        while (move := self.move()) is not Action.ALIGN:
            assert len(moves) < most, "nothing was ever aligned"
            moves.append(move)
        return moves


def test_nothing_to_align_is_no_move() -> None:
    story = Story()
    story.open("talk")
    assert story.move() is Action.IDLE


def test_a_lone_chunk_is_aligned_when_nothing_else_is_to_be_done() -> None:
    story = Story()
    story.open("talk")
    ticket = story.to_align("talk")
    assert story.until_aligned() == []
    assert story.aligned == [ticket]
    assert story.move() is Action.IDLE


def test_chunks_of_a_long_recording_wait_until_they_fill_a_pass() -> None:
    story = Story()
    story.open("talk")
    story.decode("talk")
    for _ in range(3):
        story.to_align("talk")
    assert [story.move() for _ in range(20)] == [Action.STEP] * 20
    story.to_align("talk")
    story.until_aligned(most=2)
    assert len(story.aligned) == 3  # 3 x 300 of 1000 tokens


def test_a_recording_that_waits_for_nothing_but_its_words_is_not_kept_waiting() -> None:
    story = Story()
    story.open("long")
    story.decode("long")
    story.open("short", is_read=True)
    ticket = story.to_align("short")
    story.until_aligned(most=2)
    assert ticket in story.aligned


def test_the_first_minute_of_what_somebody_waits_for_is_aligned_at_once_and_first() -> None:
    story = Story()
    story.open("long")
    story.decode("long")
    for _ in range(9):
        story.to_align("long")
    story.open("short", owner="grace", is_interactive=True)
    ticket = story.to_align("short", index=0)
    story.until_aligned(most=2)
    assert story.aligned == [ticket]


def test_one_pass_takes_chunks_of_several_recordings() -> None:
    story = Story()
    for name in ("one", "two", "three"):
        story.open(name, owner=name)
        story.to_align(name, tokens=310)
    story.until_aligned()
    assert {ticket.recording_id for ticket in story.aligned} == {"one", "two", "three"}


def test_a_pass_may_be_larger_than_a_prefill() -> None:
    story = Story(BatchLimits(max_rows=8, token_budget=100_000, prefill_tokens=1000, align_tokens=2000))
    story.open("talk")
    story.decode("talk")
    for _ in range(6):
        story.to_align("talk")
    assert [story.move() for _ in range(20)] == [Action.STEP] * 20
    story.to_align("talk")
    story.until_aligned(most=2)
    assert len(story.aligned) == 6


def test_groups_of_many_come_in_the_sizes_that_are_given() -> None:
    limits = BatchLimits(
        max_rows=32,
        token_budget=100_000,
        prefill_tokens=1000,
        align_tokens=4000,
        group_sizes=(1, 2, 3, 4, 6, 8, 12, 16),
    )
    story = Story(limits)
    story.open("talk")
    for _ in range(40):
        story.to_align("talk", tokens=280)  # 14 would fit
    sizes = []
    while sum(sizes) < 40:
        story.until_aligned()
        sizes.append(len(story.aligned))
    assert sizes == [12, 12, 12, 4]


def test_chunks_of_very_different_length_are_not_padded_to_one_another() -> None:
    story = Story()
    story.open("talk")
    story.to_align("talk", index=3, tokens=900)
    story.to_align("talk", index=4, tokens=30)
    story.until_aligned()
    assert [ticket.prompt_tokens for ticket in story.aligned] == [900]


def test_the_running_batch_steps_between_two_alignments() -> None:
    story = Story()
    story.open("talk")
    story.decode("talk")
    for _ in range(40):
        story.to_align("talk")
    story.until_aligned()
    assert story.until_aligned(most=10).count(Action.STEP) >= 1
    assert story.until_aligned(most=10).count(Action.STEP) >= 1


def test_alignments_and_prefills_take_turns() -> None:
    story = Story()
    story.open("talk")
    story.open("other", owner="grace")
    story.decode("talk")
    for index in range(40):
        story.to_align("talk")
        story.scheduler.offer(story.ticket("other", index))
    seen = [move for move in (story.move() for _ in range(60)) if move in (Action.ALIGN, Action.ADMIT)]
    admitted = seen.index(Action.ADMIT)
    # As long as rows are free; then alignments alone.
    assert seen[admitted : admitted + 3] == [Action.ADMIT, Action.ALIGN, Action.ADMIT]


def test_a_beginner_is_delayed_by_one_alignment_at_most() -> None:
    story = Story()
    story.open("talk")
    story.decode("talk")
    for _ in range(100):
        story.to_align("talk")
    story.until_aligned()
    story.open("short", owner="grace", is_interactive=True)
    story.scheduler.offer(story.ticket("short", index=0))
    moves = []
    while Action.ADMIT not in moves:
        moves.append(story.move())
    assert moves.count(Action.ALIGN) <= 1


def test_owners_take_turns_at_being_aligned() -> None:
    story = Story()
    story.open("hers", owner="ada")
    story.open("his", owner="bob")
    for _ in range(30):
        story.to_align("hers")
    story.to_align("his")
    served = []
    while not any(ticket.recording_id == "his" for ticket in served):
        story.until_aligned()
        served += story.aligned
    assert len(served) <= 6


def test_a_closed_recordings_chunks_are_not_aligned() -> None:
    story = Story()
    story.open("gone")
    story.open("there")
    story.to_align("gone")
    kept = story.to_align("there")
    story.scheduler.close("gone")
    story.until_aligned()
    assert story.aligned == [kept]
    assert story.move() is Action.IDLE
