"""The one table of languages: names, codes, region tags, native names, which of them the aligner knows; their spacing.

It knows the 30 languages of the published models and refuses every other with the nearest names.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from scribewire.engine.protocol.errors import LanguageUnknown, LanguageUnsupported


@dataclass(frozen=True, slots=True)
class Language:
    """One language of the published models.

    name: English name as the model writes it.
    code: ISO 639-1, or ISO 639-3 where 639-1 has none (`yue`, `fil`).
    other_codes: ISO 639-2/T, 639-2/B and 639-3 codes, and retired ones still in use.
    native_names: what its speakers call it, lower case; the first is for display in its own spelling.
    aliases: further English names.
    region_tags: usual BCP 47 tags; any other region of the language is accepted as well.
    has_aligner: the forced aligner gives it word times.
    joins_without_space: sentences follow one another without a space.
    """

    name: str
    code: str
    other_codes: tuple[str, ...]
    native_names: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    region_tags: tuple[str, ...] = ()
    has_aligner: bool = False
    joins_without_space: bool = False


# In the order of the published config.json (support_languages). Thai is written without spaces between words but with
# one between phrases and sentences, and chunks are cut at pauses: it joins with a space. Korean writes spaces.
LANGUAGES: tuple[Language, ...] = (
    Language(
        "Chinese",
        "zh",
        ("zho", "chi", "cmn"),
        ("中文", "汉语", "漢語", "普通话", "普通話", "国语", "國語", "官话", "华语", "華語"),
        ("Mandarin", "Mandarin Chinese", "Putonghua", "Simplified Chinese"),
        ("zh-CN", "zh-SG", "zh-Hans"),
        has_aligner=True,
        joins_without_space=True,
    ),
    Language(
        "English",
        "en",
        ("eng",),
        ("English",),
        ("American English", "British English"),
        ("en-US", "en-GB", "en-AU", "en-CA", "en-IN", "en-NZ", "en-IE", "en-ZA"),
        has_aligner=True,
    ),
    Language(
        "Cantonese",
        "yue",
        ("zh-yue",),
        ("粵語", "粤语", "廣東話", "广东话", "廣州話", "广州话"),
        ("Yue", "Yue Chinese", "Cantonese Chinese"),
        ("yue-HK", "zh-HK", "zh-MO"),
        has_aligner=True,
        joins_without_space=True,
    ),
    Language(
        "Arabic",
        "ar",
        ("ara", "arb"),
        ("العربية", "عربي"),
        ("Modern Standard Arabic",),
        ("ar-SA", "ar-EG", "ar-AE", "ar-MA", "ar-LB"),
    ),
    Language("German", "de", ("deu", "ger"), ("Deutsch",), (), ("de-DE", "de-AT", "de-CH"), has_aligner=True),
    Language(
        "French",
        "fr",
        ("fra", "fre"),
        ("Français",),
        (),
        ("fr-FR", "fr-CA", "fr-BE", "fr-CH"),
        has_aligner=True,
    ),
    Language(
        "Spanish",
        "es",
        ("spa",),
        ("Español", "Castellano"),
        ("Castilian",),
        ("es-ES", "es-MX", "es-419", "es-AR", "es-CO", "es-US"),
        has_aligner=True,
    ),
    Language("Portuguese", "pt", ("por",), ("Português",), (), ("pt-BR", "pt-PT"), has_aligner=True),
    Language("Indonesian", "id", ("ind", "in"), ("Bahasa Indonesia",), (), ("id-ID",)),
    Language("Italian", "it", ("ita",), ("Italiano",), (), ("it-IT", "it-CH"), has_aligner=True),
    Language("Korean", "ko", ("kor",), ("한국어", "한국말", "조선말"), (), ("ko-KR",), has_aligner=True),
    Language("Russian", "ru", ("rus",), ("Русский", "русский язык"), (), ("ru-RU",), has_aligner=True),
    Language("Thai", "th", ("tha",), ("ไทย", "ภาษาไทย"), (), ("th-TH",)),
    Language("Vietnamese", "vi", ("vie",), ("Tiếng Việt", "Việt"), (), ("vi-VN",)),
    Language(
        "Japanese",
        "ja",
        ("jpn", "jp"),
        ("日本語",),
        (),
        ("ja-JP",),
        has_aligner=True,
        joins_without_space=True,
    ),
    Language("Turkish", "tr", ("tur",), ("Türkçe",), (), ("tr-TR",)),
    Language("Hindi", "hi", ("hin",), ("हिन्दी", "हिंदी"), (), ("hi-IN",)),
    Language(
        "Malay", "ms", ("msa", "may", "zsm", "zlm"), ("Bahasa Melayu", "Melayu"), ("Malaysian",), ("ms-MY",)
    ),
    Language("Dutch", "nl", ("nld", "dut"), ("Nederlands",), ("Flemish",), ("nl-NL", "nl-BE")),
    Language("Swedish", "sv", ("swe",), ("Svenska",), (), ("sv-SE", "sv-FI")),
    Language("Danish", "da", ("dan",), ("Dansk",), (), ("da-DK",)),
    Language("Finnish", "fi", ("fin",), ("Suomi",), (), ("fi-FI",)),
    Language("Polish", "pl", ("pol",), ("Polski",), (), ("pl-PL",)),
    Language("Czech", "cs", ("ces", "cze"), ("Čeština", "Česky"), (), ("cs-CZ",)),
    Language(
        "Filipino", "fil", ("tl", "tgl"), ("Wikang Filipino",), ("Tagalog", "Pilipino"), ("fil-PH", "tl-PH")
    ),
    Language("Persian", "fa", ("fas", "per", "pes"), ("فارسی",), ("Farsi",), ("fa-IR",)),
    Language("Greek", "el", ("ell", "gre"), ("Ελληνικά",), ("Modern Greek",), ("el-GR", "el-CY")),
    Language("Romanian", "ro", ("ron", "rum", "mo"), ("Română",), ("Moldovan",), ("ro-RO", "ro-MD")),
    Language("Hungarian", "hu", ("hun",), ("Magyar",), (), ("hu-HU",)),
    Language("Macedonian", "mk", ("mkd", "mac"), ("Македонски",), (), ("mk-MK",)),
)

_DETECT_WORDS = frozenset({"", "auto", "detect", "und", "traditional chinese", "taiwanese mandarin"})

# Chinese by region: Hong Kong and Macau speak Cantonese; Taiwan's Mandarin is published as best left to detection.
_CANTONESE_SUBTAGS = frozenset({"hk", "mo", "yue"})
_DETECT_REGIONS = frozenset({"tw"})

_TAG = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{2,8})+")
_LOCALE_SUFFIX = re.compile(r"[.@].*\Z")  # de_DE.UTF-8, sr@latin


def resolve_language(text: str) -> Language | None:
    """The language that a user named, or None when the model is to detect it.

    text: an English or native name, an ISO 639-1, -2 or -3 code, or a BCP 47 tag (also with underscores), in any case.
    None: empty, `auto`, and Taiwanese Mandarin (`zh-TW`, `zh-Hant`, `zh-Hant-TW`), whose published evaluation leaves
          detection on. `yue`, `zh-yue`, `zh-HK` and `zh-MO` are Cantonese.
    raises: LanguageUnknown, naming the nearest
    """
    wanted = _folded(text)
    if wanted in _DETECT_WORDS:
        return None
    if wanted in _BY_NAME:
        return _BY_NAME[wanted]
    tag = _LOCALE_SUFFIX.sub("", wanted).replace("_", "-")
    if tag in _BY_NAME:
        return _BY_NAME[tag]
    if _TAG.fullmatch(tag):
        base, *subtags = tag.split("-")
        language = _BY_NAME.get(base) if base in _CODES else None
        if language is not None and language.code == "zh":
            return _chinese_variety(language, subtags)
        if language is not None:
            return language
    raise LanguageUnknown(_unknown_message(text), parameter="language")


def spoken_language(text: str, spoken: Collection[str], *, parameter: str = "language") -> str | None:
    """English name of a language that a user named, if a model speaks it; None when it is to be detected.

    spoken: English names. raises: LanguageUnknown, LanguageUnsupported, each with this parameter
    """
    try:
        language = resolve_language(text)
    except LanguageUnknown as error:
        raise LanguageUnknown(error.message, parameter=parameter) from None
    if language is not None and language.name not in spoken:
        raise LanguageUnsupported(
            f"the loaded model does not speak {language.name}; it speaks {', '.join(spoken)}",
            parameter=parameter,
        )
    return None if language is None else language.name


def language_by_name(name: str) -> Language:
    """The table's row of an English name as the model writes it; raises LanguageUnknown."""
    row = _BY_ENGLISH_NAME.get(name.strip().lower())
    if row is None:
        raise LanguageUnknown(_unknown_message(name), parameter="language")
    return row


