"""Limits of the running batch."""

from __future__ import annotations

from dataclasses import dataclass

_KEPT_PART = 8


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

    @property
    def rows_for_others(self) -> int:
        """Rows that chunks which are not urgent may take."""
        return max(1, self.max_rows - -(-self.max_rows // _KEPT_PART)) if self.max_rows > 1 else 1

    @property
    def tokens_for_others(self) -> int:
        """Tokens that chunks which are not urgent may hold."""
        return self.token_budget - self.token_budget // _KEPT_PART
