"""Turns of recordings that share transcoding children, judged without any child and at given times."""

from __future__ import annotations

import numpy as np
import pytest

from scribewire.engine.audio.transcode import open_audio
from scribewire.server.transcode.turns import (
    FIRST_TURN_SECONDS,
    SHORT_SECONDS,
    SLOW_FIRST_TURN_SECONDS,
    TURN_GROWTH,
    Contender,
    gives_way,
    next_in_turn,
)
from tests.fakes.media import LIMITS, encoded


def waits(owner: str = "ann", *, had: float = 0.0, interactive: bool = True) -> Contender:
    return Contender(owner, interactive, had_seconds=had)


def runs(seconds: float, owner: str = "ann", *, had: float = 0.0) -> Contender:
    """In hand for so long at time 0."""
    return Contender(owner, is_interactive=True, had_seconds=had, began_at=-seconds, has_begun=True)


def test_among_equals_the_first_comes_first() -> None:
    first, second = waits(), waits()
    assert next_in_turn([first, second], [], 3, 0.0) is first


def test_a_first_turn_comes_before_every_other() -> None:
    newcomer = waits(interactive=False)
    assert next_in_turn([waits(had=0.1), newcomer], [], 3, 0.0) is newcomer


def test_what_a_client_waits_for_comes_before_jobs() -> None:
    job, request = waits(interactive=False), waits()
    assert next_in_turn([job, request], [], 3, 0.0) is request


def test_an_owner_with_nothing_in_hand_comes_before_one_who_has_much() -> None:
    crowd, bystander = [waits("eve") for _ in range(50)], waits("bob")
    assert next_in_turn([*crowd, bystander], [runs(0.01, "eve")], 3, 0.0) is bystander


def test_of_long_ones_the_one_that_had_least_comes_first() -> None:
    much, little = waits(had=8.0), waits(had=0.5)
    assert next_in_turn([much, little], [], 3, 0.0) is little


@pytest.mark.parametrize("children", [2, 3, 8])
def test_one_child_is_kept_for_first_turns(children: int) -> None:
    running = [runs(100.0) for _ in range(children - 1)]
    assert next_in_turn([waits(had=0.1)], running, children, 0.0) is None
    newcomer = waits()
    assert next_in_turn([waits(had=0.1), newcomer], running, children, 0.0) is newcomer


def test_a_first_turn_that_ends_in_the_kept_child_gives_it_back() -> None:
    others = [runs(0.2, had=10.0), runs(0.3, had=10.0)]
    trying = runs(FIRST_TURN_SECONDS)
    assert gives_way([], [*others, trying], 3, 0.0) is trying
    assert gives_way([], [*others, runs(FIRST_TURN_SECONDS / 2)], 3, 0.0) is None


def test_nobody_gives_way_while_nothing_waits_and_a_child_is_kept() -> None:
    assert gives_way([], [runs(100.0), runs(200.0)], 3, 0.0) is None
    assert gives_way([waits()], [runs(100.0), runs(200.0)], 3, 0.0) is None


def test_the_one_that_ran_longest_gives_way_to_a_long_one_that_waits() -> None:
    longest = runs(200.0)
    assert gives_way([waits(had=0.1)], [runs(100.0), longest], 3, 0.0) is longest


def test_a_turn_after_another_lasts_several_times_as_long() -> None:
    claims = [waits(had=SHORT_SECONDS)]
    assert gives_way(claims, [runs(9.0), runs(2 * TURN_GROWTH - 0.1, had=2.0)], 3, 0.0) is not None
    protected = [runs(2 * TURN_GROWTH - 0.1, had=2.0), runs(3 * TURN_GROWTH - 0.1, had=3.0)]
    assert gives_way(claims, protected, 3, 0.0) is None


def test_one_that_had_much_does_not_claim_the_child_of_one_that_had_little() -> None:
    assert gives_way([waits(had=25.0)], [runs(1.0), runs(2.0)], 3, 0.0) is None


def test_a_first_turn_is_longer_while_there_is_nothing_to_read_yet() -> None:
    slow = Contender("ann", is_interactive=True, began_at=-0.2)
    assert not slow.is_long(0.0)
    slow.has_begun = True
    assert slow.is_long(0.0)
    assert Contender("ann", is_interactive=True, began_at=-SLOW_FIRST_TURN_SECONDS).is_long(0.0)


