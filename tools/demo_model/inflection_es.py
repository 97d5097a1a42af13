"""Spanish inflection: plurals, adjectives, conjugation, attached pronouns, number words.

It covers the verbs of the vocabulary file, not all of Spanish.
"""

from __future__ import annotations

from tools.demo_model.lexicon import Lexicon

TENSES = (
    "present", "preterite", "imperfect", "future", "conditional", "subjunctive", "imperfect_subjunctive",
)  # fmt: skip
_ACCENT = dict(zip("aeiou", "áéíóú", strict=True))
_PLAIN = {accented: plain for plain, accented in _ACCENT.items()}

# One row of six persons each: yo, tú, él, nosotros, vosotros, ellos.
_WHOLE: dict[tuple[str, str], str] = {
    ("ser", "present"): "soy eres es somos sois son",
    ("ser", "imperfect"): "era eras era éramos erais eran",
    ("ser", "preterite"): "fui fuiste fue fuimos fuisteis fueron",
    ("ser", "subjunctive"): "sea seas sea seamos seáis sean",
    ("estar", "present"): "estoy estás está estamos estáis están",
    ("estar", "subjunctive"): "esté estés esté estemos estéis estén",
    ("ir", "present"): "voy vas va vamos vais van",
    ("ir", "imperfect"): "iba ibas iba íbamos ibais iban",
    ("ir", "preterite"): "fui fuiste fue fuimos fuisteis fueron",
    ("ir", "subjunctive"): "vaya vayas vaya vayamos vayáis vayan",
    ("haber", "present"): "he has ha hemos habéis han",
    ("haber", "subjunctive"): "haya hayas haya hayamos hayáis hayan",
    ("dar", "present"): "doy das da damos dais dan",
    ("dar", "preterite"): "di diste dio dimos disteis dieron",
    ("dar", "subjunctive"): "dé des dé demos deis den",
    ("ver", "present"): "veo ves ve vemos veis ven",
    ("ver", "imperfect"): "veía veías veía veíamos veíais veían",
    ("ver", "preterite"): "vi viste vio vimos visteis vieron",
    ("ver", "subjunctive"): "vea veas vea veamos veáis vean",
    ("saber", "subjunctive"): "sepa sepas sepa sepamos sepáis sepan",
    ("caber", "subjunctive"): "quepa quepas quepa quepamos quepáis quepan",
    ("oír", "present"): "oigo oyes oye oímos oís oyen",
    ("huir", "present"): "huyo huyes huye huimos huis huyen",
    ("huir", "preterite"): "hui huiste huyó huimos huisteis huyeron",
    ("oler", "present"): "huelo hueles huele olemos oléis huelen",
    ("oler", "subjunctive"): "huela huelas huela olamos oláis huelan",
    ("criar", "preterite"): "crie criaste crio criamos criasteis criaron",
    ("guiar", "preterite"): "guie guiaste guio guiamos guiasteis guiaron",
    ("fiar", "preterite"): "fie fiaste fio fiamos fiasteis fiaron",
    ("criar", "present"): "crío crías cría criamos criais crían",
    ("guiar", "present"): "guío guías guía guiamos guiais guían",
    ("fiar", "present"): "fío fías fía fiamos fiais fían",
}
# Families share their irregularity with every verb that ends like them (obtener, suponer).
_YO = {
    "tener": "tengo", "poner": "pongo", "venir": "vengo", "salir": "salgo", "valer": "valgo", "hacer": "hago",
    "decir": "digo", "traer": "traigo", "caer": "caigo", "saber": "sé", "caber": "quepo", "oír": "oigo",
}  # fmt: skip
_STRONG_PRETERITE = {
    "tener": "tuv", "estar": "estuv", "andar": "anduv", "poder": "pud", "poner": "pus", "saber": "sup",
    "caber": "cup", "hacer": "hic", "querer": "quis", "venir": "vin", "decir": "dij", "traer": "traj",
    "ducir": "duj", "haber": "hub",
}  # fmt: skip
_FUTURE = {
    "tener": "tendr", "poner": "pondr", "venir": "vendr", "salir": "saldr", "valer": "valdr", "poder": "podr",
    "querer": "querr", "saber": "sabr", "caber": "cabr", "haber": "habr", "hacer": "har", "decir": "dir",
}  # fmt: skip
_FAMILY_CHANGE = {"tener": "ie", "venir": "ie", "decir": "i", "querer": "ie", "poder": "ue"}
_SHORT_COMMAND = {
    "tener": "ten", "poner": "pon", "venir": "ven", "salir": "sal", "hacer": "haz", "decir": "di",
    "ser": "sé", "ir": "ve",
}  # fmt: skip
_FAMILIES = ("tener", "poner", "venir", "traer", "ducir", "decir", "caer")

