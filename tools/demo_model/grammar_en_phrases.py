"""English noun phrases, verb groups and clauses: agreement, tense, negation and contraction.

Whole sentences are made in grammar_en.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from tools.demo_model.inflection_en import EnglishInflection, cardinal, indefinite_article, possessive
from tools.demo_model.lexicon import Choice, Lexicon, either, joined


class Nominal(NamedTuple):
    text: str
    agreement: str  # "i", "you", "he", "they": the pronoun whose verb form it takes
    is_pronoun: bool = False


SUBJECTS = Choice({"i": 5, "you": 3, "he": 4, "she": 4, "it": 2, "we": 3, "they": 3})
OBJECT = {"i": "me", "you": "you", "he": "him", "she": "her", "it": "it", "we": "us", "they": "them"}
POSSESSIVES = Choice({"my": 5, "your": 4, "his": 3, "her": 3, "our": 2, "their": 2, "its": 0.3})
AGREES = {"i": "i", "you": "you", "we": "they", "they": "they", "he": "he", "she": "he", "it": "he"}
BE = {
    "present": {"i": "am", "you": "are", "he": "is", "they": "are"},
    "past": {"i": "was", "you": "were", "he": "was", "they": "were"},
}
NOT = {
    "will": "won't", "would": "wouldn't", "can": "can't", "could": "couldn't", "should": "shouldn't",
    "must": "mustn't",
    "is": "isn't", "are": "aren't", "was": "wasn't", "were": "weren't", "have": "haven't", "has": "hasn't",
    "had": "hadn't", "do": "don't", "does": "doesn't", "did": "didn't",
}  # fmt: skip
_SHORT = {
    "am": "'m",
    "are": "'re",
    "is": "'s",
    "have": "'ve",
    "has": "'s",
    "had": "'d",
    "will": "'ll",
    "would": "'d",
}
_TENSES = Choice(
    {
        "present": 24, "past": 30, "future": 8, "modal": 8, "perfect": 8, "past perfect": 4, "continuous": 9,
        "past continuous": 5, "going to": 4, "used to": 1.5, "perfect continuous": 1.5, "modal perfect": 2,
        "have to": 3,
    }
)  # fmt: skip
_MODALS = Choice({"can": 5, "could": 4, "should": 4, "would": 4, "must": 2, "might": 2, "may": 2})
_FRAMES = Choice(
    {
        "transitive": 36, "intransitive": 12, "prepositional": 12, "phrasal": 5, "phrasal_intransitive": 4, "be": 12,
        "linking": 3, "clause": 5, "infinitive": 5, "gerund": 2, "person": 3, "give": 4, "have": 3,
    }
)  # fmt: skip
THINGS = Choice(
    {"things": 30, "abstract": 26, "food": 8, "people": 10, "places": 8, "mass": 12, "animals": 5, "body": 5}
)
AGENTS = Choice({"people": 60, "animals": 16, "abstract": 10, "things": 10, "places": 4})
PLACE_PREPOSITIONS = Choice(
    {
        "in": 14, "at": 8, "near": 5, "from": 5, "to": 5, "behind": 3, "outside": 3, "inside": 3, "across": 2,
        "around": 2,
        "through": 2, "past": 1, "beyond": 1, "toward": 1, "beside": 2, "opposite": 1, "above": 1, "below": 1,
        "along": 1,
    }
)  # fmt: skip
THING_PREPOSITIONS = Choice(
    {
        "with": 8, "without": 5, "on": 6, "under": 4, "about": 4, "for": 6, "like": 2, "against": 1.5,
        "between": 1, "over": 2,
        "after": 3, "before": 3, "during": 2, "because of": 2, "instead of": 2, "next to": 2,
        "in front of": 2, "on top of": 1,
        "despite": 1, "according to": 1, "thanks to": 1, "among": 1, "by": 3, "of": 2, "into": 2, "except for": 0.5,
    }
)  # fmt: skip
DATIVE_VERBS = (
    "give",
    "show",
    "send",
    "tell",
    "bring",
    "lend",
    "teach",
    "offer",
    "buy",
    "write",
    "read",
    "pass",
    "sell",
)


class EnglishPhrases:
    """Parts of sentences; every draw comes from the generator handed in."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._inflection = EnglishInflection(lexicon)

    def open_word(self, rng: Random) -> str:
        """One open-class word or name in a random inflected form."""
        pick, inflect = self._lexicon.pick, self._inflection
        roll = rng.random()
        if roll < 0.36:
            noun = pick(rng, self._any_noun(rng))
            return noun if rng.random() < 0.6 else self._plural(noun)
        if roll < 0.66:
            section = "transitive" if rng.random() < 0.6 else "intransitive"
            forms = inflect.verb(pick(rng, section))
            return rng.choice(
                (forms.base, forms.third, forms.past, forms.past, forms.participle, forms.gerund)
            )
        if roll < 0.85:
            short = pick(rng, "adjectives_short")
            return rng.choice(
                (
                    short,
                    short,
                    inflect.comparative(short),
                    inflect.superlative(short),
                    pick(rng, "adjectives"),
                    pick(rng, "adjectives"),
                )
            )
        if roll < 0.92:
            return pick(rng, either(rng, "manner|frequency|place_adverbs|time_adverbs"))
        return pick(
            rng,
            either(
                rng,
                "names_female|names_male|surnames|cities|countries|nationalities|weekdays|months",
            ),
        )

    def _plural(self, noun: str) -> str:
        return (
            noun if noun.replace(" ", "_") in self._lexicon.section("mass") else self._inflection.plural(noun)
        )

    def _any_noun(self, rng: Random) -> str:
        return THINGS.pick(rng)

    def _adjective(self, rng: Random) -> str:
        word = self._lexicon.pick(rng, "adjectives_short" if rng.random() < 0.55 else "adjectives")
        if rng.random() < 0.04:
            word = self._lexicon.pick(rng, "nationalities")
        return word

    def _modifiers(self, rng: Random) -> list[str]:
        roll = rng.random()
        if roll < 0.62:
            return []
        if roll < 0.68:
            return [self._lexicon.pick(rng, "degree").replace("too", "very"), self._adjective(rng)]
        if roll < 0.94:
            return [self._adjective(rng)]
        return [self._adjective(rng), self._adjective(rng)]

    def _name(self, rng: Random) -> str:
        first = self._lexicon.pick(rng, "names_female" if rng.random() < 0.5 else "names_male")
        roll = rng.random()
        if roll < 0.75:
            return first
        surname = self._lexicon.pick(rng, "surnames")
        return f"{first} {surname}" if roll < 0.9 else f"{self._lexicon.pick(rng, 'titles')} {surname}"

    def _determiner(self, rng: Random, is_plural: bool) -> str:
        roll = rng.random()
        if roll < 0.42:
            return "the"
        if roll < 0.58:
            return POSSESSIVES.pick(rng)
        if roll < 0.62:
            return possessive(self._name(rng))
        if roll < 0.66:
            return f"the {possessive(self._lexicon.pick(rng, 'people'))}"
        if is_plural:
            if roll < 0.74:
                return either(rng, "these|those")
            if roll < 0.82:
                return cardinal(rng.choice((2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 40, 50, 100)))
            if roll < 0.93:
                return either(
                    rng,
                    "some|many|few|all the|most|several|no|both|other|such|a few|a lot of|enough|more|any",
                )
            return ""
        if roll < 0.88:
            return "a"
        if roll < 0.94:
            return either(rng, "this|that")
        return either(
            rng,
            "every|each|another|no|one|any|the same|the other|the next|the last|either|neither|such a|"
            "the only",
        )

    def _noun_phrase(self, rng: Random, section: str, depth: int = 0, *, indefinite: bool = False) -> Nominal:
        noun = self._lexicon.pick(rng, section)
        parts = self._modifiers(rng)
        if section == "mass":
            is_plural = False
            determiner = either(
                rng,
                "the|the|||some|my|your|this|no|much|a lot of|more|little|enough|all the",
            )
        else:
            is_plural = rng.random() < 0.28 or noun == "police"
            determiner = self._determiner(rng, is_plural)
            noun = self._inflection.plural(noun) if is_plural else noun
        words = " ".join([*parts, noun])
        if indefinite:
            some = (
                "no|some|many|several|two|three|enough|a lot of|a few||"
                if is_plural
                else "a|a|a|no|another|one|some"
            )
            determiner = either(rng, "no|some|enough|a lot of|" if section == "mass" else some)
        if determiner == "a" or determiner.endswith(" a"):
            determiner = determiner[:-1] + indefinite_article(words)
        text = f"{determiner} {words}".strip()
        if depth < 2:
            text += self._postmodifier(rng, section, is_plural, depth)
        return Nominal(text, "they" if is_plural else "he")

    def _postmodifier(self, rng: Random, section: str, is_plural: bool, depth: int) -> str:
        roll = rng.random()
        if roll < 0.08:
            return f" of {self._noun_phrase(rng, self._any_noun(rng), depth + 1).text}"
        if roll < 0.13:
            return f" {PLACE_PREPOSITIONS.pick(rng)} {self._noun_phrase(rng, 'places', depth + 2).text}"
        if roll < 0.16:
            return f" with {self._noun_phrase(rng, either(rng, 'body|things'), depth + 2).text}"
        if roll < 0.19:
            who = either(rng, "who|that") if section == "people" else either(rng, "that|which")
            return f" {who} {self._predicate(rng, 'they' if is_plural else 'he', depth + 2)}"
        if roll < 0.215:
            subject = SUBJECTS.pick(rng)
            verb = self._inflection.verb(self._lexicon.pick(rng, "transitive"))
            return f" {either(rng, 'that |')}{subject} {verb.past}"
        return ""

    def _subject(self, rng: Random, depth: int = 0) -> Nominal:
        roll = rng.random()
        if roll < 0.46:
            pronoun = SUBJECTS.pick(rng)
            return Nominal(pronoun, AGREES[pronoun], True)
        if roll < 0.57:
            return Nominal(self._name(rng), "he")
        if roll < 0.61:
            return Nominal(f"{self._name(rng)} and {rng.choice((self._name(rng), 'i'))}", "they")
        if roll < 0.66:
            word = either(
                rng,
                "this|that|someone|everyone|nobody|something|everything|nothing|somebody|everybody|"
                "one of them|no one",
            )
            return Nominal(word, "he")
        if roll < 0.68:
            return Nominal(
                either(
                    rng,
                    "these|those|some of us|most people|both of them|many of them|all of you|a few of us",
                ),
                "they",
            )
        return self._noun_phrase(rng, AGENTS.pick(rng), depth)

    def _object(self, rng: Random, depth: int = 0) -> str:
        roll = rng.random()
        if roll < 0.18:
            return OBJECT[SUBJECTS.pick(rng)]
        if roll < 0.23:
            return self._name(rng)
        if roll < 0.28:
            return either(
                rng,
                "something|nothing|anything|everything|everyone|someone|it all|that|this|one|mine|yours|"
                "theirs|ours|hers|myself|himself|themselves|another one|each other",
            )
        return self._noun_phrase(rng, self._any_noun(rng), depth).text

    def _frame(self, rng: Random, depth: int) -> tuple[str, str]:
        """A verb in its base form and what follows it."""
        pick = self._lexicon.pick
        frame = _FRAMES.pick(rng)
        if depth > 1 and frame in ("clause", "infinitive", "gerund", "person"):
            frame = "transitive"
        if frame == "be":
            return "be", self._attribute(rng, depth)
        if frame == "linking":
            return pick(rng, "linking"), self._attribute(rng, 2, adjective_only=True)
        if frame == "have":
            return "have", self._object(rng, depth)
        if frame == "give":
            verb = rng.choice(DATIVE_VERBS)
            return (
                verb,
                f"{OBJECT[SUBJECTS.pick(rng)]} {self._noun_phrase(rng, either(rng, 'things|abstract|food'), 2).text}",
            )
        if frame in ("prepositional", "phrasal", "phrasal_intransitive"):
            verb, particle = pick(rng, frame).split(":")
            if frame == "phrasal_intransitive":
                return verb, particle
            if frame == "phrasal" and rng.random() < 0.45:
                return verb, f"{either(rng, 'it|them|him|her|everything')} {particle}"
            return verb, f"{particle} {self._object(rng, depth)}"
        if frame == "clause":
            return pick(rng, "clause_verbs"), f"{either(rng, 'that |')}{self._clause(rng, depth + 1)}"
        if frame == "infinitive":
            return pick(rng, "infinitive_verbs"), f"to {self._bare(rng, depth + 1)}"
        if frame == "gerund":
            verb, rest = self._frame(rng, 2)
            gerund = "being" if verb == "be" else self._inflection.verb(verb).gerund
            return pick(rng, "gerund_verbs"), joined(gerund, rest)
        if frame == "person":
            return pick(
                rng, "person_object"
            ), f"{OBJECT[SUBJECTS.pick(rng)]} {either(rng, '|||not ')}to {self._bare(rng, 2)}"
        if frame == "transitive":
            return pick(rng, "transitive"), self._object(rng, depth)
        return pick(rng, "intransitive"), ""

    def _attribute(self, rng: Random, depth: int, *, adjective_only: bool = False) -> str:
        roll = rng.random()
        if adjective_only or roll < 0.5:
            degree = self._lexicon.pick(rng, "degree") + " " if rng.random() < 0.3 else ""
            return degree + self._adjective(rng)
        if roll < 0.72:
            return self._noun_phrase(rng, either(rng, "people|abstract|things"), depth).text
        if roll < 0.9:
            return f"{PLACE_PREPOSITIONS.pick(rng)} {self._noun_phrase(rng, 'places', 2).text}"
        return self._lexicon.pick(rng, "place_adverbs")

    def _bare(self, rng: Random, depth: int) -> str:
        verb, rest = self._frame(rng, depth)
        return f"{verb} {rest}".strip()

    def _group(self, rng: Random, verb: str, agreement: str) -> tuple[str, str]:
        """First auxiliary ("" for a plain present or past) and the rest of the verb group."""
        tense = _TENSES.pick(rng)
        is_be = verb == "be"
        if is_be:
            forms_base, participle, gerund = "be", "been", "being"
        else:
            forms = self._inflection.verb(verb)
            forms_base, participle, gerund = forms.base, forms.participle, forms.gerund
        be_now, be_then = BE["present"][agreement], BE["past"][agreement]
        has = "has" if agreement == "he" else "have"
        if tense in ("continuous", "past continuous") and not is_be:
            return (be_now if tense == "continuous" else be_then), gerund
        if tense == "future":
            return "will", forms_base
        if tense == "modal":
            return _MODALS.pick(rng), forms_base
        if tense == "modal perfect":
            return either(rng, "could|should|would|might|must"), f"have {participle}"
        if tense == "perfect":
            return has, participle
        if tense == "past perfect":
            return "had", participle
        if tense == "perfect continuous" and not is_be:
            return rng.choice((has, "had")), f"been {gerund}"
        if tense == "going to":
            return be_now, f"going to {forms_base}"
        if tense == "used to":
            return "", f"used to {forms_base}"
        if tense == "have to":
            return "", f"{rng.choice((has, 'had'))} to {forms_base}"
        if is_be:
            return (be_now if tense == "present" else be_then), ""
        if tense == "present":
            return "", forms.third if agreement == "he" else forms.base
        return "", forms.past

    def _predicate(self, rng: Random, agreement: str, depth: int) -> str:
        """Verb group, complement and adverbials after a subject that is already said."""
        verb, rest = self._frame(rng, depth)
        first, group = self._group(rng, verb, agreement)
        first, group = self._negated(rng, first, group, verb, agreement, 0.12)
        often = self._lexicon.pick(rng, "frequency") if rng.random() < 0.08 else ""
        return joined(first, often, group, rest, self._adverbial(rng, depth))

    def _negated(
        self, rng: Random, first: str, group: str, verb: str, agreement: str, share: float
    ) -> tuple[str, str]:
        if rng.random() >= share:
            return first, group
        if not first:
            if group.startswith(("used", "has", "had")):
                return first, group
            first, group = self._support(rng, group, verb, agreement)
        if first in NOT and rng.random() < 0.75:
            return NOT[first], group
        return first, f"{either(rng, 'not|not|never')} {group}".strip()

    def _support(self, rng: Random, group: str, verb: str, agreement: str) -> tuple[str, str]:
        """`do` before a plain verb, in the tense that the verb had."""
        forms = self._inflection.verb(verb)
        is_past = group == forms.past and (group != forms.base or rng.random() < 0.5)
        return ("did" if is_past else "does" if agreement == "he" else "do"), forms.base

    def _adverbial(self, rng: Random, depth: int) -> str:
        roll = rng.random()
        if depth > 1 or roll < 0.52:
            return ""
        if roll < 0.66:
            return self._lexicon.pick(rng, "time_adverbs")
        if roll < 0.74:
            return self._lexicon.pick(rng, "manner")
        if roll < 0.80:
            return self._lexicon.pick(rng, "place_adverbs")
        if roll < 0.90:
            return f"{PLACE_PREPOSITIONS.pick(rng)} {self._noun_phrase(rng, 'places', 2).text}"
        if roll < 0.97:
            return f"{THING_PREPOSITIONS.pick(rng)} {self._object(rng, 2)}"
        return f"{either(rng, 'in|to|from|near')} {self._lexicon.pick(rng, either(rng, 'cities|countries'))}"

    def _clause(self, rng: Random, depth: int = 0) -> str:
        subject = self._subject(rng, depth)
        verb, rest = self._frame(rng, depth)
        first, group = self._group(rng, verb, subject.agreement)
        first, group = self._negated(rng, first, group, verb, subject.agreement, 0.13)
        often = self._lexicon.pick(rng, "frequency") if rng.random() < 0.08 else ""
        head = subject.text
        if subject.is_pronoun and first in _SHORT and rng.random() < 0.5:
            head, first = head + _SHORT[first], ""
        return joined(head, first, often, group, rest, self._adverbial(rng, depth))
