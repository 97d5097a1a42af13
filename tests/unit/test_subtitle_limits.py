"""Limits that every cue keeps, on seeded speech in many scripts, and the files as other readers parse them."""

from __future__ import annotations

import io
import unicodedata
from itertools import pairwise

import pysubs2
import pytest
import webvtt

from scribewire.engine.protocol.transcript import Segment
from scribewire.engine.subtitles import (
    Cue,
    cues_from_segments,
    render_lrc,
    render_srt,
    render_tsv,
    render_vtt,
)
from tests.fakes.subtitle_speech import VOCABULARIES, seeded_segments

SEEDS = range(2)
SPEAKERS = ("A", "Dr. Ana María Núñez", "张三", "R&D <b>")

every_speech = pytest.mark.parametrize(
    ("language", "has_words"), [(one, words) for one in VOCABULARIES for words in (False, True)]
)


def is_cjk(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return 2 * sum(unicodedata.east_asian_width(c) in "WF" for c in letters) > len(letters)


def compact(text: str) -> str:
    return "".join(text.split())


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def speech(language: str, seed: int, has_words: bool, speakers: tuple[str, ...] = ()) -> list[Segment]:
    return seeded_segments(language, seed, has_words=has_words, speakers=speakers)


@every_speech
@pytest.mark.parametrize("speakers", [(), SPEAKERS], ids=["", "speakers"])
def test_no_cue_is_too_wide_too_high_too_long_or_in_anothers_way(language, has_words, speakers):
    for seed in SEEDS:
        segments = speech(language, seed, has_words, speakers)
        cues = cues_from_segments(segments)
        for cue, block in zip(cues, render_srt(cues).split("\n\n"), strict=True):
            shown = block.rstrip("\n").split("\n")[2:]
            assert 1 <= len(shown) <= 2
            limit = 16 if is_cjk(cue.text) else 42
            if len(shown) > cue.text.count("\n") + 1:  # a label has its line to itself
                assert len(shown.pop(0)) <= 21
            assert all(0 < len(line) <= limit for line in shown), shown
            assert milliseconds(cue.start_seconds) < milliseconds(cue.end_seconds)
            assert milliseconds(cue.end_seconds) - milliseconds(cue.start_seconds) <= 7000
        assert all(milliseconds(a.end_seconds) <= milliseconds(b.start_seconds) for a, b in pairwise(cues))
        # Nothing is lost and nothing is said twice.
        said = compact("".join(segment.text for segment in segments))
        assert compact("".join(cue.text for cue in cues)) == said


@every_speech
def test_a_cue_is_short_or_fast_only_where_the_next_one_leaves_no_time(language, has_words):
    for seed in SEEDS:
        cues = cues_from_segments(speech(language, seed, has_words))
        for cue, following in pairwise(cues):
            seconds = cue.end_seconds - cue.start_seconds
            is_hurried = seconds < 0.999 or len(cue.text) / seconds > 20.001
            if is_hurried and seconds < 7:
                assert following.start_seconds == cue.end_seconds, (cue, following)
        last = cues[-1]
        assert last.end_seconds - last.start_seconds >= 0.999


@every_speech
def test_no_line_begins_with_a_mark_that_belongs_to_the_letter_before(language, has_words):
    for seed in SEEDS:
        for cue in cues_from_segments(speech(language, seed, has_words)):
            for line in cue.text.split("\n"):
                assert not unicodedata.category(line[0]).startswith("M"), cue
                assert line[0] not in "ะาำๅ\u200d、，。！？", cue
                assert line[-1] not in "เแโใไ\u200d", cue


@every_speech
@pytest.mark.parametrize("speakers", [(), SPEAKERS], ids=["", "speakers"])
@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_a_file_that_is_read_back_and_built_again_is_the_same(language, has_words, speakers, form):
    render, read = {"srt": (render_srt, read_srt), "vtt": (render_vtt, read_vtt)}[form]
    for seed in SEEDS:
        file = render(cues_from_segments(speech(language, seed, has_words, speakers)))
        assert render(cues_from_segments(read(file, speakers))) == file


def read_srt(file: str, speakers: tuple[str, ...] = ()) -> list[Segment]:
    """By pysubs2; a label before the text is taken for the speaker who wears it."""
    labels = {label(speaker): speaker for speaker in speakers}
    segments = []
    for index, event in enumerate(pysubs2.SSAFile.from_string(file, format_="srt", keep_html_tags=True)):
        text, speaker = event.text.replace("\\N", "\n"), None
        for prefix, name in labels.items():
            if text.startswith((prefix + " ", prefix + "\n")):
                text, speaker = text[len(prefix) + 1 :], name
        segments.append(Segment(index, event.start / 1000, event.end / 1000, text, None, speaker=speaker))
    return segments


def label(speaker: str) -> str:
    return render_srt([Cue(0.0, 1.0, "x", speaker)]).split("\n")[2].removesuffix(" x")


def read_vtt(file: str, _: tuple[str, ...] = ()) -> list[Segment]:
    """By webvtt-py, which leaves character references as they are."""
    return [
        Segment(
            index,
            webvtt_seconds(caption.start),
            webvtt_seconds(caption.end),
            unescaped(caption.text),
            None,
            speaker=unescaped(caption.voice) if caption.voice else None,
        )
        for index, caption in enumerate(webvtt.from_string(file))
    ]


def webvtt_seconds(clock: str) -> float:
    hours, minutes, seconds = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


@every_speech
def test_every_reader_finds_every_cue_with_its_times_and_its_text(language, has_words):
    for seed in SEEDS:
        cues = cues_from_segments(speech(language, seed, has_words))
        wanted = [(milliseconds(c.start_seconds), milliseconds(c.end_seconds), c.text) for c in cues]
        for read in (
            read_srt(render_srt(cues)),
            read_vtt(render_vtt(cues)),
            read_vtt(webvtt.from_buffer(io.StringIO(render_srt(cues)), format="srt").content),
        ):
            found = [(milliseconds(s.start_seconds), milliseconds(s.end_seconds), s.text) for s in read]
            assert found == wanted


def test_the_reader_called_srt_agrees():
    srt = pytest.importorskip("srt", reason="it is published as source only, which the lock does not take")
    for language in VOCABULARIES:
        file = render_srt(cues_from_segments(speech(language, 0, True)))
        assert srt.compose(srt.parse(file, ignore_errors=False), strict=True).strip() == file.strip()


@every_speech
def test_tables_and_lyrics_have_a_line_for_each_cue(language, has_words):
    cues = cues_from_segments(speech(language, 3, has_words))
    head, *rows = [line.split("\t") for line in render_tsv(cues).splitlines()]
    assert head == ["start", "end", "text"]
    assert [(int(start), int(end)) for start, end, _ in rows] == [
        (milliseconds(cue.start_seconds), milliseconds(cue.end_seconds)) for cue in cues
    ]
    lines = [line for line in render_lrc(cues).splitlines() if not line.endswith("]")]
    assert compact("".join(line.partition("]")[2] for line in lines)) == compact(
        "".join(c.text for c in cues)
    )