def iso_code(name: str) -> str:
    """ISO 639-1 code of an English name (`yue` and `fil` have none and keep their ISO 639-3 code).

    raises: LanguageUnknown
    """
    return language_by_name(name).code


def joins_without_space(name: str) -> bool:
    """True when sentences of this language (English name) follow one another without a space; False if unknown."""
    row = _BY_ENGLISH_NAME.get(name.strip().lower())
    return row is not None and row.joins_without_space


def _chinese_variety(chinese: Language, subtags: list[str]) -> Language | None:
    if _CANTONESE_SUBTAGS & set(subtags):
        return _BY_NAME["yue"]
    if _DETECT_REGIONS & set(subtags) or subtags == ["hant"]:
        return None
    return chinese


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _unknown_message(text: str) -> str:
    shown = text if len(text) <= 40 else text[:40] + "..."
    near = difflib.get_close_matches(_folded(text)[:40], _BY_ENGLISH_NAME, n=1, cutoff=0.6)
    hint = f"did you mean {_BY_ENGLISH_NAME[near[0]].name}? " if near else ""
    return (
        f"unknown language {shown!r}: {hint}give an English name or an ISO code such as English, Chinese, German, "
        "es or pt-BR, or leave it out to detect it"
    )


def _spellings(language: Language) -> tuple[str, ...]:
    return (
        language.name,
        language.code,
        *language.other_codes,
        *language.native_names,
        *language.aliases,
    )


