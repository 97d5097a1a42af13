"""Spanish noun phrases: gender, number, articles before a stressed a, shortened adjectives.

A noun's relative clause comes from its subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import NamedTuple

from tools.demo_model.inflection_es import SpanishInflection, attach, cardinal
from tools.demo_model.lexicon import Choice, Lexicon, either, joined


class Nominal(NamedTuple):
    text: str
    is_feminine: bool
    is_plural: bool
    person: int  # 0 yo, 1 tú, 2 él, 3 nosotros, 4 vosotros, 5 ellos
    is_person: bool = False


_SUBJECTS = (
    ("yo", 0), ("tú", 1), ("él", 2), ("ella", 2), ("usted", 2), ("nosotros", 3), ("nosotras", 3), ("vosotros", 4),
    ("ellos", 5), ("ellas", 5), ("ustedes", 5),
)  # fmt: skip
DROPPED = Choice({"0": 30, "1": 18, "2": 26, "3": 16, "4": 5, "5": 16})
PREPOSITIONAL = ("mí", "ti", "él", "ella", "nosotros", "vosotros", "ellos", "ellas", "usted", "ustedes")
THINGS = Choice(
    {"things": 30, "abstract": 24, "food": 8, "people": 12, "places": 10, "mass": 8, "animals": 6, "body": 5}
)
AGENTS = Choice({"people": 64, "animals": 16, "abstract": 10, "things": 7, "places": 3})
APOCOPE = {"bueno": "buen", "malo": "mal", "primero": "primer", "tercero": "tercer"}


class SpanishPhrases(ABC):
    """Noun phrases and single words; every draw comes from the generator handed in."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._inflection = SpanishInflection(lexicon)
        self._stressed_a = frozenset(lexicon.section("stressed_a"))

    @abstractmethod
    def _postmodifier(self, rng: Random, is_plural: bool, depth: int) -> str:
        """A phrase that may follow a noun; clauses know it."""

    def open_word(self, rng: Random) -> str:
        """One open-class word or name in a random inflected form."""
        roll = rng.random()
        if roll < 0.4:
            word, _ = self._noun(rng, THINGS.pick(rng))
            return word if rng.random() < 0.6 else self._inflection.plural(word)
        if roll < 0.7:
            verb = self._lexicon.pick(rng, either(rng, "transitive|transitive|intransitive|reflexive"))
            kind = rng.random()
            if kind < 0.15:
                return verb
            if kind < 0.25:
                return self._inflection.gerund(verb)
            if kind < 0.35:
                return self._inflection.participle(verb)
            if kind < 0.42:
                return attach(verb, either(rng, "lo|la|los|las|me|te|se|le|nos|les"))
            tense = either(
                rng,
                "present|present|present|preterite|preterite|preterite|imperfect|imperfect|future|"
                "conditional|subjunctive|imperfect_subjunctive",
            )
            return self._inflection.finite(verb, tense, int(DROPPED.pick(rng)))
        if roll < 0.87:
            return self._inflection.adjective(
                self._lexicon.pick(rng, "adjectives"), rng.random() < 0.5, rng.random() < 0.35
            )
        if roll < 0.93:
            return self._lexicon.pick(rng, either(rng, "adverbs|place_adverbs|frequency"))
        return self._lexicon.pick(
            rng, either(rng, "names_female|names_male|surnames|cities|countries|weekdays|months")
        )

    def _noun(self, rng: Random, section: str) -> tuple[str, bool]:
        """A noun in the singular and whether it is feminine."""
        if section == "people":
            masculine, feminine = self._lexicon.pick(rng, "people").split(":")
            return (feminine, True) if rng.random() < 0.45 else (masculine, False)
        sections = [f"{section}_m", f"{section}_f"]
        sizes = [len(self._lexicon.section(name)) for name in sections]
        is_feminine = rng.random() < sizes[1] / sum(sizes)
        return self._lexicon.pick(rng, sections[is_feminine]), is_feminine

    def _name(self, rng: Random) -> tuple[str, bool]:
        is_feminine = rng.random() < 0.5
        first = self._lexicon.pick(rng, "names_female" if is_feminine else "names_male")
        roll = rng.random()
        if roll < 0.75:
            return first, is_feminine
        surname = self._lexicon.pick(rng, "surnames")
        if roll < 0.9:
            return f"{first} {surname}", is_feminine
        if roll < 0.95:
            return f"{'doña' if is_feminine else 'don'} {first}", is_feminine
        return f"{'la señora' if is_feminine else 'el señor'} {surname}", is_feminine

    def _determiner(self, rng: Random, is_feminine: bool, is_plural: bool, noun_follows: str) -> str:
        """A determiner that agrees; `noun_follows` is the noun when no adjective stands between, else empty."""
        stressed = is_feminine and not is_plural and noun_follows in self._stressed_a
        o, os = ("a", "as") if is_feminine else ("o", "os")
        roll = rng.random()
        if roll < 0.45:
            if is_plural:
                return "las" if is_feminine else "los"
            return "la" if is_feminine and not stressed else "el"
        if roll < 0.63:
            if is_plural:
                return rng.choice(
                    (
                        f"un{os}",
                        f"much{os}",
                        f"algun{os}",
                        f"vari{os}",
                        f"poc{os}",
                        f"tod{os} l{os}",
                        f"otr{os}",
                        f"tant{os}",
                    )
                )
            return "una" if is_feminine and not stressed else "un"
        if roll < 0.83:
            if is_plural:
                return rng.choice(("mis", "mis", "tus", "sus", "sus", f"nuestr{os}", f"vuestr{os}"))
            return rng.choice(
                ("mi", "mi", "mi", "tu", "tu", "su", "su", "su", f"nuestr{o}", f"nuestr{o}", f"vuestr{o}")
            )
        if roll < 0.93:
            if is_plural:
                return rng.choice((f"est{os}", f"es{os}", f"aquell{os}"))
            if is_feminine:
                return either(rng, "esta|esa|aquella")
            return either(rng, "este|ese|aquel")
        if is_plural:
            return cardinal(
                rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 21, 30, 31, 100, 200)),
                before="f" if is_feminine else "m",
            )
        if is_feminine:
            return rng.choice(
                (
                    "cada",
                    "cualquier",
                    "ningún" if stressed else "ninguna",
                    "algún" if stressed else "alguna",
                    "otra",
                    "toda la",
                    "la misma",
                )
            )
        return either(rng, "cada|cualquier|ningún|algún|otro|todo el|el mismo")

    def _indefinite(self, rng: Random, is_feminine: bool, is_plural: bool, noun_follows: str) -> str:
        if is_plural:
            os = "as" if is_feminine else "os"
            return either(
                rng, f"un{os}|algun{os}|much{os}|poc{os}|vari{os}|otr{os}|tant{os}|dos|tres|cuatro||"
            )
        if is_feminine and noun_follows not in self._stressed_a:
            return either(rng, "una|una|una|otra|alguna|ninguna|esa")
        return either(rng, "un|un|un|algún|ningún")

    def _adjective(self, rng: Random, is_feminine: bool, is_plural: bool) -> str:
        return self._inflection.adjective(self._lexicon.pick(rng, "adjectives"), is_feminine, is_plural)

    def _noun_phrase(self, rng: Random, section: str, depth: int = 0, *, indefinite: bool = False) -> Nominal:
        noun, is_feminine = self._noun(rng, section)
        is_plural = section != "mass" and rng.random() < 0.28
        word = self._inflection.plural(noun) if is_plural else noun
        before, after = "", ""
        roll = rng.random()
        if roll < 0.07:
            before = self._before(rng, is_feminine, is_plural)
        elif roll < 0.3:
            after = self._adjective(rng, is_feminine, is_plural)
            if rng.random() < 0.2:
                after = f"{self._lexicon.pick(rng, 'degree')} {after}"
            elif rng.random() < 0.12:
                after += f" y {self._adjective(rng, is_feminine, is_plural)}"
        determiner = self._determiner(rng, is_feminine, is_plural, "" if before else noun)
        if indefinite:
            determiner = self._indefinite(rng, is_feminine, is_plural, "" if before else noun)
        if section == "mass" and (indefinite or rng.random() < 0.4):
            determiner = either(
                rng, "||mucha|poca|tanta|bastante|más" if is_feminine else "||mucho|poco|tanto|bastante|más"
            )
        text = joined(determiner, before, word, after)
        if depth < 2:
            text = joined(text, self._postmodifier(rng, is_plural, depth))
        return Nominal(text, is_feminine, is_plural, 5 if is_plural else 2, section == "people")

    def _before(self, rng: Random, is_feminine: bool, is_plural: bool) -> str:
        adjective = either(
            rng,
            "bueno|bueno|malo|grande|grande|primero|tercero|mejor|peor|nuevo|viejo|antiguo|pequeño|"
            "último|segundo",
        )
        if not is_plural:
            if adjective == "grande":
                return "gran"
            if not is_feminine and adjective in APOCOPE:
                return APOCOPE[adjective]
        return self._inflection.adjective(adjective, is_feminine, is_plural)

    def _subject(self, rng: Random, depth: int = 0) -> Nominal:
        roll = rng.random()
        if roll < 0.38:
            person = int(DROPPED.pick(rng))
            return Nominal("", rng.random() < 0.45, person > 2, person)
        if roll < 0.48:
            text, person = rng.choice(_SUBJECTS)
            return Nominal(text, text.endswith(("a", "as")), person > 2, person)
        if roll < 0.58:
            text, is_feminine = self._name(rng)
            return Nominal(text, is_feminine, False, 2, True)
        if roll < 0.61:
            one, two = self._name(rng), self._name(rng)
            return Nominal(f"{one[0]} y {two[0]}", one[1] and two[1], True, 5, True)
        if roll < 0.65:
            text = either(
                rng,
                "esto|eso|alguien|nadie|algo|nada|todo|aquello|uno de ellos|cada uno|lo mismo|lo demás|"
                "todo el mundo|ninguno|lo que dices",
            )
            return Nominal(text, False, False, 2)
        if roll < 0.67:
            text, is_feminine = rng.choice(
                (
                    ("todos", False),
                    ("muchos", False),
                    ("algunos", False),
                    ("otros", False),
                    ("las dos", True),
                    ("los demás", False),
                    ("estas", True),
                    ("esos", False),
                    ("los míos", False),
                    ("las tuyas", True),
                    ("unas", True),
                    ("ambos", False),
                    ("varias", True),
                    ("pocos", False),
                )
            )
            return Nominal(text, is_feminine, True, 5)
        return self._noun_phrase(rng, AGENTS.pick(rng), depth)

    def _object(self, rng: Random, depth: int = 0) -> str:
        """A direct object; people take the personal a."""
        roll = rng.random()
        if roll < 0.05:
            return f"a {self._name(rng)[0]}"
        if roll < 0.11:
            return either(
                rng,
                "algo|nada|todo|esto|eso|aquello|lo mismo|otra cosa|a alguien|a nadie|a todos|uno|una|"
                "lo que quieras|el mío|la suya|los nuestros|lo demás|muchas cosas|cualquier cosa",
            )
        noun = self._noun_phrase(rng, THINGS.pick(rng), depth)
        return f"a {noun.text}" if noun.is_person else noun.text

    def _plain_object(self, rng: Random, depth: int) -> str:
        """The object of a preposition, so without the personal a."""
        roll = rng.random()
        if roll < 0.1:
            return rng.choice(PREPOSITIONAL[2:])
        if roll < 0.2:
            return self._name(rng)[0]
        if roll < 0.25:
            return either(rng, "eso|esto|algo|todo|nada|todos|alguien|nadie|lo mismo|lo que pasó")
        return self._noun_phrase(rng, THINGS.pick(rng), depth).text
