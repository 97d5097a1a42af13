"""The memory that a finished result is counted with."""

from __future__ import annotations

import gc
import sys

from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript
from scribewire.server.transcription.sharing import held_bytes


def test_size_of_a_result_is_not_underestimated():
    text = "été " * 500
    entries = tuple(TokenLogprob(f"tok{i} é", f"tok{i} é".encode(), -0.123 * i) for i in range(400))
    segment = Segment(0, 0.5, 1.25, text, "French", tokens=tuple(range(1000, 1400)), token_logprobs=entries)
    value = Transcript(text[:-1], "French", ("French",), 1.25, (segment,) * 1, "fake")
    assert _reachable_bytes(value) <= held_bytes(value) <= 4 * _reachable_bytes(value)


def _reachable_bytes(value: object) -> int:
    """Bytes reachable from a value, classes left out."""
    seen: dict[int, object] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen and not isinstance(one, type):
            seen[id(one)] = one
            waiting += gc.get_referents(one)
    return sum(sys.getsizeof(one) for one in seen.values())