def test_a_recording_that_had_little_does_not_wait_for_the_end_of_long_turns() -> None:
    """All but the one that has run longest may be ended before their time."""
    longest, other = runs(50.0, had=50.0), runs(40.0, had=50.0)
    assert gives_way([waits(had=0.5)], [longest, other], 3, 0.0) is other
    assert gives_way([waits(had=SHORT_SECONDS)], [longest, other], 3, 0.0) is None
    assert gives_way([waits(had=0.5)], [longest, runs(1.0, had=50.0)], 3, 0.0) is None
    assert gives_way([waits(had=0.5)], [longest], 2, 0.0) is None


def test_a_single_child_is_claimed_by_first_turns_too() -> None:
    long = runs(5.0)
    assert gives_way([waits()], [long], 1, 0.0) is long
    assert gives_way([], [long], 1, 0.0) is None


def test_all_work_ends_and_little_of_it_is_done_twice() -> None:
    """Twenty recordings of 30 s each and three children, in steps of 50 ms."""
    left = {waits(f"{number % 4}"): 30.0 for number in range(20)}
    waiting: list[Contender] = list(left)
    running: list[Contender] = []
    now = worked = 0.0
    while left:
        while len(running) < 3 and (chosen := next_in_turn(waiting, running, 3, now)) is not None:
            waiting.remove(chosen)
            running.append(chosen)
            chosen.began_at, chosen.has_begun = now, True
        now += 0.05
        worked += 0.05 * len(running)
        for one in [one for one in running if one.elapsed_seconds(now) >= left[one]]:
            running.remove(one)
            del left[one]
        if (leaving := gives_way(waiting, running, 3, now)) is not None:
            leaving.had_seconds = max(leaving.had_seconds, leaving.elapsed_seconds(now))
            leaving.began_at = None
            running.remove(leaving)
            waiting.append(leaving)
        assert now < 10_000
    assert worked < 20 * 30.0 * (1.0 + TURN_GROWTH / (TURN_GROWTH - 1.0))


def test_long_recordings_end_beside_an_endless_row_of_shorter_ones() -> None:
    """Every five seconds one of 1.5 s comes: none waits long, and those of 60 s end all the same."""
    left = {waits("eve"): 60.0, waits("bob"): 60.0}
    waiting: list[Contender] = list(left)
    running: list[Contender] = []
    now, long_ones, longest_wait = 0.0, list(left), 0.0
    came: dict[Contender, float] = {}
    while any(one in left for one in long_ones):
        while len(running) < 3 and (chosen := next_in_turn(waiting, running, 3, now)) is not None:
            waiting.remove(chosen)
            running.append(chosen)
            chosen.began_at, chosen.has_begun = now, True
        now = round(now + 0.05, 2)
        if now % 5 == 0:
            newcomer = waits("ann")
            left[newcomer], came[newcomer] = 1.5, now
            waiting.append(newcomer)
        for one in [one for one in running if one.elapsed_seconds(now) >= left[one]]:
            running.remove(one)
            del left[one]
            longest_wait = max(longest_wait, now - came.get(one, now))
        if (leaving := gives_way(waiting, running, 3, now)) is not None:
            leaving.had_seconds = max(leaving.had_seconds, leaving.elapsed_seconds(now))
            leaving.began_at = None
            running.remove(leaving)
            waiting.append(leaving)
        assert now < 10_000
    assert longest_wait < 10.0


class TurnIsOver(BaseException):
    """No Exception, as in the child."""


def test_counting_a_file_that_holds_next_to_nothing_gives_way_too() -> None:
    """It takes a second at twelve hours, and no block comes meanwhile."""
    silence = encoded(
        "flac", "flac", np.zeros(180 * 16_000, dtype=np.float32), codec_options={"frame_size": "65535"}
    )
    with open_audio(silence, limits=LIMITS) as stream:

        def leave() -> None:
            raise TurnIsOver

        stream.on_packet = leave
        with pytest.raises(TurnIsOver):
            list(stream.blocks())
