"""Splits a transcript into the words that a forced aligner times, and keeps every word's place in the text.

The aligner reads letters, digits and apostrophes only; what readers see has punctuation. So each word is a `Unit`: what
the aligner reads, and its place in the text. `shown_words` gives the rest of the text to the words beside it:
joined, they are the text again. Words are split as the official package does; Japanese and Korean need a package of
the extra `cjk`, which is imported when one of these languages first comes up.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

KOREAN_DICTIONARY = "korean_dict_jieba.dict"
"""Its name in the packages that bundle it; a model folder may hold it too."""

_PACKAGES_WITH_DICTIONARY = (("qwen_asr", "inference/assets"), ("mlx_qwen3_asr", "assets"))

_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
)
"""Each is a word of its own. Source: the official splitter's ranges, which lack later extensions."""

_EXTRA = "install it with `.venv/bin/pip install -e '.[cjk]'`"


WORD_PACKAGES = {"Japanese": "nagisa", "Korean": "soynlp"}
"""Languages whose words are split by a package of the extra."""


class WordsUnavailable(Exception):
    """This text cannot be split into words here; the message is a reason for the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One word as the aligner reads it, and the stretch text[start:end] that it was read from."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ShownWord:
    """One word as readers see it. first, last: the units that it shows, usually one. spacing: see protocol's Word."""

    text: str
    spacing: str
    first: int
    last: int


class _Tokenizer(Protocol):
    def __call__(self, text: str) -> list[str]:
        """The text's words, in order, punctuation among them."""
        ...


class WordSplitter:
    """Splits by language. Any thread may use it; packages are imported once, when first needed."""

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        """folders: where a Korean dictionary may lie, searched before installed packages."""
        self._folders = tuple(folders)
        self._tokenizers: dict[str, _Tokenizer | WordsUnavailable] = {}
        self._lock = threading.Lock()

    def split(self, text: str, language: str) -> list[Unit]:
        """The words of a text in a language (English name).

        raises: WordsUnavailable where a package or a dictionary is missing
        """
        if language not in _MAKERS:
            return list(_spaced_units(text))
        return units_of(text, [_cleaned(word) for word in self._tokenizer(language)(text)])

    def _tokenizer(self, language: str) -> _Tokenizer:
        with self._lock:
            if language not in self._tokenizers:
                try:
                    self._tokenizers[language] = _MAKERS[language](self._folders)
                except WordsUnavailable as problem:
                    self._tokenizers[language] = problem
            found = self._tokenizers[language]
        if isinstance(found, WordsUnavailable):
            raise found
        return found


def units_of(text: str, words: Iterable[str]) -> list[Unit]:
    """The places of cleaned words in the text they came from; empty ones are left out.

    A tokenizer may have normalized what it read (full-width letters, ligatures), so characters are compared in their
    compatibility form. One character of the text that became several words is the place of each.
    raises: WordsUnavailable where the words are not those of the text
    """
    letters = [(part, place) for place, one in enumerate(text) for part in _letters_of(one)]
    units: list[Unit] = []
    at = 0
    for word in filter(None, words):
        wanted = [part for one in word for part in _letters_of(one)]
        places = letters[at : at + len(wanted)]
        if not wanted or [part for part, _ in places] != wanted:
            raise WordsUnavailable("the words could not be found again in the text")
        units.append(Unit(word, places[0][1], places[-1][1] + 1))
        at += len(wanted)
    if at != len(letters):
        raise WordsUnavailable("the words could not be found again in the text")
    return units


def shown_words(text: str, units: list[Unit]) -> list[ShownWord]:
    """The text's words with their punctuation; joined with their spacing they are `text`, stripped.

    Text between two words goes to the one before, up to the last white space, or up to a mark that opens.
    """
    merged = _apart(units)
    if not merged:
        return []
    starts = [len(text) - len(text.lstrip())]
    spacings = [""]
    ends = []
    for (_, _, _, end), (_, _, start, _) in itertools.pairwise(merged):
        stop, begin = _cut(text, end, start)
        ends.append(stop)
        spacings.append(text[stop:begin])
        starts.append(begin)
    ends.append(len(text.rstrip()))
    return [
        ShownWord(text[start:end], spacing, first, last)
        for (first, last, _, _), start, end, spacing in zip(merged, starts, ends, spacings, strict=True)
    ]


