"""English words that sound alike, each in a frame whose other words tell which one is meant.

A network that only hears cannot tell "rose" from "rows". The grammar's meaning is loose on purpose, so it teaches which
words can be said, not which go together; the frames beside this file do, for about two hundred such words and for
possessives. What a frame leaves open is drawn from the grammar's own vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

from tools.demo_model.inflection_en import EnglishInflection
from tools.demo_model.lexicon import Lexicon, either

_SLOT = re.compile(r"\{(\w+)\}")
_SECOND_SHARE = 0.25
_ADJECTIVE_SHARE = 0.3


class Soundalikes:
    """Sentences from the frames, filled."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._inflection = EnglishInflection(lexicon)
        lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
        self.frames = [line for line in lines if line and not line.startswith("#")]
        self._fillers: dict[str, Callable[[Random], str]] = {
            "person": lambda rng: f"{either(rng, 'the|the|my|our|her|his')} {self._noun(rng, 'people')}",
            "people": lambda rng: self._plural(rng, "people"),
            "person_noun": lambda rng: self._pick(rng, "people"),
            "animal": lambda rng: self._pick(rng, "animals"),
            "animals": lambda rng: self._plural(rng, "animals"),
            "thing": lambda rng: f"{either(rng, 'the|the|my|our|that|this')} {self._noun(rng, 'things')}",
            "things": lambda rng: self._plural(rng, "things"),
            "thing_noun": lambda rng: self._pick(rng, "things"),
            "noun": lambda rng: self._noun(rng, either(rng, "things|things|places")),
            "part": lambda rng: either(rng, "edge|top|side|end|price|color|shape|weight|owner|surface|flame"),
            "place": lambda rng: self._pick(rng, "places"),
            "food": lambda rng: self._plural(rng, "food"),
            "mass": lambda rng: self._pick(rng, "mass"),
            "body": lambda rng: self._pick(rng, "body"),
            "adj": lambda rng: self._pick(rng, "adjectives_short"),
            "name": lambda rng: self._pick(rng, either(rng, "names_female|names_male")),
            "city": lambda rng: self._pick(rng, "cities"),
            "country": lambda rng: self._pick(rng, "countries"),
        }

    def sentence(self, rng: Random) -> str:
        """One filled frame, now and then two joined; the first letter may still be small."""
        frame = self._filled(rng)
        if rng.random() < _SECOND_SHARE:
            frame = f"{frame.rstrip('.?!')}, and {self._filled(rng)}"
        return frame

    def _filled(self, rng: Random) -> str:
        return _SLOT.sub(lambda slot: self._fillers[slot.group(1)](rng), rng.choice(self.frames))

    def _pick(self, rng: Random, section: str) -> str:
        return self._lexicon.pick(rng, section)

    def _plural(self, rng: Random, section: str) -> str:
        return self._inflection.plural(self._pick(rng, section))

    def _noun(self, rng: Random, section: str) -> str:
        noun = self._pick(rng, section)
        return f"{self._pick(rng, 'adjectives_short')} {noun}" if rng.random() < _ADJECTIVE_SHARE else noun
