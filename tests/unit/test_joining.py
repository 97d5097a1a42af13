"""Texts of chunks are joined with the spacing of their languages."""

from __future__ import annotations

import pytest

from scribewire.engine.protocol.languages import join_texts


def test_parts_of_a_spaced_language_are_joined_with_one_space() -> None:
    assert (
        join_texts([("Hello there.", "English"), ("How are you?", "English")]) == "Hello there. How are you?"
    )


@pytest.mark.parametrize("language", ["Chinese", "Cantonese", "Japanese"])
def test_parts_of_a_spaceless_language_are_joined_without_a_space(language: str) -> None:
    assert join_texts([("今天很好。", language), ("明天見", language)]) == "今天很好。明天見"


@pytest.mark.parametrize(
    ("language", "left", "right"), [("Korean", "안녕", "하세요"), ("Thai", "สวัสดี", "ครับ")]
)
def test_korean_and_thai_are_joined_with_a_space(language: str, left: str, right: str) -> None:
    assert join_texts([(left, language), (right, language)]) == f"{left} {right}"


def test_a_change_of_language_is_marked_by_a_space() -> None:
    parts = [("你好。", "Chinese"), ("Hello.", "English"), ("再见", "Chinese")]
    assert join_texts(parts) == "你好。 Hello. 再见"


def test_latin_words_meeting_inside_chinese_keep_their_space() -> None:
    assert join_texts([("我用GPT", "Chinese"), ("OpenAI的", "Chinese")]) == "我用GPT OpenAI的"
    assert join_texts([("共有12", "Chinese"), ("34个", "Chinese")]) == "共有12 34个"
    assert join_texts([("我用GPT", "Chinese"), ("很好", "Chinese")]) == "我用GPT很好"


def test_chinese_with_ascii_punctuation_gets_no_space() -> None:
    assert join_texts([("你好.", "Chinese"), ("再见", "Chinese")]) == "你好.再见"


def test_without_a_language_the_meeting_characters_decide() -> None:
    assert join_texts([("今天", None), ("明天", None)]) == "今天明天"
    assert join_texts([("今天。", None), ("明天", "Chinese")]) == "今天。明天"
    assert join_texts([("Good", None), ("morning", None)]) == "Good morning"
    assert join_texts([("今天", None), ("morning", None)]) == "今天 morning"


def test_empty_parts_and_outer_spaces_double_nothing() -> None:
    parts = [
        ("", "English"),
        (" one ", "English"),
        ("  ", None),
        ("\n", "Chinese"),
        ("two\n", "English"),
        ("", None),
    ]
    assert join_texts(parts) == "one two"


def test_a_language_of_an_empty_part_does_not_count() -> None:
    assert join_texts([("你好", "Chinese"), ("", "English"), ("再见", "Chinese")]) == "你好再见"


def test_nothing_and_one_part_are_returned_as_they_are() -> None:
    assert join_texts([]) == ""
    assert join_texts([("Twice twice twice.", "English")]) == "Twice twice twice."


def test_an_unlisted_language_is_joined_with_a_space() -> None:
    assert join_texts([("Sannu", "Hausa"), ("da zuwa", "Hausa")]) == "Sannu da zuwa"
