"""From decoded ids to a segment: head removed, endings reported, languages weighed."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from scribewire.engine.batching.sequence import FinishReason, Sequence
from scribewire.engine.protocol.transcript import Segment
from scribewire.engine.recording.output import (
    asr_special_tokens,
    compression_ratio,
    main_language,
    read_sequence,
)
from scribewire.engine.text.tokenizer import Tokenizer
from tests.fakes.random_model import TOKEN_IDS
from tests.fakes.tiny_model import ASR_TEXT_ID, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer.from_folder(folder)


def read(tokenizer: Tokenizer, tokens: list[int], *, forced: str | None = None, **fields: object) -> Segment:
    sequence = Sequence(
        prompt_ids=[], audio=None, token_budget=9, tokens=tokens, finish_reason=FinishReason.END_TOKEN
    )
    for name, value in fields.items():
        setattr(sequence, name, value)
    return read_sequence(
        sequence, tokenizer, forced_language=forced, index=2, start_seconds=1.0, end_seconds=4.0
    )


def test_language_head_names_the_language_and_is_no_text(tokenizer: Tokenizer) -> None:
    head = tokenizer.encode_text("language Spanish")
    text = tokenizer.encode_text("Hola.")
    segment = read(tokenizer, [*head, ASR_TEXT_ID, *text])
    assert (segment.language, segment.text, segment.tokens) == ("Spanish", "Hola.", tuple(text))
    assert segment.notice is None


def test_language_none_is_an_empty_segment(tokenizer: Tokenizer) -> None:
    segment = read(tokenizer, [*tokenizer.encode_text("language None"), ASR_TEXT_ID])
    assert (segment.language, segment.text) == (None, "")


def test_repeated_head_is_removed_although_the_language_was_forced(tokenizer: Tokenizer) -> None:
    tokens = [*tokenizer.encode_text("language English"), ASR_TEXT_ID, *tokenizer.encode_text("Hi.")]
    assert read(tokenizer, tokens, forced="English").text == "Hi."


def test_invented_language_is_not_passed_on(tokenizer: Tokenizer) -> None:
    tokens = [*tokenizer.encode_text("language Martian"), ASR_TEXT_ID, *tokenizer.encode_text("Hi.")]
    segment = read(tokenizer, tokens)
    assert (segment.language, segment.text) == (None, "Hi.")


def test_exhausted_budget_is_said_in_the_segment(tokenizer: Tokenizer) -> None:
    segment = read(
        tokenizer, tokenizer.encode_text("Hi"), forced="English", finish_reason=FinishReason.BUDGET
    )
    assert segment.notice == (
        "the text from 1.0 s to 4.0 s was stopped at its budget of 9 tokens and may be incomplete"
    )


def test_mean_log_probability_counts_the_end_mark(tokenizer: Tokenizer) -> None:
    segment = read(tokenizer, tokenizer.encode_text("a"), forced="English", logprobs=[-0.5, -1.5])
    assert segment.avg_logprob == -1.0


def test_compression_ratio_is_bytes_over_compressed_bytes() -> None:
    text = "the same words, " * 20
    assert compression_ratio(text) == len(text) / len(zlib.compress(text.encode()))
    assert compression_ratio("") == 0.0


def test_main_language_is_the_one_spoken_longest() -> None:
    def segment(language: str | None, start: float, end: float) -> Segment:
        return Segment(0, start, end, "x", language)

    parts = [
        segment("English", 0, 3),
        segment("Spanish", 3, 8),
        segment("English", 8, 11),
        segment(None, 11, 60),
    ]
    assert main_language(parts) == "English"
    assert main_language([segment(None, 0, 1)]) is None


def test_marks_find_where_none_parts_from_a_language(tokenizer: Tokenizer) -> None:
    special_tokens = asr_special_tokens(tokenizer)
    assert tokenizer.decode(list(special_tokens.none_prefix)) == "language "
    assert special_tokens.none_token == tokenizer.encode_text("N")[0]
    assert special_tokens.end_ids == {TOKEN_IDS["<|im_end|>"], TOKEN_IDS["<|endoftext|>"]}
