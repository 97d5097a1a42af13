"""Training text: deterministic, well formed, its inflection right.

Word lists are stubs; no Debian package is needed.
"""

import re
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import pytest

import tools.demo_model.text as recipe_text
from tools.demo_model.grammar_en import EnglishGrammar
from tools.demo_model.grammar_es import SpanishGrammar, polish
from tools.demo_model.inflection_en import EnglishInflection, cardinal, indefinite_article, ordinal, year
from tools.demo_model.inflection_es import TENSES, SpanishInflection, attach
from tools.demo_model.inflection_es import cardinal as cardinal_es
from tools.demo_model.lexicon import Lexicon, load_sections
from tools.demo_model.text import WordListMissing, folded_words, sentences, vocabulary, words

LANGUAGES = ("English", "Spanish")
SAMPLE_COUNT = 6000
FOLDER = Path(recipe_text.__file__).parent
STUB_LISTS = {
    "american-english": "aardvark\nabacus\nAberdeen\nabacus's\nzygotes\nquixotic\nNATO\nhmm\nma'am\nfjord\nvs\nx\n",
    "spanish": "ábaco\nabadejo\nZaragoza\nñandú\nzurrón\nquijotesco\na\nagüero\n",
}
STUB_WORDS = {
    "English": {"aardvark", "abacus", "Aberdeen", "zygotes", "quixotic", "ma'am", "fjord"},
    "Spanish": {"ábaco", "abadejo", "Zaragoza", "ñandú", "zurrón", "quijotesco", "agüero"},
}
KINDS = ("animals", "things", "food", "mass", "places", "abstract", "body")
LETTERS = {"English": "a-zA-Z", "Spanish": "a-zA-ZáéíóúüñÁÉÍÓÚÜÑ"}


def words_of(entries):
    return [word for entry in entries for word in entry.split("_")]


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dict")
    for name, text in STUB_LISTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def samples(lists):
    return {language: list(islice(sentences(language, 11, lists), SAMPLE_COUNT)) for language in LANGUAGES}


@pytest.fixture(scope="module")
def spanish():
    return Lexicon(load_sections(FOLDER / "vocabulary_es.txt"))


