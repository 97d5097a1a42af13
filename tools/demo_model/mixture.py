"""The texts of training: sentences of the grammar, the same with rare words put in, and text.py's own mix.

A first run on text.py's mix alone spelled rare words by ear and cut them in the wrong places: half of its words stood
in no sentence, so the model could not lean on the sentence, and each word of a list of 74,000 was met twice. Here list
words stand where a grammar word of the same ending stood, and common words are drawn more often: those of the smaller
list (wamerican-small) and of the first levels of the lists that both are made from (scowl), where they are installed.
What is left of the errors were words that sound alike; frames that tell them apart are a part of the English text. Then
it was words that are two common ones in one, written apart; some of the words put in are such.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from tools.demo_model import text
from tools.demo_model.grammar_en import EnglishGrammar
from tools.demo_model.grammar_es import SpanishGrammar
from tools.demo_model.lexicon import Lexicon, load_sections
from tools.demo_model.soundalikes_en import Soundalikes

GRAMMAR_SHARE, REPLACED_SHARE = 0.42, 0.36
SOUNDALIKES_SHARE = 0.08
"""Of English sentences; the rest is shared out as in Spanish."""
REPLACED_WORDS_SHARE = 0.45
LIST_SHARES = (0.5, 0.33, 0.17)
"""How often a list word is one of the commonest, of the small list, of the whole list."""
FEWEST_LETTERS = 4
COMPOUND_SHARE = 0.15
"""Of the words put in: English ones that are two common words in one, which is what is most often written apart."""

_ENDINGS = {
    "English": ("ing", "ness", "ion", "ly", "est", "ed", "er", "ss", "us", "is", "s", "y"),
    "Spanish": (
        *("mente", "ción", "ando", "iendo", "ados", "adas", "idos", "idas", "ado", "ada", "ido", "ida"),
        *(
            "aron",
            "ieron",
            "aban",
            "aba",
            "aré",
            "ar",
            "er",
            "ir",
            "os",
            "as",
            "es",
            "ó",
            "an",
            "en",
            "o",
            "a",
            "e",
        ),
    ),
}
# From the commonest words to all; what is missing is stood in for by the next one.
_LISTS = {
    "English": (
        ("scowl/english-words.10", "scowl/english-words.20"),
        ("american-english-small",),
        ("american-english",),
    ),
    "Spanish": (("spanish",),),
}
_VOCABULARIES = {"English": "vocabulary_en.txt", "Spanish": "vocabulary_es.txt"}


def sentences(language: str, seed: int, word_lists: Path | None = None) -> Iterator[str]:
    """Endless training sentences, 1 to 25 words each, the same ones for the same seed and lists.

    raises: text.WordListMissing when the language's Debian list is not in `word_lists` (or where Debian puts it)
    """
    plain = text.sentences(language, seed, word_lists)
    source = _source(language, word_lists or text.DEFAULT_WORD_LIST_FOLDER)
    return _mixed(plain, source, Random(f"mixture {language} {seed}"))


def _mixed(plain: Iterator[str], source: _Source, rng: Random) -> Iterator[str]:
    while True:
        if source.soundalikes is not None and rng.random() < SOUNDALIKES_SHARE:
            yield source.grammar.finish(source.soundalikes.sentence(rng))
            continue
        roll = rng.random()
        if roll >= GRAMMAR_SHARE + REPLACED_SHARE:
            yield next(plain)
            continue
        line = source.grammar.sentence(rng)
        if roll >= GRAMMAR_SHARE:
            line = source.with_list_words(line, rng)
        line = source.grammar.finish(" ".join(line.split()))
        if 1 <= len(line.split()) <= text.MOST_WORDS:
            yield line


class _Source:
    """A grammar, and the list words of one language by ending."""

    def __init__(self, language: str, grammar: EnglishGrammar | SpanishGrammar, kept: frozenset[str],
                 lists: list[list[str]], soundalikes: Soundalikes | None) -> None:  # fmt: skip
        """lists: from the commonest words to all, one for each of LIST_SHARES."""
        self.grammar = grammar
        self.soundalikes = soundalikes
        self._endings = _ENDINGS[language]
        self._kept = kept
        self._lists = [self._by_ending(words) for words in lists]
        self._compounds = self._by_ending(compounds(lists)) if language == "English" else {}

    def _ending(self, word: str) -> str:
        return next((ending for ending in self._endings if word.endswith(ending)), "")

    def _by_ending(self, words: list[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for word in words:
            found.setdefault(self._ending(word), []).append(word)
        return found

    def with_list_words(self, line: str, rng: Random) -> str:
        """Some of the content words replaced by list words of the same ending; marks stay."""
        return " ".join(self._replaced(word, rng) for word in line.split())

    def _replaced(self, token: str, rng: Random) -> str:
        word = token.rstrip(".,?!\"'")
        if len(word) < FEWEST_LETTERS or not (word.isalpha() and word.islower()) or word in self._kept:
            return token
        if rng.random() >= REPLACED_WORDS_SHARE:
            return token
        (words,) = rng.choices(self._lists, LIST_SHARES)
        if self._compounds and rng.random() < COMPOUND_SHARE:
            words = self._compounds
        choices = words.get(self._ending(word))
        return rng.choice(choices) + token[len(word) :] if choices else token


def compounds(lists: list[list[str]]) -> list[str]:
    """Words of the whole list that are two of the commonest in a row, each of three letters or more."""
    common = {word for word in lists[0] if len(word) >= 3}
    return [
        word
        for word in sorted(set(lists[-1]))
        if any(word[:at] in common and word[at:] in common for at in range(3, len(word) - 2))
    ]


@cache
def _source(language: str, folder: Path) -> _Source:
    sections = load_sections(Path(__file__).with_name(_VOCABULARIES[language]))
    lexicon = Lexicon(sections)
    grammar = EnglishGrammar(lexicon) if language == "English" else SpanishGrammar(lexicon)
    kept = frozenset(
        word for name in ("function", "frequent", "grammar_words") for word in sections.get(name, ())
    )
    lists: list[list[str]] = []
    for names in _LISTS[language]:
        lines = [line for name in names for line in _lines(folder / name)]
        lists.append([w for w in lines if len(w) >= FEWEST_LETTERS - 1 and w.isalpha() and w.islower()])
    while len(lists) < len(LIST_SHARES):
        lists.append(lists[-1])
    filled = [listed or next(filter(None, lists[at:]), []) for at, listed in enumerate(lists)]
    soundalikes = Soundalikes(lexicon) if language == "English" else None
    return _Source(language, grammar, kept, filled, soundalikes)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
