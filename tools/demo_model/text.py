"""Training text of the demo model: endless sentences of our own making, by language and seed.

Half are sentences of a grammar, a third loose strings of function and open-class words (so that the model listens
instead of guessing), the rest words drawn from Debian's word lists. It reads no prose and writes no digit, no
abbreviation and no symbol beyond . , ? ! ¿ ¡ ' - and the double quote.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Protocol

from tools.demo_model.grammar_en import EnglishGrammar
from tools.demo_model.grammar_es import SpanishGrammar
from tools.demo_model.lexicon import Lexicon, fold, folded_words, load_sections

__all__ = ["WordListMissing", "fold", "folded_words", "sentences", "vocabulary", "words"]

DEFAULT_WORD_LIST_FOLDER = Path("/usr/share/dict")
MOST_WORDS = 25
_LIST_FILES = {"English": ("american-english", "wamerican"), "Spanish": ("spanish", "wspanish")}
_VOCABULARY_FILES = {"English": "vocabulary_en.txt", "Spanish": "vocabulary_es.txt"}
_ABBREVIATIONS = frozenset(
    [
        "Aug",
        "Ave",
        "Capt",
        "Cir",
        "Co",
        "Corp",
        "Dec",
        "Feb",
        "Gov",
        "Inc",
        "Jan",
        "Lieut",
        "Nov",
        "Oct",
        "Prof",
        "Rev",
        "Sat",
        "Sen",
        "Sept",
        "Sun",
        "Thurs",
        "Tue",
        "Tues",
        "Wed",
        "abbr",
        "abbrev",
        "abbrevs",
        "anon",
        "approx",
        "assoc",
        "etc",
        "govt",
        "misc",
        "yo",
        "tel",
        "univ",
        "admin",
        "arr",
        "dept",
        "est",
        "intl",
        "recd",
        "secy",
    ]
)
_GRAMMAR_SHARE, _SALAD_SHARE = 0.50, 0.35
_NAME_SHARE = 0.06  # of the words drawn from a list, those written with a capital


class WordListMissing(Exception):
    """A Debian word list is not where it was looked for."""

    code = "word_list_missing"


class _Grammar(Protocol):
    def sentence(self, rng: Random) -> str: ...
    def open_word(self, rng: Random) -> str: ...
    def finish(self, text: str) -> str: ...
    def every_form(self) -> Iterator[str]: ...


def sentences(language: str, seed: int, word_list_folder: Path | None = None) -> Iterator[str]:
    """Endless training sentences of "English" or "Spanish", 1 to 25 words each, the same ones for the same seed.

    raises: ValueError for another language; WordListMissing when the folder lacks the language's Debian list.
    Both are raised by this call, not by the first sentence.
    """
    source = _source(language, word_list_folder or DEFAULT_WORD_LIST_FOLDER)
    return source.sentences(Random(f"sentences {language} {seed}"))


def words(language: str, seed: int, word_list_folder: Path | None = None) -> Iterator[list[str]]:
    """Endless lists of 1 to 30 words for contexts: plain words, names, or both; the same ones for the same seed."""
    source = _source(language, word_list_folder or DEFAULT_WORD_LIST_FOLDER)
    return source.contexts(Random(f"words {language} {seed}"))


def vocabulary(language: str, word_list_folder: Path | None = None) -> frozenset[str]:
    """Every word that `sentences` and `words` can produce, folded as `folded_words` does."""
    return _source(language, word_list_folder or DEFAULT_WORD_LIST_FOLDER).vocabulary()


class _Source:
    """Grammar, lexicon and word list of one language."""

    def __init__(self, language: str, grammar: _Grammar, lexicon: Lexicon, listed: list[str]) -> None:
        self._language = language
        self._grammar = grammar
        self._lexicon = lexicon
        self._names = [word for word in listed if word[0].isupper()]
        self._plain = [word for word in listed if not word[0].isupper()]

    def sentences(self, rng: Random) -> Iterator[str]:
        while True:
            roll = rng.random()
            if roll < _GRAMMAR_SHARE:
                text = self._grammar.sentence(rng)
            elif roll < _GRAMMAR_SHARE + _SALAD_SHARE:
                text = self._salad(rng)
            else:
                text = self._listed(rng)
            text = self._grammar.finish(" ".join(text.split()))
            if 1 <= len(text.split()) <= MOST_WORDS:
                yield text

    def contexts(self, rng: Random) -> Iterator[list[str]]:
        while True:
            count = max(1, min(30, round(rng.lognormvariate(1.6, 0.9))))
            kind = rng.random()
            names_share = 0.0 if kind < 0.35 else 1.0 if kind < 0.6 else 0.4
            yield [
                self._name(rng) if rng.random() < names_share else self._context_word(rng)
                for _ in range(count)
            ]

    def _name(self, rng: Random) -> str:
        section = rng.choice(("names_female", "names_male", "surnames", "cities", "countries"))
        if self._names and rng.random() < 0.3:
            return rng.choice(self._names)
        return self._lexicon.pick(rng, section)

    def _context_word(self, rng: Random) -> str:
        return rng.choice(self._plain) if rng.random() < 0.4 else self._grammar.open_word(rng)

    def _salad(self, rng: Random) -> str:
        """Function and open-class words in a loosely natural order."""
        target = max(2, min(MOST_WORDS, round(rng.lognormvariate(2.2, 0.5))))
        parts: list[str] = []
        count = 0
        was_open = rng.random() < 0.4
        while count < target:
            if was_open or rng.random() < 0.15:
                roll = rng.random()
                section = "frequent" if roll < 0.5 else "collocations" if roll < 0.75 else "function"
                part = (
                    self._lexicon.pick(rng, section)
                    if section != "function"
                    else rng.choice(self._lexicon.section(section))
                )
                was_open = rng.random() < 0.3
            else:
                part = self._grammar.open_word(rng)
                was_open = rng.random() < 0.75
            parts.append(part.replace("_", " "))
            count += part.count(" ") + part.count("_") + 1
            if 3 <= count <= target - 2 and rng.random() < 0.05:
                parts[-1] += ","
        return self._marked(rng, " ".join(parts))

    def _listed(self, rng: Random) -> str:
        """Words of the dictionary, each as likely as any other."""
        count = rng.randrange(2, 11)
        drawn = [
            rng.choice(self._names if self._names and rng.random() < _NAME_SHARE else self._plain)
            for _ in range(count)
        ]
        if count > 3 and rng.random() < 0.2:
            drawn[rng.randrange(1, count - 1)] += ","
        return self._marked(rng, " ".join(drawn))

    def _marked(self, rng: Random, text: str) -> str:
        roll = rng.random()
        if roll < 0.86:
            return text + "."
        mark, opening = ("?", "¿") if roll < 0.95 else ("!", "¡")
        return (opening if self._language == "Spanish" else "") + text + mark

    def vocabulary(self) -> frozenset[str]:
        found = {word for text in (*self._names, *self._plain) for word in folded_words(text)}
        for text in self._grammar.every_form():
            found.update(folded_words(text))
        return frozenset(found)


@cache
def _source(language: str, word_list_folder: Path) -> _Source:
    if language not in _LIST_FILES:
        raise ValueError(f"no text is made for {language!r}; there is {' and '.join(_LIST_FILES)}")
    listed = _read_word_list(language, word_list_folder)
    lexicon = Lexicon(load_sections(Path(__file__).with_name(_VOCABULARY_FILES[language])))
    grammar: _Grammar = EnglishGrammar(lexicon) if language == "English" else SpanishGrammar(lexicon)
    return _Source(language, grammar, lexicon, listed)


def _read_word_list(language: str, folder: Path) -> list[str]:
    """Entries made of letters alone, of two letters or more; possessives and abbreviations in capitals are left out."""
    file_name, package = _LIST_FILES[language]
    path = folder / file_name
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise WordListMissing(
            f"{path} cannot be read ({error.strerror}). It comes with Debian's package {package}:"
            " apt-get install -y wamerican wspanish; or name another folder in word_list_folder."
        ) from error
    return list(dict.fromkeys(filter(_is_speakable, map(str.strip, lines))))


def _is_speakable(entry: str) -> bool:
    """Words and names, not possessives, abbreviations, acronyms or single letters."""
    return (
        len(entry) > 1
        and entry.replace("'", "").isalpha()
        and not entry.endswith(("'s", "'"))
        and not entry[1].isupper()
        and entry not in _ABBREVIATIONS
        and any(letter in "aeiouyáéíóúâàäåãèêëîïôöûüø" for letter in entry.lower())
    )
