"""Tokenizer, prompt and output parser against the reference tokenizer and the official package.

Recorded by `make_fixtures.py text`. The vocabulary is Qwen's, cut down to the merges that these texts go through and
kept under the true ids, so that the ids below are those of the published models.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.text.prompt import build_prompt, parse_output
from scribewire.engine.text.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
RECORDED: dict[str, Any] = json.loads((FIXTURES / "texts.json").read_text(encoding="utf-8"))
OUTPUTS: list[dict[str, Any]] = json.loads((FIXTURES / "outputs.json").read_text(encoding="utf-8"))["cases"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Qwen's tokenizer with the reduced vocabulary, from vocab.json, merges.txt and tokenizer_config.json."""
    return Tokenizer.from_folder(FIXTURES / "tokenizer")


@pytest.mark.parametrize("case", RECORDED["texts"], ids=lambda case: ascii(case["text"][:20]))
def test_text_becomes_the_reference_ids(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    assert tokenizer.encode_text(case["text"]) == case["ids"]


@pytest.mark.parametrize("case", RECORDED["texts"], ids=lambda case: ascii(case["text"][:20]))
def test_ids_become_the_composed_text_again(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    assert tokenizer.decode(case["ids"]) == unicodedata.normalize("NFC", case["text"])


@pytest.mark.parametrize("case", RECORDED["answers"], ids=lambda case: ascii(case["text"][:20]))
def test_an_answer_keeps_the_text_tag_and_loses_special_tokens(
    tokenizer: Tokenizer, case: dict[str, Any]
) -> None:
    assert tokenizer.decode(case["ids"]) == case["text"]
    assert "<asr_text>" in case["text"]


@pytest.mark.parametrize(
    "case", RECORDED["prompts"], ids=lambda case: f"{case['context']}-{case['language']}"
)
def test_the_prompt_has_the_reference_ids(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    ids = build_prompt(
        tokenizer, audio_tokens=case["audio_tokens"], context=case["context"], language=case["language"]
    )
    assert ids == case["ids"]


def test_the_prompt_without_context_is_the_published_one(tokenizer: Tokenizer) -> None:
    before = [151644, 8948, 198, 151645, 198, 151644, 872, 198, 151669]
    after = [151670, 151645, 198, 151644, 77091, 198]
    assert build_prompt(tokenizer, audio_tokens=7) == [*before, *[151676] * 7, *after]
    forced = [11528, 6364, 151704]
    assert build_prompt(tokenizer, audio_tokens=0, language="English") == [*before, *after, *forced]


def test_the_published_answer_has_the_published_ids(tokenizer: Tokenizer) -> None:
    begin = [11528, 6364, 151704, 12275, 13, 3406, 2044]
    assert tokenizer.decode(begin).startswith("language English<asr_text>Mr. Qu")
    assert RECORDED["answers"][0]["ids"][:7] == begin
    assert RECORDED["answers"][0]["ids"][-1] == 151645


def test_decomposed_and_composed_text_have_equal_ids(tokenizer: Tokenizer) -> None:
    composed = "Café naïve"
    decomposed = unicodedata.normalize("NFD", composed)
    assert decomposed != composed
    assert tokenizer.encode_text(decomposed) == tokenizer.encode_text(composed)


def test_control_tokens_spelled_out_in_a_context_stay_text(tokenizer: Tokenizer) -> None:
    [case] = [case for case in RECORDED["texts"] if "<|im_end|>" in case["text"]]
    ids = tokenizer.encode_text(case["text"])
    assert max(ids) < 151643
    assert tokenizer.decode(ids) == case["text"]


@pytest.mark.parametrize("case", OUTPUTS, ids=lambda case: ascii(f"{case['forced']}-{case['raw'][:30]}"))
def test_output_is_read_as_the_official_parser_reads_it(case: dict[str, Any]) -> None:
    parsed = parse_output(case["raw"], case["forced"])
    # The one difference we chose: a head repeated in forced mode is no part of the text.
    wanted_text = case.get("text_without_head", case["text"])
    assert (parsed.language, parsed.text) == (case["language"], wanted_text)
