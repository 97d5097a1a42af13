"""Joins the texts of consecutive chunks into one, with the spacing of their languages.

The official package joins with nothing at all, which glues words together in every language that separates words by
spaces. Nothing is rewritten here: no case, no punctuation, no removal of repeated words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from scribewire.engine.text.languages import joins_without_space

_SPACELESS_BLOCKS = (
    (0x2E80, 0x2FDF),  # radicals
    (0x3000, 0x30FF),  # CJK punctuation, hiragana, katakana
    (0x3105, 0x312F),  # bopomofo
    (0x31A0, 0x31FF),  # bopomofo, strokes, katakana extensions
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE4F),  # vertical forms
    (0xFF01, 0xFF9F),  # full-width forms, half-width katakana
    (0x20000, 0x323AF),  # ideograph extensions
)


def join_texts(parts: Sequence[tuple[str, str | None]]) -> str:
    """One text from (text, English language name or None) pairs in order.

    Two neighbors are joined without a space when both are written without spaces (Chinese, Cantonese, Japanese) and at
    least one of the two characters that meet is of such a script or punctuation; otherwise with one space. A part
    without a language is judged by the character that meets its neighbor. Empty parts are left out.
    """
    joined = ""
    last_language: str | None = None
    for text, language in parts:
        text = text.strip()
        if not text:
            continue
        if joined and not _meet_without_space(joined[-1], last_language, text[0], language):
            joined += " "
        joined += text
        last_language = language
    return joined


def _meet_without_space(left: str, left_language: str | None, right: str, right_language: str | None) -> bool:
    if not (_is_spaceless(left, left_language) and _is_spaceless(right, right_language)):
        return False
    # Two Latin words or numbers that meet inside Chinese ("GPT" + "OpenAI") still need their space.
    return not (_is_foreign_word(left) and _is_foreign_word(right))


def _is_spaceless(character: str, language: str | None) -> bool:
    if language is None:
        return _is_spaceless_script(character)
    return joins_without_space(language)


def _is_foreign_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN" and not _is_spaceless_script(character)


def _is_spaceless_script(character: str) -> bool:
    point = ord(character)
    return any(first <= point <= last for first, last in _SPACELESS_BLOCKS)
