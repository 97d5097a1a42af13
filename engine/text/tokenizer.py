"""Qwen's byte-level tokenizer, built by the `tokenizers` library from either published form.

Text from users never becomes a control token: it is encoded by a vocabulary that has none. Control tokens are
looked up by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from scribewire.engine.protocol.errors import ModelIncomplete

# The published pre-tokenizer of Qwen2 and Qwen3.
_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
AUDIO_START, AUDIO_END, AUDIO_PAD = "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"
ASR_TEXT = "<asr_text>"
TIMESTAMP = "<timestamp>"

RECOGNIZER_TOKENS = (IM_START, IM_END, AUDIO_START, AUDIO_END, AUDIO_PAD, ASR_TEXT)


def _byte_alphabet() -> dict[str, int]:
    """Character of a byte-level vocabulary -> the byte that it represents.

    Source: GPT-2's encoder: printable Latin-1 represents itself, the other bytes for the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_alphabet()


class Tokenizer:
    """Text to ids and back, with control tokens kept apart."""

    def __init__(
        self,
        vocabulary: dict[str, int],
        merges: list[tuple[str, str]],
        added: dict[str, tuple[int, bool]],
        required: tuple[str, ...] = RECOGNIZER_TOKENS,
    ) -> None:
        """vocabulary, merges: byte-level BPE. added: control token -> (id, whether decoding drops it)."""
        missing = [name for name in required if name not in added]
        if missing:
            raise ModelIncomplete(f"the tokenizer lacks {', '.join(missing)}: not a Qwen3-ASR tokenizer")
        self._backend = _plain_backend(vocabulary, merges)
        self._added = {name: token for name, (token, _) in added.items()}
        self._names = {token: name for name, (token, _) in added.items()}
        self.largest_id = max(max(vocabulary.values(), default=0), max(self._names))
        self._dropped = frozenset(token for token, is_special in added.values() if is_special)

    @classmethod
    def from_folder(cls, folder: Path, *, required: tuple[str, ...] = RECOGNIZER_TOKENS) -> Tokenizer:
        """Read tokenizer.json, or vocab.json + merges.txt + tokenizer_config.json.

        required: control tokens that it must know; those of a recognizer by default.
        raises: ModelIncomplete naming the missing or damaged file.
        """
        try:
            if (folder / "tokenizer.json").is_file():
                return cls(*_read_tokenizer_json(folder / "tokenizer.json"), required)
            return cls(*_read_vocabulary_files(folder), required)
        except FileNotFoundError as error:
            raise ModelIncomplete(
                f"{folder} lacks {Path(error.filename).name}; a model folder needs tokenizer.json, or "
                "vocab.json, merges.txt and tokenizer_config.json"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelIncomplete(f"the tokenizer files in {folder} are damaged: {error}") from error

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text; control tokens spelled out in it stay plain text."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text of ids: special tokens dropped, others (such as `<asr_text>`) spelled out."""
        parts: list[str] = []
        run: list[int] = []
        for token in ids:
            if token not in self._names:
                run.append(token)
                continue
            parts.append(self._decode_run(run))
            run = []
            if token not in self._dropped:
                parts.append(self._names[token])
        parts.append(self._decode_run(run))
        return "".join(parts)

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 bytes of one token, which may be a part of a character; a control token's name as it is spelled."""
        if token in self._names:
            return self._names[token].encode()
        name = self._backend.id_to_token(token)
        return b"" if name is None else bytes(_BYTE_OF_CHARACTER[character] for character in name)

    def token_id(self, name: str) -> int:
        """Id of a control token by its name; KeyError when the model has none."""
        return self._added[name]

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a generation."""
        return frozenset(self._added[name] for name in (IM_END, END_OF_TEXT) if name in self._added)

    def has_the_ids_of(self, other: Tokenizer) -> bool:
        """True when every id means the same bytes in both."""
        return (self.largest_id, self.end_ids) == (other.largest_id, other.end_ids) and all(
            self.token_bytes(token) == other.token_bytes(token) for token in range(self.largest_id + 1)
        )

    def _decode_run(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False)) if ids else ""


def _plain_backend(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Backend:
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=False))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


Parts = tuple[dict[str, int], list[tuple[str, str]], dict[str, tuple[int, bool]]]


def _read_tokenizer_json(path: Path) -> Parts:
    content = json.loads(path.read_text(encoding="utf-8"))
    model = content["model"]
    added = {
        entry["content"]: (int(entry["id"]), bool(entry["special"])) for entry in content["added_tokens"]
    }
    merges = [_merge(entry) for entry in model["merges"]]
    vocabulary = {token: index for token, index in model["vocab"].items() if token not in added}
    return vocabulary, merges, added


def _read_vocabulary_files(folder: Path) -> Parts:
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [_merge(line) for line in lines if line and not line.startswith("#version")]
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = {
        entry["content"]: (int(token), bool(entry.get("special")))
        for token, entry in settings["added_tokens_decoder"].items()
    }
    return vocabulary, merges, added


def _merge(entry: str | list[str]) -> tuple[str, str]:
    left, right = entry.split(" ") if isinstance(entry, str) else entry
    return left, right
