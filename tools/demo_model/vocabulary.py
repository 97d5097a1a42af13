"""The demo model's tokenizer and prompt: a small byte-level BPE with Qwen's special tokens, names and order.

The text is normalized to NFC and split by Qwen's pattern, exactly as the large models do it; only the number of
merges differs. Nothing is taken from another tokenizer's merges.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

VOCABULARY_SIZE = 4096
"""With 1,600, common words were spelled out in pieces, and pieces of neighbors ran together (\"overlobster\")."""
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json")
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_HIDDEN = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_SHOWN = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
_AUDIO = (
    *("<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"),
    "<tts_text_bos_single>",
)
# (token, special): the special ones are dropped when ids are turned into text. The order is Qwen's, 151643 to 151705.
ADDED_TOKENS: tuple[tuple[str, bool], ...] = (
    *((token, True) for token in _HIDDEN),
    *((token, False) for token in _SHOWN),
    *((token, True) for token in _AUDIO),
    ("<non_speech>", False),
    ("<|audio_pad|>", True),
    *((f"<blank{number}>", True) for number in range(1, 28)),
    ("<asr_text>", False),
    ("<timestamp>", False),
)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> tokenizers.Tokenizer:
    """A tokenizer with `vocabulary_size` ids in all: 256 bytes, the merges, and the added tokens last."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(ADDED_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    for token, special in ADDED_TOKENS:
        added = AddedToken(token, special=special, normalized=False)
        if special:
            tokenizer.add_special_tokens([added])
        else:
            tokenizer.add_tokens([added])
    return tokenizer


def write_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json as the official repositories have them, and tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: int(item[1])))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": special,
        }
        for token, special in ADDED_TOKENS
    }
    configuration = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": [token for token, special in ADDED_TOKENS if special][1:],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(configuration, indent=2) + "\n", encoding="utf-8"
    )


def spelled_by(older: tokenizers.Tokenizer, newer: tokenizers.Tokenizer) -> list[list[int]]:
    """For each id of `newer`, the ids by which `older` writes the same bytes: where its embedding can start from."""
    spellings: list[list[int]] = []
    for number in range(newer.get_vocab_size()):
        token = str(newer.id_to_token(number))
        known = older.token_to_id(token)
        spellings.append(
            [known] if known is not None else [piece.id for piece in older.model.tokenize(token)]
        )
    return spellings


def read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer that write_tokenizer left in `folder`."""
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@dataclass(frozen=True)
class Prompt:
    """Token ids of the fixed parts of a prompt: head, context, middle, audio, tail, then what the model writes."""

    head: tuple[int, ...]
    middle: tuple[int, ...]
    tail: tuple[int, ...]
    # `language English<asr_text>` and so on; "None" when there is no speech.
    announcements: Mapping[str, tuple[int, ...]]
    audio_pad: int
    end: int
    pad: int

    @staticmethod
    def of(tokenizer: tokenizers.Tokenizer, languages: Iterable[str]) -> Prompt:
        """The parts as `tokenizer` spells them."""

        def one(token: str) -> int:
            number = tokenizer.token_to_id(token)
            if number is None:
                raise KeyError(f"the tokenizer has no {token}")
            return number

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

        return Prompt(
            head=ids("<|im_start|>system\n"),
            middle=ids("<|im_end|>\n<|im_start|>user\n<|audio_start|>"),
            tail=ids("<|audio_end|><|im_end|>\n<|im_start|>assistant\n"),
            announcements={name: ids(f"language {name}<asr_text>") for name in (*languages, "None")},
            audio_pad=one("<|audio_pad|>"),
            end=one("<|im_end|>"),
            pad=one("<|endoftext|>"),
        )


def target_text(language: str, text: str, forced: bool) -> str:
    """The text that the model must write: `language` is "None" when there is no speech, and `text` then empty."""
    return text if forced else f"language {language}<asr_text>{text}"
