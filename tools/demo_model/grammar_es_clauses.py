"""Spanish clauses: conjugated verbs, pronouns before and behind them, negation, complements and adverbials."""

from __future__ import annotations

from random import Random

from tools.demo_model.grammar_es_phrases import DROPPED, THINGS, Nominal, SpanishPhrases
from tools.demo_model.inflection_es import attach, cardinal
from tools.demo_model.lexicon import Choice, either, joined

REFLEXIVE = ("me", "te", "se", "nos", "os", "se")
_DATIVE = ("me", "te", "le", "nos", "os", "les")
_TENSES = Choice(
    {
        "present": 26, "preterite": 22, "imperfect": 10, "future": 7, "conditional": 4, "perfect": 10,
        "pluperfect": 4,
        "progressive": 5, "ir a": 6, "modal": 7, "past progressive": 2, "future perfect": 0.7,
        "conditional perfect": 0.7,
    }
)  # fmt: skip
_FRAMES = Choice(
    {
        "transitive": 34, "clitic": 9, "intransitive": 11, "prepositional": 12, "reflexive": 8, "ser": 7,
        "estar": 7, "clause": 6,
        "infinitive": 5, "dative": 6, "tener": 3, "subjunctive": 3,
    }
)  # fmt: skip
PREPOSITIONS = Choice(
    {
        "en": 14, "con": 10, "de": 8, "para": 7, "por": 7, "sin": 5, "sobre": 4, "desde": 3, "hasta": 3,
        "hacia": 2, "entre": 1.5,
        "contra": 1.5, "según": 1, "durante": 2, "tras": 0.7, "bajo": 1, "cerca de": 2, "lejos de": 1.5,
        "delante de": 1.5,
        "detrás de": 1.5, "encima de": 1.5, "debajo de": 1.5, "al lado de": 2, "dentro de": 1.5,
        "fuera de": 1, "después de": 2,
        "antes de": 2, "a causa de": 0.7, "gracias a": 0.7, "junto a": 1, "frente a": 1, "alrededor de": 0.8,
        "en lugar de": 0.7,
        "a través de": 0.7, "ante": 0.4, "además de": 0.7, "excepto": 0.3, "a pesar de": 0.7,
    }
)  # fmt: skip
DATIVE_VERBS = (
    "dar", "decir", "enviar", "enseñar", "regalar", "contar", "ofrecer", "pedir", "mostrar", "traer",
    "escribir", "comprar", "vender",
    "explicar", "prestar", "mandar", "preguntar", "devolver",
)  # fmt: skip


