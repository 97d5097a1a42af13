"""Repairs of an aligner's raw times: the official repair of times that run backward, then words of no length.

Whole milliseconds in lists; knows no network, no text and no recording.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def repaired(times: Sequence[float]) -> list[int]:
    """The times with those outside the longest non-decreasing subsequence replaced; whole, never decreasing.

    Of several longest subsequences it keeps the one whose last time comes first in the list, then each time the
    earliest predecessor. One or two strays take the nearer neighbor's time (the left one's where both are as near),
    more are spread evenly between both. Source: the official aligner's rule, which takes O(n^2); this is O(n log n).
    """
    kept = _longest_subsequence(times)
    result = [float(time) for time in times]
    for left, right in zip([-1, *kept], [*kept, len(times)], strict=True):
        strays = right - left - 1
        if not strays:
            continue
        before = result[left] if left >= 0 else result[right]
        after = result[right] if right < len(times) else result[left]
        for place in range(left + 1, right):
            if strays > 2:
                result[place] = before + (after - before) / (strays + 1) * (place - left)
            else:
                result[place] = before if place - left <= right - place else after
    return [int(time) for time in result]


def _longest_subsequence(times: Sequence[float]) -> list[int]:
    """Places of the longest non-decreasing subsequence, chosen as `repaired` says."""
    if not times:
        return []
    # ends[k]: the least time that a subsequence of length k + 1 ends with so far.
    ends: list[float] = []
    # levels[k]: places whose longest subsequence has length k + 1, in order; their times fall strictly, because a
    # later one that did not fall could have followed the earlier one.
    levels: list[list[int]] = []
    falling: list[list[float]] = []
    parents: list[int] = []
    for place, time in enumerate(times):
        level = bisect_right(ends, time)
        if level == len(ends):
            ends.append(time)
            levels.append([])
            falling.append([])
        else:
            ends[level] = time
        if level:
            # The earliest of the level below that is not above this time.
            earliest = bisect_left(falling[level - 1], -time)
            parents.append(levels[level - 1][earliest])
        else:
            parents.append(-1)
        levels[level].append(place)
        falling[level].append(-time)
    path = [levels[-1][0]]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path[::-1]


def with_lengths(times: Sequence[int], *, least: int, whole: int) -> list[int]:
    """Alternating starts and ends, never decreasing -> the same with every word of some length, within 0 and `whole`.

    least: what a word takes that was given no time, less where the whole does not hold so much for each. A run of such
    words takes it from the silence behind, then from the silence before, then from the words behind, and at the end
    of the recording from those before.
    """
    count = len(times) // 2
    if not count or whole <= 0:
        return [0] * len(times)
    least = min(least, whole // count)
    bounds = [min(max(time, 0), whole) for time in times]
    starts, ends = bounds[::2], bounds[1::2]
    first = 0
    while first < count:
        last = first
        if starts[first] == ends[first]:
            while last + 1 < count and starts[last + 1] == ends[last + 1] == starts[first]:
                last += 1
            _spread_run(starts, ends, first, last, least, whole)
        first = last + 1
    for place in range(count):
        starts[place] = max(starts[place], ends[place - 1] if place else 0)
        ends[place] = max(ends[place], starts[place] + least)
    limit = whole
    for place in reversed(range(count)):
        ends[place] = min(ends[place], limit)
        starts[place] = limit = min(starts[place], ends[place] - least)
    return [bound for pair in zip(starts, ends, strict=True) for bound in pair]


def _spread_run(starts: list[int], ends: list[int], first: int, last: int, least: int, whole: int) -> None:
    """Give words at one moment the silence around it, as far as it reaches."""
    moment = starts[first]
    needed = least * (last - first + 1)
    behind = (starts[last + 1] if last + 1 < len(starts) else whole) - moment
    before = moment - (ends[first - 1] if first else 0)
    begin = moment - min(before, max(0, needed - behind))
    for offset, place in enumerate(range(first, last + 1)):
        starts[place] = begin + offset * least
        ends[place] = starts[place] + least
