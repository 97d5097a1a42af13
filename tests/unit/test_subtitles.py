"""Subtitles: cues that fit, times that never overlap, and files that parsers read as they were meant."""

from __future__ import annotations

import html
import random
import re
from dataclasses import replace
from itertools import pairwise

import pytest

from scribewire.engine.protocol.transcript import Segment, Transcript, Word
from scribewire.engine.subtitles import (
    Cue,
    cues_from_segments,
    cues_from_transcript,
    render_lrc,
    render_srt,
    render_tsv,
    render_vtt,
)

LONG = (
    "Well, I think that we should go there tomorrow, because the weather will be much better than it is today, "
    "and nobody knows how long that will last."
)
CHINESE = "今天天气很好，我们一起去公园散步吧。然后我们可以去吃饭，你觉得怎么样呢？"
JAPANESE = "「今日は天気がいいですね。」と彼は言いました。それから、みんなで公園へ行きました。"
KOREAN = "안녕하세요 여러분 오늘은 날씨가 아주 좋습니다 함께 공원에 갑시다"

Parsed = list[tuple[int, int, str]]


def segment(text: str, start: float = 0.0, end: float = 10.0, language: str | None = "English") -> Segment:
    return Segment(index=0, start_seconds=start, end_seconds=end, text=text, language=language)


