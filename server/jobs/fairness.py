"""Fair order of jobs: round-robin over owners, and within each owner the oldest job first.

So an owner with thousands of jobs delays only its own. The order is kept in this process alone: after a restart all
owners start equal, oldest job first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OwnerQueue:
    """One owner's queued jobs: their count, and the number of the oldest."""

    owner: str
    count: int
    oldest_seq: int


class Fairness:
    """The order in which owners were last served.

    takes_long: False while long recordings are passed over, because others hold all places that they may have.
    """

    def __init__(self) -> None:
        self.takes_long = True
        self._served: dict[str, int] = {}
        self._count = 0

    def next_of(self, queues: Iterable[OwnerQueue]) -> OwnerQueue | None:
        """The queue whose oldest job is taken next; None when there is none."""
        return min(queues, key=self._key, default=None)

    def note_served(self, owner: str) -> None:
        """Note that a job of this owner was claimed."""
        self._count += 1
        self._served[owner] = self._count

    def position(self, mine: OwnerQueue, rank: int, queues: Iterable[OwnerQueue]) -> int:
        """Queue position of the owner's rank-th oldest job, 1 for next, if nothing new is submitted.

        queues: of all owners; the owner's own may be among them and is ignored.
        """
        my_key = self._key(mine)
        others = (one for one in queues if one.owner != mine.owner)
        return rank + sum(min(one.count, rank if self._key(one) < my_key else rank - 1) for one in others)

    def _key(self, queue: OwnerQueue) -> tuple[int, int]:
        return self._served.get(queue.owner, 0), queue.oldest_seq