_PRESENT_ENDINGS = {"ar": "o as a amos áis an", "er": "o es e emos éis en", "ir": "o es e imos ís en"}
_SUBJUNCTIVE_ENDINGS = {"ar": "e es e emos éis en", "er": "a as a amos áis an", "ir": "a as a amos áis an"}
_PRETERITE_ENDINGS = {
    "ar": "é aste ó amos asteis aron",
    "er": "í iste ió imos isteis ieron",
    "ir": "í iste ió imos isteis ieron",
}
_IMPERFECT_ENDINGS = {
    "ar": "aba abas aba ábamos abais aban",
    "er": "ía ías ía íamos íais ían",
    "ir": "ía ías ía íamos íais ían",
}
_FUTURE_ENDINGS = "é ás á emos éis án"
_CONDITIONAL_ENDINGS = "ía ías ía íamos íais ían"


def plain(text: str) -> str:
    """Acute accents off; ñ and ü stay."""
    return "".join(_PLAIN.get(letter, letter) for letter in text)


def nuclei(word: str) -> list[int]:
    """Index of the vowel that bears each syllable; accented i and u stand alone."""
    found: list[int] = []
    previous = -2
    for index, letter in enumerate(word):
        if letter not in "aeiouáéíóúü":
            if not (letter == "y" and index == len(word) - 1 and index > 0):
                continue
            letter = "i"
        silent = (
            letter == "u"
            and word[index - 1 : index] in ("q", "g")
            and word[index + 1 : index + 2] in tuple("eiéí")
        )
        if silent:
            continue
        if previous == index - 1 and found:
            before = word[previous]
            if letter in "iuü" and before not in "íú":
                previous = index
                if before in "iuü" and found[-1] == index - 1:
                    found[-1] = index  # two weak vowels: the second bears the stress
                continue
            if before in "iuü" and letter not in "íú" and found[-1] == previous:
                found[-1] = previous = index
                continue
        found.append(index)
        previous = index
    return found


def stressed_index(word: str) -> int:
    """Index of the stressed vowel by the rules of spelling."""
    for index, letter in enumerate(word):
        if letter in "áéíóú":
            return index
    bearers = nuclei(word)
    if len(bearers) == 1:
        return bearers[0]
    return bearers[-2] if word[-1] in "aeiouns" else bearers[-1]


def with_stress(word: str, index: int) -> str:
    """The word with an accent on `index` where spelling asks for one, and no other accent."""
    bare = plain(word)
    hiatus = bare[index] in "iu" and (
        bare[index - 1 : index] in tuple("aeo") or bare[index + 1 : index + 2] in tuple("aeo")
    )
    if stressed_index(bare) == index and not hiatus:
        return bare
    return bare[:index] + _ACCENT[bare[index]] + bare[index + 1 :]


def attach(form: str, pronouns: str) -> str:
    """A command, infinitive or gerund with pronouns written onto it, its accent moved by rule (dímelo, verlo)."""
    if form.endswith("mos") and pronouns.startswith(("nos", "os")):
        index = stressed_index(form)
        return with_stress(form[:-1] + pronouns, index)
    index = stressed_index(form)
    if pronouns == "os" and form.endswith("d") and form != "id":
        return with_stress(form[:-1] + pronouns, index)
    return with_stress(form + pronouns, index)


