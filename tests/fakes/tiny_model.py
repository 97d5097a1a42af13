"""A whole small model folder with random weights and a byte-level tokenizer: loads and runs like a published one.

What it says is nonsense, but the same nonsense every time.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import pre_tokenizers

from tests.fakes.random_model import TOKEN_IDS, TRUE_WINDOWS, Layout, Sizes, write_checkpoint

ASR_TEXT_ID = 296


def write_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json: the 256 bytes and the control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(alphabet)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {str(index): {"content": name, "special": True} for name, index in TOKEN_IDS.items()}
    added[str(ASR_TEXT_ID)] = {"content": "<asr_text>", "special": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))


def write_tiny_model(folder: Path, *, sizes: Sizes = TRUE_WINDOWS, layout: Layout = "mlx") -> Path:
    """A folder that `Transcriber` accepts."""
    write_checkpoint(folder, sizes, layout)
    write_tokenizer(folder)
    return folder
