"""Segments as cues, and cues as SubRip (srt) and WebVTT (vtt).

A cue has at most two lines, of 42 characters, or of 16 where the text is Chinese, Japanese or Korean. A segment that is
longer becomes several cues, which share its time in proportion to their characters. Rendered times are whole
milliseconds, never overlap, and every cue ends after it starts, whatever the segments say. Nothing here listens to
the audio or moves a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine.protocol.transcript import Segment

LINE_CHARACTERS = 42
WIDE_LINE_CHARACTERS = 16
"""For scripts of wide characters. Source of both: Netflix's timed text style guides (English; Chinese, Korean)."""
LINES_PER_CUE = 2

# What may not stand at the start of a line (closing marks, small kana, the long-vowel mark) or at its end.
_NEVER_FIRST = frozenset(
    "、。，．,.!?！？:;：；)]}）］｝〉》」』】〕〗’”…‥ー々〜～・ぁぃぅぇぉっゃゅょァィゥェォッャュョ%％"
)
_NEVER_LAST = frozenset("([{（［｛〈《「『【〔〖‘“")


@dataclass(frozen=True, slots=True)
class Cue:
    """One block of subtitles; its text may have several lines."""

    start_seconds: float
    end_seconds: float
    text: str


def cues_from_segments(segments: Iterable[Segment]) -> list[Cue]:
    """Each segment's text in cues that fit on a screen; segments without text give none."""
    return [cue for segment in segments for cue in _cues_of(segment)]


def render_srt(cues: Iterable[Cue]) -> str:
    """A SubRip file: numbered blocks, times with a comma, blank lines between."""
    blocks = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text.replace('-->', '-- >')}\n"
        for number, (start, end, text) in enumerate(_timed(cues), start=1)
    ]
    return "\n".join(blocks)


def render_vtt(cues: Iterable[Cue]) -> str:
    """A WebVTT file; `&`, `<` and `>` are escaped, so no text reads as a tag or as an arrow."""
    blocks = [
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{_escaped(text)}\n"
        for start, end, text in _timed(cues)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _cues_of(segment: Segment) -> Iterator[Cue]:
    lines = broken_into_lines(segment.text)
    blocks = [lines[at : at + LINES_PER_CUE] for at in range(0, len(lines), LINES_PER_CUE)]
    sizes = [sum(map(len, block)) for block in blocks]
    total = sum(sizes)
    seconds = segment.end_seconds - segment.start_seconds
    before = 0
    for block, size in zip(blocks, sizes, strict=True):
        yield Cue(
            segment.start_seconds + seconds * before / total,
            segment.start_seconds + seconds * (before + size) / total,
            "\n".join(block),
        )
        before += size


def broken_into_lines(text: str) -> list[str]:
    """The text in as few lines as possible, of about the same length; white space and control characters fold."""
    pieces = list(_pieces(text))
    limit = WIDE_LINE_CHARACTERS if _is_wide(text) else LINE_CHARACTERS
    lines = _filled(pieces, limit)
    longest = max((len(piece.text) for piece in pieces), default=limit)
    for width in range(longest, limit):
        # The narrowest width that needs no further line: it spares the last line from being one word.
        narrow = _filled(pieces, width)
        if len(narrow) == len(lines):
            return narrow
    return lines


@dataclass(frozen=True, slots=True)
class _Piece:
    """What stays together on a line: a word, or one character of a script that has no spaces."""

    text: str
    has_space_before: bool


def _pieces(text: str) -> Iterator[_Piece]:
    for word in _visible(text).split():
        has_space = True
        for part in _parts(word):
            yield _Piece(part, has_space)
            has_space = False


def _parts(word: str) -> Iterator[str]:
    """Where a line may be broken inside a word: around ideographs and kana, as their punctuation allows."""
    part = ""
    for character in word:
        may_break = (
            part
            and (_breaks_anywhere(character) or _breaks_anywhere(part[-1]))
            and character not in _NEVER_FIRST
            and part[-1] not in _NEVER_LAST
            and not unicodedata.category(character).startswith("M")
        )
        if may_break:
            yield part
            part = ""
        part += character
    if part:
        yield part


def _filled(pieces: Sequence[_Piece], limit: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for piece in pieces:
        space = " " if piece.has_space_before and line else ""
        if line and len(line) + len(space) + len(piece.text) > limit:
            lines.append(line)
            line, space = "", ""
        line += space + piece.text
        while len(line) > limit:  # a word that is longer than a line
            cut = _cut(line, limit)
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


def _cut(line: str, limit: int) -> int:
    """The last place within the limit that separates no mark from its letter."""
    for at in range(limit, 0, -1):
        joins = line[at] in "\u200d\ufe0f" or line[at - 1] == "\u200d"
        if not joins and not unicodedata.category(line[at]).startswith("M"):
            return at
    return limit


def _is_wide(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return 2 * sum(unicodedata.east_asian_width(c) in "WF" for c in letters) > len(letters)


def _breaks_anywhere(character: str) -> bool:
    # Hangul is as wide, but is written with spaces.
    is_hangul = "\uac00" <= character <= "\ud7a3" or "\u1100" <= character <= "\u11ff"
    return unicodedata.east_asian_width(character) in "WF" and not is_hangul


def _visible(text: str) -> str:
    return "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


def _timed(cues: Iterable[Cue]) -> Iterator[tuple[int, int, str]]:
    """Start and end in milliseconds, in order and apart; cues without text are left out."""
    earliest = 0
    for cue in cues:
        lines = [" ".join(_visible(line).split()) for line in cue.text.splitlines()]
        text = "\n".join(line for line in lines if line)  # a blank line would end the block
        if not text:
            continue
        start = max(round(cue.start_seconds * 1000), earliest)
        end = max(round(cue.end_seconds * 1000), start + 1)
        earliest = end
        yield start, end, text


def _clock(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