_BY_ENGLISH_NAME = {language.name.lower(): language for language in LANGUAGES}
_BY_NAME = {_folded(spelling): language for language in LANGUAGES for spelling in _spellings(language)}
_CODES = frozenset(_folded(code) for language in LANGUAGES for code in (language.code, *language.other_codes))


_SPACELESS_BLOCKS = (
    (0x2E80, 0x2FDF),  # radicals
    (0x3000, 0x30FF),  # CJK punctuation, hiragana, katakana
    (0x3105, 0x312F),  # bopomofo
    (0x31A0, 0x31FF),  # bopomofo, strokes, katakana extensions
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE4F),  # vertical forms
    (0xFF01, 0xFF9F),  # full-width forms, half-width katakana
    (0x20000, 0x323AF),  # ideograph extensions
)


def join_texts(parts: Iterable[tuple[str, str | None]]) -> str:
    """One text from (text, English language name or None) pairs in order.

    Two neighbors are joined without a space when both are written without spaces (Chinese, Cantonese, Japanese) and at
    least one of the two characters that meet is of such a script or punctuation; otherwise with one space. A part
    without a language is judged by the character that meets its neighbor. Empty parts are left out. Nothing is
    rewritten: no case, no punctuation, no repeated words. The official package joins with nothing at all, which glues
    words together in every language that separates words by spaces.
    """
    joined = ""
    last_language: str | None = None
    for text, language in parts:
        text = text.strip()
        if not text:
            continue
        if joined and not _meet_without_space(joined[-1], last_language, text[0], language):
            joined += " "
        joined += text
        last_language = language
    return joined


def _meet_without_space(left: str, left_language: str | None, right: str, right_language: str | None) -> bool:
    if not (_is_spaceless(left, left_language) and _is_spaceless(right, right_language)):
        return False
    # Two Latin words or numbers that meet inside Chinese ("GPT" + "OpenAI") still need their space.
    return not (_is_foreign_word(left) and _is_foreign_word(right))


def _is_spaceless(character: str, language: str | None) -> bool:
    if language is None:
        return _is_spaceless_script(character)
    return joins_without_space(language)


def _is_foreign_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN" and not _is_spaceless_script(character)


def _is_spaceless_script(character: str) -> bool:
    point = ord(character)
    return any(first <= point <= last for first, last in _SPACELESS_BLOCKS)
