"""A cue's text on one line or two: as even as its words allow, broken at punctuation where there is some near.

The lines are a function of the text alone, so a text that was read back from a file is laid out as it was.
"""

from __future__ import annotations

from typing import NamedTuple

from scribewire.engine.subtitles.scripts import (
    breaks_anywhere,
    count_letters,
    ends_clause,
    ends_sentence,
    line_limit,
    parts_of_word,
    visible,
)

LINES_PER_CUE = 2

# What it costs to end a line there, in lines of imbalance.
_AFTER_SENTENCE, _AFTER_CLAUSE, _AT_SPACE, _BETWEEN_CHARACTERS, _INSIDE_WORD = 0.0, 0.1, 0.5, 0.6, 2.0

MAX_LABEL_CHARACTERS = 20
MAX_WIDE_LABEL_CHARACTERS = 12


class Piece(NamedTuple):
    """A unit that stays together on a line: a word, or one character of a script that has no spaces."""

    text: str
    has_space_before: bool


def pieces_of(text: str) -> list[Piece]:
    """The text's pieces in order; white space and control characters fold."""
    return [
        Piece(part, has_space_before=index == 0)
        for word in visible(text).split()
        for index, part in enumerate(parts_of_word(word))
    ]


def joined_pieces(pieces: list[Piece]) -> str:
    """The pieces' text, without a space before the first."""
    return "".join(
        f" {one.text}" if one.has_space_before and index else one.text for index, one in enumerate(pieces)
    )


def label_of(speaker: str | None) -> str:
    """A speaker as a text file shows it before the text, colon included; "" without a speaker."""
    name = " ".join(visible(speaker or "").split())
    if not name:
        return ""
    _, wide = count_letters(name)
    limit = MAX_WIDE_LABEL_CHARACTERS if wide else MAX_LABEL_CHARACTERS
    return f"{name if len(name) <= limit else name[: limit - 1] + '…'}:"


def lines_of(text: str, speaker: str | None = None) -> list[str] | None:
    """The text on at most two lines that leave room for the speaker's label before the first; None if it is too long.

    The text decides how long a line may be. An empty first line means a label that has a line to itself.
    """
    pieces = pieces_of(text)
    whole = joined_pieces(pieces)
    label = label_of(speaker)
    head = len(label) + 1 if label else 0
    limit = line_limit(*count_letters(whole))
    if head + len(whole) <= limit:
        return [whole]
    best: tuple[int, int] | None = None
    best_cost = 0.0
    end = 0
    for index in range(len(pieces) - 1):
        piece, follower = pieces[index], pieces[index + 1]
        end += len(piece.text) + (piece.has_space_before and index > 0)
        begin = end + follower.has_space_before
        if head + end > limit:
            break
        if len(whole) - begin > limit:
            continue
        cost = _cost_of_break(piece, follower) + abs(head + end - (len(whole) - begin)) / limit
        if best is None or cost < best_cost:
            best, best_cost = (end, begin), cost
    if best is not None:
        return [whole[: best[0]], whole[best[1] :]]
    return ["", whole] if label and len(whole) <= limit else None


def _cost_of_break(piece: Piece, follower: Piece) -> float:
    if ends_sentence(piece.text):
        return _AFTER_SENTENCE
    if ends_clause(piece.text):
        return _AFTER_CLAUSE
    if follower.has_space_before:
        return _AT_SPACE
    if breaks_anywhere(piece.text[-1]) or breaks_anywhere(follower.text[0]):
        return _BETWEEN_CHARACTERS
    return _INSIDE_WORD


def hard_lines(text: str) -> list[str]:
    """A text that no layout fits, cut where a line is full; for texts that are no writing at all."""
    pieces = pieces_of(text)
    whole = joined_pieces(pieces)
    limit = line_limit(*count_letters(whole))
    return [whole[at : at + limit] for at in range(0, len(whole), limit)]