def milliseconds(clock: str, point: str) -> int:
    match = re.fullmatch(rf"(\d\d+):([0-5]\d):([0-5]\d){re.escape(point)}(\d\d\d)", clock)
    assert match, clock
    hours, minutes, seconds, rest = map(int, match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest


def parse_block(lines: list[str], point: str) -> tuple[int, int, str]:
    start, arrow, end = lines[0].split(" ")
    assert arrow == "-->"
    assert len(lines) > 1
    assert "-->" not in "".join(lines[1:])
    return milliseconds(start, point), milliseconds(end, point), "\n".join(lines[1:])


def parse_srt(text: str) -> Parsed:
    """A strict reader of SubRip: blocks apart by exactly one blank line, numbered from 1."""
    if not text:
        return []
    assert text.endswith("\n")
    blocks = [block.split("\n") for block in text[:-1].split("\n\n")]
    assert [block[0] for block in blocks] == [str(number) for number in range(1, len(blocks) + 1)]
    return [parse_block(block[1:], ",") for block in blocks]


def parse_vtt(text: str) -> Parsed:
    """A strict reader of WebVTT, of what is used here: the head, then cues; escapes undone, tags refused."""
    head, *blocks = text.removesuffix("\n").split("\n\n")
    assert head == "WEBVTT"
    parsed = [parse_block(block.split("\n"), ".") for block in blocks]
    assert not any(re.search(r"[<>]|&(?!amp;|lt;|gt;)", text) for _, _, text in parsed)
    return [(start, end, html.unescape(text)) for start, end, text in parsed]


def assert_in_order(parsed: Parsed) -> None:
    earliest = 0
    for start, end, _ in parsed:
        assert earliest <= start < end
        earliest = end


def spoken(*words: tuple[str, float, float], speaker: str | None = None) -> Segment:
    """A segment with word times, its words apart by spaces."""
    timed = tuple(
        Word(text, start, end, " " if index else "") for index, (text, start, end) in enumerate(words)
    )
    text = " ".join(word.text for word in timed)
    return Segment(0, words[0][1], words[-1][2], text, "English", words=timed, speaker=speaker)


def evenly(text: str, start: float, seconds_per_word: float = 0.3) -> list[tuple[str, float, float]]:
    return [
        (word, start + index * seconds_per_word, start + (index + 1) * seconds_per_word)
        for index, word in enumerate(text.split())
    ]


def shown(segments: list[Segment]) -> list[tuple[float, float, str]]:
    return [(cue.start_seconds, cue.end_seconds, cue.text) for cue in cues_from_segments(segments)]


def lines_of(text: str) -> list[str]:
    return [line for cue in cues_from_segments([segment(text)]) for line in cue.text.split("\n")]


def test_short_segments_become_one_cue_each_with_their_times():
    segments = [segment("Hello there.", 0.0, 1.25), segment("How are you?", 3661.5, 3664.0)]
    assert render_srt(cues_from_segments(segments)) == (
        "1\n00:00:00,000 --> 00:00:01,250\nHello there.\n\n2\n01:01:01,500 --> 01:01:04,000\nHow are you?\n"
    )
    assert render_vtt(cues_from_segments(segments)) == (
        "WEBVTT\n"
        "\n"
        "00:00:00.000 --> 00:00:01.250\nHello there.\n"
        "\n"
        "01:01:01.500 --> 01:01:04.000\nHow are you?\n"
    )
    assert render_tsv(cues_from_segments(segments)) == (
        "start\tend\ttext\n0\t1250\tHello there.\n3661500\t3664000\tHow are you?\n"
    )
    assert render_lrc(cues_from_segments(segments)) == (
        "[00:00.00]Hello there.\n[00:01.25]\n[61:01.50]How are you?\n[61:04.00]\n"
    )


def test_no_speech_is_an_empty_file_of_its_kind():
    assert render_srt(cues_from_segments([segment("")])) == ""
    assert render_vtt(cues_from_segments([])) == "WEBVTT\n"
    assert render_tsv([]) == "start\tend\ttext\n"
    assert render_lrc([]) == ""
    assert cues_from_segments([segment(" \n ")]) == []


@pytest.mark.parametrize(
    ("text", "limit", "joint"),
    [
        (LONG, 42, " "),
        (CHINESE, 16, ""),
        (JAPANESE, 16, ""),
        (KOREAN, 16, " "),
        ("x" * 200, 42, ""),
        ("a " * 300, 42, " "),
    ],
    ids=["English", "Chinese", "Japanese", "Korean", "one word", "letters"],
)
def test_long_text_is_broken_into_lines_that_fit_and_nothing_is_lost(text: str, limit: int, joint: str):
    lines = lines_of(text)
    assert len(lines) > 1
    assert max(map(len, lines)) <= limit
    assert joint.join(lines) == text.strip()
    assert all(cue.text.count("\n") < 2 for cue in cues_from_segments([segment(text)]))


def test_two_lines_of_a_cue_are_about_as_long_and_break_at_punctuation_near_the_middle():
    (cue,) = cues_from_segments([segment("a" * 20 + " " + "b" * 20 + " c", end=4.0)])
    assert cue.text == "a" * 20 + "\n" + "b" * 20 + " c"
    (cue,) = cues_from_segments([segment("If it rains tomorrow, we shall have to stay at home", end=4.0)])
    assert cue.text == "If it rains tomorrow,\nwe shall have to stay at home"


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, "我说：「" * 9 + "好」"])
def test_no_line_begins_with_a_closing_mark_or_ends_with_an_opening_one(text: str):
    # Every beginning left out in turn, so that every mark comes to stand where a line would be broken.
    for first in range(len(text) - 16):
        lines = lines_of("字" + text[first:])
        assert not any(line[0] in "，。、？！」ー" for line in lines), lines
        assert not any(line[-1] in "「（" for line in lines), lines


def test_latin_words_inside_chinese_stay_whole():
    lines = lines_of("我们今天下午要讨论关于Kubernetes和PostgreSQL的几个重要问题")
    assert any("Kubernetes" in line for line in lines)
    assert any("PostgreSQL" in line for line in lines)


def test_a_cut_through_a_long_word_leaves_marks_with_their_letters():
    for line in lines_of("ที่" * 60):
        assert line[0] == "ท"
        assert len(line) <= 42
    for line in lines_of("क्षे" * 60):
        assert line[0] == "क"
        assert line[-1] != "\u094d"


def test_without_word_times_cues_share_a_segment_in_proportion_to_their_characters():
    cues = cues_from_segments([segment("a" * 40 + " " + "b" * 40 + " " + "c" * 40, 100.0, 112.0)])
    assert [cue.text for cue in cues] == ["a" * 40, "b" * 40, "c" * 40]
    assert (cues[0].start_seconds, cues[-1].end_seconds) == (100.0, 112.0)
    assert all(one.end_seconds == other.start_seconds for one, other in pairwise(cues))


