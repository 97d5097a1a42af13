"""Line breaking by script: the places where a text may be broken, and characters that must stay together.

There is no dictionary, so scripts without spaces whose words cannot be seen are broken where a syllable surely
begins, and else between whole characters as readers see them, never between a letter and its combining marks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

LINE_CHARACTERS = 42
WIDE_LINE_CHARACTERS = 16
"""For scripts of wide characters. Source of both: Netflix's timed text style guides (English; Chinese, Korean)."""

# Characters not allowed at the start of a line (closing marks, small kana, the long-vowel mark) or at its end.
_NEVER_FIRST = frozenset(
    "、。，．,.!?！？:;：；)]}）］｝〉》」』】〕〗’”…‥ー々〜～・ぁぃぅぇぉっゃゅょァィゥェォッャュョ%％"
)
_NEVER_LAST = frozenset("([{（［｛〈《「『【〔〖‘“")

_SENTENCE_ENDS = frozenset(".!?…。．！？｡؟۔।॥။།፧።")
_CLAUSE_ENDS = frozenset(",;:，、；：､،؛·၊—–-〜～")
_CLOSING = "\"'”’»)]}）］｝〉》」』】〕〗"

_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")
"""Thai and Lao vowels that are written before their consonant: a syllable begins there."""

_ZERO_WIDTH_JOINER = "\u200d"
_VIRAMA_CLASS = 9
"""Of canonical combining classes. Source: Unicode Character Database, UAX #44, table 15."""


@lru_cache(maxsize=8192)
def is_wide_character(character: str) -> bool:
    """True when a character takes two columns, as ideographs, kana and Hangul do."""
    return unicodedata.east_asian_width(character) in "WF"


@lru_cache(maxsize=8192)
def breaks_anywhere(character: str) -> bool:
    """True when its script is broken between any two characters. Hangul is as wide, but is written with spaces."""
    is_hangul = "\uac00" <= character <= "\ud7a3" or "\u1100" <= character <= "\u11ff"
    return is_wide_character(character) and not is_hangul


@lru_cache(maxsize=8192)
def _joins_the_one_before(character: str) -> bool:
    return (
        unicodedata.category(character).startswith("M")
        or character in "\u200c\u200d"
        or "\u1160" <= character <= "\u11ff"  # vowels and finals of decomposed Hangul
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # skin tones
        or character in "ะาำๅๆฯະາຳໆຯ"  # vowels and signs written after their consonant
    )


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def must_stay_together(left: str, right: str) -> bool:
    """True when a reader sees these two neighbors as one character."""
    return (
        _joins_the_one_before(right)
        or left == _ZERO_WIDTH_JOINER
        or left in _LEADING_VOWELS
        or unicodedata.combining(left) == _VIRAMA_CLASS
        or (_is_regional(left) and _is_regional(right))
    )


@lru_cache(maxsize=32768)
def _may_break(left: str, right: str) -> bool:
    if left.isascii() and right.isascii():
        return False
    if right in _NEVER_FIRST or left in _NEVER_LAST or must_stay_together(left, right):
        return False
    return breaks_anywhere(left) or breaks_anywhere(right) or right in _LEADING_VOWELS


def needs_no_space(left: str, right: str) -> bool:
    """True when these two, at the end of a line and at the start of the next, are joined without a space."""
    return (breaks_anywhere(left) and breaks_anywhere(right)) or (
        _is_thai_or_lao(left) and _is_thai_or_lao(right)
    )


def _is_thai_or_lao(character: str) -> bool:
    return "\u0e00" <= character <= "\u0eff"


def parts_of_word(word: str) -> list[str]:
    """A text without white space, in the parts between which a line may end; none is longer than a line."""
    if word.isascii() and len(word) <= WIDE_LINE_CHARACTERS:
        return [word]
    parts: list[str] = []
    first = 0
    for at in range(1, len(word)):
        if _may_break(word[at - 1], word[at]):
            parts += _cut(word[first:at])
            first = at
    return [*parts, *_cut(word[first:])]


def _cut(part: str) -> Iterator[str]:
    """A text longer than a line in pieces that are not, cut between characters as readers see them."""
    has_letters = any(map(str.isalpha, part))
    # Digits say nothing about the script around them, so they must fit into the shorter line.
    limit = LINE_CHARACTERS if has_letters else WIDE_LINE_CHARACTERS
    begin = 0
    while len(part) - begin > limit:
        at = begin + limit
        while at > begin + 1 and must_stay_together(part[at - 1], part[at]):
            at -= 1
        at = begin + limit if at == begin + 1 else at
        yield part[begin:at]
        begin = at
    if begin < len(part):
        yield part[begin:]


@lru_cache(maxsize=65536)
def count_letters(text: str) -> tuple[int, int]:
    """Letters, and how many of them are wide."""
    letters = [c for c in text if c.isalpha()]
    return len(letters), 0 if text.isascii() else sum(map(is_wide_character, letters))


def line_limit(letters: int, wide_letters: int) -> int:
    """Characters that a line may have, by what most of its letters are."""
    return WIDE_LINE_CHARACTERS if 2 * wide_letters > letters else LINE_CHARACTERS


@lru_cache(maxsize=65536)
def ends_sentence(part: str) -> bool:
    """True when a sentence ends with this text, closing quotes and brackets aside."""
    return part.rstrip(_CLOSING)[-1:] in _SENTENCE_ENDS


@lru_cache(maxsize=65536)
def ends_clause(part: str) -> bool:
    """True when a clause, but no sentence, ends with this text."""
    return part.rstrip(_CLOSING)[-1:] in _CLAUSE_ENDS


def visible(text: str) -> str:
    """The text on one line: controls are spaces, and lines are joined as their script joins words."""
    if text.isascii() and text.isprintable():
        return text
    joined: list[str] = []
    for raw in text.split("\n"):
        if not raw.isprintable():
            raw = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in raw)
        if line := raw.strip():
            if joined and not needs_no_space(joined[-1][-1], line[0]):
                joined.append(" ")
            joined.append(line)
    return "".join(joined)
