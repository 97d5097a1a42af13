"""Speakers of words and segments: transcripts joined with speaker turns."""

from __future__ import annotations

import random

import pytest

from scribewire.engine.protocol.attribution import UNKNOWN_SPEAKER, with_speakers
from scribewire.engine.protocol.speakers import SpeakerTurn
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript, Word, words_text


def turns(*given: tuple[float, float, str]) -> list[SpeakerTurn]:
    return [SpeakerTurn(*one) for one in given]


def said(*words: tuple[str, float, float], notice: str | None = None) -> Segment:
    timed = tuple(
        Word(text, start, end, " " if index else "") for index, (text, start, end) in enumerate(words)
    )
    return Segment(
        0, words[0][1], words[-1][2], words_text(timed), "English", tokens=(1, 2), avg_logprob=-0.5, words=timed,
        notice=notice, token_logprobs=(TokenLogprob("x", b"x", -1.0),),
    )  # fmt: skip


def transcript(*segments: Segment) -> Transcript:
    text = " ".join(segment.text for segment in segments)
    return Transcript(text, "English", ("English",), 60.0, segments, "demo")


def attributed(segments: list[Segment], *given: tuple[float, float, str]) -> list[tuple[str | None, str]]:
    return [(one.speaker, one.text) for one in with_speakers(transcript(*segments), turns(*given)).segments]


def test_a_segment_is_split_where_the_speaker_changes():
    segment = said(
        ("Hello", 0, 1), ("there.", 1, 2), ("Who", 3, 4), ("is", 4, 5), ("it?", 5, 6), notice="cut"
    )
    found = with_speakers(transcript(segment), turns((0.0, 2.4, "A"), (2.6, 6.0, "B"))).segments
    assert [(one.index, one.start_seconds, one.end_seconds, one.speaker, one.text) for one in found] == [
        (0, 0, 2, "A", "Hello there."),
        (1, 3, 6, "B", "Who is it?"),
    ]
    assert [[word.text for word in one.words] for one in found] == [["Hello", "there."], ["Who", "is", "it?"]]
    # Tokens belong to the whole; what was measured of it stays.
    assert [(one.tokens, one.token_logprobs, one.avg_logprob, one.notice) for one in found] == [
        ((), (), -0.5, "cut"),
        ((), (), -0.5, None),
    ]


def test_a_segment_of_one_speaker_stays_as_it_is():
    segment = said(("Hello", 0, 1), ("there.", 1, 2))
    (found,) = with_speakers(transcript(segment), turns((0.0, 9.0, "A"))).segments
    assert found.tokens == (1, 2)
    assert found.speaker == "A"


def test_a_word_belongs_to_whoever_speaks_for_most_of_it():
    assert attributed([said(("mine", 0, 1), ("yours", 1, 2))], (0.0, 1.4, "A"), (1.4, 2.0, "B")) == [
        ("A", "mine"),
        ("B", "yours"),
    ]
    # Two turns of the same speaker count together.
    assert attributed([said(("word", 0, 3))], (0.0, 1.0, "A"), (1.0, 2.2, "B"), (2.2, 3.0, "A")) == [
        ("A", "word")
    ]


def test_where_two_speak_at_once_the_one_before_goes_on():
    both = [(0.0, 2.0, "B"), (1.0, 3.0, "A")]
    assert attributed([said(("one", 0, 1), ("two", 1, 2), ("three", 2, 3))], *both) == [
        ("B", "one two"),
        ("A", "three"),
    ]


def test_a_word_in_nobodys_turn_goes_to_the_nearest():
    given = [(0.0, 1.0, "A"), (5.0, 6.0, "B")]
    assert attributed([said(("near", 1.5, 2)), said(("later", 4.0, 4.5))], *given) == [
        ("A", "near"),
        ("B", "later"),
    ]


def test_a_word_of_no_length_belongs_to_the_turn_around_it():
    assert attributed([said(("now", 2.0, 2.0))], (0.0, 1.0, "A"), (1.5, 3.0, "B")) == [("B", "now")]


def test_a_segment_without_words_belongs_to_whoever_speaks_most_and_stays_whole():
    segment = Segment(0, 0.0, 10.0, "all of it", "Thai")
    assert attributed([segment], (0.0, 4.0, "A"), (4.0, 10.0, "B")) == [("B", "all of it")]


def test_without_any_turn_nobody_is_named():
    assert attributed([said(("Hello", 0, 1))]) == [(UNKNOWN_SPEAKER, "Hello")]
    assert with_speakers(transcript(), turns((0.0, 1.0, "A"))).segments == ()


def test_an_early_turn_that_lasts_is_not_forgotten_behind_later_short_ones():
    given = [(0.0, 100.0, "A"), (1.0, 2.0, "B"), (3.0, 4.0, "C")]
    assert attributed([said(("late", 50, 51))], *given) == [("A", "late")]


@pytest.mark.parametrize("seed", range(5))
def test_no_word_is_lost_whoever_speaks_and_the_search_finds_the_most(seed: int):
    chance = random.Random(seed)
    segments, given, at = [], [], 0.0
    for _ in range(20):
        words = []
        for _ in range(chance.randint(1, 12)):
            end = at + chance.choice([0.0, 0.1, 0.4])
            words.append((f"w{len(words)}", at, end))
            at = end + chance.choice([0.0, 0.0, 0.5])
        segments.append(said(*words))
    for _ in range(40):
        start = chance.uniform(0, at)
        given.append((start, start + chance.uniform(0.1, 4.0), chance.choice("ABC")))
    before = transcript(*segments)
    after = with_speakers(before, turns(*given))
    assert [word for one in after.segments for word in one.words] == [
        w for one in segments for w in one.words
    ]
    assert " ".join(one.text for one in after.segments) == before.text
    assert [one.index for one in after.segments] == list(range(len(after.segments)))
    for segment in after.segments:
        for word in segment.words:
            shares = dict.fromkeys("ABC", 0.0)
            for start, end, who in given:
                shares[who] += max(0.0, min(end, word.end_seconds) - max(start, word.start_seconds))
            if max(shares.values()) > 0:
                assert shares[segment.speaker] == pytest.approx(max(shares.values()), abs=1e-5)
