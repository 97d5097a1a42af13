"""Spanish sentences from phrase structure: agreement of gender, number and person holds throughout.

Meaning is loose on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random

from tools.demo_model.grammar_es_clauses import DATIVE_VERBS, PREPOSITIONS, REFLEXIVE
from tools.demo_model.grammar_es_occasions import ORDINALS, SpanishOccasions
from tools.demo_model.grammar_es_phrases import AGENTS, THINGS, Nominal
from tools.demo_model.inflection_es import TENSES, attach, cardinal
from tools.demo_model.lexicon import Choice, Lexicon, capitalized, either, joined

_SUBORDINATORS = Choice(
    {
        "porque": 9,
        "cuando": 8,
        "si": 6,
        "aunque": 6,
        "mientras": 5,
        "como": 2,
        "ya que": 2,
        "pues": 1,
        "donde": 1,
        "desde que": 2,
        "puesto que": 0.7,
        "así que": 3,
    }
)
_BEFORE = frozenset("bueno malo grande primero tercero mejor peor mismo otro".split())
_VERB_SECTIONS = (
    "transitive", "intransitive", "prepositional", "reflexive", "clause_verbs", "subjunctive_verbs",
    "infinitive_verbs", "gustar_verbs",
)  # fmt: skip
_SAYING_VERBS = (
    "decir", "decir", "preguntar", "contestar", "responder", "gritar", "susurrar", "explicar", "añadir",
    "exclamar", "pensar",
)  # fmt: skip
_VERBS_BY_NAME = frozenset(
    (*DATIVE_VERBS, *_SAYING_VERBS, "ser", "estar", "haber", "tener", "ir", "poder", "querer", "deber", "soler", "acabar", "volver", "empezar",
     "costar", "quedar", "hablar", "viajar", "comprar", "ver", "parecer")
)  # fmt: skip
_ATTACHED = (
    "lo", "la", "los", "las", "me", "te", "se", "le", "nos", "os", "les", "melo", "mela", "telo", "selo",
    "sela", "selas", "selos", "noslos", "nosla",
)  # fmt: skip


class SpanishGrammar(SpanishOccasions):
    """Sentences and loose words of Spanish; every draw comes from the generator handed in."""

    def __init__(self, lexicon: Lexicon) -> None:
        super().__init__(lexicon)
        self._kinds: tuple[tuple[Callable[[Random], str], float], ...] = (
            (self._statement, 28), (self._joined, 12), (self._subordinate, 12), (self._yes_no, 9), (self._wh, 9),
            (self._command, 7), (self._exclamation, 5), (self._quotation, 4), (self._there, 5), (self._comparison, 4),
            (self._numbers, 6), (self._dates, 5), (self._names, 5), (self._interjection, 6), (self._wish, 4),
            (self._passive, 4), (self._impersonal, 4), (self._listing, 3), (self._small_talk, 5), (self._fragment, 3),
            (self._unreal, 3),
        )  # fmt: skip
        self._kind = Choice({str(index): weight for index, (_, weight) in enumerate(self._kinds)})

    def sentence(self, rng: Random) -> str:
        """One sentence with its marks; the first letter may still be small."""
        make, _ = self._kinds[int(self._kind.pick(rng))]
        return make(rng)

    def finish(self, text: str) -> str:
        """Contractions between words, then the first letter in capitals."""
        return capitalized(polish(text))

    def every_form(self) -> Iterator[str]:
        """Every word that sentences and open words can hold, inflected."""
        lexicon, inflect = self._lexicon, self._inflection
        yield from lexicon.everything()
        for kind in ("animals", "things", "food", "places", "abstract", "body", "mass"):
            for section in (f"{kind}_m", f"{kind}_f"):
                yield from map(inflect.plural, lexicon.section(section))
        for pair in lexicon.section("people"):
            yield from map(inflect.plural, pair.split(":"))
        for adjective in (*lexicon.section("adjectives"), *_BEFORE, *ORDINALS):
            for is_feminine in (False, True):
                yield from (
                    inflect.adjective(adjective, is_feminine, False),
                    inflect.adjective(adjective, is_feminine, True),
                )
        verbs = {entry.split(":")[0] for section in _VERB_SECTIONS for entry in lexicon.section(section)}
        for verb in sorted(verbs | _VERBS_BY_NAME):
            yield from (verb, inflect.gerund(verb))
            for tense in TENSES:
                yield from inflect.row(verb, tense)
            participle = inflect.participle(verb)
            yield from (
                inflect.adjective(participle, gender, number)
                for gender in (False, True)
                for number in (False, True)
            )
            for clitics in _ATTACHED:
                yield from (attach(verb, clitics), attach(inflect.gerund(verb), clitics))
            for person in range(1, 6):
                yield inflect.command(verb, person)
                yield from (attach(inflect.command(verb, person), clitics) for clitics in _ATTACHED)
        for number in range(1, 1000):
            yield from (cardinal(number), cardinal(number, before="m"), cardinal(number, before="f"))

    def _timed(self, rng: Random, depth: int) -> str:
        """A clause whose time adverb fits its tense."""
        section, tense = rng.choice(
            (
                ("time_present", "present"),
                ("time_past", "preterite"),
                ("time_past", "imperfect"),
                ("time_future", "future"),
                ("time_future", "ir a"),
            )
        )
        when, clause = self._lexicon.pick(rng, section), self._clause(rng, depth, tense=tense)
        return f"{when} {clause}" if rng.random() < 0.5 else f"{clause} {when}"

    def _statement(self, rng: Random) -> str:
        roll = rng.random()
        if roll < 0.3:
            return self._timed(rng, 1) + "."
        text = self._clause(rng)
        if roll < 0.4:
            text = f"{self._lexicon.pick(rng, 'sentence_adverbs')}, {text}"
        return text + "."

    def _joined(self, rng: Random) -> str:
        joiner = either(rng, " y| y|, pero|, pero| o|, así que|, sino que|, ni|, y|, pues")
        return f"{self._clause(rng, 1)}{joiner} {self._clause(rng, 1)}."

    def _subordinate(self, rng: Random) -> str:
        roll = rng.random()
        first, second = self._clause(rng, 1), self._clause(rng, 1)
        if roll < 0.22:
            joiner = either(
                rng,
                "para que|antes de que|sin que|a menos que|con tal de que|cuando|aunque|hasta que|en cuanto|"
                "ojalá",
            )
            if joiner == "ojalá":
                return f"ojalá {self._clause(rng, 1, tense='subjunctive')}."
            return (
                f"{self._clause(rng, 1, tense=either(rng, 'future|present|ir a'))} {joiner}"
                f" {self._clause(rng, 2, tense='subjunctive')}."
            )
        joiner = _SUBORDINATORS.pick(rng)
        if roll < 0.55 and joiner not in ("pues", "así que"):
            return f"{joiner} {first}, {second}."
        return f"{first}{',' if joiner in ('pues', 'así que') else ''} {joiner} {second}."

    def _yes_no(self, rng: Random) -> str:
        subject = self._subject(rng, 1)
        predicate = self._predicate(rng, subject, 1)
        text = joined(predicate, subject.text) if rng.random() < 0.2 else joined(subject.text, predicate)
        if rng.random() < 0.1:
            text = self._likes(rng, 1, "")
        return f"¿{either(rng, '|||y |pero |entonces ')}{text}?"

    def _wh(self, rng: Random) -> str:
        subject = self._subject(rng, 2)
        noun, is_feminine = self._noun(rng, either(rng, "things|abstract|food|people"))
        finite = self._finite(rng, self._lexicon.pick(rng, "transitive"), subject.person)
        o = "a" if is_feminine else "o"
        roll = rng.random()
        if roll < 0.45:
            lead = either(
                rng,
                "qué|qué|dónde|cuándo|cómo|por qué|por qué|para qué|a quién|cuánto|de dónde|adónde|con quién|"
                "desde cuándo|cuántas veces",
            )
            return f"¿{joined(lead, either(rng, '||no'), finite, subject.text)}?"
        if roll < 0.6:
            asked = (
                f"qué {noun}",
                f"cuánt{o}s {self._inflection.plural(noun)}",
                f"de qué {noun}",
                f"con qué {noun}",
            )
            return f"¿{joined(rng.choice(asked), finite, subject.text)}?"
        if roll < 0.75:
            return f"¿quién {self._predicate(rng, Nominal('', False, False, 2), 1)}?"
        thing = self._noun_phrase(rng, either(rng, "things|places|people|abstract"), 2)
        asked_word, verb = rng.choice(
            (
                ("dónde", "estar"),
                ("cómo", "ser"),
                ("cuál", "ser"),
                ("de quién", "ser"),
                ("cómo", "estar"),
                ("qué", "ser"),
                ("cuándo", "ser"),
                ("quién", "ser"),
                ("cuánto", "costar"),
                ("de qué color", "ser"),
            )
        )
        word = asked_word + ("es" if asked_word in ("cuál", "quién") and thing.is_plural else "")
        return (
            f"¿{word}"
            f" {self._inflection.finite(verb, either(rng, 'present|present|imperfect'), thing.person)} {thing.text}?"
        )

    def _command(self, rng: Random) -> str:
        person = rng.choice((1, 1, 1, 2, 2, 3, 4, 5))
        roll = rng.random()
        negative = rng.random() < 0.3
        if roll < 0.5:
            verb, clitics, rest = self._lexicon.pick(rng, "transitive"), "", self._object(rng, 1)
        elif roll < 0.75:
            verb, clitics, rest = (
                self._lexicon.pick(rng, "transitive"),
                either(rng, "lo|la|los|las|me|nos|le|me lo|nos la|se lo"),
                "",
            )
            if person == 3 and clitics.startswith(("me", "nos", "se")):
                clitics = "lo"
        elif roll < 0.9:
            verb, clitics, rest = self._lexicon.pick(rng, "reflexive"), REFLEXIVE[person], ""
        else:
            verb, clitics, rest = self._lexicon.pick(rng, "intransitive"), "", ""
        if verb == "ir" and clitics:
            verb = "quedar"
        if negative:
            form = joined("no", clitics, self._inflection.finite(verb, "subjunctive", person))
        else:
            form = self._inflection.command(verb, person)
            form = attach(form, clitics.replace(" ", "")) if clitics else form
        text = joined(form, rest, self._adverbial(rng, 1))
        roll = rng.random()
        if roll < 0.12:
            text += ", por favor"
        elif roll < 0.2:
            text = (
                f"{self._lexicon.pick(rng, 'names_female' if rng.random() < 0.5 else 'names_male')}, {text}"
            )
        return f"¡{text}!" if rng.random() < 0.25 else f"{text}."

    def _exclamation(self, rng: Random) -> str:
        roll = rng.random()
        noun, is_feminine = self._noun(rng, THINGS.pick(rng))
        if roll < 0.3:
            return f"¡qué {noun} {either(rng, 'tan|más')} {self._adjective(rng, is_feminine, False)}!"
        subject = self._subject(rng, 2)
        if roll < 0.55:
            verb = either(rng, "ser|estar")
            return f"¡{joined('qué', self._adjective(rng, subject.is_feminine, subject.is_plural), self._inflection.finite(verb, either(rng, 'present|imperfect'), subject.person), subject.text)}!"
        if roll < 0.65:
            return (
                "¡cómo"
                f" {joined(self._finite(rng, self._lexicon.pick(rng, 'intransitive'), subject.person), subject.text)}!"
            )
        if roll < 0.72:
            return f"¡cuánt{'a' if is_feminine else 'o'}s {self._inflection.plural(noun)}!"
        return f"¡{self._clause(rng, 2)}!"

    def _quotation(self, rng: Random) -> str:
        speaker = self._noun_phrase(rng, "people", 2)
        if rng.random() < 0.5:
            speaker = Nominal(self._name(rng)[0], False, False, 2)
        said = self._inflection.finite(rng.choice(_SAYING_VERBS), "preterite", speaker.person)
        words = capitalized(self._clause(rng, 1))
        if rng.random() < 0.5:
            return f'"{words}", {said} {speaker.text}.'
        return f'{speaker.text} {said}, "{words}."'

    def _there(self, rng: Random) -> str:
        noun = self._noun_phrase(rng, THINGS.pick(rng), 1, indefinite=True).text
        be = either(
            rng,
            "hay|hay|hay|había|hubo|habrá|no hay|no había|ha habido|habría|va a haber",
        )
        where = f"{PREPOSITIONS.pick(rng)} {self._noun_phrase(rng, 'places', 2).text}"
        roll = rng.random()
        if roll < 0.15:
            return f"¿{be} {noun} {where}?"
        if roll < 0.35:
            return f"{where} {be} {noun}."
        return f"{be} {noun} {where}."

    def _comparison(self, rng: Random) -> str:
        one, two = self._subject(rng, 2), self._noun_phrase(rng, THINGS.pick(rng), 2)
        verb = self._inflection.finite(
            either(rng, "ser|ser|estar|parecer"), either(rng, "present|imperfect"), one.person
        )
        adjective = self._adjective(rng, one.is_feminine, one.is_plural)
        noun, is_feminine = self._noun(rng, THINGS.pick(rng))
        article = "la" if is_feminine and noun not in self._stressed_a else "el"
        return rng.choice(
            (
                f"{joined(one.text, verb)} {either(rng, 'más|menos')} {adjective} que {two.text}.",
                f"{joined(one.text, verb)} tan {adjective} como {two.text}.",
                f"{article} {noun} más {self._adjective(rng, is_feminine, False)} de"
                f" {self._lexicon.pick(rng, 'cities')} es"
                f" {either(rng, 'esta|esa') if is_feminine else either(rng, 'este|ese')}.",
                f"es {article} {either(rng, 'mejor|peor|mayor|menor')} {noun}"
                f" {either(rng, 'del mundo|de todos|del país|de la ciudad')}."
                if article == "el" and not is_feminine
                else f"es la {either(rng, 'mejor|peor|mayor|menor')} {noun} {either(rng, 'del mundo|de todas|del país|de la ciudad')}.",
                f"{joined(one.text, self._finite(rng, self._lexicon.pick(rng, 'intransitive'), one.person))} {either(rng, 'más|menos|tanto|mejor|peor')} que {two.text}.".replace(
                    "tanto que", "tanto como"
                ),
            )
        )

    def _wish(self, rng: Random) -> str:
        lead = either(
            rng,
            "espero que|quiero que|ojalá|es posible que|no creo que|es mejor que|me alegro de que|quizás|"
            "dudo que|hace falta que|es importante que|no es verdad que|tal vez|que",
        )
        return (
            f"{lead}"
            f" {self._clause(rng, 1, tense=either(rng, 'subjunctive|subjunctive|perfect subjunctive'))}."
        )

    def _unreal(self, rng: Random) -> str:
        one, two = (
            self._clause(rng, 2, tense="imperfect_subjunctive"),
            self._clause(rng, 2, tense="conditional"),
        )
        return f"si {one}, {two}." if rng.random() < 0.7 else f"{two} si {one}."

    def _passive(self, rng: Random) -> str:
        subject = self._noun_phrase(rng, THINGS.pick(rng), 1)
        participle = self._inflection.participle(self._lexicon.pick(rng, "transitive"))
        if rng.random() < 0.5:
            verb = self._inflection.finite(
                self._lexicon.pick(rng, "transitive"),
                either(rng, "present|preterite|imperfect|future"),
                subject.person,
            )
            return f"se {verb} {subject.text}."
        be = self._inflection.finite(
            "ser", either(rng, "preterite|preterite|future|imperfect|present"), subject.person
        )
        return (
            joined(
                subject.text,
                be,
                self._inflection.adjective(participle, subject.is_feminine, subject.is_plural),
                f"por {self._noun_phrase(rng, AGENTS.pick(rng), 2).text}",
            )
            + "."
        )

    def _impersonal(self, rng: Random) -> str:
        adjective = self._lexicon.pick(rng, "adjectives")
        return rng.choice(
            (
                f"{either(rng, 'es|era|será|no es|fue|sería|parece')} {adjective} {self._infinitive(rng)}.",
                f"{either(rng, 'hay que|había que|no hay que|habrá que')} {self._infinitive(rng)}.",
                f"{either(rng, 'hace|hacía|hizo|va a hacer')}"
                f" {either(rng, 'frío|calor|viento|sol|buen tiempo|mal tiempo|mucho frío|mucho calor')}"
                f" {self._lexicon.pick(rng, 'place_adverbs')}.",
                f"{either(rng, 'llueve|está lloviendo|nieva|está nevando|llovía|nevó|llovió|lloverá')}"
                f" {rng.choice(('mucho', 'otra vez', 'en ' + self._lexicon.pick(rng, 'cities'), 'desde ayer'))}.",
                f"lo {adjective} es que {self._clause(rng, 2)}.",
                f"{either(rng, 'parece que|resulta que|es verdad que|no sé si|menos mal que|la verdad es que|está claro que|se dice que|lo que pasa es que')} {self._clause(rng, 2)}.",
            )
        )

    def _fragment(self, rng: Random) -> str:
        noun = self._noun_phrase(rng, THINGS.pick(rng), 0)
        return rng.choice(
            (
                f"{noun.text}.",
                f"¿{noun.text}?",
                f"{PREPOSITIONS.pick(rng)} {noun.text}.",
                f"{self._lexicon.pick(rng, 'time_present')}.",
                f"{self._adjective(rng, True, False)} y {self._adjective(rng, True, False)}.",
                f"¿{self._name(rng)[0]}?",
                f"{self.open_word(rng)}.",
                f"ni {noun.text} ni {self._noun_phrase(rng, THINGS.pick(rng), 2).text}.",
            )
        )


_SPACES = re.compile(r"\s+")


def polish(text: str) -> str:
    """Contractions and sound rules between words: del, al, e before i, u before o."""
    text = _SPACES.sub(" ", text).strip()
    text = re.sub(r"\b([Dd])e el (?=\S)", r"\1el ", text)
    text = re.sub(r"\b([Aa]) el (?=\S)", r"\1l ", text)
    text = re.sub(r"\by (?=(?:h?[ií])(?![aeoáéó]))", "e ", text, flags=re.IGNORECASE)
    return re.sub(r"\bo (?=h?[oó])", "u ", text)