def test_a_pause_of_words_ends_a_cue_where_the_segment_goes_on():
    first, second = evenly("I think that is right.", 1.0), evenly("No, it is not.", 6.0)
    assert shown([spoken(*first, *second)]) == [
        (1.0, 2.5, "I think that is right."),
        (6.0, 7.2, "No, it is not."),
    ]


def test_a_cue_ends_with_its_sentence_and_not_a_few_words_later():
    text = "We went there on Monday morning with the children and their bags. It was raining and nobody was there."
    cues = shown([spoken(*evenly(text, 0.0))])
    assert [" ".join(cue[2].split()) for cue in cues] == [
        "We went there on Monday morning with the children and their bags.",
        "It was raining and nobody was there.",
    ]


def test_a_word_of_a_moment_stands_for_a_second_where_nobody_speaks():
    assert shown([spoken(("Yes.", 1.0, 1.0)), spoken(("No.", 9.0, 9.1))]) == [
        (1.0, 2.0, "Yes."),
        (9.0, 10.0, "No."),
    ]


def test_what_is_too_short_to_be_seen_joins_its_neighbor():
    rapid = [spoken((f"No{mark}", at, at + 0.3)) for mark, at in ((".", 1.0), ("!", 1.4), ("?", 1.8))]
    assert shown(rapid) == [(1.0, 2.1, "No. No! No?")]


def test_what_different_people_say_never_shares_a_cue():
    rapid = [spoken(("No.", at, at + 0.3), speaker=who) for who, at in (("A", 1.0), ("B", 1.4), ("A", 1.8))]
    cues = cues_from_segments(rapid)
    assert [(cue.speaker, cue.text) for cue in cues] == [("A", "No."), ("B", "No."), ("A", "No.")]


def test_fast_speech_gets_time_to_read_from_the_silence_behind_it():
    text = "this is said very fast and is read at twenty characters a second"
    ((start, end, _),) = shown([spoken(*evenly(text, 2.0, 0.05))])
    assert (start, end) == (2.0, 2.0 + len(text) / 20)


def test_no_cue_stands_for_more_than_seven_seconds():
    assert shown([spoken(("Ooooh", 0.0, 30.0))]) == [(0.0, 7.0, "Ooooh")]
    assert all(end - start <= 7 for start, end, _ in shown([segment("one two three four five", 0.0, 30.0)]))


def test_the_last_cue_does_not_outlast_the_recording():
    word = spoken(("Bye.", 9.6, 9.8))
    transcript = Transcript("Bye.", "English", ("English",), 10.0, (word,), "demo")
    (cue,) = cues_from_transcript(transcript)
    assert (cue.start_seconds, cue.end_seconds) == (9.6, 10.0)


@pytest.mark.parametrize(
    "words",
    [
        (("something", 0.0, 1.0), ("else", 1.0, 2.0)),
        (("Hello", 3.0, 3.0), ("there", 3.0, 3.0)),
        (("Hello", float("nan"), 1.0), ("there", 1.0, 2.0)),
    ],
    ids=["other words", "one moment", "no number"],
)
def test_words_that_cannot_be_right_are_left_alone(words):
    timed = tuple(Word(*word) for word in words)
    assert shown([Segment(0, 1.0, 4.0, "Hello there", "English", words=timed)]) == [(1.0, 4.0, "Hello there")]


def test_words_that_run_backward_or_beyond_their_segment_are_put_in_order():
    timed = (Word("one", 5.0, 4.0), Word("two", 3.0, 90.0), Word("three", 95.0, -1.0))
    cues = cues_from_segments([Segment(0, 2.0, 8.0, "one two three", "English", words=timed)])
    assert_in_order(parse_srt(render_srt(cues)))
    assert cues[0].start_seconds >= 2.0
    assert cues[-1].end_seconds <= 10.0


def test_speakers_are_voices_in_vtt_and_labels_elsewhere():
    cues = cues_from_segments([spoken(*evenly("How are you?", 0.0), speaker="Zoë & <Tom>")])
    assert "\n<v Zoë &amp; &lt;Tom&gt;>How are you?\n" in render_vtt(cues)
    assert "\nZoë & <Tom>: How are you?\n" in render_srt(cues)
    assert render_lrc(cues).startswith("[00:00.00]Zoë & <Tom>: How are you?\n")
    assert render_tsv(cues) == "start\tend\ttext\tspeaker\n0\t1000\tHow are you?\tZoë & <Tom>\n"


