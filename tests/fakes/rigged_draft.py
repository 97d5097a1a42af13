"""A draft whose guesses are right as often as wanted: the real one runs, its tokens are replaced."""

import random
from collections.abc import Sequence

from scribewire.engine.batching.speculation import Draft


class RiggedDraft(Draft):
    """Guesses from a known answer, each right with the given chance, given that those before it were."""

    def __init__(self, inner: Draft, known_ids: Sequence[int], acceptance: float, seed: int = 0) -> None:
        """known_ids: what the target will choose from the sequence's next token on, its end token included."""
        self._inner = inner
        self._known = list(known_ids)
        self._acceptance = acceptance
        self._draw = random.Random(seed)
        self._place = 0
        self._guesses: list[int] = []

    def propose(self, last: int, count: int) -> list[int]:
        """See Draft."""
        self._guesses = self._inner.propose(last, count)
        coming = self._known[self._place : self._place + count]
        coming += [0] * (count - len(coming))
        return [
            token if self._draw.random() < self._acceptance else token - 1 if token else 1 for token in coming
        ]

    def settle(self, right: int, guesses: list[int]) -> None:
        """See Draft."""
        self._inner.settle(right, self._guesses)
        self._place += right + 1
