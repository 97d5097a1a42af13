"""Loops are found where they are evident and nowhere else, and what was sent on is never taken back."""

import random
from collections.abc import Iterator

import pytest

from scribewire.engine.batching.sequence import (
    LONGEST_LOOP_PERIOD,
    Loop,
    LoopGuard,
    drop_repeats,
    max_tokens_for_audio,
)

PERIOD_OF_32 = list(range(100, 132))
SPEECH = "Well, I said no, no, no! Hmm... 1,000,000 ways; all all of them are gone. Bookkeeper's 好的好的 да-да-да. "


def find_loop(tokens: list[int], most_tokens: int = 0) -> Loop | None:
    guard = LoopGuard(most_tokens)
    for token in tokens:
        if guard.push(token) is not None:
            break
    return guard.loop


def naive_loop(tokens: list[int], most_tokens: int) -> Loop | None:
    """The definition read aloud, over every prefix."""
    for count in range(most_tokens + 1, len(tokens) + 1):
        found = []
        for period in range(1, 33):
            if (
                count < 10 * period
                or tokens[count - 10 * period : count] != tokens[count - period : count] * 10
            ):
                continue
            first = count - 10 * period
            while first > 0 and tokens[first - 1] == tokens[first - 1 + period]:
                first -= 1
            found.append((first + period, period))
        if found:
            keep_count, period = min(found)
            first = keep_count - period
            return Loop(period, (count - first) // period, keep_count)
    return None


def random_sequences(seed: int, count: int) -> Iterator[list[int]]:
    """Sequences of stretches that repeat, of few different tokens, so that repeats of several periods overlap."""
    stream = random.Random(seed)
    for _ in range(count):
        alphabet = stream.choice((1, 2, 2, 3, 5, 40))
        tokens: list[int] = []
        for _ in range(stream.randint(1, 4)):
            unit = [stream.randrange(alphabet) for _ in range(stream.choice((1, 1, 2, 3, 4, 6, 9)))]
            if len(unit) > 3 and stream.random() < 0.5:
                unit = unit[:2] * stream.randint(1, 6) + unit[2:]
            stretch = unit * stream.randint(1, 13)
            tokens += stretch[: stream.randint(1, len(stretch))]
        yield tokens[:160]


# ---- evidence ------------------------------------------------------------------------------------------------


def test_ten_rounds_are_a_loop_and_nine_are_not():
    assert find_loop([7, 8, 9] * 9 + [7, 8]) is None
    assert find_loop([7, 8, 9] * 10) == Loop(period=3, repeats=10, keep_count=3)


@pytest.mark.parametrize("period", [1, 2, 3, 10, 11, 31, 32])
def test_loop_is_found_with_the_token_that_completes_its_tenth_round(period):
    unit = PERIOD_OF_32[:period]
    guard = LoopGuard(0)
    for count, token in enumerate([1, 2, 3, *unit * 12], start=1):
        guard.push(token)
        assert (guard.loop is not None) == (count >= 3 + 10 * period)
    assert guard.loop == Loop(period, 10, 3 + period)


def test_period_of_32_is_a_loop_and_of_33_is_not():
    assert LONGEST_LOOP_PERIOD == 32
    assert find_loop(PERIOD_OF_32 * 10) == Loop(32, 10, 32)
    assert find_loop([*PERIOD_OF_32, 132] * 40) is None


def test_as_many_tokens_as_the_audio_holds_are_no_loop_and_one_more_is():
    tokens = [5] * 51
    assert find_loop(tokens[:50], most_tokens=50) is None
    assert find_loop(tokens, most_tokens=50) == Loop(1, 51, 1)


def test_neither_many_tokens_nor_many_rounds_suffice_alone():
    assert find_loop(list(range(1000)), most_tokens=50) is None
    assert find_loop([5, 6] * 400, most_tokens=800) is None
    assert find_loop([5, 6] * 401, most_tokens=800) is not None


def test_loop_that_ended_before_the_audio_was_full_is_left_alone():
    assert find_loop([5] * 40 + list(range(100, 200)), most_tokens=60) is None


def test_loop_that_begins_in_the_middle_keeps_all_before_it_and_one_round():
    said = list(range(200, 260))
    loop = find_loop([*said, *[1, 2, 3, 4] * 30], most_tokens=110)
    assert loop == Loop(4, 12, 64)
    assert drop_repeats([*said, *[1, 2, 3, 4] * 30], loop) == [*said, 1, 2, 3, 4]


def test_round_that_ends_like_the_words_before_it_begins_there():
    """`... 3 | 1 2 3 1 2 3`: the 3 before the first round belongs to the repetition, one token earlier."""
    loop = find_loop([50, 51, 3, *[1, 2, 3] * 10])
    assert loop == Loop(3, 10, 5)
    assert drop_repeats([50, 51, 3, *[1, 2, 3] * 10], loop) == [50, 51, 3, 1, 2]


def test_rounds_that_each_begin_with_something_else_are_no_loop():
    tokens = [token for count in range(100) for token in (1000 + count, 1, 2, 3)]
    assert find_loop(tokens) is None


@pytest.mark.parametrize("period", [1, 2, 7, 32])
def test_one_other_token_starts_the_count_again(period):
    unit = PERIOD_OF_32[:period]
    assert find_loop([*unit * 9, 999, *unit * 9]) is None
    assert find_loop([*unit * 9, 999, *unit * 10]) == Loop(period, 10, 10 * period + 1)


@pytest.mark.parametrize("unit", [[4], [4, 5], [4, 4, 5], [4, 5, 6, 7]])
def test_smallest_period_is_reported_however_late_the_audio_is_full(unit):
    loop = find_loop(unit * 100, most_tokens=90 * len(unit))
    assert loop is not None
    assert (loop.period, loop.keep_count) == (len(unit), len(unit))


def test_run_inside_a_longer_round_does_not_hide_that_round():
    """Ten equal tokens end every round of 16: the loop is the round, of which one copy is kept."""
    unit = [*range(300, 306), *[9] * 10]
    assert find_loop(unit * 12, most_tokens=175) == Loop(16, 11, 16)


def test_run_of_equal_tokens_alone_is_cut_where_only_it_repeats():
    assert find_loop([*range(300, 306), *[9] * 20], most_tokens=10) == Loop(1, 10, 7)


def test_tokens_after_the_loop_change_nothing():
    guard = LoopGuard(0)
    for token in [3] * 10:
        guard.push(token)
    found, held = guard.loop, guard.held_count
    for token in [3, 4, 5]:
        assert guard.push(token) == found
    assert (guard.loop, guard.held_count) == (found, held)


def test_ten_thousand_random_sequences_agree_with_the_definition():
    stream = random.Random(1)
    loops = 0
    for tokens in random_sequences(seed=2, count=10_000):
        most_tokens = stream.choice((0, 0, 10, 30, len(tokens) - 1))
        expected = naive_loop(tokens, most_tokens)
        assert find_loop(tokens, most_tokens) == expected, (tokens, most_tokens)
        loops += expected is not None
    assert 2_000 < loops < 9_000


# ---- what is held --------------------------------------------------------------------------------------------


def test_nothing_is_held_of_speech_that_does_not_repeat():
    guard = LoopGuard(1000)
    for token in range(500):
        guard.push(token)
        assert guard.held_count == 0


def test_held_tokens_are_let_go_when_the_repetition_ends():
    guard = LoopGuard(1000)
    for token in [1, 2, 1, 2, 1, 2]:
        guard.push(token)
    assert guard.held_count == 4
    guard.push(3)
    assert guard.held_count == 0


def test_loop_drops_only_what_was_held_at_every_moment_before():
    loops = 0
    for tokens in random_sequences(seed=3, count=4_000):
        guard = LoopGuard(20)
        released = 0
        for count, token in enumerate(tokens, start=1):
            if guard.push(token) is not None:
                break
            released = max(released, count - guard.held_count)
        if guard.loop is not None:
            assert released <= guard.loop.keep_count < count
            loops += 1
    assert loops > 500


def test_all_that_is_held_can_still_be_dropped():
    """Going on in the same way ends in a loop that drops every held token: none is held in vain."""
    for tokens in random_sequences(seed=4, count=1_000):
        guard = LoopGuard(10_000)
        for token in tokens:
            guard.push(token)
        held = guard.held_count
        if not held:
            continue
        newest = tokens[-held:]
        period = next(p for p in range(1, 33) if newest == tokens[-held - p : len(tokens) - p])
        unit = tokens[len(tokens) - period :]
        going_on = tokens + unit * 9
        loop = find_loop(going_on, most_tokens=len(going_on) - 1)
        assert loop is not None
        assert loop.keep_count == len(tokens) - held


# ---- how much audio holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "tokens_per_second"),
    [
        ("ordinary speech", 3.5),
        ("no, no, no: 6 a second, a word and a comma each", 12.0),
        ("Greek and Thai words of one syllable, 6 a second with their commas", 17.4),
        ("Hindi at 7 syllables a second", 19.3),
        ("English at the record of 637 words a minute", 13.0),
    ],
)
def test_real_speech_fits_its_audio_at_any_length(what, tokens_per_second):
    for seconds in (0.3, 1.0, 10.0, 30.0, 1200.0):
        assert tokens_per_second * seconds + 3 <= max_tokens_for_audio(seconds), what


def test_no_no_no_no_for_ten_seconds_passes():
    head = [11528, 6364, 151704]
    assert find_loop([*head, *[2152, 11] * 50], max_tokens_for_audio(10.0)) is None


def test_chorus_sung_twelve_times_in_a_minute_passes():
    chorus = PERIOD_OF_32[:24]
    assert find_loop(chorus * 12, max_tokens_for_audio(60.0)) is None


def test_degenerate_loop_is_stopped_in_the_audio_it_cannot_fit():
    most = max_tokens_for_audio(10.0)
    tokens = [11528, 6364, 151704, *[2152, 11] * 500]
    loop = find_loop(tokens, most)
    assert loop == Loop(2, (most + 1 - 3) // 2, 5)
