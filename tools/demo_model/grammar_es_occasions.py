"""Spanish sentences of everyday occasions: numbers, dates, hours, names, lists, greetings. All numbers are words."""

from __future__ import annotations

from random import Random

from tools.demo_model.grammar_es_clauses import PREPOSITIONS, SpanishClauses
from tools.demo_model.grammar_es_phrases import APOCOPE, DROPPED, Nominal
from tools.demo_model.inflection_es import cardinal
from tools.demo_model.lexicon import either, join_list

ORDINALS = [
    "primero",
    "segundo",
    "tercero",
    "cuarto",
    "quinto",
    "sexto",
    "séptimo",
    "octavo",
    "noveno",
    "décimo",
    "último",
]


class SpanishOccasions(SpanishClauses):
    """Sentences whose frame is fixed and whose parts are free."""

    def _numbers(self, rng: Random) -> str:
        number = rng.choice(
            (
                rng.randrange(2, 21),
                rng.randrange(20, 100),
                rng.randrange(100, 1000),
                rng.randrange(1, 10) * 10 ** rng.randrange(1, 5),
                rng.randrange(1000, 100_000),
            )
        )
        noun, is_feminine = self._noun(rng, either(rng, "things|people|animals|food"))
        counted = f"{cardinal(number, before='f' if is_feminine else 'm')} {self._inflection.plural(noun)}"
        unit, unit_is_feminine = rng.choice(
            (
                ("euros", False),
                ("pesos", False),
                ("kilómetros", False),
                ("metros", False),
                ("kilos", False),
                ("horas", True),
                ("días", False),
                ("años", False),
                ("semanas", True),
                ("veces", True),
                ("litros", False),
                ("grados", False),
                ("minutos", False),
                ("páginas", True),
            )
        )
        amount = f"{cardinal(number, before='f' if unit_is_feminine else 'm')} {unit}"
        person = int(DROPPED.pick(rng))
        return rng.choice(
            (
                f"{self._finite(rng, self._lexicon.pick(rng, 'transitive'), person)} {counted}.",
                f"{either(rng, 'cuesta|costó|cuestan|tardó|faltan|son|quedan|hacen falta|pesa|mide')}"
                f" {amount}.",
                f"{self._name(rng)[0]} tiene {cardinal(rng.randrange(2, 100), before='m')} años.",
                f"hace {amount} que {self._clause(rng, 2)}.",
                "mi número es el"
                f" {', '.join(cardinal(rng.randrange(10)) for _ in range(rng.randrange(3, 8)))}.",
                f"{self._name(rng)[0]} vive en el número {cardinal(rng.randrange(1, 200))} de la calle"
                f" {self._lexicon.pick(rng, 'surnames')}.",
                f"{cardinal(rng.randrange(1, 30))} {either(rng, 'más|menos|por')}"
                f" {cardinal(rng.randrange(1, 30))} son {cardinal(rng.randrange(2, 60))}.",
                f"es {'la' if is_feminine else 'el'} {self._ordinal(rng, is_feminine)} {noun} de la lista.",
                f"hay {counted} en {self._noun_phrase(rng, 'places', 2).text}.",
                f"abre el libro por la página {cardinal(rng.randrange(2, 500))}.",
                f"{cardinal(number)}.",
            )
        )

    def _ordinal(self, rng: Random, is_feminine: bool) -> str:
        word = rng.choice(ORDINALS)
        if not is_feminine and word in APOCOPE:
            return APOCOPE[word]
        return self._inflection.adjective(word, is_feminine, False)

    def _clock(self, rng: Random) -> str:
        hour = rng.randrange(1, 13)
        base = "la una" if hour == 1 else f"las {cardinal(hour)}"
        tail = either(
            rng,
            "|| en punto| y media| y cuarto| menos cuarto| y diez| y veinte| menos diez| menos cinco|"
            " y cinco| de la mañana| de la tarde| de la noche",
        )
        return base + tail

    def _dates(self, rng: Random) -> str:
        weekday, month = self._lexicon.pick(rng, "weekdays"), self._lexicon.pick(rng, "months")
        day = rng.choice(("primero", cardinal(rng.randrange(2, 32))))
        when = rng.choice(
            (
                f"el {weekday}",
                f"el {day} de {month}",
                f"en {month}",
                f"a {self._clock(rng)}",
                f"el {weekday} a {self._clock(rng)}",
                f"el {weekday} por la {either(rng, 'mañana|tarde|noche')}",
                f"el {day} de {month} de {cardinal(rng.randrange(1700, 2050))}",
                f"en {cardinal(rng.randrange(1700, 2050))}",
                f"desde {self._clock(rng)} hasta {self._clock(rng)}",
                f"en {either(rng, 'primavera|verano|otoño|invierno')}",
                f"antes de {self._lexicon.pick(rng, 'holidays')}",
                f"cada {weekday}",
            )
        )
        hour = self._clock(rng)
        return rng.choice(
            (
                f"{self._clause(rng, 2)} {when}.",
                f"{when} {self._clause(rng, 2)}.",
                f"{either(rng, 'son|eran')} {hour}."
                if hour.startswith("las")
                else f"{either(rng, 'es|era')} {hour}.",
                f"hoy es {weekday}, {day} de {month}.",
                f"{self._name(rng)[0]} nació {when}.",
                f"¿{self._inflection.finite('poder', 'present', int(DROPPED.pick(rng)))} venir {when}?",
                f"la {either(rng, 'reunión|fiesta|clase|boda|cita|cena|película')}"
                f" {either(rng, 'empieza|termina|es|será|fue')} {when}.",
            )
        )

    def _names(self, rng: Random) -> str:
        name, other = self._name(rng)[0], self._name(rng)[0]
        city, country = self._lexicon.pick(rng, "cities"), self._lexicon.pick(rng, "countries")
        is_feminine = rng.random() < 0.5
        job = self._lexicon.pick(rng, "people").split(":")[is_feminine]
        person = int(DROPPED.pick(rng))
        first = self._lexicon.pick(rng, "names_female" if is_feminine else "names_male")
        return rng.choice(
            (
                f"me llamo {first}.", f"{name} es de {country}.",
                f"{'esta' if is_feminine else 'este'} es {first}, mi {job}.",
                f"{name} y {other} viven en {city}.",
                f"{self._inflection.finite('hablar', 'present', person)} {self._lexicon.pick(rng, 'languages')}.", f"¿conoces a {name}?",
                f"{first}, {rng.choice(('ven aquí', 'espera', 'mira esto', 'escucha', 'te presento a ' + other))}.", f"{self._inflection.finite('viajar', 'preterite', person)} de {city} a {self._lexicon.pick(rng, 'cities')}.",
                f"{first} es {job} en {city}.", f"¿dónde está {name}?", f"soy {job} y vivo en {country}.",
                f"el {either(rng, 'hermano|padre|coche|perro|jefe')} de {name}"
                f" {self._predicate(rng, Nominal('', False, False, 2), 1)}.",
                f"{self._inflection.finite('estar', 'preterite', person)} en {country} con {other}.",
                f"en {city} se habla {self._lexicon.pick(rng, 'languages')}.",
            )
        )  # fmt: skip

    def _small_talk(self, rng: Random) -> str:
        thing, place = (
            self._noun_phrase(rng, either(rng, "things|food|abstract"), 2).text,
            self._noun_phrase(rng, "places", 2).text,
        )
        first = self._lexicon.pick(rng, either(rng, "names_female|names_male"))
        return rng.choice(
            (
                f"¿me {either(rng, 'puede|puedes|podría')} {self._lexicon.pick(rng, 'transitive')} {thing}, por favor?", f"perdone, ¿dónde está {place}?", f"gracias por {thing}.",
                f"siento lo de {thing}.", f"quisiera {thing}, por favor.", f"¿qué te parece {thing}?",
                f"¿cómo se va a {place}?", f"buenos días, {first}.", f"mucho gusto, {first}.",
                f"¿quieres {thing}?", f"¿tienes {thing}?", f"nunca he visto {thing}.",
                f"¿qué pasó con {thing}?",
                f"hasta {either(rng, 'mañana|luego|pronto|el lunes|la semana que viene')}, {first}.",
                f"hola, {first}, ¿cómo {either(rng, 'estás|te va|está tu familia|te encuentras')}?",
                f"no te preocupes por {thing}.", f"tengo ganas de ver {thing}.",
            )
        )  # fmt: skip

    def _interjection(self, rng: Random) -> str:
        word = self._lexicon.pick(rng, "interjections")
        if word in ("qué tal", "cómo estás"):
            return f"¿{word}?"
        roll = rng.random()
        if word.startswith("qué") or roll < 0.2:
            return f"¡{word}!"
        if roll < 0.55:
            return f"{word}."
        if roll < 0.72:
            return f"{word}, {self._name(rng)[0]}."
        return f"{word}, {self._clause(rng, 2)}."

    def _listing(self, rng: Random) -> str:
        section = either(rng, "things|food|animals|people|places|abstract|body")
        items = []
        for _ in range(rng.randrange(2, 6)):
            noun, is_feminine = self._noun(rng, section)
            stressed = noun in self._stressed_a
            items.append(
                rng.choice(
                    (
                        self._inflection.plural(noun),
                        f"{'una' if is_feminine and not stressed else 'un'} {noun}",
                        f"{'la' if is_feminine and not stressed else 'el'} {noun}",
                    )
                )
            )
        text = join_list(items, either(rng, "y|y|o"), False)
        person = int(DROPPED.pick(rng))
        return rng.choice(
            (
                f"{self._finite(rng, 'comprar' if section == 'food' else 'ver', person)} {text}.",
                f"{text}.",
                f"necesitamos {text}.",
                f"había {text} {PREPOSITIONS.pick(rng)} {self._noun_phrase(rng, 'places', 2).text}.",
            )
        )