@pytest.fixture(scope="module")
def english():
    return Lexicon(load_sections(FOLDER / "vocabulary_en.txt"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_seed_gives_one_text_and_another_seed_another(language, lists):
    first = list(islice(sentences(language, 5, lists), 200))
    assert first == list(islice(sentences(language, 5, lists), 200))
    assert len(set(first) & set(islice(sentences(language, 6, lists), 200))) < 40
    contexts = list(islice(words(language, 5, lists), 50))
    assert contexts == list(islice(words(language, 5, lists), 50))


@pytest.mark.parametrize("language", LANGUAGES)
def test_only_letters_and_the_agreed_marks_are_written(language, samples):
    allowed = re.compile(rf"""[{LETTERS[language]} .,?!¿¡'"-]+""")
    assert [text for text in samples[language] if not allowed.fullmatch(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_start_with_a_capital_and_end_with_a_mark(language, samples):
    for text in samples[language]:
        letters = text.lstrip('"¿¡')
        assert letters[0].isupper(), text
        assert text.removesuffix('"').endswith((".", "?", "!")), text
        assert not re.search(r" [.,?!]|,,|\.\.|  |,\.", text), text
        assert text.count('"') % 2 == 0, text


def test_spanish_questions_and_exclamations_are_opened(samples):
    for text in samples["Spanish"]:
        assert text.count("?") == text.count("¿"), text
        assert text.count("!") == text.count("¡"), text


def test_the_english_pronoun_i_is_always_a_capital(samples):
    assert [text for text in samples["English"] if re.search(r"\bi(?=['\s,.?!])", text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_lengths_spread_from_one_word_to_twenty_five(language, samples):
    lengths = [len(text.split()) for text in samples[language]]
    assert min(lengths) == 1
    assert 22 <= max(lengths) <= 25
    assert 7.5 <= sum(lengths) / len(lengths) <= 10.5
    assert sum(length > 14 for length in lengths) > 0.05 * SAMPLE_COUNT
    assert sum(length < 4 for length in lengths) > 0.04 * SAMPLE_COUNT


@pytest.mark.parametrize("language", LANGUAGES)
def test_vocabulary_holds_every_word_that_is_emitted(language, lists, samples):
    known = vocabulary(language, lists)
    emitted = {word for text in samples[language] for word in folded_words(text)}
    listed = {
        word
        for context in islice(words(language, 3, lists), 800)
        for text in context
        for word in folded_words(text)
    }
    assert (emitted | listed) - known == set()
    assert len(emitted) > 4000


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_listed_word_is_reached_and_abbreviations_and_possessives_are_not(language, samples):
    text = " ".join(samples[language]).lower()
    emitted = set(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text))
    assert {word.lower() for word in STUB_WORDS[language]} <= emitted
    assert not {"nato", "hmm", "vs", "abacus's"} & emitted


@pytest.mark.parametrize("language", LANGUAGES)
def test_contexts_hold_one_to_thirty_words_some_all_names(language, lists):
    contexts = list(islice(words(language, 1, lists), 2000))
    assert {len(context) for context in contexts} >= {1, 2, 5, 10, 20, 30}
    assert max(map(len, contexts)) == 30
    assert any(len(context) > 3 and all(word[0].isupper() for word in context) for context in contexts)
    assert any(len(context) > 3 and all(word[0].islower() for word in context) for context in contexts)


@pytest.mark.parametrize("language", LANGUAGES)
def test_missing_word_list_names_the_debian_packages(language, tmp_path):
    with pytest.raises(WordListMissing, match="apt-get install -y wamerican wspanish"):
        sentences(language, 1, tmp_path)


def test_a_language_without_a_grammar_is_refused(lists):
    with pytest.raises(ValueError, match="English and Spanish"):
        sentences("Klingon", 1, lists)


@pytest.mark.parametrize(
    ("file", "nouns"),
    [
        ("vocabulary_en.txt", ("people", "animals", "things", "food", "mass", "places", "abstract", "body")),
        ("vocabulary_es.txt", (*(f"{kind}_{gender}" for kind in KINDS for gender in "mf"), "people")),
    ],
)
def test_each_language_has_at_least_2500_open_class_lemmas(file, nouns):
    sections = load_sections(FOLDER / file)
    verbs = ("transitive", "intransitive", "prepositional", "clause_verbs", "infinitive_verbs")
    others = ("adjectives", "adjectives_short", "adverbs", "manner", "frequency", "place_adverbs")
    lemmas = {("noun", entry.split(":")[0]) for name in nouns for entry in sections[name]}
    lemmas |= {("verb", entry.split(":")[0]) for name in verbs for entry in sections[name]}
    lemmas |= {("other", entry) for name in others for entry in sections.get(name, ()) if "_" not in entry}
    assert len(lemmas) >= 2500


# English inflection


@pytest.mark.parametrize(
    ("base", "forms"),
    [
        ("go", "goes went gone going"), ("take", "takes took taken taking"),
        ("stop", "stops stopped stopped stopping"),
        ("try", "tries tried tried trying"), ("play", "plays played played playing"), ("lie", "lies lay lain lying"),
        ("see", "sees saw seen seeing"), ("watch", "watches watched watched watching"),
        ("write", "writes wrote written writing"),
        ("visit", "visits visited visited visiting"), ("prefer", "prefers preferred preferred preferring"),
        ("fix", "fixes fixed fixed fixing"),
        ("have", "has had had having"), ("swim", "swims swam swum swimming"), ("open", "opens opened opened opening"),
        ("cry", "cries cried cried crying"), ("dye", "dyes dyed dyed dyeing"),
        ("rain", "rains rained rained raining"),
        ("quit", "quits quit quit quitting"), ("do", "does did done doing"),
        ("agree", "agrees agreed agreed agreeing"),
    ],
)  # fmt: skip
def test_english_verb_forms(english, base, forms):
    verb = EnglishInflection(english).verb(base)
    assert f"{verb.third} {verb.past} {verb.participle} {verb.gerund}" == forms


@pytest.mark.parametrize(
    ("noun", "plural"),
    [("child", "children"), ("box", "boxes"), ("city", "cities"), ("day", "days"), ("knife", "knives"),
     ("roof", "roofs"),
     ("photo", "photos"), ("potato", "potatoes"), ("mouse", "mice"), ("church", "churches"),
     ("post office", "post offices")],
)  # fmt: skip
def test_english_plurals(english, noun, plural):
    assert EnglishInflection(english).plural(noun) == plural


def test_english_comparison_articles_and_number_words(english):
    inflection = EnglishInflection(english)
    expected = {
        "big": "bigger", "happy": "happier", "nice": "nicer", "good": "better", "low": "lower",
        "young": "younger", "deep": "deeper",
    }  # fmt: skip
    assert {word: inflection.comparative(word) for word in expected} == expected
    expected = {
        "bad": "worst", "hot": "hottest", "dry": "driest", "far": "farthest", "gray": "grayest",
    }  # fmt: skip
    assert {word: inflection.superlative(word) for word in expected} == expected
    expected = {
        "hour": "an", "university": "a", "apple": "an", "useful": "a", "uncle": "an", "house": "a",
        "European": "a", "honest": "an", "uniform": "a", "unusual": "an",
    }  # fmt: skip
    assert {word: indefinite_article(word) for word in expected} == expected
    assert cardinal(342_021) == "three hundred forty-two thousand twenty-one"
    assert [ordinal(21), ordinal(30), ordinal(12)] == ["twenty-first", "thirtieth", "twelfth"]
    assert [year(1905), year(2004), year(1900), year(2023)] == [
        "nineteen oh five",
        "two thousand four",
        "nineteen hundred",
        "twenty twenty-three",
    ]


def test_english_articles_fit_the_sound_that_follows(english):
    grammar, rng = EnglishGrammar(english), Random(2)
    for _ in range(4000):
        text = grammar.finish(grammar.sentence(rng))
        for article, word in re.findall(r"\b([Aa]n?) ([A-Za-z]+)", text):
            assert article.lower() == indefinite_article(word), text


def test_english_pronouns_agree_with_be(english):
    grammar, rng = EnglishGrammar(english), Random(3)
    for _ in range(4000):
        text = grammar.finish(grammar.sentence(rng))
        assert not re.search(r"^(He|She|It) (am|are|were|have|do|don't)\b", text), text
        assert not re.search(r"^(We|They|You) (is|was|has|does|am)\b", text), text


# Spanish inflection


@pytest.mark.parametrize(
    ("verb", "tense", "row"),
    [
        ("ir", "preterite", "fui fuiste fue fuimos fuisteis fueron"),
        ("ser", "imperfect", "era eras era éramos erais eran"),
        ("tener", "present", "tengo tienes tiene tenemos tenéis tienen"),
        ("obtener", "present", "obtengo obtienes obtiene obtenemos obtenéis obtienen"),
        ("pensar", "present", "pienso piensas piensa pensamos pensáis piensan"),
        ("dormir", "preterite", "dormí dormiste durmió dormimos dormisteis durmieron"),
        ("dormir", "subjunctive", "duerma duermas duerma durmamos durmáis duerman"),
        ("pedir", "preterite", "pedí pediste pidió pedimos pedisteis pidieron"),
        ("seguir", "present", "sigo sigues sigue seguimos seguís siguen"),
        ("jugar", "subjunctive", "juegue juegues juegue juguemos juguéis jueguen"),
        ("buscar", "preterite", "busqué buscaste buscó buscamos buscasteis buscaron"),
        ("empezar", "subjunctive", "empiece empieces empiece empecemos empecéis empiecen"),
        ("leer", "preterite", "leí leíste leyó leímos leísteis leyeron"),
        ("construir", "present", "construyo construyes construye construimos construís construyen"),
        ("conducir", "preterite", "conduje condujiste condujo condujimos condujisteis condujeron"),
        ("conocer", "subjunctive", "conozca conozcas conozca conozcamos conozcáis conozcan"),
        ("decir", "future", "diré dirás dirá diremos diréis dirán"),
        ("hacer", "preterite", "hice hiciste hizo hicimos hicisteis hicieron"),
        ("poner", "conditional", "pondría pondrías pondría pondríamos pondríais pondrían"),
        ("hablar", "imperfect_subjunctive", "hablara hablaras hablara habláramos hablarais hablaran"),
        ("reír", "present", "río ríes ríe reímos reís ríen"),
        ("sonreír", "preterite", "sonreí sonreíste sonrió sonreímos sonreísteis sonrieron"),
        ("oír", "preterite", "oí oíste oyó oímos oísteis oyeron"),
        ("enviar", "present", "envío envías envía enviamos enviáis envían"),
        ("prohibir", "present", "prohíbo prohíbes prohíbe prohibimos prohibís prohíben"),
        ("vivir", "future", "viviré vivirás vivirá viviremos viviréis vivirán"),
        ("convencer", "present", "convenzo convences convence convencemos convencéis convencen"),
        ("averiguar", "subjunctive", "averigüe averigües averigüe averigüemos averigüéis averigüen"),
    ],
)
def test_spanish_conjugation(spanish, verb, tense, row):
    assert " ".join(SpanishInflection(spanish).row(verb, tense)) == row


def test_spanish_participles_gerunds_and_commands(spanish):
    inflection = SpanishInflection(spanish)
    expected = {
        "escribir": "escrito", "volver": "vuelto", "leer": "leído", "proponer": "propuesto",
        "ir": "ido", "describir": "descrito", "vivir": "vivido", "oír": "oído", "morir": "muerto",
    }  # fmt: skip
    assert {verb: inflection.participle(verb) for verb in expected} == expected
    expected = {
        "dormir": "durmiendo", "pedir": "pidiendo", "leer": "leyendo", "ir": "yendo",
        "huir": "huyendo", "reír": "riendo", "decir": "diciendo", "venir": "viniendo",
        "seguir": "siguiendo",
    }  # fmt: skip
    assert {verb: inflection.gerund(verb) for verb in expected} == expected
    expected = {
        "poner": "pon", "hacer": "haz", "contar": "cuenta", "suponer": "supón", "salir": "sal",
        "dormir": "duerme", "obtener": "obtén",
    }  # fmt: skip
    assert {verb: inflection.command(verb, 1) for verb in expected} == expected


def test_spanish_attached_pronouns_move_the_accent():
    expected = {
        ("di", "melo"): "dímelo", ("ver", "lo"): "verlo", ("haciendo", "lo"): "haciéndolo",
        ("levanta", "te"): "levántate", ("dar", "selo"): "dárselo",
    }  # fmt: skip
    assert {(form, pronouns): attach(form, pronouns) for form, pronouns in expected} == expected
    assert [attach("levantemos", "nos"), attach("levantad", "os"), attach("busque", "lo")] == [
        "levantémonos",
        "levantaos",
        "búsquelo",
    ]


def test_spanish_plurals_adjectives_and_joints(spanish):
    inflection = SpanishInflection(spanish)
    expected = {
        "canción": "canciones", "joven": "jóvenes", "lápiz": "lápices", "país": "países",
        "crisis": "crisis", "rey": "reyes", "inglés": "ingleses", "árbol": "árboles", "sofá": "sofás",
        "examen": "exámenes",
    }  # fmt: skip
    assert {word: inflection.plural(word) for word in expected} == expected
    expected = {
        "bueno": "buenas", "fácil": "fáciles", "inglés": "inglesas", "español": "españolas",
        "trabajador": "trabajadoras", "feliz": "felices", "marrón": "marrones", "mejor": "mejores",
    }  # fmt: skip
    assert {word: inflection.adjective(word, True, True) for word in expected} == expected
    assert (
        polish("voy a el mercado de el barrio de El Cairo, y Inés o otro, agua y hielo")
        == "voy al mercado del barrio de El Cairo, e Inés u otro, agua y hielo"
    )
    assert [cardinal_es(21, before="m"), cardinal_es(1931), cardinal_es(500, before="f"), cardinal_es(100)] == [
        "veintiún", "mil novecientos treinta y uno", "quinientas", "cien",
    ]  # fmt: skip


def test_spanish_determiners_agree_with_their_noun(spanish):
    inflection = SpanishInflection(spanish)
    genders: dict[str, set[tuple[str, bool]]] = {}
    for name in ("animals", "things", "food", "places", "abstract", "body", "mass"):
        for gender in "mf":
            for noun in spanish.section(f"{name}_{gender}"):
                genders.setdefault(noun, set()).add((gender, False))
                genders.setdefault(inflection.plural(noun), set()).add((gender, True))
    verb_forms = {
        form
        for name in ("transitive", "intransitive", "reflexive")
        for verb in spanish.section(name)
        for tense in ("present", "preterite", "subjunctive")
        for form in inflection.row(verb, tense)
    }
    adjectives = {
        inflection.adjective(word, gender, number)
        for word in spanish.section("adjectives")
        for gender in (False, True)
        for number in (False, True)
    }
    people = {
        word
        for pair in spanish.section("people")
        for one in pair.split(":")
        for word in (one, inflection.plural(one))
    }
    ambiguous = verb_forms | adjectives | people
    certain = {
        noun: next(iter(found))
        for noun, found in genders.items()
        if len(found) == 1 and noun not in ambiguous
    }
    wanted = {
        "el": ("m", False), "un": ("m", False), "este": ("m", False), "aquel": ("m", False),
        "nuestro": ("m", False), "del": ("m", False), "al": ("m", False),
        "la": ("f", False), "una": ("f", False), "esta": ("f", False), "aquella": ("f", False),
        "nuestra": ("f", False),
        "los": ("m", True), "unos": ("m", True), "estos": ("m", True), "muchos": ("m", True),
        "las": ("f", True), "unas": ("f", True), "estas": ("f", True), "muchas": ("f", True),
    }  # fmt: skip
    stressed = set(spanish.section("stressed_a"))
    grammar, rng, checked = SpanishGrammar(spanish), Random(4), 0
    for _ in range(5000):
        text = grammar.finish(grammar.sentence(rng))
        tokens = folded_words(text)
        for determiner, noun in pairwise(tokens):
            if determiner not in wanted or noun not in certain:
                continue
            if determiner in ("un", "una") and certain[noun][1]:
                continue  # the end of a number: treinta y un días
            checked += 1
            if noun in stressed and determiner in ("el", "un", "del", "al"):
                continue
            assert certain[noun] == wanted[determiner], (determiner, noun, text)
            assert not (noun in stressed and determiner in ("la", "una")), text
    assert checked > 1500


def test_spanish_subject_pronouns_agree_with_their_verb(spanish):
    inflection = SpanishInflection(spanish)
    sections = (
        "transitive",
        "intransitive",
        "reflexive",
        "prepositional",
        "clause_verbs",
        "infinitive_verbs",
    )
    sections += ("subjunctive_verbs", "stem_verbs")
    verbs = {entry.split(":")[0] for name in sections for entry in spanish.section(name)}
    verbs |= {"ser", "estar", "haber", "acabar", "enviar", "mandar", "mostrar"}
    persons = {"yo": 0, "tú": 1, "nosotros": 3, "nosotras": 3, "vosotros": 4, "ellos": 5, "ustedes": 5}
    forms = {
        person: {inflection.finite(verb, tense, person) for verb in verbs for tense in TENSES}
        for person in range(6)
    }
    before_the_verb = {
        "no",
        "ya",
        "nunca",
        "tampoco",
        "todavía",
        "me",
        "te",
        "se",
        "le",
        "la",
        "lo",
        "los",
        "las",
        "nos",
        "os",
        "les",
    }
    before_the_verb |= set(words_of(spanish.section("frequency")))
    grammar, rng, checked = SpanishGrammar(spanish), Random(5), 0
    for _ in range(8000):
        text = grammar.finish(grammar.sentence(rng))
        subject, *rest = folded_words(text)
        verb = next((word for word in rest if word not in before_the_verb), None)
        if subject in persons and verb and "," not in text.lower().partition(verb)[0]:
            checked += 1
            assert verb in forms[persons[subject]], text
    assert checked > 100
