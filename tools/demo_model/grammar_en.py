"""English sentences from phrase structure: who did what to whom, when and where.

Meaning is loose on purpose; agreement and form are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random

from tools.demo_model.grammar_en_occasions import EnglishOccasions
from tools.demo_model.grammar_en_phrases import (
    AGENTS,
    AGREES,
    BE,
    DATIVE_VERBS,
    NOT,
    PLACE_PREPOSITIONS,
    SUBJECTS,
    THING_PREPOSITIONS,
    Nominal,
)
from tools.demo_model.inflection_en import cardinal, indefinite_article, ordinal, possessive
from tools.demo_model.lexicon import Choice, Lexicon, capitalized, either, joined

_JOINERS = Choice({"and": 8, "but": 7, "so": 5, "or": 2, "yet": 1})
_SUBORDINATORS = Choice(
    {
        "when": 8, "because": 8, "if": 8, "although": 4, "while": 5, "before": 4, "after": 4, "until": 3,
        "since": 3, "as": 3,
        "unless": 2, "even though": 2, "as soon as": 2, "whenever": 1, "wherever": 0.5, "so that": 1,
        "once": 1, "even if": 1,
    }
)  # fmt: skip


_VERB_SECTIONS = (
    "transitive", "intransitive", "prepositional", "phrasal", "phrasal_intransitive", "linking", "clause_verbs",
    "infinitive_verbs", "gerund_verbs", "person_object",
)  # fmt: skip


class EnglishGrammar(EnglishOccasions):
    """Sentences of English; every draw comes from the generator handed in."""

    def __init__(self, lexicon: Lexicon) -> None:
        super().__init__(lexicon)
        self._kinds: tuple[tuple[Callable[[Random], str], float], ...] = (
            (self._statement, 26), (self._joined, 12), (self._subordinate, 12), (self._yes_no, 8), (self._wh, 8),
            (self._command, 7), (self._exclamation, 4), (self._quotation, 5), (self._there, 5), (self._comparison, 4),
            (self._numbers, 6), (self._dates, 5), (self._names, 5), (self._interjection, 6), (self._tag, 3),
            (self._passive, 5), (self._impersonal, 4), (self._listing, 3), (self._small_talk, 5), (self._fragment, 3),
        )  # fmt: skip
        self._kind = Choice({str(index): weight for index, (_, weight) in enumerate(self._kinds)})

    def sentence(self, rng: Random) -> str:
        """One sentence with its end mark; the first letter may still be small."""
        make, _ = self._kinds[int(self._kind.pick(rng))]
        return make(rng)

    def _statement(self, rng: Random) -> str:
        text = self._clause(rng)
        if rng.random() < 0.1:
            text = f"{self._lexicon.pick(rng, 'sentence_adverbs')}, {text}"
        elif rng.random() < 0.06:
            text = f"{self._lexicon.pick(rng, 'time_adverbs')} {text}"
        return text + "."

    def _joined(self, rng: Random) -> str:
        return f"{self._clause(rng, 1)}, {_JOINERS.pick(rng)} {self._clause(rng, 1)}."

    def _subordinate(self, rng: Random) -> str:
        joiner, first, second = _SUBORDINATORS.pick(rng), self._clause(rng, 1), self._clause(rng, 1)
        if rng.random() < 0.45 and joiner != "so that":
            return f"{joiner} {first}, {second}."
        return f"{first} {joiner} {second}."

    def _inverted(
        self,
        rng: Random,
        subject: Nominal,
        depth: int = 1,
        rest_of: Callable[[Random], tuple[str, str]] | None = None,
    ) -> str:
        verb, rest = rest_of(rng) if rest_of else self._frame(rng, depth)
        first, group = self._group(rng, verb, subject.agreement)
        if not first and group.startswith(("used to", "has to", "had to")):
            group = self._inflection.verb(verb).past if verb != "be" else "been"
            if verb == "be":
                first, group = BE["past"][subject.agreement], ""
        if not first:
            first, group = self._support(rng, group, verb, subject.agreement)
        if rng.random() < 0.1 and first in NOT:
            first = NOT[first]
        return joined(first, subject.text, group, rest)

    def _yes_no(self, rng: Random) -> str:
        return joined(self._inverted(rng, self._subject(rng, 1)), self._adverbial(rng, 1)) + "?"

    def _wh(self, rng: Random) -> str:
        subject = self._subject(rng, 2)
        noun = self._lexicon.pick(rng, either(rng, "things|abstract|food|animals"))
        roll = rng.random()
        if roll < 0.36:
            return (
                f"{either(rng, 'why|when|where|how|how often|how long|since when')}"
                f" {self._inverted(rng, subject)}?"
            )
        if roll < 0.62:
            what = rng.choice(
                (
                    "what",
                    "what",
                    "what",
                    "who",
                    "which one",
                    f"what kind of {noun}",
                    f"which {noun}",
                    f"whose {noun}",
                    f"how many {self._inflection.plural(noun)}",
                    f"how much {self._lexicon.pick(rng, 'mass')}",
                )
            )
            return (
                f"{what}"
                f" {self._inverted(rng, subject, 2, lambda draw: (self._lexicon.pick(draw, 'transitive'), ''))}?"
            )
        if roll < 0.78:
            return f"{rng.choice(('who', 'what', f'which {noun}'))} {self._predicate(rng, 'he', 1)}?"
        thing = self._noun_phrase(rng, either(rng, "things|places|people|abstract"), 2)
        be = BE[either(rng, "present|past")][thing.agreement]
        lead = rng.choice(
            (
                "what",
                "where",
                "who",
                "how",
                "when",
                f"how {self._adjective(rng)}",
                f"what {either(rng, 'color|size|shape')}",
                "whose",
            )
        )
        return f"{lead} {be} {thing.text}?"

    def _command(self, rng: Random) -> str:
        verb = self._bare(rng, 1)
        if verb.startswith("be "):
            verb = f"be {self._adjective(rng)}"
        text = rng.choice(
            (
                verb,
                verb,
                verb,
                f"please {verb}",
                f"don't {verb}",
                f"don't {verb}",
                f"let's {verb}",
                f"never {verb}",
                f"let me {verb}",
                f"always {verb}",
            )
        )
        roll = rng.random()
        if roll < 0.12:
            text += ", please"
        elif roll < 0.22:
            text = f"{self._name(rng)}, {text}"
        return joined(text, "" if text.endswith("please") else self._adverbial(rng, 1)) + either(
            rng, ".|.|.|!"
        )

    def _exclamation(self, rng: Random) -> str:
        roll = rng.random()
        if roll < 0.4:
            noun = self._lexicon.pick(rng, self._any_noun(rng))
            if rng.random() < 0.3 or noun.replace(" ", "_") in self._lexicon.section("mass"):
                return f"what {self._adjective(rng)} {self._plural(noun)}!"
            adjective = self._adjective(rng)
            return f"what {indefinite_article(adjective)} {adjective} {noun}!"
        if roll < 0.65:
            subject = self._subject(rng, 2)
            return (
                f"how {self._adjective(rng)} {subject.text}"
                f" {BE[either(rng, 'present|past')][subject.agreement]}!"
            )
        return self._clause(rng, 2) + "!"

    def _quotation(self, rng: Random) -> str:
        speaker = rng.choice((self._name(rng), SUBJECTS.pick(rng), self._noun_phrase(rng, "people", 2).text))
        verb = either(
            rng,
            "said|said|said|asked|answered|whispered|shouted|replied|cried|explained|added|thought",
        )
        words = self._clause(rng, 1)
        roll = rng.random()
        if roll < 0.5:
            return f'"{capitalized(words)}," {speaker} {verb}.'
        if roll < 0.75:
            return f'{speaker} {verb}, "{capitalized(words)}."'
        return f'"{capitalized(self._inverted(rng, self._subject(rng, 1)))}?" {speaker} {either(rng, "asked|wondered|said")}.'

    def _there(self, rng: Random) -> str:
        noun = self._noun_phrase(rng, self._any_noun(rng), 1, indefinite=True)
        if noun.agreement == "they":
            be = either(rng, "are|were|aren't|will be|have been|used to be|must be")
        else:
            be = either(rng, "is|was|isn't|wasn't|will be|has been|used to be|may be")
        where = f"{PLACE_PREPOSITIONS.pick(rng)} {self._noun_phrase(rng, 'places', 2).text}"
        if be in ("are", "is", "was", "were") and rng.random() < 0.2:
            return f"{be} there {noun.text} {where}?"
        return f"there {be} {noun.text} {rng.choice((where, where, self._adverbial(rng, 0)))}".strip() + "."

    def _comparison(self, rng: Random) -> str:
        one, two = self._subject(rng, 2), self._noun_phrase(rng, self._any_noun(rng), 2)
        be = BE[either(rng, "present|past")][one.agreement]
        short, long = self._lexicon.pick(rng, "adjectives_short"), self._lexicon.pick(rng, "adjectives")
        comparative, superlative = self._inflection.comparative(short), self._inflection.superlative(short)
        noun = self._lexicon.pick(rng, self._any_noun(rng))
        return rng.choice(
            (
                f"{one.text} {be} {comparative} than {two.text}.",
                f"{one.text} {be} {either(rng, 'more|less')} {long} than {two.text}.",
                f"{one.text} {be} as {rng.choice((short, long))} as {two.text}.",
                f"{one.text} {be} the {superlative} {noun} in"
                f" {rng.choice(('the world', 'town', 'the family', self._lexicon.pick(rng, 'countries')))}.",
                f"this is the most {long} {noun} of all.",
                f"the {comparative} the {noun}, the"
                f" {self._inflection.comparative(self._lexicon.pick(rng, 'adjectives_short'))} {two.text}.",
            )
        )

    def _interjection(self, rng: Random) -> str:
        word = self._lexicon.pick(rng, "interjections")
        roll = rng.random()
        if word.startswith(("how ", "why ")):
            return word + "?"
        if roll < 0.5:
            return word + either(rng, ".|.|!")
        if roll < 0.7:
            return f"{word}, {self._name(rng)}."
        return f"{word}, {self._clause(rng, 2)}."

    def _tag(self, rng: Random) -> str:
        pronoun = SUBJECTS.pick(rng)
        agreement = AGREES[pronoun]
        auxiliary = rng.choice(
            (BE["present"][agreement], BE["past"][agreement], "can", "will", "should", "would")
        )
        rest = (
            self._attribute(rng, 2, adjective_only=True)
            if auxiliary in ("am", "is", "are", "was", "were")
            else self._bare(rng, 2)
        )
        if auxiliary in NOT and rng.random() < 0.6:
            return f"{pronoun} {auxiliary} {rest}, {NOT[auxiliary]} {pronoun}?"
        if auxiliary in NOT:
            return f"{pronoun} {NOT[auxiliary]} {rest}, {auxiliary} {pronoun}?"
        return f"{pronoun} {auxiliary} {rest}, right?"

    def _passive(self, rng: Random) -> str:
        subject = self._noun_phrase(rng, self._any_noun(rng), 1)
        participle = self._inflection.verb(self._lexicon.pick(rng, "transitive")).participle
        be = rng.choice(
            (
                BE["present"][subject.agreement],
                BE["past"][subject.agreement],
                BE["past"][subject.agreement],
                "will be",
                "has been" if subject.agreement == "he" else "have been",
                "had been",
                "can be",
                "must be",
                "wasn't" if subject.agreement == "he" else "weren't",
            )
        )
        by = f"by {self._noun_phrase(rng, AGENTS.pick(rng), 2).text}" if rng.random() < 0.5 else ""
        return joined(subject.text, be, participle, by, self._adverbial(rng, 0)) + "."

    def _impersonal(self, rng: Random) -> str:
        it = either(rng, "it is|it was|it's|it's|it isn't|it will be|it would be|it wasn't")
        adjective = self._adjective(rng)
        return rng.choice(
            (
                f"{it} {adjective} to {self._bare(rng, 2)}.",
                f"{it} {adjective} that {self._clause(rng, 2)}.",
                f"{it} {either(rng, 'raining|snowing|getting dark|getting late|very cold|too hot|windy|cloudy')}"
                f" {self._lexicon.pick(rng, 'time_adverbs')}.",
                f"{it} {self._name(rng)} who {self._predicate(rng, 'he', 2)}.",
                f"{either(rng, 'it seems|i wonder if|it looks as if|no wonder|i am sure that|the problem is that|what matters is that')} {self._clause(rng, 2)}.",
            )
        )

    def _fragment(self, rng: Random) -> str:
        section = self._any_noun(rng)
        noun = self._noun_phrase(rng, section, 0).text
        return rng.choice(
            (
                f"{noun}.",
                f"{noun}?",
                f"{THING_PREPOSITIONS.pick(rng)} {noun}.",
                f"{self._lexicon.pick(rng, 'time_adverbs')}.",
                f"{self._adjective(rng)} and {self._adjective(rng)}.",
                f"not {noun}.",
                f"{self._name(rng)}?",
                f"{self.open_word(rng)}.",
            )
        )

    def every_form(self) -> Iterator[str]:
        """Every word that sentences and open words can hold, inflected."""
        lexicon, inflect = self._lexicon, self._inflection
        yield from lexicon.everything()
        for section in ("people", "animals", "things", "food", "places", "abstract", "body"):
            for noun in lexicon.section(section):
                yield inflect.plural(noun.replace("_", " "))
        for section in _VERB_SECTIONS:
            for entry in (*lexicon.section(section), *DATIVE_VERBS):
                verb = inflect.verb(entry.split(":")[0])
                yield from (verb.third, verb.past, verb.participle, verb.gerund)
        for adjective in lexicon.section("adjectives_short"):
            yield from (inflect.comparative(adjective), inflect.superlative(adjective))
        for section in ("people", "names_female", "names_male", "surnames"):
            yield from map(possessive, lexicon.section(section))
        for number in range(100):
            yield from (cardinal(number), ordinal(number))

    def finish(self, text: str) -> str:
        """The pronoun I in capitals, the first letter too."""
        return capitalized(re.sub(r"\bi(?=['\s,.?!\"]|$)", "I", text))
