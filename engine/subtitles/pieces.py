"""A segment as pieces with times: by its words where they are known, else by its own time, shared by length."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from math import isfinite
from typing import NamedTuple

from scribewire.engine.protocol.transcript import Segment
from scribewire.engine.subtitles.lines import Piece, joined_pieces, label_of, pieces_of
from scribewire.engine.subtitles.scripts import count_letters, line_limit, visible


@dataclass(slots=True)
class TimedPieces:
    """A segment's pieces side by side; times are whole milliseconds and never run backward.

    has_word_times: False where the times are shares of the segment's.
    word_ends: whether a word ends with this piece. begins, ends: where its text lies in the whole text.
    letters, wide_letters: how many lie before each piece, one entry more than there are pieces.
    """

    pieces: list[Piece]
    starts: list[int]
    stops: list[int]
    word_ends: list[bool]
    has_word_times: bool
    speaker: str | None
    begins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    _letters: list[int] = field(default_factory=list)
    _wide_letters: list[int] = field(default_factory=list)
    _head: int = 0

    def __post_init__(self) -> None:
        """Count what `fits` needs again and again."""
        at = 0
        for index, piece in enumerate(self.pieces):
            at += piece.has_space_before and index > 0
            self.begins.append(at)
            at += len(piece.text)
            self.ends.append(at)
        counts = [count_letters(piece.text) for piece in self.pieces]
        self._letters = [0, *accumulate([letters for letters, _ in counts])]
        self._wide_letters = [0, *accumulate([wide for _, wide in counts])]
        label = label_of(self.speaker)
        self._head = len(label) + 1 if label else 0

    def __len__(self) -> int:
        return len(self.pieces)

    def limit(self, first: int, last: int) -> int:
        """Characters that a line with these pieces may have."""
        return line_limit(
            self._letters[last + 1] - self._letters[first],
            self._wide_letters[last + 1] - self._wide_letters[first],
        )

    def length(self, first: int, last: int) -> int:
        """Characters of these pieces on one line."""
        return self.ends[last] - self.begins[first]

    def fits(self, first: int, last: int) -> bool:
        """True when these pieces have room in one cue; equal to `lines_of` their text, and faster."""
        limit = self.limit(first, last)
        if self.length(first, last) <= limit:
            return True  # on a line below its label if need be
        # The first line takes all that it can.
        full = bisect_right(self.ends, self.begins[first] + limit - self._head, lo=first, hi=last + 1)
        return first < full <= last and self.ends[last] - self.begins[full] <= limit

    def text(self, first: int, last: int) -> str:
        """The pieces' text on one line."""
        return joined_pieces(self.pieces[first : last + 1])


def timed_pieces(segment: Segment) -> TimedPieces | None:
    """A segment's pieces; None where it says nothing."""
    pieces = pieces_of(segment.text)
    if not pieces:
        return None
    start = _milliseconds(segment.start_seconds)
    stop = max(start, _milliseconds(segment.end_seconds))
    whole = [_Stretch(sum(len(piece.text) for piece in pieces), start, stop)]
    words = _stretches_of_words(segment, whole[0]) if segment.words else None
    starts, stops, word_ends = _times(pieces, words or whole)
    return TimedPieces(pieces, starts, stops, word_ends, words is not None, segment.speaker)


class _Stretch(NamedTuple):
    """A number of characters, white space left out, with the time in which they were said."""

    size: int
    start: int
    stop: int


def _stretches_of_words(segment: Segment, whole: _Stretch) -> list[_Stretch] | None:
    """The words' times within the segment's; None when they are not its text or say nothing about its time."""
    stretches = []
    texts = []
    at, earliest = whole.start, whole.stop
    for word in segment.words:
        if not (isfinite(word.start_seconds) and isfinite(word.end_seconds)):
            return None
        start = min(max(round(word.start_seconds * 1000), at), whole.stop)
        at = min(max(round(word.end_seconds * 1000), start), whole.stop)
        earliest = min(earliest, start)
        text = _compact(word.text)
        if text:
            texts.append(text)
            stretches.append(_Stretch(len(text), start, at))
    is_timeless = at <= earliest and whole.start < whole.stop
    return None if is_timeless or "".join(texts) != _compact(segment.text) else stretches


def _compact(text: str) -> str:
    """The text without white space, as its pieces have it."""
    return "".join(visible(text).split())


def _times(pieces: list[Piece], stretches: list[_Stretch]) -> tuple[list[int], list[int], list[bool]]:
    """Start and stop of each piece, and True where a stretch ends with it; both hold the same characters."""
    starts: list[int] = []
    stops: list[int] = []
    ends: list[bool] = []
    following = iter(stretches)
    stretch, done = next(following), 0
    for piece in pieces:
        rest = len(piece.text)
        starts.append(stretch.start + (stretch.stop - stretch.start) * done // stretch.size)
        while rest > stretch.size - done:
            rest -= stretch.size - done
            stretch, done = next(following), 0
        done += rest
        stops.append(stretch.start + (stretch.stop - stretch.start) * done // stretch.size)
        ends.append(done == stretch.size)
        if done == stretch.size:
            stretch, done = next(following, stretch), 0
    return starts, stops, ends


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000)) if isfinite(seconds) else 0
