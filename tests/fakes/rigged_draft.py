"""A draft whose tokens are right as often as wanted: the real one runs at its true cost, its tokens are replaced."""

import random
from collections.abc import Sequence

import mlx.core as mx

from scribewire.engine.batching.speculative.drafting import Drafter


class RiggedDrafter:
    """Draft tokens of a known answer, each right with the given chance, independently, given that those before it were.

    known_ids: what the target will choose from the sequence's next token on, its end token included.
    """

    def __init__(self, inner: Drafter, known_ids: Sequence[int], acceptance: float, seed: int = 0) -> None:
        self._inner = inner
        self._known = list(known_ids)
        self._acceptance = acceptance
        self._draw = random.Random(seed)
        self._place = 0

    def propose(self, last: mx.array, count: int) -> mx.array:
        """See Drafter. The real draft tokens stay part of the graph, or they would never be computed."""
        real = self._inner.propose(last, count)
        coming = self._known[self._place : self._place + count]
        coming += [0] * (count - len(coming))
        rigged = [
            token if self._draw.random() < self._acceptance else token - 1 if token else 1 for token in coming
        ]
        return mx.where(real >= 0, mx.array(rigged, dtype=mx.int32), real)

    def settle(self, right: int) -> None:
        """See Drafter."""
        self._inner.settle(right)
        self._place += right + 1
