"""Words as the official splitter has them, in eleven languages, and the text put together again from them.

The official words were recorded by tools/parity_fixtures/make_aligner_fixtures.py. Japanese and Korean are split
here by what was recorded, and by the real packages in the tests marked `cjk`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from scribewire.engine.protocol.languages import LANGUAGES
from scribewire.engine.text.words import (
    KOREAN_DICTIONARY,
    Unit,
    WordSplitter,
    WordsUnavailable,
    shown_words,
    units_of,
)

FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures"
RECORDED = json.loads((FIXTURES / "aligner_words.json").read_text(encoding="utf-8"))["texts"]
CASES = [pytest.param(one["language"], one["text"], one["words"], id=f"{one['language']}-{index}")
         for index, one in enumerate(RECORDED)]  # fmt: skip  # one line a case would be longer
NEEDS_PACKAGES = ("Japanese", "Korean")


def units(text: str, language: str, official: list[str]) -> list[Unit]:
    if language in NEEDS_PACKAGES:
        return units_of(text, official)
    return WordSplitter().split(text, language)


def shown(text: str, language: str = "English") -> list[str]:
    return [word.text for word in shown_words(text, WordSplitter().split(text, language))]


def test_every_language_of_the_aligner_is_among_the_recorded() -> None:
    assert {one["language"] for one in RECORDED} == {row.name for row in LANGUAGES if row.has_aligner}


@pytest.mark.parametrize(("language", "text", "official"), CASES)
def test_words_are_those_of_the_official_splitter(language: str, text: str, official: list[str]) -> None:
    assert [unit.text for unit in units(text, language, official)] == official


@pytest.mark.parametrize(("language", "text", "official"), CASES)
def test_words_with_their_punctuation_joined_are_the_text(
    language: str, text: str, official: list[str]
) -> None:
    found = units(text, language, official)
    words = shown_words(text, found)
    assert "".join(word.spacing + word.text for word in words) == text.strip()
    assert words[0].spacing == ""
    assert [word.first for word in words] == [0, *[word.last + 1 for word in words[:-1]]]
    assert words[-1].last == len(found) - 1
    for word in words:
        assert word.text == word.text.strip() != ""


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        ("English", "Hello, world! (It's fine.)", ["Hello,", "world!", "(It's", "fine.)"]),
        ("English", 'He said: "no way", twice.', ["He", "said:", '"no', 'way",', "twice."]),
        ("English", "Well - yes ... -- no", ["Well -", "yes ... --", "no"]),
        ("English", "...and then? [music]", ["...and", "then?", "[music]"]),
        ("Spanish", "¿Qué tal? ¡Muy bien!", ["¿Qué", "tal?", "¡Muy", "bien!"]),
        ("Spanish", "—No sé —dijo ella—, adiós.", ["—No", "sé", "—dijo", "ella—,", "adiós."]),
        ("French", "Il a dit : « oui » et puis ?", ["Il", "a", "dit :", "« oui »", "et", "puis ?"]),
        ("German", "Er sagte: „nein“ – oder?", ["Er", "sagte:", "„nein“ –", "oder?"]),
        ("Chinese", "他说：“你好”。", ["他", "说：", "“你", "好”。"]),
        ("Chinese", '他说"可以"吧', ["他", "说", '"可', '以"', "吧"]),
        ("Chinese", "《红楼》（清代）GPT-4o。", ["《红", "楼》", "（清", "代）", "GPT-4o。"]),
        ("Cantonese", "聽日9點，OK？", ["聽", "日", "9", "點，", "OK？"]),
    ],
)
def test_punctuation_stays_with_its_word(language: str, text: str, wanted: list[str]) -> None:
    assert shown(text, language) == wanted


def test_words_of_a_normalizing_tokenizer_are_found_in_the_text() -> None:
    """nagisa reads half-width kana as full-width and one ligature as two words, which one character shows."""
    text = "ﾃｽﾄと㍿、です"
    found = units_of(text, ["テスト", "と", "株式", "会社", "です"])
    assert [(text[unit.start : unit.end]) for unit in found] == ["ﾃｽﾄ", "と", "㍿", "㍿", "です"]
    words = shown_words(text, found)
    assert [(word.text, word.first, word.last) for word in words] == [
        ("ﾃｽﾄ", 0, 0),
        ("と", 1, 1),
        ("㍿、", 2, 3),
        ("です", 4, 4),
    ]


def test_words_that_are_not_the_texts_are_refused() -> None:
    for words in (["other"], ["one"], ["one", "two", "three"]):
        with pytest.raises(WordsUnavailable):
            units_of("one two", words)


def test_a_text_without_words_has_none() -> None:
    assert shown("... !") == []
    assert shown("") == []


@pytest.mark.parametrize(("language", "package"), [("Japanese", "nagisa"), ("Korean", "soynlp")])
def test_a_missing_package_is_named_with_the_extra(
    language: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_nothing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("scribewire.engine.text.words.importlib.import_module", import_nothing)
    with pytest.raises(WordsUnavailable, match=rf"{package}.*pip install -e '\.\[cjk\]'"):
        WordSplitter().split("text", language)


# ---- with the real packages ----------------------------------------------------------------------------------


def dictionary_folder(tmp_path: Path) -> Path:
    """A folder with a Korean dictionary: the official one where it is installed, else a few words."""
    package = importlib.util.find_spec("qwen_asr")
    if package is None:
        (tmp_path / KOREAN_DICTIONARY).write_text("안녕 10 x\n날씨 10 x\n오늘 10 x\n", encoding="utf-8")
    return tmp_path


@pytest.mark.cjk
@pytest.mark.parametrize(
    ("language", "text", "official"), [case for case in CASES if case.values[0] == "Japanese"]
)
def test_nagisas_words_are_the_official_ones(language: str, text: str, official: list[str]) -> None:
    assert [unit.text for unit in WordSplitter().split(text, language)] == official


@pytest.mark.cjk
@pytest.mark.parametrize(
    ("language", "text", "official"), [case for case in CASES if case.values[0] == "Korean"]
)
def test_soynlps_words_join_to_the_text(
    tmp_path: Path, language: str, text: str, official: list[str]
) -> None:
    """They are the official ones where the official dictionary is installed, else others of the same text."""
    splitter = WordSplitter([dictionary_folder(tmp_path)])
    found = splitter.split(text, language)
    words = shown_words(text, found)
    assert "".join(word.spacing + word.text for word in words) == text
    if importlib.util.find_spec("qwen_asr") is not None:
        assert [unit.text for unit in found] == official


@pytest.mark.cjk
@pytest.mark.skipif(importlib.util.find_spec("qwen_asr") is not None, reason="its dictionary is installed")
def test_korean_without_a_dictionary_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(WordsUnavailable, match=f"{KOREAN_DICTIONARY}.*qwen-asr.*folder"):
        WordSplitter([tmp_path]).split("안녕", "Korean")