class SpanishClauses(SpanishPhrases):
    """Clauses whose verb agrees with their subject."""

    def _postmodifier(self, rng: Random, is_plural: bool, depth: int) -> str:
        roll = rng.random()
        if roll < 0.13:
            return f"de {self._noun_phrase(rng, THINGS.pick(rng), depth + 1).text}"
        if roll < 0.15:
            return f"de {self._name(rng)[0]}"
        if roll < 0.18:
            return f"{PREPOSITIONS.pick(rng)} {self._noun_phrase(rng, 'places', 2).text}"
        if roll < 0.22:
            return f"que {self._predicate(rng, Nominal('', False, is_plural, 5 if is_plural else 2), 2)}"
        if roll < 0.24:
            verb, tense = self._lexicon.pick(rng, "transitive"), either(rng, "preterite|present|imperfect")
            return f"que {self._inflection.finite(verb, tense, int(DROPPED.pick(rng)))}"
        return ""

    def _finite(self, rng: Random, verb: str, person: int, *, tense: str = "") -> str:
        """A finite verb group with no pronouns before it."""
        return self._with_clitics(rng, verb, person, "", tense=tense)

    def _with_clitics(self, rng: Random, verb: str, person: int, clitics: str, *, tense: str = "") -> str:
        """A finite verb group; clitics stand before it or hang on its infinitive or gerund."""
        inflection = self._inflection
        tense = tense or _TENSES.pick(rng)
        helpers = {
            "perfect": "present",
            "pluperfect": "imperfect",
            "future perfect": "future",
            "conditional perfect": "conditional",
            "perfect subjunctive": "subjunctive",
        }
        if tense in helpers:
            return joined(
                clitics, inflection.finite("haber", helpers[tense], person), inflection.participle(verb)
            )
        if tense in ("progressive", "past progressive") and verb not in ("ser", "estar", "ir", "venir"):
            helper = inflection.finite("estar", "present" if tense == "progressive" else "imperfect", person)
            return self._hang(rng, helper, inflection.gerund(verb), clitics)
        if tense == "ir a":
            return self._hang(
                rng,
                f"{inflection.finite('ir', either(rng, 'present|present|imperfect'), person)} a",
                verb,
                clitics,
            )
        if tense == "modal":
            modal = either(rng, "poder|querer|deber|tener que|soler|poder|acabar de|volver a|empezar a")
            head, _, link = modal.partition(" ")
            simple = (
                "present"
                if head == "soler"
                else either(rng, "present|present|imperfect|preterite|conditional")
            )
            return self._hang(rng, joined(inflection.finite(head, simple, person), link), verb, clitics)
        if tense in ("progressive", "past progressive"):
            tense = "present"
        return joined(clitics, inflection.finite(verb, tense, person))

    def _hang(self, rng: Random, helper: str, form: str, clitics: str) -> str:
        if clitics and rng.random() < 0.6:
            return f"{helper} {attach(form, clitics.replace(' ', ''))}"
        return joined(clitics, helper, form)

    def _predicate(self, rng: Random, subject: Nominal, depth: int, *, tense: str = "") -> str:
        """Negation, verb group, complement and adverbials that agree with the subject."""
        pick, person = self._lexicon.pick, subject.person
        frame = _FRAMES.pick(rng)
        if depth > 1 and frame in ("clause", "infinitive", "subjunctive"):
            frame = "transitive"
        clitics, rest = "", ""
        if frame in ("ser", "estar"):
            verb, rest = frame, self._attribute(rng, frame, subject, depth)
        elif frame == "clitic":
            verb = pick(rng, "transitive")
            clitics = either(
                rng,
                "lo|la|los|las|lo|la|te|me|nos|se lo|se la|me lo|te lo|nos los|se las|le|les",
            )
            clitics = self._compatible(clitics, person)
        elif frame == "dative":
            verb = rng.choice(DATIVE_VERBS)
            noun = self._noun_phrase(rng, either(rng, "things|abstract|food"), 2).text
            to = self._noun_phrase(rng, "people", 2)
            clitics = either(rng, "le|le|les|me|te|nos")
            clitics = self._compatible(clitics, person)
            rest = noun
            if clitics in ("le", "les") and rng.random() < 0.6:
                clitics = "les" if to.is_plural else "le"
                rest = f"{noun} a {to.text}"
        elif frame == "reflexive":
            verb, clitics = pick(rng, "reflexive"), REFLEXIVE[person]
            rest = rng.choice(
                ("", "", joined(PREPOSITIONS.pick(rng), self._noun_phrase(rng, THINGS.pick(rng), 2).text))
            )
        elif frame == "prepositional":
            verb, preposition = pick(rng, "prepositional").split(":")
            rest = f"{preposition} {self._plain_object(rng, depth)}"
        elif frame == "clause":
            verb, rest = pick(rng, "clause_verbs"), f"que {self._clause(rng, depth + 1)}"
        elif frame == "subjunctive":
            verb, other = pick(rng, "subjunctive_verbs"), self._subject(rng, 2)
            tense = tense or either(rng, "present|present|preterite|imperfect")
            mood = "subjunctive" if tense in ("present", "future", "perfect") else "imperfect_subjunctive"
            if "subjunctive" in tense:
                mood = tense
            rest = f"que {joined(other.text, self._predicate(rng, other, 2, tense=mood))}"
        elif frame == "infinitive":
            verb, rest = pick(rng, "infinitive_verbs"), self._infinitive(rng)
            if verb == "soler":
                tense = tense if "subjunctive" in tense else either(rng, "present|imperfect")
        elif frame == "tener":
            verb = "tener"
            rest = rng.choice(
                (
                    self._object(rng, depth),
                    rng.choice(
                        (
                            "hambre",
                            "sed",
                            "frío",
                            "calor",
                            "sueño",
                            "miedo",
                            "prisa",
                            "razón",
                            "suerte",
                            "ganas de salir",
                            "mucho tiempo",
                            "que trabajar",
                            f"{cardinal(rng.randrange(2, 100), before='m')} años",
                        )
                    ),
                )
            )
        elif frame == "transitive":
            verb, rest = pick(rng, "transitive"), self._object(rng, depth)
        else:
            verb = pick(rng, "intransitive")
        group = self._with_clitics(rng, verb, person, clitics, tense=tense)
        negation = either(rng, "no|no|no|no|nunca|ya no|todavía no|tampoco") if rng.random() < 0.13 else ""
        often = self._lexicon.pick(rng, "frequency") + " " if not negation and rng.random() < 0.05 else ""
        return joined(negation, often.strip(), group, rest, self._adverbial(rng, depth))

    @staticmethod
    def _compatible(clitics: str, person: int) -> str:
        """First and second persons do not take themselves as someone else's pronoun."""
        first = clitics.split(" ")[0]
        if (person in (0, 3) and first in ("me", "nos")) or (person in (1, 4) and first == "te"):
            return clitics.replace(first, "le" if " " not in clitics else "se", 1)
        return clitics

    def _infinitive(self, rng: Random) -> str:
        verb = self._lexicon.pick(rng, "transitive")
        if rng.random() < 0.3:
            return attach(verb, either(rng, "lo|la|los|las|me|te|nos|le|melo|telo|selo|sela"))
        if rng.random() < 0.25:
            return self._lexicon.pick(rng, "intransitive")
        return f"{verb} {self._object(rng, 2)}"

    def _likes(self, rng: Random, depth: int, tense: str) -> str:
        """Verbs whose subject follows: me gusta el mar, nos faltan dos sillas."""
        verb, person = self._lexicon.pick(rng, "gustar_verbs"), int(DROPPED.pick(rng))
        thing = self._noun_phrase(rng, THINGS.pick(rng), depth)
        simple = (
            tense
            if tense in ("subjunctive", "imperfect_subjunctive")
            else either(rng, "present|present|present|imperfect|preterite|conditional")
        )
        if rng.random() < 0.25 and depth < 2:
            return joined(
                either(rng, "||no"),
                _DATIVE[person],
                self._inflection.finite(verb, simple, 2),
                self._infinitive(rng),
            )
        return joined(
            either(rng, "||no"),
            _DATIVE[person],
            self._inflection.finite(verb, simple, thing.person),
            thing.text,
        )

    def _attribute(self, rng: Random, verb: str, subject: Nominal, depth: int) -> str:
        roll = rng.random()
        if roll < 0.55:
            degree = self._lexicon.pick(rng, "degree") if rng.random() < 0.35 else ""
            return joined(degree, self._adjective(rng, subject.is_feminine, subject.is_plural))
        if verb == "estar":
            if roll < 0.8:
                return f"{PREPOSITIONS.pick(rng)} {self._noun_phrase(rng, 'places', 2).text}"
            return self._lexicon.pick(rng, "place_adverbs")
        if roll < 0.65:
            return f"de {self._plain_object(rng, 2)}"
        return self._noun_phrase(rng, either(rng, "people|abstract|things"), depth).text

    def _adverbial(self, rng: Random, depth: int) -> str:
        roll = rng.random()
        if depth > 1 or roll < 0.6:
            return ""
        if roll < 0.68:
            return self._lexicon.pick(rng, "adverbs")
        if roll < 0.74:
            return self._lexicon.pick(rng, "place_adverbs")
        if roll < 0.82:
            return self._lexicon.pick(rng, either(rng, "time_present|time_past|time_future"))
        if roll < 0.97:
            return f"{PREPOSITIONS.pick(rng)} {self._plain_object(rng, 2)}"
        return f"en {self._lexicon.pick(rng, either(rng, 'cities|countries'))}"

    def _clause(self, rng: Random, depth: int = 0, *, tense: str = "") -> str:
        if rng.random() < 0.05:
            return self._likes(rng, depth, tense)
        subject = self._subject(rng, depth)
        return joined(subject.text, self._predicate(rng, subject, depth, tense=tense))
