"""Segments as cues: short enough to be read, long enough to be seen, one after the other.

At most two lines of 42 characters, or of 16 where the text is Chinese, Japanese or Korean; 1 to 7 seconds; time to read
at 20 characters a second where the silence behind allows it. Cues end at the ends of sentences and clauses and at
pauses, as far as one is within reach. They go by the times of words where those are known, else by the times of
segments, in proportion to their characters. Nothing here listens to the audio.

A cue is the work of its text and its time alone: cues that were read back from a file, given in as segments, come out
as they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from scribewire.engine.protocol.transcript import Segment, Transcript
from scribewire.engine.subtitles.lines import hard_lines, lines_of
from scribewire.engine.subtitles.pieces import TimedPieces, timed_pieces
from scribewire.engine.subtitles.scripts import ends_clause, ends_sentence, needs_no_space

MIN_CUE_MILLISECONDS = 1000
MAX_CUE_MILLISECONDS = 7000
READING_CHARACTERS_PER_SECOND = 20
"""Source of the three: the limits that broadcasters and streaming services publish lie around them."""

FLICKER_MILLISECONDS = 80
"""A gap of two frames between cues is seen as a flicker: such cues meet. Source: as above."""

BRIDGED_PAUSE_MILLISECONDS = 2000
"""No cue is shown through a longer silence between two of its words."""

JOINED_PAUSE_MILLISECONDS = 500
"""What is too short to be seen is not joined across a longer silence."""

# What it costs to end a cue there; the rest of the terms are in `_cost`, in the same unit.
_AFTER_SENTENCE, _AFTER_CLAUSE, _AFTER_WORD, _BETWEEN_CHARACTERS, _INSIDE_WORD = 0.0, 1.2, 3.0, 4.0, 9.0


@dataclass(frozen=True, slots=True)
class Cue:
    """One block of subtitles, of one speaker where speakers are known; its text may have two lines.

    speaker: whose label fits before the first line, or on a line of its own before a text of one line.
    """

    start_seconds: float
    end_seconds: float
    text: str
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    """A cue in the making; times in milliseconds, the text on one line."""

    start: int
    stop: int
    text: str
    speaker: str | None


def cues_from_transcript(transcript: Transcript) -> list[Cue]:
    """A transcript's cues; none ends behind the recording's end unless a segment does."""
    return cues_from_segments(transcript.segments, duration_seconds=transcript.duration_seconds)


def cues_from_segments(segments: Iterable[Segment], *, duration_seconds: float | None = None) -> list[Cue]:
    """The segments' texts in cues, in order, without overlap; segments without text give none.

    duration_seconds: of the recording; a last cue that is too short to be read may stay until then, and longer where
    the duration is not known.
    """
    blocks: list[_Block] = []
    for segment in segments:
        pieces = timed_pieces(segment)
        if pieces is not None:
            blocks += _blocks_of(pieces)
    latest = round(duration_seconds * 1000) if duration_seconds else None
    blocks = _merged(_in_order(blocks), latest)
    cues = []
    for index, block in enumerate(blocks):
        following = blocks[index + 1].start if index + 1 < len(blocks) else None
        text = _laid_out(block)
        stop = _stop_of(block, len(text), following, latest)
        cues.append(Cue(block.start / 1000, stop / 1000, text, block.speaker))
    return cues


# ---- where cues end ------------------------------------------------------------------------------------------


def _blocks_of(pieces: TimedPieces) -> Iterable[_Block]:
    first = 0
    while first < len(pieces):
        last = _best_end(pieces, first)
        yield _Block(pieces.starts[first], pieces.stops[last], pieces.text(first, last), pieces.speaker)
        first = last + 1


def _best_end(pieces: TimedPieces, first: int) -> int:
    """The last piece of the cue that begins with this one."""
    end = len(pieces.pieces) - 1
    starts, stops = pieces.starts, pieces.stops
    is_short = stops[end] - starts[first] <= MAX_CUE_MILLISECONDS
    if is_short and not pieces.has_word_times and pieces.fits(first, end):
        return end  # no pause inside is known
    best, best_cost = first, float("inf")
    longest_pause = 0
    for last in range(first, end + 1):
        if last > first:
            longest_pause = max(longest_pause, starts[last] - stops[last - 1])
            if (
                longest_pause > BRIDGED_PAUSE_MILLISECONDS
                or stops[last] - starts[first] > MAX_CUE_MILLISECONDS
                or not pieces.fits(first, last)
            ):
                break
        cost = _cost(pieces, first, last, end, longest_pause)
        if cost <= best_cost:
            best, best_cost = last, cost
    return best


def _cost(pieces: TimedPieces, first: int, last: int, end: int, longest_pause: int) -> float:
    """Cost of a cue of these pieces: of its end, of what it leaves empty, of what it leaves behind."""
    starts, stops = pieces.starts, pieces.stops
    room = 2 * pieces.limit(first, last)
    length = pieces.length(first, last)
    cost = 4 * (1 - max(length / room, (stops[last] - starts[first]) / MAX_CUE_MILLISECONDS))
    if longest_pause > 500:
        cost += longest_pause / 333
    if last == end:
        return cost
    cost += _cost_of_end(pieces, last)
    pause = starts[last + 1] - stops[last]
    if pause > 150:
        cost -= min(3.0, pause / 333)
    if starts[last + 1] - starts[first] < MIN_CUE_MILLISECONDS:
        cost += 6
    rest = pieces.length(last + 1, end)
    if rest <= room:
        cost += 2 * abs(rest - length) / room
        if rest < room // 6:
            cost += 3  # a word or two alone would follow
    return cost


def _cost_of_end(pieces: TimedPieces, last: int) -> float:
    text = pieces.pieces[last].text
    if ends_sentence(text):
        return _AFTER_SENTENCE
    if ends_clause(text):
        return _AFTER_CLAUSE
    follower = pieces.pieces[last + 1]
    if follower.has_space_before or (pieces.has_word_times and pieces.word_ends[last]):
        return _AFTER_WORD
    if needs_no_space(text[-1], follower.text[0]):
        return _BETWEEN_CHARACTERS
    return _INSIDE_WORD


# ---- times ----------------------------------------------------------------------------------------------


def _in_order(blocks: list[_Block]) -> list[_Block]:
    """Blocks that begin after the one before and end after their own beginning, whatever the segments say."""
    ordered: list[_Block] = []
    for block in blocks:
        start = max(block.start, ordered[-1].start + 1) if ordered else block.start
        ordered.append(replace(block, start=start, stop=max(block.stop, start + 1)))
    return ordered


def _merged(blocks: list[_Block], latest: int | None) -> list[_Block]:
    """Blocks, those too short to be seen joined to a neighbor of the same speaker where both have room together."""
    while True:
        merged: list[_Block] = []
        for index, block in enumerate(blocks):
            following = blocks[index + 1].start if index + 1 < len(blocks) else latest
            if merged:
                is_before_short = block.start - merged[-1].start < MIN_CUE_MILLISECONDS
                is_short = following is not None and following - block.start < MIN_CUE_MILLISECONDS
                both = _joined(merged[-1], block) if is_before_short or is_short else None
                if both is not None:
                    merged[-1] = both
                    continue
            merged.append(block)
        if len(merged) == len(blocks):
            return merged
        blocks = merged


def _joined(block: _Block, follower: _Block) -> _Block | None:
    stop = max(block.stop, follower.stop)
    if block.speaker != follower.speaker or stop - block.start > MAX_CUE_MILLISECONDS:
        return None
    # Judged as the block will be shown, so that blocks which are final already are judged alike.
    if (
        follower.start - _stop_of(block, len(_laid_out(block)), follower.start, None)
        > JOINED_PAUSE_MILLISECONDS
    ):
        return None
    space = "" if needs_no_space(block.text[-1], follower.text[0]) else " "
    text = block.text + space + follower.text
    return replace(block, stop=stop, text=text) if lines_of(text, block.speaker) is not None else None


def _stop_of(block: _Block, characters: int, following: int | None, latest: int | None) -> int:
    """End of the block: after the time to read it, as far as the silence allows, and the longest time at most."""
    reading = -(-1000 * characters // READING_CHARACTERS_PER_SECOND)
    wanted = block.start + max(MIN_CUE_MILLISECONDS, reading)
    if following is None and latest is not None:
        wanted = min(wanted, latest)
    stop = min(max(block.stop, wanted), block.start + MAX_CUE_MILLISECONDS)
    if following is not None and following - stop < FLICKER_MILLISECONDS:
        stop = min(following, block.start + MAX_CUE_MILLISECONDS)
    return stop


def _laid_out(block: _Block) -> str:
    lines = lines_of(block.text, block.speaker) or hard_lines(block.text)
    return "\n".join(line for line in lines if line)