def test_a_label_takes_its_room_from_the_line():
    text = "It is exactly forty-two characters, this.."
    assert len(text) == 42
    (cue,) = cues_from_segments([segment(text, end=4.0)])
    assert "\n" not in cue.text
    labelled = render_srt(cues_from_segments([replace(segment(text, end=4.0), speaker="Bob")])).split("\n")[
        2:4
    ]
    assert all(len(line) <= 42 for line in labelled)
    assert labelled[0].startswith("Bob: It is")


def test_a_long_name_is_shortened_where_it_is_a_label_and_whole_where_it_is_a_voice():
    name = "Hubert Blaine Wolfeschlegelsteinhausenbergerdorff"
    cues = cues_from_segments([replace(segment("Hello.", end=2.0), speaker=name)])
    assert "Hubert Blaine Wolfe…: Hello." in render_srt(cues)
    assert f"<v {name}>Hello." in render_vtt(cues)


def test_a_name_can_forge_nothing():
    cues = cues_from_segments(
        [replace(segment("Hello."), speaker="A\n\n9\n00:00:01,000 --> 00:00:02,000\nB\tC")]
    )
    assert len(parse_srt(render_srt(cues))) == 1
    assert render_vtt(cues).count("-->") == 1
    assert render_tsv(cues).splitlines()[1].count("\t") == 3
    assert len(render_lrc(cues).splitlines()) == 2


def test_a_text_that_looks_like_a_time_is_no_second_time_in_lrc():
    assert "[00:00.00](00:09.00] forged" in render_lrc([Cue(0.0, 1.0, "[00:09.00] forged")])


def test_many_cues_of_random_segments_never_overlap_and_never_end_before_they_start():
    chance = random.Random(7)
    segments, at = [], 0.0
    for _ in range(200):
        end = at + chance.choice([0.0, 0.0004, 0.0016, 0.5, 17.3333])
        segments.append(segment("word " * chance.randint(1, 60), at, end))
        at = end - chance.choice([0.0, 0.0, 0.25])  # some begin before the last one ended
    cues = cues_from_segments(segments)
    for parsed in (parse_srt(render_srt(cues)), parse_vtt(render_vtt(cues))):
        assert len(parsed) == len(cues)
        assert_in_order(parsed)


def test_times_of_a_segment_that_claims_to_end_before_it_starts_are_put_right():
    assert_in_order(parse_srt(render_srt([Cue(5.0, 4.0, "a"), Cue(-1.0, -0.5, "b")])))


@pytest.mark.parametrize(
    "text",
    [
        "a --> b",
        "1\n00:00:00,000 --> 00:00:09,000\nforged",
        "<i>Tom</i> & <b>Jerry</b> &amp; 3 < 4 > 2",
        "first\n\n\nsecond",
        "first\r\n\r\nsecond\x85\x85third\u2028\u2028fourth",
        "NOTE this\n\nSTYLE\n\nWEBVTT",
        "nul\0 and \x1b[31mescape\x07",
    ],
)
def test_hostile_text_cannot_end_its_block_or_forge_another(text: str):
    for cues in ([Cue(0.0, 1.0, text), Cue(1.0, 2.0, "after")], cues_from_segments([segment(text)])):
        for parsed in (parse_srt(render_srt(cues)), parse_vtt(render_vtt(cues))):
            assert len(parsed) == len(cues)
            # White space apart (and the point of an arrow in srt), all of it is there.
            shown = "".join("".join(text.split()) for _, _, text in parsed)
            assert shown.replace("--›", "-->") == "".join(
                re.sub(r"[\x00-\x1f\x85\s]", "", cue.text) for cue in cues
            )
            assert not any(ord(character) < 32 and character != "\n" for character in parsed[0][2])


def test_an_arrow_in_vtt_is_shown_as_it_was_said():
    assert parse_vtt(render_vtt([Cue(0.0, 1.0, "a < b && c > d")]))[0][2] == "a < b && c > d"
    assert "a --&gt; b" in render_vtt([Cue(0.0, 1.0, "a --> b")])
    assert "a --› b" in render_srt([Cue(0.0, 1.0, "a --> b")])
