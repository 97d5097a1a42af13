"""Limits of the running batch, and the chunks that are held against them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

_KEPT_PART = 8
_PADDING_ALLOWED = 1.5


@dataclass(frozen=True, slots=True)
class Ticket:
    """A chunk that waits. prompt_tokens: to be prefilled. reserve_tokens: what it may come to hold, prompt included."""

    ticket_id: int
    recording_id: str
    index: int
    prompt_tokens: int
    reserve_tokens: int


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of the running batch.

    token_budget: of all admitted chunks together. prefill_tokens: prompt tokens admitted at once, padding included.
    align_tokens: the same of chunks aligned at once; 0 is as many as of a prefill. rows_together: chunks that are not
    urgent join a running batch when so many rows are free for them, or as many as there are chunks. steps_per_row: so
    many steps more are taken between two prefills for each row that would be idle, most_steps at most.
    group_sizes: numbers of chunks that are prefilled or aligned together, upward from 1; none is any number. A few
    urgent ones come in any number; those that are not urgent come beside a running batch by rows_together at most,
    where that is more than one.
    """

    max_rows: int
    token_budget: int
    prefill_tokens: int
    align_tokens: int = 0
    rows_together: int = 1
    steps_per_row: float = 0.125
    most_steps: int = 8
    group_sizes: tuple[int, ...] = ()

    @property
    def tokens_of_a_pass(self) -> int:
        """Prompt tokens aligned at once, padding included."""
        return self.align_tokens or self.prefill_tokens

    def sized(self, count: int) -> int:
        """The largest group of at most `count` chunks."""
        return max((size for size in self.group_sizes if size <= count), default=count)

    def alike(
        self,
        tickets: Iterable[Ticket],
        most_tokens: int,
        has_room: Callable[[list[Ticket], Ticket], bool] = lambda group, ticket: True,
    ) -> tuple[list[Ticket], bool]:
        """A group of similar length from the first of these on; True when more wait than fit into a pass."""
        group: list[Ticket] = []
        longest = total = 0
        is_full = False
        for ticket in islice(tickets, 2 * self.max_rows):
            if not has_room(group, ticket):
                # The first is never overtaken: smaller ones could keep it waiting for ever.
                break
            width = max(longest, ticket.prompt_tokens)
            padded = width * (len(group) + 1)
            tokens = total + ticket.prompt_tokens
            if group and (padded > most_tokens or padded > _PADDING_ALLOWED * tokens):
                is_full = True
                continue
            group.append(ticket)
            longest, total = width, tokens
        return group, is_full

    @property
    def rows_for_others(self) -> int:
        """Rows that chunks which are not urgent may take."""
        return max(1, self.max_rows - -(-self.max_rows // _KEPT_PART)) if self.max_rows > 1 else 1

    @property
    def tokens_for_others(self) -> int:
        """Tokens that chunks which are not urgent may hold."""
        return self.token_budget - self.token_budget // _KEPT_PART
