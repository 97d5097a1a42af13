"""The language table and everything by which a user may name a language."""

from __future__ import annotations

import pytest

from scribewire.engine.protocol.errors import LanguageUnknown
from scribewire.engine.protocol.languages import (
    LANGUAGES,
    Language,
    iso_code,
    joins_without_space,
    resolve_language,
)

PUBLISHED_ORDER = (
    "Chinese English Cantonese Arabic German French Spanish Portuguese Indonesian Italian Korean Russian Thai "
    "Vietnamese Japanese Turkish Hindi Malay Dutch Swedish Danish Finnish Polish Czech Filipino Persian Greek Romanian "
    "Hungarian Macedonian"
)
ALIGNED = "Chinese Cantonese English German Spanish French Italian Portuguese Russian Korean Japanese"


def name_of(text: str) -> str:
    language = resolve_language(text)
    assert language is not None, f"{text!r} leaves detection on"
    return language.name


def test_the_table_is_the_published_list_in_its_order() -> None:
    assert " ".join(language.name for language in LANGUAGES) == PUBLISHED_ORDER
    assert len(LANGUAGES) == 30


def test_the_aligner_knows_eleven_of_them() -> None:
    assert {row.name for row in LANGUAGES if row.has_aligner} == set(ALIGNED.split())


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda row: row.name)
def test_every_spelling_in_the_table_resolves_to_its_row(language: Language) -> None:
    spellings = [
        language.name,
        language.code,
        *language.other_codes,
        *language.native_names,
        *language.aliases,
    ]
    for spelling in [*spellings, *language.region_tags]:
        for written in (
            spelling,
            spelling.upper(),
            spelling.lower(),
            f"  {spelling}\n",
            spelling.replace("-", "_"),
        ):
            assert resolve_language(written) is language, written


def test_no_spelling_belongs_to_two_rows() -> None:
    spellings = [
        spelling.casefold()
        for row in LANGUAGES
        for spelling in {
            s.casefold() for s in (row.name, row.code, *row.other_codes, *row.native_names, *row.aliases)
        }
    ]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("de-DE", "German"),
        ("pt_BR", "Portuguese"),
        ("zh-Hans-CN", "Chinese"),
        ("cmn-Hans-CN", "Chinese"),
        ("zh-SG", "Chinese"),
        ("es-419", "Spanish"),
        ("en-US", "English"),
        ("EN_us", "English"),
        ("en-029", "English"),
        ("sr-Latn-RS", ""),
        ("de_DE.UTF-8", "German"),
        ("ca-ES@valencia", ""),
        ("tl", "Filipino"),
        ("Tagalog", "Filipino"),
        ("in", "Indonesian"),
        ("in-ID", "Indonesian"),
        ("farsi", "Persian"),
        ("MANDARIN", "Chinese"),
        ("cmn", "Chinese"),
        ("deu", "German"),
        ("ger", "German"),
        ("Deutsch", "German"),
        ("русский", "Russian"),
        ("日本語", "Japanese"),
        ("Português", "Portuguese"),
        ("Portugue\u0302s", "Portuguese"),
    ],
)
def test_names_codes_and_tags(text: str, name: str) -> None:
    if name:
        assert name_of(text) == name
    else:
        with pytest.raises(LanguageUnknown):
            resolve_language(text)


@pytest.mark.parametrize(
    "text", ["yue", "zh-HK", "zh_hk", "zh-Hant-HK", "zh-MO", "zh-yue", "Cantonese", "yue-Hant-HK", "粵語"]
)
def test_hong_kong_macau_and_yue_are_cantonese(text: str) -> None:
    assert name_of(text) == "Cantonese"


@pytest.mark.parametrize(
    "text", ["", "  ", "auto", "AUTO", "zh-TW", "zh_TW", "zh-Hant-TW", "zh-Hant", "cmn-Hant-TW"]
)
def test_empty_auto_and_taiwan_leave_detection_on(text: str) -> None:
    assert resolve_language(text) is None


@pytest.mark.parametrize(
    "text",
    ["no", "nb", "xx", "klingon", "en-", "-en", "english-us-", "e", "none", "12", "zz-ZZ", "nan-TW", "\x00"],
)
def test_what_stands_in_no_table_is_refused(text: str) -> None:
    with pytest.raises(LanguageUnknown) as caught:
        resolve_language(text)
    assert caught.value.parameter == "language"
    assert "English" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"), [("Germn", "German"), ("portugese", "Portuguese"), ("itallian", "Italian")]
)
def test_the_nearest_name_is_suggested(text: str, name: str) -> None:
    with pytest.raises(LanguageUnknown, match=f"did you mean {name}"):
        resolve_language(text)


def test_a_long_unknown_name_is_shown_cut() -> None:
    with pytest.raises(LanguageUnknown) as caught:
        resolve_language("x" * 5000 + "\n")
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


def test_iso_codes_of_names() -> None:
    assert [iso_code(name) for name in ("English", "spanish", "Cantonese", "Filipino", "Persian")] == [
        "en",
        "es",
        "yue",
        "fil",
        "fa",
    ]
    with pytest.raises(LanguageUnknown):
        iso_code("Klingon")


def test_three_languages_join_without_a_space() -> None:
    assert {row.name for row in LANGUAGES if joins_without_space(row.name)} == {
        "Chinese",
        "Cantonese",
        "Japanese",
    }
    assert not joins_without_space("Klingon")
