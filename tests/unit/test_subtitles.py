"""Subtitles: cues that fit, times that never overlap, and files that parsers read as they were meant."""

from __future__ import annotations

import html
import random
import re

import pytest

from engine.protocol.transcript import Segment
from engine.subtitles import (
    LINE_CHARACTERS,
    LINES_PER_CUE,
    WIDE_LINE_CHARACTERS,
    Cue,
    broken_into_lines,
    cues_from_segments,
    render_srt,
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


def test_short_segments_become_one_cue_each_with_their_times():
    segments = [segment("Hello there.", 0.0, 1.25), segment("How are you?", 1.25, 3661.5)]
    assert render_srt(cues_from_segments(segments)) == (
        "1\n00:00:00,000 --> 00:00:01,250\nHello there.\n\n2\n00:00:01,250 --> 01:01:01,500\nHow are you?\n"
    )
    assert render_vtt(cues_from_segments(segments)) == (
        "WEBVTT\n"
        "\n"
        "00:00:00.000 --> 00:00:01.250\nHello there.\n"
        "\n"
        "00:00:01.250 --> 01:01:01.500\nHow are you?\n"
    )


def test_no_speech_is_an_empty_file_of_its_kind():
    assert render_srt(cues_from_segments([segment("")])) == ""
    assert render_vtt(cues_from_segments([])) == "WEBVTT\n"
    assert cues_from_segments([segment(" \n ")]) == []


@pytest.mark.parametrize(
    ("text", "limit", "joint"),
    [
        (LONG, LINE_CHARACTERS, " "),
        (CHINESE, WIDE_LINE_CHARACTERS, ""),
        (JAPANESE, WIDE_LINE_CHARACTERS, ""),
        (KOREAN, WIDE_LINE_CHARACTERS, " "),
        ("x" * 200, LINE_CHARACTERS, ""),
        ("a " * 300, LINE_CHARACTERS, " "),
    ],
    ids=["English", "Chinese", "Japanese", "Korean", "one word", "letters"],
)
def test_long_text_is_broken_into_lines_that_fit_and_nothing_is_lost(text: str, limit: int, joint: str):
    lines = broken_into_lines(text)
    assert len(lines) > 1
    assert max(map(len, lines)) <= limit
    assert joint.join(lines) == text.strip()
    cues = cues_from_segments([segment(text)])
    assert all(cue.text.count("\n") < LINES_PER_CUE for cue in cues)
    assert [line for cue in cues for line in cue.text.split("\n")] == lines


def test_words_stay_whole_and_lines_are_of_about_the_same_length():
    lines = broken_into_lines(LONG)
    assert " ".join(lines).split() == LONG.split()
    assert min(map(len, lines)) > 0.6 * max(map(len, lines))
    # Without the balance the last line would be one word.
    assert broken_into_lines("a" * 20 + " " + "b" * 20 + " c") == ["a" * 20, "b" * 20 + " c"]


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, "我说：「" * 9 + "好」"])
def test_no_line_begins_with_a_closing_mark_or_ends_with_an_opening_one(text: str):
    # Every beginning left out in turn, so that every mark comes to stand where a line would be broken.
    for first in range(len(text) - WIDE_LINE_CHARACTERS):
        lines = broken_into_lines("字" + text[first:])
        assert not any(line[0] in "，。、？！」ー" for line in lines), lines
        assert not any(line[-1] in "「（" for line in lines), lines


def test_latin_words_inside_chinese_stay_whole():
    lines = broken_into_lines("我们今天下午要讨论关于Kubernetes和PostgreSQL的几个重要问题")
    assert any("Kubernetes" in line for line in lines)
    assert any("PostgreSQL" in line for line in lines)


def test_a_cut_through_a_long_word_leaves_marks_with_their_letters():
    thai = "ที่" * 60
    for line in broken_into_lines(thai):
        assert line[0] == "ท"
        assert len(line) <= LINE_CHARACTERS


def test_cues_share_a_segment_in_proportion_to_their_characters():
    cues = cues_from_segments([segment("a" * 40 + " " + "b" * 40 + " " + "c" * 40, 100.0, 112.0)])
    assert [cue.text for cue in cues] == ["a" * 40 + "\n" + "b" * 40, "c" * 40]
    assert [(cue.start_seconds, cue.end_seconds) for cue in cues] == [(100.0, 108.0), (108.0, 112.0)]


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
            # White space apart (srt keeps the marks of an arrow apart), all of it is there.
            shown = "".join("".join(text.split()) for _, _, text in parsed)
            assert shown == "".join(re.sub(r"[\x00-\x1f\x85\s]", "", cue.text) for cue in cues)
            assert not any(ord(character) < 32 and character != "\n" for character in parsed[0][2])


def test_an_arrow_in_vtt_is_shown_as_it_was_said():
    assert parse_vtt(render_vtt([Cue(0.0, 1.0, "a < b && c > d")]))[0][2] == "a < b && c > d"
    assert "a --&gt; b" in render_vtt([Cue(0.0, 1.0, "a --> b")])
    assert "a -- > b" in render_srt([Cue(0.0, 1.0, "a --> b")])
