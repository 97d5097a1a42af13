"""Rows of one operation on several CPU cores.

MLX's Linux CPU backend runs an operation on one core. Independent rows of a product, or heads of an attention, are
cut in parts that run on streams of their own, which are threads there; each row is computed exactly as before. A GPU,
and macOS whose CPU products use all cores by themselves, get no extra streams and no cutting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import pairwise

import mlx.core as mx

_MOST_STREAMS = 4


class RowStreams:
    """The streams that share one operation; the caller's own stream takes the first part."""

    def __init__(self, extra: tuple[mx.Stream, ...] = ()) -> None:
        self._extra = extra

    @classmethod
    def for_device(cls, device: mx.Device) -> RowStreams:
        """One stream per core on a Linux CPU, up to four; none elsewhere."""
        if device.type != mx.DeviceType.cpu or sys.platform == "darwin":
            return cls()
        cores = min(_MOST_STREAMS, os.cpu_count() or 1)
        return cls(tuple(mx.new_stream(device) for _ in range(cores - 1)))

    def map(
        self, function: Callable[..., mx.array], *arrays: mx.array, axis: int = 0, at_least: int = 16
    ) -> mx.array:
        """function(*arrays), computed in parts along `axis` and put together again.

        The function must treat every index of that axis on its own; arrays of different size there must belong
        together in equal shares (query and key heads). Below `at_least` indices it is called once.
        """
        sizes = {array.shape[axis] for array in arrays}
        size = min(sizes)
        part_count = min(len(self._extra) + 1, size)
        while len(sizes) > 1 and any(one % part_count for one in sizes):
            # Query heads and the fewer key heads they share must be cut at the same places.
            part_count -= 1
        if part_count < 2 or size < at_least:
            return function(*arrays)
        parts = zip(*(_cut(array, part_count, axis) for array in arrays), strict=True)
        first, *rest = parts
        results = []
        for stream, part in zip(self._extra, rest, strict=False):
            with mx.stream(stream):
                results.append(function(*part))
        return mx.concatenate([function(*first), *results], axis=axis)


def _cut(array: mx.array, part_count: int, axis: int) -> list[mx.array]:
    ends = [round(array.shape[axis] * part / part_count) for part in range(part_count + 1)]
    return [array[(slice(None),) * axis + (slice(start, stop),)] for start, stop in pairwise(ends)]
