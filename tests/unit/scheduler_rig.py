"""A scheduler that tests move by hand."""

from __future__ import annotations

from collections.abc import Iterable

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import Action, Scheduler, Ticket

ROOMY = BatchLimits(max_rows=64, token_budget=1_000_000, prefill_tokens=100_000)


class Rig:
    """A scheduler with recordings of equal chunks, moved by hand."""

    def __init__(self, limits: BatchLimits = ROOMY) -> None:
        self.scheduler = Scheduler(limits)
        self.offered = 0

    def recording(
        self, name: str, chunks: int, *, owner: str = "", interactive: bool = True, prompt: int = 100
    ) -> None:
        self.scheduler.open(name, owner=owner or name, is_interactive=interactive)
        for index in range(chunks):
            self.chunk(name, index, prompt=prompt)

    def chunk(self, name: str, index: int, *, prompt: int = 100, reserve: int | None = None) -> Ticket:
        ticket = Ticket(self.offered, name, index, prompt, 2 * prompt if reserve is None else reserve)
        self.offered += 1
        self.scheduler.offer(ticket)
        return ticket

    def next_prefill(self) -> list[Ticket]:
        """Step until the next prefill, and let it join at once."""
        while (move := self.scheduler.next_action()) is Action.STEP:
            self.scheduler.stepped()
        if move is Action.IDLE:
            return []
        group = self.scheduler.admit()
        self.scheduler.joined()
        return group

    def end(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            self.scheduler.release(ticket.ticket_id)


def names(group: Iterable[Ticket]) -> list[str]:
    return [ticket.recording_id for ticket in group]
