"""Number of kernels a decode step starts, estimated from the graph that MLX is handed for it.

No backend that MLX has says how many kernels ran. What can be counted is the graph of one step: its primitives, less
those that only describe memory anew (a reshape or a slice of contiguous memory starts nothing). Some primitives start
two kernels (a split reduction), some reshapes copy: read the number as "about".
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

VIEWS = frozenset(
    {
        "AsStrided",
        "Broadcast",
        "BroadcastAxes",
        "Depends",
        "ExpandDims",
        "Flatten",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "StopGradient",
        "Transpose",
        "Unflatten",
        "View",
    }
)


def graph_primitives(arrays: Iterable[mx.array]) -> Counter[str]:
    """The primitives that computing these arrays takes, by name; what is evaluated already is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        mx.export_to_dot(str(path), *arrays)
        return Counter(re.findall(r'\[label ="([^"]+)", shape=rectangle\]', path.read_text(encoding="utf-8")))


def started_kernels(primitives: Counter[str]) -> int:
    """Number of these primitives that start a kernel."""
    return sum(count for name, count in primitives.items() if name not in VIEWS)


@contextmanager
def counted_evaluations() -> Iterator[Counter[str]]:
    """Counts the graphs of all evaluations asked of MLX inside the block. A rig: it stands in for MLX's functions."""
    total: Counter[str] = Counter()
    originals = mx.eval, mx.async_eval

    def counting(original: Callable[..., None]) -> Callable[..., None]:
        def evaluate(*arguments: Any) -> None:
            arrays = list(_arrays(arguments))
            if arrays:
                total.update(graph_primitives(arrays))
            original(*arguments)

        return evaluate

    mx.eval, mx.async_eval = counting(originals[0]), counting(originals[1])
    try:
        yield total
    finally:
        mx.eval, mx.async_eval = originals


def _arrays(value: Any) -> Iterator[mx.array]:
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, dict):
        yield from _arrays(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _arrays(one)
