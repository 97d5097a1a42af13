"""Sections of words with rank weights: reads the vocabulary files beside it.

It knows no grammar and draws only from the generator it is handed.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_RANK_OFFSET = 25  # keeps the first word of a section from drowning the rest


def fold(text: str) -> str:
    """Lower case, composed accents, words separated by single spaces; apostrophes inside a word stay, all else goes."""
    return " ".join(folded_words(text))


def folded_words(text: str) -> list[str]:
    """The words of a text as `fold` writes them; a hyphen separates words."""
    return _WORD.findall(unicodedata.normalize("NFC", text).replace("\u2019", "'").lower())


def load_sections(path: Path) -> dict[str, tuple[str, ...]]:
    """Sections of a vocabulary file in file order, each entry once; `#` starts a comment, `[name]` a section.

    raises: ValueError when an entry stands before the first section.
    """
    sections: dict[str, dict[str, None]] = {}
    entries: dict[str, None] | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        content = line.split("#", 1)[0].strip()
        if content.startswith("["):
            entries = sections.setdefault(content[1:-1], {})
        elif content:
            if entries is None:
                raise ValueError(f"{path.name}: an entry stands before the first section: {content[:40]}")
            entries.update(dict.fromkeys(content.split()))
    return {name: tuple(words) for name, words in sections.items()}


class Lexicon:
    """The sections of one language, drawn from with a weight that falls with the rank."""

    def __init__(self, sections: dict[str, tuple[str, ...]]) -> None:
        self._sections = sections
        self._cumulative = {
            name: list(accumulate(1.0 / (rank + _RANK_OFFSET) ** 0.8 for rank in range(len(words))))
            for name, words in sections.items()
        }

    def section(self, name: str) -> tuple[str, ...]:
        """Every entry of a section, underscores and marks included."""
        return self._sections[name]

    def pick(self, rng: Random, name: str) -> str:
        """One entry of a section, its first entries more often, underscores turned to spaces."""
        cumulative = self._cumulative[name]
        rank = bisect(cumulative, rng.random() * cumulative[-1], 0, len(cumulative) - 1)
        return self._sections[name][rank].replace("_", " ")

    def everything(self) -> Iterator[str]:
        """The entries of all sections as plain text, marks taken for spaces; of a stem verb the infinitive only."""
        for name, words in self._sections.items():
            for entry in words:
                yield (
                    entry.split(":")[0] if name == "stem_verbs" else entry.replace("_", " ").replace(":", " ")
                )

    def pairs(self, name: str) -> dict[str, str]:
        """A section of `key:value` entries as a mapping; of several values the text after the first colon."""
        return dict(entry.split(":", 1) for entry in self._sections[name])


class Choice:
    """A fixed weighted choice among strings, prepared once because it is drawn from for every sentence."""

    def __init__(self, weights: dict[str, float]) -> None:
        self._values = list(weights)
        self._cumulative = list(accumulate(weights.values()))

    def pick(self, rng: Random) -> str:
        at = bisect(self._cumulative, rng.random() * self._cumulative[-1], 0, len(self._values) - 1)
        return self._values[at]


def join_list(items: Sequence[str], conjunction: str, oxford: bool) -> str:
    """`a, b and c`; with `oxford` a comma stands before the conjunction of three or more."""
    if len(items) < 2:
        return "".join(items)
    comma = "," if oxford and len(items) > 2 else ""
    return f"{', '.join(items[:-1])}{comma} {conjunction} {items[-1]}"


def either(rng: Random, options: str) -> str:
    """One of the alternatives that bars separate; one given twice comes twice as often."""
    return rng.choice(options.split("|"))


def joined(*parts: str) -> str:
    """The parts that are not empty, a space between them."""
    return " ".join(part for part in parts if part)


def capitalized(text: str) -> str:
    """The first letter in capitals, whatever marks stand before it."""
    for index, letter in enumerate(text):
        if letter.isalpha():
            return text[:index] + letter.upper() + text[index + 1 :]
    return text
