"""A tokenizer for random weights: published ids for whatever a prompt needs, invented words for all other ids.

Prompts get the ids, and so the length, that they have with the published tokenizer; whatever a random model says
decodes to text of about the usual length. Text of people would be cut far too fine: it is for benchmarks only.
"""

from __future__ import annotations

import json
from pathlib import Path

_VOCABULARY_COUNT = 151_643
_FIRST_INNER_ID = 100_000

# What prompts and answers' heads are made of, with ids as published ("Ġ" is a space in byte-level vocabularies).
_PROMPT_WORDS = {
    "system": 8948,
    "user": 872,
    "assistant": 77_091,
    "language": 11_528,
    "ĠEnglish": 6364,
    "ĠChinese": 8453,
    "ĠNone": 2240,
}

_NAMED_CONTROLS = {
    151_643: "<|endoftext|>",
    151_644: "<|im_start|>",
    151_645: "<|im_end|>",
    151_669: "<|audio_start|>",
    151_670: "<|audio_end|>",
    151_675: "<non_speech>",
    151_676: "<|audio_pad|>",
    151_704: "<asr_text>",
    151_705: "<timestamp>",
}
_PLAIN_CONTROLS = {*range(151_657, 151_669), 151_675, 151_704, 151_705}


def write_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json, the form in which the originals are published."""
    vocabulary, merges = vocabulary_and_merges()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token): {
                "content": name,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token not in _PLAIN_CONTROLS,
            }
            for token, name in control_tokens().items()
        },
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 131_072,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def control_tokens() -> dict[int, str]:
    """Every control token by its id; those that no prompt needs are given a name for their number."""
    return {
        token: _NAMED_CONTROLS.get(token, f"<|control_{token}|>")
        for token in range(_VOCABULARY_COUNT, 151_706)
    }


def vocabulary_and_merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """All 151,643 byte-level tokens with their ids, and the merges that build the words of a prompt."""
    by_id = dict(enumerate(byte_alphabet()))
    merges: list[tuple[str, str]] = []
    inner_id = _FIRST_INNER_ID
    for word, token in _PROMPT_WORDS.items():
        for stop in range(2, len(word) + 1):
            merges.append((word[: stop - 1], word[stop - 1]))
            if stop < len(word):
                by_id[inner_id] = word[:stop]
                inner_id += 1
        by_id[token] = word
    for token in range(_VOCABULARY_COUNT):
        by_id.setdefault(token, f"Ġ{_invented_word(token)}")
    return {by_id[token]: token for token in range(_VOCABULARY_COUNT)}, merges


def byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes, in the order of their published ids.

    Source: GPT-2's byte map: bytes that print stand for themselves and come first, the others are 256 and up.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(set(range(256)) - set(printing))
    return [chr(code) for code in printing] + [chr(256 + index) for index in range(others)]


def _invented_word(token: int) -> str:
    """Four small letters, different for every id: about what a token holds of English."""
    letters = ""
    for _ in range(4):
        token, rest = divmod(token, 26)
        letters = chr(ord("a") + rest) + letters
    return letters
