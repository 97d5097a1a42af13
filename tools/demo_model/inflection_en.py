"""English inflection: plurals, verb forms, comparatives, `a` or `an`, number words.

It guesses nothing about meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tools.demo_model.lexicon import Lexicon

_VOWELS = "aeiou"
_ONE_SYLLABLE_CVC = re.compile(r"^[^aeiou]*(?:qu)?[aeiou][bdfgklmnprtvz]$")
_AN_DESPITE_SPELLING = re.compile(r"^(hour|honest|honor|heir)")
_A_DESPITE_SPELLING = re.compile(r"^(uni(?!n|m)|use|usu|euro|one\b|once|ukulele|ewe)")

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth"
    " fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()


@dataclass(frozen=True)
class VerbForms:
    base: str
    third: str
    past: str
    participle: str
    gerund: str


class EnglishInflection:
    """Inflected forms by rule, with the exceptions that the vocabulary file lists."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._plurals = lexicon.pairs("irregular_plurals")
        self._verbs = lexicon.pairs("irregular_verbs")
        self._doubling = frozenset(lexicon.section("doubling_verbs"))
        self._degrees = lexicon.pairs("irregular_adjectives")
        self._forms: dict[str, VerbForms] = {}

    def plural(self, noun: str) -> str:
        """Plural of a noun; of a phrase, its last word is inflected."""
        head, space, last = noun.rpartition(" ")
        return head + space + (self._plurals.get(last) or _add_s(last))

    def verb(self, base: str) -> VerbForms:
        """All forms of a verb but those of `be`, which the grammar spells out."""
        forms = self._forms.get(base)
        if forms is None:
            forms = self._forms[base] = self._inflect(base)
        return forms

    def _inflect(self, base: str) -> VerbForms:
        third = {"have": "has"}.get(base) or _add_s(base)
        doubled = base + base[-1] if self._doubles(base) else base
        if base.endswith("ie"):
            gerund = base[:-2] + "ying"
        elif base.endswith("e") and not base.endswith(("ee", "oe", "ye")):
            gerund = base[:-1] + "ing"
        else:
            gerund = doubled + "ing"
        if base in self._verbs:
            past, participle = self._verbs[base].split(":")
            return VerbForms(base, third, past, participle, gerund)
        if base.endswith("e"):
            past = base + "d"
        elif base.endswith("y") and base[-2] not in _VOWELS:
            past = base[:-1] + "ied"
        else:
            past = doubled + "ed"
        return VerbForms(base, third, past, past, gerund)

    def _doubles(self, base: str) -> bool:
        return base in self._doubling or bool(_ONE_SYLLABLE_CVC.match(base))

    def comparative(self, adjective: str) -> str:
        if adjective in self._degrees:
            return self._degrees[adjective].split(":")[0]
        return _degree(adjective, "er")

    def superlative(self, adjective: str) -> str:
        if adjective in self._degrees:
            return self._degrees[adjective].split(":")[1]
        return _degree(adjective, "est")


def _add_s(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + ("zes" if word in ("quiz",) else "es")
    if word.endswith("y") and word[-2:-1] not in tuple(_VOWELS):
        return word[:-1] + "ies"
    if word in ("go", "do", "undergo", "redo", "undo", "veto", "echo"):
        return word + "es"
    return word + "s"


def _degree(adjective: str, ending: str) -> str:
    if adjective.endswith("e"):
        return adjective + ending[1:]
    if adjective.endswith("y") and adjective[-2] not in _VOWELS:
        return adjective[:-1] + "i" + ending
    if _ONE_SYLLABLE_CVC.match(adjective):
        return adjective + adjective[-1] + ending
    return adjective + ending


def indefinite_article(following: str) -> str:
    """`a` or `an` by the sound of the word that follows."""
    word = following.lower()
    if _AN_DESPITE_SPELLING.match(word):
        return "an"
    if _A_DESPITE_SPELLING.match(word):
        return "a"
    return "an" if word[:1] in _VOWELS else "a"


def possessive(owner: str) -> str:
    return owner + "'s"


def cardinal(number: int, *, with_and: bool = False) -> str:
    """A number from 0 to 999,999,999 in words, tens and ones joined by a hyphen as American spelling has it."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f"-{ONES[ones]}" if ones else "")
    for size, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if number >= size:
            count, rest = divmod(number, size)
            joint = " and " if with_and and rest and rest < 100 else " "
            return f"{cardinal(count)} {name}" + (joint + cardinal(rest, with_and=with_and) if rest else "")
    raise ValueError(number)


def ordinal(number: int) -> str:
    """An ordinal from 1 to 99 in words."""
    if number < 20:
        return ORDINALS[number]
    tens, ones = divmod(number, 10)
    return f"{TENS[tens]}-{ORDINALS[ones]}" if ones else TENS[tens][:-1] + "ieth"


def year(number: int) -> str:
    """A year from 1100 to 2099 as it is spoken."""
    century, rest = divmod(number, 100)
    if 2000 <= number < 2010:
        return "two thousand" + (f" {ONES[rest]}" if rest else "")
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} " + (f"oh {ONES[rest]}" if rest < 10 else cardinal(rest))
