"""English sentences of everyday occasions: numbers, dates, hours, names, lists, greetings. All numbers are words."""

from __future__ import annotations

from random import Random

from tools.demo_model.grammar_en_phrases import PLACE_PREPOSITIONS, EnglishPhrases
from tools.demo_model.inflection_en import cardinal, indefinite_article, ordinal, possessive, year
from tools.demo_model.lexicon import either, join_list


class EnglishOccasions(EnglishPhrases):
    """Sentences whose frame is fixed and whose parts are free."""

    def _numbers(self, rng: Random) -> str:
        number = rng.choice(
            (
                rng.randrange(2, 21),
                rng.randrange(20, 100),
                rng.randrange(100, 1000),
                rng.randrange(1, 10) * 10 ** rng.randrange(1, 6),
                rng.randrange(1000, 100_000),
            )
        )
        words = cardinal(number, with_and=rng.random() < 0.15)
        things = self._inflection.plural(self._lexicon.pick(rng, either(rng, "things|people|animals|food")))
        unit = either(
            rng,
            "dollars|cents|miles|pounds|feet|inches|degrees|minutes|hours|days|weeks|months|years|"
            "percent|times",
        )
        subject = self._subject(rng, 2)
        verb = self._inflection.verb(self._lexicon.pick(rng, "transitive")).past
        return rng.choice(
            (
                f"{subject.text} {verb} {words} {things}.",
                f"it {either(rng, 'cost|costs|takes|took|was|is about')} {words} {unit}.",
                f"{self._name(rng)} is {cardinal(rng.randrange(2, 100))} years old.",
                f"the {self._lexicon.pick(rng, 'things')} weighs {words} pounds.",
                f"{words} {unit} is {either(rng, 'too much|not enough|a long time|a lot')}.",
                f"my number is {' '.join(cardinal(rng.randrange(10)) for _ in range(rng.randrange(3, 8)))}.",
                f"turn to page {cardinal(rng.randrange(1, 400))}.",
                f"{cardinal(rng.randrange(1, 30))} {either(rng, 'plus|minus|times')}"
                f" {cardinal(rng.randrange(1, 30))}.",
                f"she lives at {cardinal(rng.randrange(1, 200))} {self._lexicon.pick(rng, 'surnames')} Street.",
                f"{either(rng, 'half|a third|a quarter|two thirds|ten percent')} of the {things}"
                f" {either(rng, 'are|were')} {self._adjective(rng)}.",
                f"{words}.",
            )
        )

    def _clock(self, rng: Random) -> str:
        hour = cardinal(rng.randrange(1, 13))
        return rng.choice(
            (
                f"{hour} o'clock", f"half past {hour}", f"a quarter to {hour}", f"a quarter past {hour}",
                "noon", "midnight",
                f"{hour} {either(rng, 'fifteen|thirty|forty-five|twenty|ten|oh five|fifty')}",
                f"{hour} in the {either(rng, 'morning|afternoon|evening')}",
                f"{either(rng, 'five|ten|twenty')} {either(rng, 'to|past')} {hour}",
            )
        )  # fmt: skip

    def _dates(self, rng: Random) -> str:
        weekday, month = self._lexicon.pick(rng, "weekdays"), self._lexicon.pick(rng, "months")
        day = ordinal(rng.randrange(1, 32))
        when = rng.choice(
            (
                f"on {weekday}",
                f"on {month} {day}",
                f"in {month}",
                f"at {self._clock(rng)}",
                f"on {weekday} at {self._clock(rng)}",
                f"in {year(rng.randrange(1700, 2050))}",
                f"on the {day} of {month}",
                f"every {weekday}",
                f"last {weekday}",
                f"next {month}",
                f"before {self._lexicon.pick(rng, 'holidays')}",
                f"on {weekday} {either(rng, 'morning|afternoon|evening|night')}",
                f"from {self._clock(rng)} to {self._clock(rng)}",
                f"in {either(rng, 'spring|summer|fall|winter')}",
            )
        )
        return rng.choice(
            (
                f"{self._clause(rng, 2)} {when}.",
                f"{when}, {self._clause(rng, 2)}.",
                f"the {self._lexicon.pick(rng, 'abstract')}"
                f" {either(rng, 'starts|begins|ends|was|will be|opens|is')} {when}.",
                f"it's {self._clock(rng)}.",
                f"today is {weekday}, {month} {day}.",
                f"{self._name(rng)} was born {when}.",
                f"are you free {when}?",
            )
        )

    def _names(self, rng: Random) -> str:
        name, other = self._name(rng), self._name(rng)
        city, country = self._lexicon.pick(rng, "cities"), self._lexicon.pick(rng, "countries")
        job = self._lexicon.pick(rng, "people")
        return rng.choice(
            (
                f"my name is {name}.", f"{name} is from {country}.", f"this is my {job}, {name}.",
                f"{name} and {other} live in {city}.",
                f"{possessive(name)} {job} {either(rng, 'speaks|is learning|understands')}"
                f" {self._lexicon.pick(rng, 'languages')}.",
                f"have you met {name}?", f"{name}, this is {other}.",
                f"we flew from {city} to {self._lexicon.pick(rng, 'cities')}.",
                f"{city} is the {self._inflection.superlative(self._lexicon.pick(rng, 'adjectives_short'))} city"
                f" in {country}.",
                f"{name} is {indefinite_article(job)} {job} in {city}.", f"where is {name}?",
                f"i told {name} about {other}.",
                f"do they speak {self._lexicon.pick(rng, 'languages')} in {country}?",
                f"{name} wants to visit {city} and {self._lexicon.pick(rng, 'cities')}.",
                f"{name} {self._predicate(rng, 'he', 1)}.",
            )
        )  # fmt: skip

    def _small_talk(self, rng: Random) -> str:
        thing, place = (
            self._noun_phrase(rng, either(rng, "things|food|abstract"), 2).text,
            self._noun_phrase(rng, "places", 2).text,
        )
        return rng.choice(
            (
                f"could you {self._bare(rng, 2)}, please?", f"would you like {thing}?",
                f"can i have {thing}, please?", f"excuse me, where is {place}?",
                f"thank you for {thing}.", f"i'm sorry about {thing}.", f"how about {thing}?",
                f"i'd like {thing}, please.", f"what do you think of {thing}?",
                f"how do i get to {place}?", f"nice to meet you, {self._name(rng)}.",
                f"good {either(rng, 'morning|afternoon|evening|night')}, {self._name(rng)}.",
                f"i hope {self._clause(rng, 2)}.", f"do you have {thing}?", f"i don't like {thing}.",
                f"i've never seen {thing}.", f"what happened to {thing}?",
                f"see you {either(rng, 'tomorrow|later|soon|tonight|on Monday|next week|in the morning')}.",
            )
        )  # fmt: skip

    def _listing(self, rng: Random) -> str:
        section = either(rng, "things|food|animals|people|mass|places|abstract")
        items = []
        for _ in range(rng.randrange(2, 6)):
            noun = self._lexicon.pick(rng, section)
            items.append(
                noun
                if section == "mass"
                else rng.choice(
                    (self._inflection.plural(noun), f"{indefinite_article(noun)} {noun}", f"the {noun}")
                )
            )
        text = join_list(items, either(rng, "and|and|or"), rng.random() < 0.8)
        lead = self._inflection.verb(self._lexicon.pick(rng, "transitive")).past
        return rng.choice(
            (
                f"{self._subject(rng, 2).text} {lead} {text}.",
                f"{text}.",
                f"we need {text}.",
                f"there were {text} {PLACE_PREPOSITIONS.pick(rng)} {self._noun_phrase(rng, 'places', 2).text}.",
            )
        )
