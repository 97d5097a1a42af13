"""Times in order: equal to the official rule on thousands of lists, ties included; then no word without length."""

from __future__ import annotations

import random

import pytest

from scribewire.engine.align.timestamps import repaired, with_lengths


def by_the_official_rule(times: list[int]) -> list[int]:
    """The rule as its description states it: a quadratic search, block by block."""
    count = len(times)
    length, parent = [1] * count, [None] * count
    for place in range(count):
        for earlier in range(place):
            if times[earlier] <= times[place] and length[earlier] + 1 > length[place]:
                length[place], parent[place] = length[earlier] + 1, earlier
    kept = set()
    place = length.index(max(length))
    while place is not None:
        kept.add(place)
        place = parent[place]
    result: list[float] = list(times)
    place = 0
    while place < count:
        if place in kept:
            place += 1
            continue
        stop = place
        while stop < count and stop not in kept:
            stop += 1
        left = times[place - 1] if place else None
        right = times[stop] if stop < count else None
        for stray in range(place, stop):
            if left is None or right is None:
                result[stray] = right if left is None else left
            elif stop - place <= 2:
                result[stray] = left if stray - (place - 1) <= stop - stray else right
            else:
                result[stray] = left + (right - left) / (stop - place + 1) * (stray - place + 1)
        place = stop
    return [int(time) for time in result]


def a_list(draw: random.Random) -> list[int]:
    """Random, nearly sorted, of few values (many ties), or falling; 80 ms classes."""
    count = draw.randint(1, 40)
    kind = draw.randrange(4)
    if kind == 0:
        classes = [draw.randrange(400) for _ in range(count)]
    elif kind == 1:
        classes = sorted(draw.randrange(400) for _ in range(count))
        for _ in range(draw.randint(0, 6)):
            classes[draw.randrange(count)] = draw.randrange(400)
    elif kind == 2:
        classes = [draw.randrange(4) for _ in range(count)]
    else:
        classes = sorted((draw.randrange(60) for _ in range(count)), reverse=True)
        for _ in range(draw.randint(0, 4)):
            classes[draw.randrange(count)] = draw.randrange(60)
    return [80 * one for one in classes]


def test_repair_equals_the_official_rule_on_ten_thousand_lists() -> None:
    draw = random.Random(20261127)
    changed = 0
    for _ in range(10_000):
        times = a_list(draw)
        wanted = by_the_official_rule(times)
        assert repaired(times) == wanted, times
        assert wanted == sorted(wanted)
        changed += wanted != times
    assert changed > 5_000


def test_times_in_order_stay_as_they_are() -> None:
    times = [0, 80, 80, 80, 240, 400]
    assert repaired(times) == times
    assert repaired([]) == []


def test_a_long_list_is_repaired_without_comparing_every_pair() -> None:
    draw = random.Random(1)
    times = [draw.randrange(0, 10**9) for _ in range(200_000)]  # the quadratic rule would take hours
    result = repaired(times)
    assert result == sorted(result)


def lengths(times: list[int]) -> list[int]:
    return [end - start for start, end in zip(times[::2], times[1::2], strict=True)]


def test_words_with_length_keep_their_times() -> None:
    times = [0, 240, 240, 400, 800, 1200]
    assert with_lengths(times, least=80, whole=2000) == times


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        # silence behind, silence before, none: the word behind gives, at the end the word before
        ([0, 400, 400, 400, 800, 1200], [0, 400, 400, 480, 800, 1200]),
        ([0, 400, 800, 800, 800, 1200], [0, 400, 720, 800, 800, 1200]),
        ([0, 400, 400, 400, 400, 1200], [0, 400, 400, 480, 480, 1200]),
        ([0, 2000, 2000, 2000], [0, 1920, 1920, 2000]),
        # several at one moment, half of it before and half behind
        ([0, 320, 400, 400, 400, 400, 480, 800], [0, 320, 320, 400, 400, 480, 480, 800]),
        ([0, 0, 0, 0], [0, 80, 80, 160]),
        # beyond the recording
        ([3000, 3000, 4000, 9000], [1840, 1920, 1920, 2000]),
    ],
)
def test_a_word_without_length_takes_some_from_beside_it(times: list[int], wanted: list[int]) -> None:
    assert with_lengths(times, least=80, whole=2000) == wanted


def test_every_word_gets_some_length_in_order_and_inside_the_recording() -> None:
    draw = random.Random(7)
    for _ in range(2_000):
        times = repaired(a_list(draw) * 2)
        whole = draw.choice([40, 500, 3_000, 40_000])
        result = with_lengths(times, least=80, whole=whole)
        least = min(80, whole // (len(times) // 2))
        assert result == sorted(result)
        assert min(lengths(result)) >= least
        assert result[0] >= 0
        assert result[-1] <= whole


def test_more_words_than_milliseconds_are_still_in_order() -> None:
    result = with_lengths([0] * 20, least=80, whole=5)
    assert result == sorted(result)
    assert with_lengths([], least=80, whole=1000) == []