def _apart(units: list[Unit]) -> list[tuple[int, int, int, int]]:
    """Groups (first unit, last unit, start, end); units that share a character of the text become one."""
    merged: list[tuple[int, int, int, int]] = []
    for index, unit in enumerate(units):
        if merged and unit.start < merged[-1][3]:
            first, _, start, end = merged.pop()
            merged.append((first, index, start, max(end, unit.end)))
        else:
            merged.append((index, index, unit.start, unit.end))
    return merged


def _cut(text: str, start: int, stop: int) -> tuple[int, int]:
    """End of the word before and start of the next, in the stretch between two words."""
    gap = text[start:stop]
    spaces = [place for place, one in enumerate(gap) if one.isspace()]
    opening = next((at for at, one in enumerate(gap) if _opens(one, text, start + at)), None)
    if not spaces:
        cut = start + (len(gap) if opening is None else opening)
        return cut, cut
    # An opening mark that is separate from the next word, as in French, goes with it nevertheless.
    before = [place for place in spaces if opening is None or place < opening]
    last = (before or spaces)[-1]
    first = last
    while first > 0 and gap[first - 1].isspace():
        first -= 1
    return start + first, start + last + 1


def _opens(character: str, text: str, place: int) -> bool:
    if character in "\"'":
        # A straight quotation mark opens when those before it are paired.
        return text.count(character, 0, place) % 2 == 0
    return character in "¿¡" or unicodedata.category(character) in ("Ps", "Pi")


def _spaced_units(text: str) -> Iterator[Unit]:
    """Words between white space without their punctuation, every ideograph a word of its own."""
    word, start, end = "", 0, 0
    for place, character in enumerate(text):
        is_ideograph = _is_ideograph(character)
        if word and (is_ideograph or character.isspace()):
            yield Unit(word, start, end)
            word = ""
        if is_ideograph:
            yield Unit(character, place, place + 1)
        elif _is_read(character):
            start = start if word else place
            word, end = word + character, place + 1
    if word:
        yield Unit(word, start, end)


def _cleaned(word: str) -> str:
    return "".join(filter(_is_read, word))


def _is_read(character: str) -> bool:
    """True when the aligner reads this character. Source: the official splitter, which drops combining marks too."""
    return character == "'" or unicodedata.category(character)[0] in "LN"


def _letters_of(character: str) -> str:
    """The letters left of a character in compatibility form."""
    return _cleaned(unicodedata.normalize("NFKC", character))


def _is_ideograph(character: str) -> bool:
    point = ord(character)
    return any(first <= point <= last for first, last in _IDEOGRAPHS)


# ---- packages of the extra -----------------------------------------------------------------------------------


def _japanese(folders: tuple[Path, ...]) -> _Tokenizer:
    try:
        nagisa = importlib.import_module("nagisa")
    except ImportError:
        raise WordsUnavailable(f"Japanese needs the package nagisa; {_EXTRA}") from None

    def tokenize(text: str) -> list[str]:
        return list(nagisa.tagging(text).words)

    return tokenize


def _korean(folders: tuple[Path, ...]) -> _Tokenizer:
    try:
        soynlp = importlib.import_module("soynlp.tokenizer")
    except ImportError:
        raise WordsUnavailable(f"Korean needs the package soynlp; {_EXTRA}") from None
    dictionary = next((one for one in _dictionary_paths(folders) if one.is_file()), None)
    if dictionary is None:
        raise WordsUnavailable(
            f"Korean needs the dictionary {KOREAN_DICTIONARY}, which the package qwen-asr holds; put a copy of it into "
            "the aligner's folder"
        )
    lines = dictionary.read_text(encoding="utf-8").splitlines()
    scores = {line.split()[0]: 1.0 for line in lines if line.strip()}
    tokenizer = soynlp.LTokenizer(scores=scores)

    def tokenize(text: str) -> list[str]:
        return list(tokenizer.tokenize(text))

    return tokenize


def _dictionary_paths(folders: tuple[Path, ...]) -> Iterator[Path]:
    for folder in folders:
        yield folder / KOREAN_DICTIONARY
    for name, inner in _PACKAGES_WITH_DICTIONARY:
        # Looked up without importing it: that would load torch.
        package = importlib.util.find_spec(name)
        for place in (package.submodule_search_locations or ()) if package is not None else ():
            yield Path(place) / inner / KOREAN_DICTIONARY


_MAKERS = {"Japanese": _japanese, "Korean": _korean}