def _join(stem: str, ending: str, infinitive: str) -> str:
    """Stem and ending with the spelling that keeps the sound (busqué, venzo, sigo, dirijo)."""
    front = plain(ending)[0] in "ei"
    if infinitive.endswith("ar"):
        if front:
            for written, kept in (("gu", "gü"), ("c", "qu"), ("g", "gu"), ("z", "c")):
                if stem.endswith(written):
                    return stem[: -len(written)] + kept + ending
    elif not front:
        for written, kept in (("gu", "g"), ("qu", "c"), ("g", "j"), ("c", "z")):
            if stem.endswith(written):
                return stem[: -len(written)] + kept + ending
    return stem + ending


class SpanishInflection:
    """Inflected forms by rule, with the changes and exceptions that the vocabulary file lists."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._plurals = lexicon.pairs("irregular_plurals")
        self._changes = lexicon.pairs("stem_verbs")
        self._participles = lexicon.pairs("irregular_participles")
        self._rows: dict[tuple[str, str], tuple[str, ...]] = {}
        self._invariable = frozenset(lexicon.section("invariable_adjectives"))

    def plural(self, noun: str) -> str:
        """Plural of a noun or adjective; the accent moves as spelling asks (canción, canciones; joven, jóvenes)."""
        if " " in noun:  # of "a de b" the head alone, of noun and adjective both
            head, preposition, rest = noun.partition(" de ")
            return " ".join(map(self.plural, head.split())) + preposition + rest
        if noun in self._plurals:
            return self._plurals[noun]
        if noun[-1] in "aeioáéó":
            return noun + "s"
        if noun.endswith("z"):
            return with_stress(noun[:-1] + "ces", stressed_index(noun))
        return with_stress(noun + "es", stressed_index(noun))

    def adjective(self, masculine: str, feminine: bool, is_plural: bool) -> str:
        """An adjective in the gender and number wanted."""
        form = masculine
        if feminine and masculine not in self._invariable:
            if masculine.endswith("o"):
                form = masculine[:-1] + "a"
            elif masculine.endswith(("dor", "tor", "sor", "án", "ín", "ón", "és", "ol", "luz")):
                form = plain(masculine) + "a"
        return self.plural(form) if is_plural else form

    def row(self, infinitive: str, tense: str) -> tuple[str, ...]:
        """The six persons of a tense: yo, tú, él, nosotros, vosotros, ellos."""
        key = (infinitive, tense)
        if key not in self._rows:
            self._rows[key] = (
                tuple(_WHOLE[key].split()) if key in _WHOLE else tuple(self._build(infinitive, tense))
            )
        return self._rows[key]

    def finite(self, infinitive: str, tense: str, person: int) -> str:
        """One form: tense as in TENSES, person 0 to 5."""
        return self.row(infinitive, tense)[person]

    def command(self, infinitive: str, person: int) -> str:
        """The affirmative command to tú (1), usted (2), nosotros (3), vosotros (4) or ustedes (5)."""
        if person == 1:
            found = _member(infinitive, _SHORT_COMMAND)
            if found is None:
                return self.finite(infinitive, "present", 2)
            prefix, form = found
            return with_stress(prefix + form, len(prefix) + 1) if prefix else form
        if person == 4:
            return infinitive[:-1] + "d"
        if person == 3 and infinitive == "ir":
            return "vamos"
        return self.finite(infinitive, "subjunctive", person)

    def participle(self, infinitive: str) -> str:
        for whole, form in self._participles.items():
            if infinitive == whole or (len(whole) > 4 and infinitive.endswith(whole)):
                return infinitive[: -len(whole)] + form
        for whole in ("poner", "hacer", "decir"):
            if infinitive.endswith(whole):
                return infinitive[: -len(whole)] + self._participles[whole]
        stem = infinitive[:-2]
        if _class(infinitive) == "ar":
            return stem + "ado"
        return stem + ("ído" if stem[-1] in "aeo" else "ido")

    def gerund(self, infinitive: str) -> str:
        if infinitive == "ir":
            return "yendo"
        if infinitive.endswith("poder"):
            return "pudiendo"
        stem = infinitive[:-2]
        if _class(infinitive) == "ar":
            return stem + "ando"
        stem = self._closed(infinitive, stem)
        if infinitive.endswith("eír"):
            return stem[:-1] + "iendo"
        return stem + ("yendo" if stem[-1] in "aeo" or _is_uir(infinitive) else "iendo")

    def _change(self, infinitive: str) -> str:
        return self._changes.get(infinitive) or (_member(infinitive, _FAMILY_CHANGE) or ("", ""))[1]

    def _open(self, infinitive: str, stem: str) -> str:
        """The stem under stress (piens-, cuent-, pid-, enví-)."""
        change = self._change(infinitive)
        vowel = {"ie": "ei", "ue": "ou", "i": "e", "í": "i", "ú": "u"}.get(change, "")
        if infinitive == "jugar":
            return "jueg"
        if infinitive.endswith("eír"):
            return stem[:-1] + "í"
        for index in range(len(stem) - 1, -1, -1):
            if vowel and stem[index] in vowel:
                if stem[index] == "u" and stem[index - 1] in "gq" and change != "ú":
                    continue
                return stem[:index] + change + stem[index + 1 :]
        return stem

    def _closed(self, infinitive: str, stem: str) -> str:
        """The stem of -ir verbs before a diphthong (sint-, durm-, pid-)."""
        change = self._change(infinitive)
        if not infinitive.endswith(("ir", "ír")) or change not in ("ie", "ue", "i"):
            return stem
        if infinitive.endswith("eír"):
            return stem[:-1] + "i"
        index = max(stem.rfind("e"), stem.rfind("o"))
        return stem[:index] + ("u" if stem[index] == "o" else "i") + stem[index + 1 :]

    def _build(self, infinitive: str, tense: str) -> list[str]:
        stem, kind = infinitive[:-2], _class(infinitive)
        if tense == "present":
            return self._present(infinitive, stem, kind)
        if tense == "subjunctive":
            return self._subjunctive(infinitive, stem, kind)
        if tense == "preterite":
            return self._preterite(infinitive, stem, kind)
        if tense == "imperfect":
            return [stem + ending for ending in _IMPERFECT_ENDINGS[kind].split()]
        if tense in ("future", "conditional"):
            base = _family(infinitive, _FUTURE) or plain(infinitive)
            endings = _FUTURE_ENDINGS if tense == "future" else _CONDITIONAL_ENDINGS
            return [base + ending for ending in endings.split()]
        if tense == "imperfect_subjunctive":
            base = self.row(infinitive, "preterite")[5][:-3]
            middle = base + "ramos"
            return [
                base + "ra",
                base + "ras",
                base + "ra",
                with_stress(middle, len(base) - 1),
                base + "rais",
                base + "ran",
            ]
        raise ValueError(tense)

    def _present(self, infinitive: str, stem: str, kind: str) -> list[str]:
        opened = self._open(infinitive, stem)
        endings = _PRESENT_ENDINGS[kind].split()
        forms = []
        for person, ending in enumerate(endings):
            boot = person not in (3, 4)
            base = opened if boot else stem
            if boot and _is_uir(infinitive):
                base += "y"
            form = _join(base, ending, infinitive)
            if infinitive.endswith("eír") and person == 3:
                form = stem + "ímos"
            forms.append(form)
        if infinitive.endswith("eír"):
            forms[4] = stem + "ís"
        yo = _family(infinitive, _YO)
        if yo:
            forms[0] = yo
        elif self._change(infinitive) == "zc" or infinitive.endswith("ducir"):
            forms[0] = stem[:-1] + "zco"
        return forms

    def _subjunctive(self, infinitive: str, stem: str, kind: str) -> list[str]:
        endings = _SUBJUNCTIVE_ENDINGS[kind].split()
        yo = self.row(infinitive, "present")[0]
        regular_yo = _join(
            self._open(infinitive, stem) + ("y" if _is_uir(infinitive) else ""), "o", infinitive
        )
        if yo != regular_yo or _is_uir(infinitive):
            return [yo[:-1] + ending for ending in endings]
        opened, closed = self._open(infinitive, stem), self._closed(infinitive, stem)
        forms = [
            _join(closed if person in (3, 4) else opened, ending, infinitive)
            for person, ending in enumerate(endings)
        ]
        if infinitive.endswith("eír"):
            return [
                closed + ending if person in (3, 4) else opened + ending
                for person, ending in enumerate(endings)
            ]
        return forms

    def _preterite(self, infinitive: str, stem: str, kind: str) -> list[str]:
        strong = _family(infinitive, _STRONG_PRETERITE)
        if strong:
            forms = [strong + ending for ending in "e iste o imos isteis ieron".split()]
            if strong.endswith("hic"):
                forms[2] = strong[:-1] + "zo"
            if strong.endswith("j"):
                forms[5] = strong + "eron"
            return forms
        closed = self._closed(infinitive, stem)
        forms = []
        for person, ending in enumerate(_PRETERITE_ENDINGS[kind].split()):
            third = person in (2, 5)
            base = closed if third else stem
            if infinitive.endswith("eír") and third:
                forms.append(stem[:-1] + ending)
                continue
            if kind != "ar" and (base[-1] in "aeo" or (_is_uir(infinitive) and third)):
                ending = "y" + ending[1:] if third else with_hiatus(ending)
            forms.append(_join(base, ending, infinitive))
        return forms


def with_hiatus(ending: str) -> str:
    """An ending in i after a strong vowel takes the accent (leíste)."""
    return "í" + ending[1:]


def _class(infinitive: str) -> str:
    return plain(infinitive[-2:])


def _is_uir(infinitive: str) -> bool:
    return infinitive.endswith("uir") and not infinitive.endswith(("guir", "quir"))


def _member(infinitive: str, table: dict[str, str]) -> tuple[str, str] | None:
    """Prefix and table entry of the verb or of the family it ends like (ob-, tener)."""
    if infinitive in table:
        return "", table[infinitive]
    for whole in _FAMILIES:
        if whole in table and infinitive.endswith(whole):
            return infinitive[: -len(whole)], table[whole]
    return None


def _family(infinitive: str, table: dict[str, str]) -> str | None:
    """The entry with the prefix put before it (obtuv-, supong-)."""
    found = _member(infinitive, table)
    return None if found is None else found[0] + found[1]


_UNITS = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis"
    " diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis"
    " veintisiete veintiocho veintinueve"
).split()
_TENS = "cero diez veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa".split()
_HUNDREDS = (
    "cero ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos novecientos"
).split()


def cardinal(number: int, *, before: str = "") -> str:
    """A number from 0 to 999,999 in words; `before` "m" or "f" agrees with the noun that follows (veintiún, una)."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        head = "mil" if thousands == 1 else f"{cardinal(thousands, before='m')} mil"
        return head + (f" {cardinal(rest, before=before)}" if rest else "")
    if number == 100:
        return "cien"
    if number > 100:
        hundreds, rest = divmod(number, 100)
        head = _HUNDREDS[hundreds]
        if before == "f" and hundreds > 1:
            head = head[:-2] + "as"
        return head + (f" {cardinal(rest, before=before)}" if rest else "")
    if number < 30:
        word = _UNITS[number]
    else:
        tens, ones = divmod(number, 10)
        word = _TENS[tens] + (f" y {_UNITS[ones]}" if ones else "")
    if before and word.endswith("uno"):
        if before == "f":
            return word[:-1] + "a"
        return word[:-3] + ("ún" if word == "veintiuno" else "un")
    return word
